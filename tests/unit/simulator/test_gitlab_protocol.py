from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.unit.simulator import gitlab_lab


@pytest.fixture
def lab() -> Iterator[gitlab_lab.Lab]:
    with gitlab_lab.Lab() as made:
        yield made


def test_a_runner_gets_the_oldest_job_whose_tags_it_has(lab: gitlab_lab.Lab) -> None:
    [other] = lab.queue("gpu-a100")
    first, second = lab.queue("gpu-t4", count=2)
    token = lab.runner("gpu-t4", "linux")["token"]
    got = [lab.ask(token).json()["id"] for _ in range(2)]
    assert got == [first, second]
    assert lab.ask(token).status == 204
    assert lab.job(other)["status"] == "pending"


@pytest.mark.parametrize(
    ("job_tags", "runner_tags", "run_untagged", "status"),
    [
        pytest.param(["a"], ["a", "b"], False, 201, id="subset"),
        pytest.param(["a", "b"], ["a"], True, 204, id="not-a-subset"),
        pytest.param([], ["a"], False, 204, id="untagged-refused"),
        pytest.param([], ["a"], True, 201, id="untagged-allowed"),
        pytest.param(["A"], ["a"], False, 204, id="case-matters"),
    ],
)
def test_tags_decide_who_may_take_a_job(
    lab: gitlab_lab.Lab, job_tags: list[str], runner_tags: list[str], run_untagged: bool, status: int
) -> None:
    lab.queue(*job_tags)
    token = lab.runner(*runner_tags, run_untagged=run_untagged)["token"]
    assert lab.ask(token).status == status


def test_the_payload_has_no_tags_and_what_cml_reads(lab: gitlab_lab.Lab) -> None:
    lab.queue("gpu", script=["echo hi"], variables={"EPOCHS": "3"}, timeout=900)
    payload = lab.ask(lab.runner("gpu", maximum_timeout=600)["token"]).json()
    assert "tag_list" not in payload and "tags" not in payload
    variables = {one["key"]: one for one in payload["variables"]}
    values = {key: one["value"] for key, one in variables.items()}
    assert values["CI_PROJECT_URL"] == "http://gitlab.test:8080/acme/ml"
    assert values["CI_MERGE_REQUEST_IID"] == "1" and values["EPOCHS"] == "3" and values["GIT_STRATEGY"] == "none"
    assert values["CI_JOB_TOKEN"] == payload["token"] and variables["CI_JOB_TOKEN"]["masked"]
    clone_url = f"http://gitlab-ci-token:{payload['token']}@gitlab.test:8080/acme/ml.git"
    assert payload["git_info"]["repo_url"] == values["CI_REPOSITORY_URL"] == clone_url
    assert not variables["CI_REPOSITORY_URL"]["public"]
    assert values["REPO_TOKEN"].startswith("glpat-") and variables["REPO_TOKEN"]["masked"]
    assert payload["steps"][0]["script"] == ["echo hi"]
    assert payload["runner_info"]["timeout"] == 600
    assert "runner_interrupted" in payload["features"]["failure_reasons"]


def test_an_old_server_does_not_know_the_newer_failure_reasons() -> None:
    with gitlab_lab.Lab(version="18.11.2") as lab:
        _, payload = lab.running("gpu")
        assert "runner_interrupted" not in payload["features"]["failure_reasons"]
        lab.put(payload, "failed", failure_reason="runner_interrupted")
        assert lab.job(payload["id"])["failure_reason"] == "unknown_failure"


def test_an_assigned_job_stays_pending_until_acknowledged(lab: gitlab_lab.Lab) -> None:
    [id] = lab.queue("gpu")
    made = lab.runner("gpu")
    payload = lab.ask(made["token"]).json()
    assert lab.job(id)["status"] == "pending"
    assigned = lab.get(f"/runners/{made['id']}/jobs?status=pending")
    assert [one["id"] for one in assigned] == [id]
    assert lab.put(payload, "running").status == 200
    shown = lab.job(id)
    assert shown["status"] == "running" and shown["runner"]["id"] == made["id"]
    assert shown["runner_manager"]["system_id"] == "s_1"


def test_a_job_that_nobody_acknowledges_goes_to_another_runner(lab: gitlab_lab.Lab) -> None:
    [id] = lab.queue("gpu")
    one, two = lab.runner("gpu"), lab.runner("gpu")
    lost = lab.ask(one["token"]).json()
    lab.wait(119)
    assert lab.ask(two["token"]).status == 204
    lab.wait(2)
    again = lab.ask(two["token"]).json()
    assert again["id"] == id and again["token"] != lost["token"]
    assert lab.put(lost, "running").status == 403
    assert lab.put(again, "running").status == 200
    assert lab.world.jobs[id].starts == 1
    assert lab.get(f"/runners/{one['id']}/jobs") == []


def test_a_ping_renews_the_acknowledgement(lab: gitlab_lab.Lab) -> None:
    lab.queue("gpu")
    payload = lab.ask(lab.runner("gpu")["token"]).json()
    for _ in range(4):
        lab.wait(100)
        assert lab.put(payload, "pending").headers["Job-Status"] == "pending"
    assert lab.put(payload, "running").headers["Job-Status"] == "running"


def test_a_runner_without_the_feature_gets_the_job_running(lab: gitlab_lab.Lab) -> None:
    [id] = lab.queue("gpu")
    lab.ask(lab.runner("gpu")["token"], two_phase_job_commit=False)
    assert lab.job(id)["status"] == "running"


def test_a_runner_that_lacks_refspecs_drops_the_job(lab: gitlab_lab.Lab) -> None:
    [id] = lab.queue("gpu")
    assert lab.ask(lab.runner("gpu")["token"], refspecs=False).status == 204
    assert lab.job(id)["failure_reason"] == "runner_unsupported"


def test_unknown_and_deleted_runners_are_forbidden(lab: gitlab_lab.Lab) -> None:
    made = lab.runner("gpu")
    assert lab.ask("glrt-nobody").status == 403
    assert lab.send("DELETE", f"/runners/{made['id']}").status == 204
    assert lab.ask(made["token"]).status == 403
    assert lab.send("POST", "/jobs/request", {}, token=None).json() == {"error": "token is missing"}


def test_a_paused_runner_gets_nothing(lab: gitlab_lab.Lab) -> None:
    lab.queue("gpu")
    made = lab.runner("gpu")
    lab.send("PUT", f"/runners/{made['id']}", {"paused": True})
    assert lab.ask(made["token"]).status == 204
    lab.send("PUT", f"/runners/{made['id']}", {"paused": False})
    assert lab.ask(made["token"]).status == 201


def test_a_protected_runner_takes_jobs_of_protected_refs_only(lab: gitlab_lab.Lab) -> None:
    lab.queue("gpu")
    [main] = lab.queue("gpu", event="push")
    made = lab.runner("gpu", access_level="ref_protected")
    assert lab.ask(made["token"]).json()["id"] == main
    assert lab.ask(made["token"]).status == 204


def test_an_unchanged_queue_is_watched_for_fifty_seconds(lab: gitlab_lab.Lab) -> None:
    token = lab.runner("gpu")["token"]
    known = lab.ask(token).headers["X-GitLab-Last-Update"]
    before = lab.loop.time()
    assert lab.ask(token, last_update=known).status == 204
    assert lab.loop.time() - before == pytest.approx(50)


def test_a_new_job_ends_the_long_poll_with_204_and_the_next_request_gets_it(lab: gitlab_lab.Lab) -> None:
    token = lab.runner("gpu")["token"]
    known = lab.ask(token).headers["X-GitLab-Last-Update"]

    async def story() -> tuple[int, float, int]:
        polling = asyncio.ensure_future(lab.aask(token, last_update=known))
        await asyncio.sleep(10)
        await lab.asend("POST", "/_sim/jobs", {"forge": "gitlab", "repo": "acme/ml", "labels": ["other"]})
        await asyncio.sleep(10)
        assert not polling.done()
        await lab.asend("POST", "/_sim/jobs", {"forge": "gitlab", "repo": "acme/ml", "labels": ["gpu"]})
        began = lab.loop.time()
        first = await polling
        second = await lab.aask(token, last_update=known)
        return first.status, lab.loop.time() - began, second.status

    assert lab.run(story()) == pytest.approx((204, 0, 201), abs=0.01)


def test_the_log_grows_only_where_it_ends(lab: gitlab_lab.Lab) -> None:
    _, payload = lab.running("gpu")
    first = lab.patch(payload, 0, b"hello ")
    assert first.status == 202 and first.headers["Range"] == "0-6"
    wrong = lab.patch(payload, 3, b"world")
    assert wrong.status == 416 and wrong.headers["Range"] == "0-6"
    assert lab.patch(payload, 6, b"world").headers["Job-Status"] == "running"
    missing = lab.send("PATCH", f"/jobs/{payload['id']}/trace", token=None, headers={"JOB-TOKEN": payload["token"]})
    assert missing.status == 400
    text = lab.send("GET", f"/projects/acme%2Fml/jobs/{payload['id']}/trace").text
    assert text == "hello world"


def test_a_final_update_waits_for_the_log_it_speaks_of(lab: gitlab_lab.Lab) -> None:
    _, payload = lab.running("gpu")
    output = {"checksum": "crc32:00000000", "bytesize": 5}
    assert lab.put(payload, "success", output=output).status == 202
    assert lab.job(payload["id"])["status"] == "running"
    lab.patch(payload, 0, b"12345")
    assert lab.put(payload, "success", output=output).status == 200
    assert lab.job(payload["id"])["status"] == "success"
    after = lab.put(payload, "success", output=output)
    assert after.status == 403 and after.headers["Job-Status"] == "success"


def test_a_wrong_job_token_is_forbidden(lab: gitlab_lab.Lab) -> None:
    _, payload = lab.running("gpu")
    assert lab.put({**payload, "token": "glcbt-wrong"}, "success").status == 403
    assert lab.put({**payload, "token": ""}, "success").status == 403


def test_a_graceful_cancel_is_seen_by_the_runner_and_ends_as_canceled(lab: gitlab_lab.Lab) -> None:
    _, payload = lab.running("gpu")
    lab.send("POST", f"/projects/acme%2Fml/jobs/{payload['id']}/cancel")
    assert lab.put(payload, "running").headers["Job-Status"] == "canceling"
    assert lab.put(payload, "failed", failure_reason="job_canceled").status == 200
    assert lab.job(payload["id"])["status"] == "canceled"


def test_a_deleted_runner_leaves_its_running_job_to_finish(lab: gitlab_lab.Lab) -> None:
    made, payload = lab.running("gpu")
    lab.send("DELETE", f"/runners/{made['id']}")
    assert lab.put(payload, "success").status == 200


def test_too_many_requests_of_one_runner_are_refused_with_the_headers_of_the_limit() -> None:
    with gitlab_lab.Lab(rate_jobs_request=2) as lab:
        token = lab.runner("gpu")["token"]
        assert [lab.ask(token).status for _ in range(3)] == [204, 204, 429]
        refused = lab.ask(token)
        assert refused.text.strip() == "Retry later" and refused.headers["RateLimit-Remaining"] == "0"
        assert lab.ask(lab.runner("gpu")["token"]).status == 204
        lab.wait(float(refused.headers["Retry-After"]))
        assert lab.ask(token).status == 204


def test_a_thousand_jobs_are_handed_out_once_each_in_order(lab: gitlab_lab.Lab) -> None:
    lab.gitlab.configure(rate_jobs_request=0)
    ids = lab.queue("gpu", count=1000)
    token = lab.runner("gpu")["token"]
    assert [lab.ask(token).json()["id"] for _ in range(1000)] == ids
    assert lab.ask(token).status == 204
