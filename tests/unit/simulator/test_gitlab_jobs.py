from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.simulator import gitlab_lab


@pytest.fixture
def lab() -> Iterator[gitlab_lab.Lab]:
    with gitlab_lab.Lab() as made:
        yield made


JOBS = "/projects/acme%2Fml/jobs"


def follow(lab: gitlab_lab.Lab, path: str) -> list[list[int]]:
    """The ids of all pages, following the Link verbatim."""
    pages = []
    for _ in range(50):
        response = lab.send("GET", path)
        assert response.status == 200, response.text
        pages.append([one["id"] for one in response.json()])
        links = [part for part in response.header("link").split(", ") if 'rel="next"' in part]
        if not links:
            return pages
        path = links[0][1:].partition(">")[0]
    raise AssertionError("the pages do not end")


def test_a_project_is_found_by_id_or_by_its_path_in_one_segment(lab: gitlab_lab.Lab) -> None:
    lab.queue("gpu", repo="acme/sub/ml")
    shown = lab.get("/projects/acme%2Fsub%2Fml")
    assert shown["path_with_namespace"] == "acme/sub/ml" and shown["namespace"]["full_path"] == "acme/sub"
    assert lab.get(f"/projects/{shown['id']}") == shown
    assert lab.send("GET", "/projects/acme/sub/ml").json() == {"error": "404 Not Found"}
    assert lab.send("GET", "/projects/acme%2Fother").json() == {"message": "404 Project Not Found"}
    assert lab.send("GET", "/acme/api/v4/version").status == 404


def test_group_projects_go_into_subgroups_when_asked(lab: gitlab_lab.Lab) -> None:
    for repo in ("acme/ml", "acme/deep/er/nlp", "other/x"):
        lab.queue("gpu", repo=repo)
    lab.world.repositories["gitlab", "acme/ml"].extra["archived"] = True

    def names(query: str) -> set[str]:
        return {one["path_with_namespace"] for one in lab.get(f"/groups/acme/projects{query}")}

    assert names("") == {"acme/ml"}
    assert names("?include_subgroups=true") == {"acme/ml", "acme/deep/er/nlp"}
    assert names("?include_subgroups=true&archived=false") == {"acme/deep/er/nlp"}
    assert lab.send("GET", "/groups/nowhere/projects").json() == {"message": "404 Group Not Found"}


def test_projects_page_by_offset_and_by_keyset(lab: gitlab_lab.Lab) -> None:
    for number in range(5):
        lab.queue("gpu", repo=f"acme/p{number}")
    by_offset = follow(lab, "/groups/acme/projects?per_page=2&sort=asc")
    by_keyset = follow(lab, "/groups/acme/projects?pagination=keyset&order_by=id&sort=asc&per_page=2")
    assert by_offset == by_keyset and [len(page) for page in by_keyset] == [2, 2, 1]
    headers = lab.send("GET", "/groups/acme/projects?per_page=2").headers
    assert (headers["X-Total"], headers["X-Total-Pages"], headers["X-Next-Page"]) == ("5", "3", "2")
    assert lab.send("GET", "/groups/acme/projects?pagination=keyset&order_by=name").status == 405


@pytest.mark.parametrize("sort", ["asc", "desc"])
def test_pending_jobs_page_by_keyset_in_either_direction(lab: gitlab_lab.Lab, sort: str) -> None:
    ids = lab.queue("gpu", count=250)
    token = lab.runner("gpu")["token"]
    lab.put(lab.ask(token).json(), "running")
    pages = follow(lab, f"{JOBS}?scope[]=pending&pagination=keyset&per_page=100&order_by=id&sort={sort}")
    assert [len(page) for page in pages] == [100, 100, 49]
    flat = [id for page in pages for id in page]
    assert flat == (ids[1:] if sort == "asc" else ids[:0:-1])


def test_keyset_misses_nothing_while_jobs_leave_the_queue(lab: gitlab_lab.Lab) -> None:
    ids = lab.queue("gpu", count=6)
    first = lab.send("GET", f"{JOBS}?scope[]=pending&pagination=keyset&per_page=3&order_by=id&sort=asc")
    token = lab.runner("gpu")["token"]
    for _ in range(3):
        lab.put(lab.ask(token).json(), "running")
    next_page = first.headers["Link"][1:].partition(">")[0]
    assert [one["id"] for one in lab.get(next_page)] == ids[3:]


def test_pages_hold_a_hundred_at_most_and_never_none(lab: gitlab_lab.Lab) -> None:
    lab.queue("gpu", count=120)
    response = lab.send("GET", f"{JOBS}?per_page=1000")
    assert len(response.json()) == 100 and "X-Total" not in response.headers
    assert len(lab.get(JOBS)) == 20
    assert lab.send("GET", f"{JOBS}?per_page=0").status == 400
    assert lab.send("GET", f"{JOBS}?scope[]=waiting").json() == {"error": "scope does not have a valid value"}


def test_a_listed_job_has_its_tags_and_a_ticking_wait(lab: gitlab_lab.Lab) -> None:
    [id] = lab.queue("gpu-t4", "linux")
    lab.wait(42)
    [shown] = lab.get(f"{JOBS}?scope=pending")
    assert (shown["id"], shown["tag_list"], shown["tag"], shown["runner"]) == (id, ["gpu-t4", "linux"], False, None)
    assert shown["queued_duration"] == pytest.approx(42) and shown["started_at"] is None
    assert shown["created_at"].endswith("Z") and "." in shown["created_at"]


def test_retry_makes_a_new_job_of_the_latest_finished_attempt_only(lab: gitlab_lab.Lab) -> None:
    made, payload = lab.running("gpu")
    path = f"{JOBS}/{payload['id']}/retry"
    assert lab.send("POST", path).json() == {"message": "403 Forbidden - Job is not retryable"}
    lab.put(payload, "failed", failure_reason="script_failure", exit_code=1)
    again = lab.send("POST", path)
    assert again.status == 201 and again.json()["id"] != payload["id"] and again.json()["status"] == "pending"
    assert lab.send("POST", path).status == 403
    assert lab.ask(made["token"]).json()["id"] == again.json()["id"]
    pipeline = again.json()["pipeline"]["id"]
    jobs = f"/projects/acme%2Fml/pipelines/{pipeline}/jobs"
    assert len(lab.get(jobs)) == 1 and len(lab.get(jobs + "?include_retried=true")) == 2
    assert {one["name"] for one in lab.get(jobs + "?include_retried=true")} == {payload["job_info"]["name"]}


def test_cancel_of_a_pending_job_is_final_and_never_retried(lab: gitlab_lab.Lab) -> None:
    [id] = lab.queue("gpu", retry={"max": 2})
    assert lab.send("POST", f"{JOBS}/{id}/cancel").json()["status"] == "canceled"
    assert lab.ask(lab.runner("gpu")["token"]).status == 204
    assert len(lab.get(JOBS)) == 1


def test_force_ends_a_job_that_hangs_in_canceling(lab: gitlab_lab.Lab) -> None:
    _, payload = lab.running("gpu")
    path = f"{JOBS}/{payload['id']}/cancel"
    assert lab.send("POST", path + "?force=true").status == 403
    assert lab.send("POST", path).json()["status"] == "canceling"
    assert lab.send("POST", path).json()["status"] == "canceling"
    assert lab.send("POST", path + "?force=true").json()["status"] == "canceled"
    assert lab.put(payload, "running").status == 403


@pytest.mark.parametrize(
    ("retry", "reason", "attempts"),
    [
        pytest.param({"max": 2, "when": ["runner_interrupted"]}, "runner_interrupted", 3, id="named"),
        pytest.param({"max": 1}, "script_failure", 2, id="always"),
        pytest.param({"max": 2, "when": "runner_system_failure"}, "script_failure", 1, id="other-reason"),
        pytest.param({}, "script_failure", 1, id="no-keyword"),
    ],
)
def test_the_retry_keyword(lab: gitlab_lab.Lab, retry: dict[str, object], reason: str, attempts: int) -> None:
    lab.queue("gpu", retry=retry)
    token = lab.runner("gpu")["token"]
    ran = 0
    while (response := lab.ask(token)).status == 201:
        ran += 1
        lab.put(response.json(), "failed", failure_reason=reason)
    assert ran == attempts


def test_a_pipeline_is_canceled_and_retried_as_a_whole(lab: gitlab_lab.Lab) -> None:
    lab.queue("gpu", count=2)
    line = lab.get("/projects/acme%2Fml/pipelines")[0]
    path = f"/projects/acme%2Fml/pipelines/{line['id']}"
    assert line["status"] == "pending"
    assert lab.send("POST", path + "/cancel").json()["status"] == "canceled"
    assert lab.send("POST", path + "/retry").json()["status"] == "pending"
    assert len(lab.get(f"{JOBS}?scope[]=pending")) == 2


def test_a_job_without_an_online_runner_is_dropped_at_the_sweep_after_an_hour(lab: gitlab_lab.Lab) -> None:
    lab.wait(600)
    [id] = lab.queue("gpu")
    lab.wait(3600)
    assert lab.job(id)["status"] == "pending"
    lab.wait(3000)
    assert lab.job(id)["failure_reason"] == "stuck_pending_no_matching_runners"


def test_a_heartbeat_of_a_matching_runner_keeps_it_for_a_day(lab: gitlab_lab.Lab) -> None:
    [id] = lab.queue("gpu")
    body = {"token": lab.runner("gpu")["token"], "system_id": "s_1"}
    for _ in range(23):
        lab.send("POST", "/runners/verify", body, token=None)
        lab.wait(3600)
    assert lab.job(id)["status"] == "pending"
    lab.wait(2 * 3600)
    assert lab.job(id)["failure_reason"] == "stuck_pending_with_matching_runners"


@pytest.mark.parametrize(
    ("tags", "values"),
    [
        pytest.param(["other"], {}, id="other-tags"),
        pytest.param(["gpu"], {"paused": True}, id="paused"),
        pytest.param(["gpu"], {"access_level": "ref_protected"}, id="protected"),
    ],
)
def test_a_runner_that_could_not_take_it_does_not_count(
    lab: gitlab_lab.Lab, tags: list[str], values: dict[str, object]
) -> None:
    [id] = lab.queue("gpu")
    body = {"token": lab.runner(*tags, **values)["token"], "system_id": "s_1"}
    lab.send("POST", "/runners/verify", body, token=None)
    lab.wait(3601)
    assert lab.job(id)["status"] == "failed"


def test_a_silent_running_job_is_dropped_and_one_that_beats_is_not(lab: gitlab_lab.Lab) -> None:
    silent, alive = lab.queue("gpu", count=2, timeout=86400)
    token = lab.runner("gpu")["token"]
    lab.put(lab.ask(token).json(), "running")
    payload = lab.ask(token).json()
    for _ in range(40):
        lab.put(payload, "running")
        lab.wait(120)
    assert lab.job(silent)["failure_reason"] == "no_updates_running"
    assert lab.job(alive)["status"] == "running"


def test_a_job_beyond_its_timeout_is_ended_by_the_server(lab: gitlab_lab.Lab) -> None:
    lab.queue("gpu", timeout=600)
    payload = lab.ask(lab.runner("gpu")["token"]).json()
    for _ in range(31):
        lab.put(payload, "running")
        lab.wait(120)
    assert lab.job(payload["id"])["failure_reason"] == "server_timeout_running"


def test_before_19_0_the_reason_is_the_old_word() -> None:
    with gitlab_lab.Lab(version="18.9.0-ee") as lab:
        [id] = lab.queue("gpu")
        lab.wait(2 * 3600)
        assert lab.job(id)["failure_reason"] == "stuck_or_timeout_failure"


def test_an_idle_world_has_no_timer_left(lab: gitlab_lab.Lab) -> None:
    _, payload = lab.running("gpu")
    lab.put(payload, "success")
    lab.wait(3 * 3600)
    assert all(timer.cancelled for _, _, timer in lab.world._heap)


def test_polling_too_often_is_refused_per_user() -> None:
    with gitlab_lab.Lab(rate_project_jobs=3) as lab:
        lab.queue("gpu")
        answers = [lab.send("GET", JOBS) for _ in range(4)]
        assert [answer.status for answer in answers] == [200, 200, 200, 429]
        assert [answer.headers["RateLimit-Remaining"] for answer in answers] == ["2", "1", "0", "0"]
        assert lab.send("GET", JOBS, token=lab.gitlab.admin_token).status == 200
        lab.wait(60)
        assert lab.send("GET", JOBS).status == 200


def test_an_exhausted_rate_and_a_revoked_token_can_be_scripted(lab: gitlab_lab.Lab) -> None:
    lab.queue("gpu")
    exhaust = {"forge": "gitlab", "path": "/api/v4/projects/{id}/jobs", "count": 1, "exhaust_rate": True}
    lab.send("POST", "/_sim/faults", {"faults": [exhaust]})
    assert lab.send("GET", JOBS).status == 429
    assert lab.send("GET", "/version").status == 429
    lab.wait(60)
    assert lab.send("GET", JOBS).status == 200
    lab.send("POST", "/_sim/faults", {"faults": [{"forge": "gitlab", "count": 1, "revoke_token": True}]})
    assert lab.send("GET", JOBS).json()["error"] == "invalid_token"


@pytest.mark.parametrize(
    "extra",
    [
        {"branch": "x"},
        {"retry": 2},
        {"variables": {"A": 1}},
    ],
)
def test_queueing_refuses_what_it_does_not_know(lab: gitlab_lab.Lab, extra: dict[str, object]) -> None:
    body = {"forge": "gitlab", "repo": "acme/ml", "labels": ["gpu"], **extra}
    response = lab.send("POST", "/_sim/jobs", body)
    assert response.status == 400 and next(iter(extra)) in response.text
