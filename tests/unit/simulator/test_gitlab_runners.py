from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from runnerd.simulator import http
from tests.unit.simulator import gitlab_lab


@pytest.fixture
def lab() -> Iterator[gitlab_lab.Lab]:
    with gitlab_lab.Lab() as made:
        yield made


def token(lab: gitlab_lab.Lab, *scopes: str, **values: Any) -> str:
    response = lab.send("POST", "/_sim/gitlab/tokens", {"user": "bot", "scopes": list(scopes), **values})
    assert response.status == 201, response.text
    return str(response.json()["token"])


def test_the_token_is_shown_once(lab: gitlab_lab.Lab) -> None:
    made = lab.runner("gpu", description="vm-1", maintenance_note="runnerd:acme-ci", locked=True)
    assert set(made) == {"id", "token", "token_expires_at"} and made["token"].startswith("glrt-")
    shown = lab.get(f"/runners/{made['id']}")
    assert made["token"] not in str(shown)
    assert (shown["description"], shown["maintenance_note"], shown["locked"]) == ("vm-1", "runnerd:acme-ci", True)
    assert shown["status"] == "never_contacted" and shown["tag_list"] == ["gpu"] and shown["run_untagged"] is False


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        pytest.param({}, 400, "runner_type is missing", id="no-type"),
        pytest.param({"runner_type": "shared"}, 400, "runner_type does not have a valid value", id="bad-type"),
        pytest.param({"runner_type": "group_type"}, 400, "group_id is missing", id="no-group"),
        pytest.param({"runner_type": "project_type"}, 400, "project_id is missing", id="no-project"),
        pytest.param({"runner_type": "group_type", "group_id": 99}, 404, "404 Group Not Found", id="unknown-group"),
        pytest.param({"runner_type": "group_type", "group_id": "acme"}, 400, "group_id is invalid", id="path-for-id"),
        pytest.param({"runner_type": "project_type", "project_id": 9}, 404, "Project Not Found", id="unknown-project"),
        pytest.param({"runner_type": "instance_type"}, 403, "403 Forbidden", id="instance-needs-admin"),
        pytest.param({"run_untagged": False}, 400, "can not be empty when runner is not allowed", id="no-tags"),
        pytest.param({"run_untagged": "false", "tag_list": " , "}, 400, "can not be empty", id="blank-tags"),
        pytest.param({"tag_list": [f"t{n}" for n in range(51)]}, 400, "limit the number of tags to 50", id="51-tags"),
        pytest.param({"maximum_timeout": 599}, 400, "at least 10 minutes", id="short-timeout"),
        pytest.param({"maximum_timeout": "soon"}, 400, "maximum_timeout is invalid", id="timeout-text"),
        pytest.param({"access_level": "all"}, 400, "access_level does not have a valid value", id="access-level"),
        pytest.param({"description": "x" * 1025}, 400, "too long (maximum is 1024 characters)", id="description"),
        pytest.param({"maintenance_note": "x" * 1025}, 400, "too long", id="note"),
        pytest.param({"paused": "perhaps"}, 400, "paused is invalid", id="flag"),
    ],
)
def test_what_creation_refuses(lab: gitlab_lab.Lab, data: dict[str, Any], status: int, words: str) -> None:
    if "runner_type" not in data and data:
        data = {"runner_type": "group_type", "group_id": lab.group_id(), **data}
    response = lab.send("POST", "/user/runners", data)
    assert response.status == status and words in response.text
    assert lab.world.runners == {}


def test_fifty_tags_ten_minutes_and_a_form_are_fine(lab: gitlab_lab.Lab) -> None:
    body = (
        f"runner_type=group_type&group_id={lab.group_id()}&maximum_timeout=600&run_untagged=false&tag_list="
        + ",".join(f"t{n}" for n in range(50))
    )
    headers = {"Content-Type": "application/x-www-form-urlencoded;charset=UTF-8"}
    response = lab.send("POST", "/user/runners", headers=headers, body=body.encode())
    assert response.status == 201
    assert len(lab.get(f"/runners/{response.json()['id']}")["tag_list"]) == 50


def test_the_number_of_registered_runners_is_capped_per_group_and_project() -> None:
    with gitlab_lab.Lab(runners_per_group=2, runners_per_project=1) as lab:
        lab.queue("gpu")
        made = [lab.runner("gpu") for _ in range(2)]
        data = {"runner_type": "group_type", "group_id": lab.group_id()}
        refused = lab.send("POST", "/user/runners", data)
        assert refused.status == 400 and "runners (2) exceeded" in refused.text
        project = {"runner_type": "project_type", "project_id": lab.project_id()}
        assert [lab.send("POST", "/user/runners", project).status for _ in range(2)] == [201, 400]
        lab.send("DELETE", f"/runners/{made[0]['id']}")
        assert lab.send("POST", "/user/runners", data).status == 201


@pytest.mark.parametrize(
    ("scopes", "creates", "reads", "removes", "lists"),
    [
        pytest.param(["api"], 201, 200, 204, 200, id="api"),
        pytest.param(["create_runner"], 201, 403, 403, 403, id="create_runner"),
        pytest.param(["manage_runner"], 403, 200, 204, 403, id="manage_runner"),
        pytest.param(["read_api"], 403, 200, 403, 200, id="read_api"),
        pytest.param(["create_runner", "manage_runner", "read_api"], 201, 200, 204, 200, id="what-runnerd-needs"),
    ],
)
def test_scopes_decide(
    lab: gitlab_lab.Lab, scopes: list[str], creates: int, reads: int, removes: int, lists: int
) -> None:
    lab.queue("gpu")
    made, group = lab.runner("gpu"), lab.group_id()
    lesser = token(lab, *scopes)
    created = lab.send("POST", "/user/runners", {"runner_type": "group_type", "group_id": group}, token=lesser)
    assert created.status == creates
    assert lab.send("GET", f"/runners/{made['id']}", token=lesser).status == reads
    removed = lab.send("DELETE", f"/runners/{made['id']}", token=lesser)
    assert removed.status == removes
    listed = lab.send("GET", "/projects/acme%2Fml/jobs?scope[]=pending", token=lesser)
    assert listed.status == lists
    if lists == 403:
        assert listed.json()["error"] == "insufficient_scope"


def test_roles_decide(lab: gitlab_lab.Lab) -> None:
    lab.queue("gpu")
    maintainer = token(lab, "api", access_level=40)
    group = {"runner_type": "group_type", "group_id": lab.group_id()}
    project = {"runner_type": "project_type", "project_id": lab.project_id()}
    assert lab.send("POST", "/user/runners", group, token=maintainer).status == 403
    assert lab.send("POST", "/user/runners", project, token=maintainer).status == 201
    developer = token(lab, "api", access_level=30)
    assert lab.send("POST", "/user/runners", project, token=developer).status == 403
    admin = lab.gitlab.admin_token
    assert lab.send("POST", "/user/runners", {"runner_type": "instance_type"}, token=admin).status == 201
    assert lab.send("GET", "/runners/all").status == 403
    assert len(lab.get("/runners/all", token=admin)) == 2


def test_bad_tokens_are_told_apart(lab: gitlab_lab.Lab) -> None:
    assert lab.send("GET", "/version", token=None).json() == {"message": "401 Unauthorized"}
    assert lab.send("GET", "/version", token="glpat-unknown").status == 401
    bearer = lab.send("GET", "/version", token=None, headers={"Authorization": f"Bearer {lab.gitlab.token}"})
    assert bearer.status == 200
    basic = lab.send("GET", "/version", token=None, headers={"Authorization": f"token {lab.gitlab.token}"})
    assert basic.status == 401
    short = token(lab, "api", expires_at=gitlab_lab.START + 60)
    assert lab.send("GET", "/version", token=short).status == 200
    lab.wait(61)
    assert lab.send("GET", "/version", token=short).json()["error"] == "invalid_token"


def test_a_group_token_sees_its_own_subtree_only(lab: gitlab_lab.Lab) -> None:
    lab.queue("gpu", repo="acme/ml")
    lab.queue("gpu", repo="other/secret")
    inside = token(lab, "api", namespace="acme")
    assert [one["path_with_namespace"] for one in lab.get("/projects", token=inside)] == ["acme/ml"]
    assert lab.send("GET", "/projects/other%2Fsecret", token=inside).status == 404
    assert lab.send("GET", "/groups/other", token=inside).status == 404


def test_pausing_and_editing(lab: gitlab_lab.Lab) -> None:
    made = lab.runner("gpu")
    path = f"/runners/{made['id']}"
    assert lab.send("PUT", path, {"paused": True}).json()["paused"] is True
    assert lab.send("PUT", path, {"tag_list": "a,b", "maximum_timeout": 1200}).json()["tag_list"] == ["a", "b"]
    assert lab.send("PUT", path, {"tag_list": []}).status == 400
    assert lab.send("PUT", path, {}).status == 400
    assert lab.send("PUT", "/runners/9999", {"paused": True}).json() == {"message": "404 Runner Not Found"}


def test_removal_by_the_runners_own_token(lab: gitlab_lab.Lab) -> None:
    made = lab.runner("gpu")
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    wrong = lab.send("DELETE", "/runners", token=None, headers=headers, body=b"token=glrt-wrong")
    assert wrong.status == 403
    body = f"token={made['token']}".encode()
    assert lab.send("DELETE", "/runners", token=None, headers=headers, body=body).status == 204
    assert lab.send("GET", f"/runners/{made['id']}").status == 404
    assert lab.send("DELETE", f"/runners/{made['id']}").status == 404


def test_verify_needs_a_system_id_and_counts_as_contact(lab: gitlab_lab.Lab) -> None:
    made = lab.runner("gpu")
    missing = lab.send("POST", "/runners/verify", {"token": made["token"]}, token=None)
    assert missing.status == 400
    assert lab.get(f"/runners/{made['id']}")["status"] == "never_contacted"
    body = {"token": made["token"], "system_id": "s_0123456789ab"}
    assert lab.send("POST", "/runners/verify", body, token=None).json()["id"] == made["id"]
    assert lab.get(f"/runners/{made['id']}")["status"] == "online"
    [manager] = lab.get(f"/runners/{made['id']}/managers")
    assert manager["system_id"] == "s_0123456789ab"
    assert lab.send("POST", "/runners/verify", {**body, "token": "glrt-no"}, token=None).status == 403


def test_liveness_is_coarse(lab: gitlab_lab.Lab) -> None:
    made = lab.runner("gpu")
    lab.ask(made["token"])
    path = f"/runners/{made['id']}"

    def status() -> tuple[str, str]:
        [shown] = [one for one in lab.world.runners.values() if one.id == made["id"]]
        return lab.get(path)["status"], shown.status

    lab.wait(2 * 3600 - 10)
    assert status() == ("online", "online")
    lab.wait(20)
    assert status() == ("offline", "offline")
    lab.wait(7 * 86400)
    assert status()[0] == "stale"


def test_machines_with_one_token_are_told_apart_by_system_id(lab: gitlab_lab.Lab) -> None:
    made = lab.runner("gpu")
    lab.queue("gpu", count=2)
    for machine in ("s_a", "s_b"):
        lab.put(lab.ask(made["token"], system_id=machine).json(), "running")
    assert len(lab.get(f"/runners/{made['id']}/managers")) == 2
    jobs = lab.get(f"/runners/{made['id']}/jobs?status=running&system_id=s_b&order_by=id&sort=desc")
    assert [one["runner_manager"]["system_id"] for one in jobs] == ["s_b"]
    body = {"token": made["token"], "system_id": "s_a"}
    assert lab.send("DELETE", "/runners/managers", body, token=None).status == 204
    assert lab.send("DELETE", "/runners/managers", body, token=None).status == 404


def test_lists_of_runners_filter(lab: gitlab_lab.Lab) -> None:
    lab.queue("gpu")
    one, two = lab.runner("gpu", "x"), lab.runner("gpu", paused=True)
    project = {"runner_type": "project_type", "project_id": lab.project_id(), "tag_list": "gpu"}
    three = lab.send("POST", "/user/runners", project).json()
    lab.ask(one["token"])

    def ids(path: str) -> set[int]:
        return {found["id"] for found in lab.get(path)}

    assert ids("/groups/acme/runners") == {one["id"], two["id"]}
    assert ids("/projects/acme%2Fml/runners") == {one["id"], two["id"], three["id"]}
    assert ids("/groups/acme/runners?status=online") == {one["id"]}
    assert ids("/groups/acme/runners?paused=true") == {two["id"]}
    assert ids("/groups/acme/runners?tag_list=gpu,x") == {one["id"]}
    assert ids("/runners?type=project_type&status=never_contacted") == {three["id"]}
    assert lab.send("GET", "/runners?status=happy").status == 400


def test_rotation_voids_the_old_token(lab: gitlab_lab.Lab) -> None:
    made = lab.runner("gpu")
    fresh = lab.send("POST", f"/runners/{made['id']}/reset_authentication_token").json()["token"]
    assert lab.ask(made["token"]).status == 403 and lab.ask(fresh).status == 204


def test_registration_tokens_are_gone(lab: gitlab_lab.Lab) -> None:
    assert lab.send("POST", "/runners", {"token": "GR1348941legacy"}, token=None).status == 410
    lab.queue("gpu")
    assert lab.get("/projects/acme%2Fml")["runners_token"] is None


def test_a_runner_whose_creation_answer_was_lost_is_found_by_its_description(lab: gitlab_lab.Lab) -> None:
    data = {"runner_type": "group_type", "group_id": lab.group_id(), "tag_list": ["gpu"], "description": "vm-7"}
    fault = {"method": "POST", "path": "/api/v4/user/runners", "count": 1, "drop": "after"}
    lab.send("POST", "/_sim/faults", {"faults": [fault]})
    with pytest.raises(http.ConnectionDropped):
        lab.send("POST", "/user/runners", data)
    assert [one["description"] for one in lab.get("/groups/acme/runners")] == ["vm-7"]


def test_limits_can_be_lifted_and_wrong_settings_are_refused(lab: gitlab_lab.Lab) -> None:
    lab.gitlab.lift_limits()
    assert (lab.gitlab.settings.runners_per_group, lab.gitlab.settings.rate_notes_create) == (0, 0)
    assert lab.send("PUT", "/_sim/gitlab/settings", {"long_poll": 5}).status == 204
    for wrong in ({"long_pool": 5}, {"long_poll": "soon"}, {"two_phase_commit": 1}):
        assert lab.send("PUT", "/_sim/gitlab/settings", wrong).status == 400
    assert lab.gitlab.settings.long_poll == 5
