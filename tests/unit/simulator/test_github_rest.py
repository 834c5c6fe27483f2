"""The REST API: credentials, limits, conditional requests, runners, runs, re-runs, reports, and what it refuses."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from typing import Any

import jwt
import pytest

from runnerd.simulator import github, http
from runnerd.simulator.github import entities

from .conftest import Sim, given

SHA = "8d8d36e94cbb508aba7b35971e473ad63c30ef8f"
JIT = "/orgs/acme/actions/runners/generate-jitconfig"


def app_jwt(sim: Sim, *, issued: float = -60, expires: float = 540, algorithm: str = "RS256", **claims: Any) -> str:
    now = int(sim.world.now())
    body = {"iat": now + issued, "exp": now + expires, "iss": str(github.auth.APP_ID), **claims}
    key = sim.github.auth.app_key_pem if algorithm == "RS256" else "secret-of-at-least-thirty-two-bytes"
    return jwt.encode(body, key, algorithm)


async def installation_token(sim: Sim) -> str:
    auth = f"Bearer {app_jwt(sim)}"
    id = (await sim.call("GET", "/orgs/acme/installation", auth=auth)).json()["id"]
    minted = await sim.call("POST", f"/app/installations/{id}/access_tokens", auth=auth)
    assert minted.status == 201
    return str(minted.json()["token"])


async def finished(sim: Sim, conclusion: str = "succeeded", **more: Any) -> entities.GithubJob:
    """One job of acme/ml, run to its end on a classic runner."""
    [job] = await sim.queue(["solo"], **more)
    made = await sim.call("POST", JIT, {"name": f"r{job.id}", "runner_group_id": 1, "labels": ["solo"]})
    runner = sim.github.connect_runner(made.json()["encoded_jit_config"])
    assert await runner.next_job(0) is job
    runner.start(job)
    runner.finish(job, conclusion)
    return job


@pytest.mark.parametrize(
    ("auth", "status", "message"),
    [
        pytest.param("Bearer ghp_other", 401, "Bad credentials", id="unknown"),
        pytest.param("Basic abc", 401, "Bad credentials", id="scheme"),
        pytest.param(f"token {github.auth.PAT}", 200, None, id="token"),
        pytest.param(f"Bearer {github.auth.PAT}", 200, None, id="bearer"),
        pytest.param(f"Bearer {github.auth.READER}", 403, "Must have admin rights to Repository.", id="no scope"),
    ],
)
async def test_who_may_list_runners(sim: Sim, auth: Any, status: Any, message: Any) -> None:
    answer = await sim.call("GET", "/orgs/acme/actions/runners", auth=auth)
    assert (answer.status, answer.json().get("message")) == (status, message)


async def test_a_request_needs_a_user_agent_and_a_known_api_version(sim: Sim) -> None:
    assert (await sim.call("GET", "/rate_limit", headers={"User-Agent": ""})).status == 403
    assert (await sim.call("GET", "/rate_limit", headers={"X-GitHub-Api-Version": "2020-01-01"})).status == 400
    assert (await sim.call("GET", "/rate_limit", headers={"X-GitHub-Api-Version": "2026-03-10"})).status == 200


@pytest.mark.parametrize(
    ("how", "status"),
    [
        pytest.param({}, 200, id="good"),
        pytest.param({"expires": 700}, 401, id="lives too long"),
        pytest.param({"issued": 30}, 401, id="clock ahead"),
        pytest.param({"issued": -600, "expires": -1}, 401, id="expired"),
        pytest.param({"algorithm": "HS256"}, 401, id="wrong algorithm"),
        pytest.param({"iss": "999"}, 404, id="unknown app"),
        pytest.param({"iss": github.auth.CLIENT_ID}, 200, id="client id"),
    ],
)
async def test_the_app_is_known_by_its_web_token(sim: Sim, how: Any, status: Any) -> None:
    answer = await sim.call("GET", "/orgs/acme/installation", auth=f"Bearer {app_jwt(sim, **how)}")
    assert answer.status == status


async def test_an_installation_token_lives_an_hour_and_may_not_touch_enterprise_or_strangers(sim: Sim) -> None:
    token = await installation_token(sim)
    assert token.startswith("ghs_") and len(token) > 300
    auth = f"Bearer {token}"
    assert (await sim.call("POST", "/orgs/acme/actions/runners/registration-token", auth=auth)).status == 201
    sim.github.tables.owners.add("other")
    assert (await sim.call("GET", "/orgs/other/actions/runners", auth=auth)).status == 404
    assert (await sim.call("GET", "/enterprises/big/actions/runners", auth=auth)).status == 403
    assert (await sim.call("GET", "/enterprises/big/actions/runners")).status == 200
    await asyncio.sleep(3601)
    assert (await sim.call("GET", "/orgs/acme/actions/runners", auth=auth)).status == 401


async def test_an_unknown_owner_or_repository_is_not_found(sim: Sim) -> None:
    assert (await sim.call("POST", "/orgs/nobody/actions/runners/registration-token")).status == 404
    assert (await sim.call("GET", "/repos/acme/none/actions/runs")).status == 404
    assert (await sim.call("GET", "/nonsense/path")).status == 404


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        pytest.param({"name": "a", "labels": ["x"]}, 422, "missing required key: runner_group_id", id="no group"),
        pytest.param({"name": "a", "runner_group_id": 1}, 422, "missing required key: labels", id="no labels"),
        pytest.param({"name": "a", "runner_group_id": 1, "labels": []}, 422, "1 to 100", id="empty labels"),
        pytest.param({"name": "a", "runner_group_id": 2, "labels": ["x"]}, 403, "hosted", id="hosted group"),
        pytest.param({"name": "a", "runner_group_id": 77, "labels": ["x"]}, 404, "Not Found", id="unknown group"),
        pytest.param({"name": "taken", "runner_group_id": 1, "labels": ["x"]}, 409, "already exists", id="taken"),
    ],
)
async def test_jit_refusals(sim: Sim, body: Any, status: Any, text: Any) -> None:
    first = await sim.call("POST", JIT, {"name": "taken", "runner_group_id": 1, "labels": ["x"]})
    assert (first.status, first.json()["runner"]["status"]) == (201, "offline")
    answer = await sim.call("POST", JIT, body)
    assert answer.status == status
    assert text in answer.json()["message"]


async def test_runners_are_listed_by_page_and_by_exact_name(sim: Sim) -> None:
    for n in range(5):
        await sim.call("POST", JIT, {"name": f"r{n}", "runner_group_id": 1, "labels": ["x"]})
    page = await sim.call("GET", "/orgs/acme/actions/runners?per_page=2&page=2")
    assert (page.json()["total_count"], [item["name"] for item in page.json()["runners"]]) == (5, ["r2", "r3"])
    links = page.header("Link")
    assert all(f'rel="{name}"' in links for name in ("prev", "first", "next", "last"))
    named = (await sim.call("GET", "/orgs/acme/actions/runners?name=r3")).json()
    assert (named["total_count"], named["runners"][0]["name"]) == (1, "r3")
    assert "version" not in named["runners"][0]
    id = named["runners"][0]["id"]
    assert (await sim.call("DELETE", f"/orgs/acme/actions/runners/{id}")).status == 204
    assert (await sim.call("DELETE", f"/orgs/acme/actions/runners/{id}")).status == 404


async def test_more_than_the_allowed_registrations_in_five_minutes_are_refused(sim: Sim, options: Any) -> None:
    options.registrations = 3
    body = {"runner_group_id": 1, "labels": ["x"]}
    statuses = [(await sim.call("POST", JIT, {**body, "name": f"r{n}"})).status for n in range(4)]
    assert statuses == [201, 201, 201, 429]
    await asyncio.sleep(301)
    assert (await sim.call("POST", JIT, {**body, "name": "later"})).status == 201


async def test_an_offline_registration_disappears_after_a_day(sim: Sim) -> None:
    await sim.call("POST", JIT, {"name": "r", "runner_group_id": 1, "labels": ["x"]})
    await asyncio.sleep(86_401)
    assert (await sim.call("GET", "/orgs/acme/actions/runners")).json()["total_count"] == 0


async def test_a_job_shows_its_runner_only_once_it_has_begun(sim: Sim) -> None:
    [job] = await sim.queue(["solo"])
    path = f"/repos/acme/ml/actions/jobs/{job.id}"
    shown = (await sim.call("GET", path)).json()
    assert (shown["status"], shown["runner_id"], shown["runner_name"]) == ("queued", None, None)
    made = await sim.call("POST", JIT, {"name": "r", "runner_group_id": 1, "labels": ["solo", "other"]})
    runner = sim.github.connect_runner(made.json()["encoded_jit_config"])
    runner.start(await given(runner))
    shown = (await sim.call("GET", path)).json()
    assert (shown["status"], shown["runner_name"], shown["runner_group_name"]) == ("in_progress", "r", "Default")


async def test_runs_are_filtered_by_status_and_an_active_run_may_hold_queued_jobs(sim: Sim) -> None:
    await sim.queue(["solo"], count=2, name="matrix")
    made = await sim.call("POST", JIT, {"name": "r", "runner_group_id": 1, "labels": ["solo"]})
    runner = sim.github.connect_runner(made.json()["encoded_jit_config"])
    job = await given(runner)
    runner.start(job)
    base = "/repos/acme/ml/actions/runs"
    assert (await sim.call("GET", f"{base}?status=queued")).json()["total_count"] == 0
    [run] = (await sim.call("GET", f"{base}?status=in_progress")).json()["workflow_runs"]
    jobs = (await sim.call("GET", f"{base}/{run['id']}/jobs")).json()["jobs"]
    assert sorted(item["status"] for item in jobs) == ["in_progress", "queued"]
    assert [item["name"] for item in jobs] == ["matrix (1)", "matrix (2)"]


async def test_a_rerun_waits_for_the_end_of_the_run_and_gives_new_job_ids(sim: Sim) -> None:
    [job] = await sim.queue(["solo"])
    base = "/repos/acme/ml/actions"
    early = await sim.call("POST", f"{base}/runs/{job.run_id}/rerun")
    assert (early.status, "already running" in early.json()["message"]) == (403, True)
    by_job = await sim.call("POST", f"{base}/jobs/{job.id}/rerun")
    assert by_job.json()["message"] == "The workflow run containing this job is already running"
    await sim.call("POST", f"{base}/runs/{job.run_id}/cancel")
    assert (await sim.call("POST", f"{base}/runs/{job.run_id}/cancel")).status == 409
    assert (await sim.call("POST", f"{base}/runs/{job.run_id}/rerun-failed-jobs")).status == 201
    run = (await sim.call("GET", f"{base}/runs/{job.run_id}")).json()
    assert (run["run_attempt"], run["status"]) == (2, "queued")
    [again] = (await sim.call("GET", f"{base}/runs/{job.run_id}/jobs")).json()["jobs"]
    assert again["id"] != job.id and again["run_attempt"] == 2
    both = (await sim.call("GET", f"{base}/runs/{job.run_id}/jobs?filter=all")).json()
    assert both["total_count"] == 2
    first = (await sim.call("GET", f"{base}/runs/{job.run_id}/attempts/1/jobs")).json()["jobs"]
    assert [item["id"] for item in first] == [job.id]


async def test_a_rerun_of_failed_jobs_leaves_the_others_and_repeats_their_completed_event(sim: Sim) -> None:
    await sim.call("POST", "/_sim/hooks", {"forge": "github", "url": "http://hook", "secret": "s"})
    jobs = await sim.queue(["solo"], count=2)
    for n, result in enumerate(["succeeded", "failed"]):
        made = await sim.call("POST", JIT, {"name": f"r{n}", "runner_group_id": 1, "labels": ["solo"]})
        runner = sim.github.connect_runner(made.json()["encoded_jit_config"])
        job = await given(runner)
        runner.start(job)
        runner.finish(job, result)
    await asyncio.sleep(1)
    sim.sent.clear()
    assert (await sim.call("POST", f"/repos/acme/ml/actions/runs/{jobs[0].run_id}/rerun-failed-jobs")).status == 201
    await asyncio.sleep(1)
    seen = [(p["action"], p["workflow_job"]["id"]) for p in (json.loads(body) for _, _, body in sim.sent)]
    assert ("completed", jobs[0].id) in seen
    queued = [id for action, id in seen if action == "queued"]
    assert len(queued) == 1 and queued[0] not in [job.id for job in jobs]


async def test_some_runs_cannot_be_retried(sim: Sim) -> None:
    job = await finished(sim, "failed")
    await sim.call("POST", f"/_sim/github/runs/{job.run_id}", {"retryable": False})
    answer = await sim.call("POST", f"/repos/acme/ml/actions/runs/{job.run_id}/rerun")
    assert (answer.status, answer.json()["message"]) == (403, "This workflow run cannot be retried")


async def test_the_hourly_quota_runs_out_and_comes_back(sim: Sim, options: Any) -> None:
    options.rate_limit = 3
    for remaining in (2, 1, 0):
        answer = await sim.call("GET", "/users/octocat")
        assert (answer.status, answer.header("x-ratelimit-remaining")) == (200, str(remaining))
    refused = await sim.call("GET", "/users/octocat")
    assert (refused.status, refused.header("x-ratelimit-remaining")) == (403, "0")
    assert int(refused.header("x-ratelimit-reset")) > sim.world.now()
    assert (await sim.call("GET", "/rate_limit")).status == 200
    await asyncio.sleep(3601)
    assert (await sim.call("GET", "/users/octocat")).status == 200


async def test_the_secondary_limit_counts_points_per_endpoint(sim: Sim, options: Any) -> None:
    options.points_per_minute = 12
    statuses = []
    for n in range(3):
        answer = await sim.call("POST", JIT, {"name": f"r{n}", "runner_group_id": 1, "labels": ["x"]})
        statuses.append(answer.status)
    assert statuses == [201, 201, 429]
    assert 1 <= int(answer.header("retry-after")) <= 60
    assert (await sim.call("GET", "/users/octocat")).status == 200


async def test_a_conditional_request_costs_nothing_and_differs_by_token(sim: Sim) -> None:
    first = await sim.call("GET", "/repos/acme/ml/actions/runs")
    etag = first.header("etag")
    used = first.header("x-ratelimit-used")
    again = await sim.call("GET", "/repos/acme/ml/actions/runs", headers={"If-None-Match": etag})
    assert (again.status, again.body, again.header("x-ratelimit-used")) == (304, b"", used)
    other = f"Bearer {await installation_token(sim)}"
    fresh = await sim.call("GET", "/repos/acme/ml/actions/runs", auth=other, headers={"If-None-Match": etag})
    assert fresh.status == 200
    await sim.queue(["x"])
    changed = await sim.call("GET", "/repos/acme/ml/actions/runs", headers={"If-None-Match": etag})
    assert changed.status == 200


async def test_events_are_signed_over_the_raw_body_and_recorded(sim: Sim) -> None:
    hook = (await sim.call("POST", "/_sim/hooks", {"forge": "github", "url": "http://hook", "secret": "s"})).json()
    [job] = await sim.queue(["solo"])
    await asyncio.sleep(1)
    [(url, headers, body)] = sim.sent
    digest = hmac.new(b"s", body, hashlib.sha256).hexdigest()
    assert (url, headers["X-Hub-Signature-256"]) == ("http://hook", f"sha256={digest}")
    payload = json.loads(body)["workflow_job"]
    assert (payload["id"], payload["status"], payload["runner_id"]) == (job.id, "queued", None)
    [item] = (await sim.call("GET", f"/orgs/acme/hooks/{hook['id']}/deliveries")).json()
    assert (item["status"], item["guid"]) == ("OK", headers["X-GitHub-Delivery"])


async def test_a_failed_delivery_is_not_repeated_until_it_is_asked_for_under_the_same_guid(sim: Sim) -> None:
    sim.hook_status = 500
    hook = (await sim.call("POST", "/_sim/hooks", {"forge": "github", "url": "http://hook"})).json()
    await sim.queue(["solo"])
    await asyncio.sleep(600)
    assert len(sim.sent) == 1
    sim.hook_status = 200
    base = f"/orgs/acme/hooks/{hook['id']}/deliveries"
    [failed] = (await sim.call("GET", f"{base}?status=failure")).json()
    assert (await sim.call("POST", f"{base}/{failed['id']}/attempts")).status == 202
    await asyncio.sleep(1)
    again = (await sim.call("GET", base)).json()[0]
    assert (again["guid"], again["redelivery"], again["status"]) == (failed["guid"], True, "OK")


async def test_a_report_is_posted_to_the_pull_request_of_a_commit_and_updated(sim: Sim) -> None:
    setup = {"repo": "acme/nst", "pulls": [{"number": 5, "sha": SHA}], "issues": [9]}
    assert (await sim.call("POST", "/_sim/github/repos", setup)).status == 201
    [pull] = (await sim.call("GET", f"/repos/acme/nst/commits/{SHA}/pulls?state=open")).json()
    number = pull["html_url"].rsplit("/", 1)[1]
    base = f"/repos/acme/nst/issues/{number}/comments"
    made = await sim.call("POST", base, {"body": "# report"})
    assert (made.status, "#issuecomment-" in made.json()["html_url"]) == (201, True)
    [listed] = (await sim.call("GET", base)).json()
    await sim.call("PATCH", f"/repos/acme/nst/issues/comments/{listed['id']}", {"body": "# new"})
    assert [item["body"] for item in (await sim.call("GET", base)).json()] == ["# new"]
    page = await sim.app.handle(http.request("GET", "/acme/nst/pull/5"))
    assert "<h1>new</h1>" in page.text
    assert (await sim.call("POST", "/repos/acme/nst/issues/9/comments", {"body": "x"})).status == 201
    assert (await sim.call("POST", "/repos/acme/nst/issues/10/comments", {"body": "x"})).status == 404
    assert (await sim.call("POST", base, {})).status == 422
    assert (await sim.call("POST", base, {"body": "x" * 65_537})).status == 422


async def test_check_runs_are_for_apps_and_jobs_only(sim: Sim) -> None:
    body = {"name": "report", "head_sha": SHA, "conclusion": "success", "output": {"title": "t", "summary": "s"}}
    assert (await sim.call("POST", "/repos/acme/ml/check-runs", body)).status == 403
    auth = f"Bearer {await installation_token(sim)}"
    assert (await sim.call("POST", "/repos/acme/ml/check-runs", body, auth=auth)).status == 201
    bad = {**body, "conclusion": "splendid"}
    assert (await sim.call("POST", "/repos/acme/ml/check-runs", bad, auth=auth)).status == 422


async def test_the_token_of_a_job_comments_but_does_not_administer_and_dies_with_it(sim: Sim) -> None:
    [job] = await sim.queue(["solo"])
    token = sim.github.auth.mint_job_token("acme/ml", job.id)
    job.token = token
    auth = f"token {token}"
    comment = await sim.call("POST", "/repos/acme/ml/issues/1/comments", {"body": "x"}, auth=auth)
    assert (comment.status, comment.json()["user"]["login"]) == (201, "github-actions[bot]")
    assert (await sim.call("GET", "/orgs/acme/actions/runners", auth=auth)).status == 403
    commit = (await sim.call("POST", f"/repos/acme/ml/commits/{SHA}/comments", {"body": "x"}, auth=auth)).json()
    locked = await sim.call("PATCH", f"/repos/acme/ml/comments/{commit['id']}", {"body": "y"}, auth=auth)
    assert (locked.status, "commit_id has been locked" in locked.text) == (422, True)
    sim.github.cancel_job(job)
    assert (await sim.call("GET", "/repos/acme/ml", auth=auth)).status == 401


async def test_a_queued_job_fails_after_a_day(sim: Sim) -> None:
    [job] = await sim.queue(["solo"])
    await asyncio.sleep(86_401)
    assert job.status == "completed"


async def test_a_pull_request_is_opened_once_per_branch(sim: Sim) -> None:
    body = {"title": "t", "head": "topic", "base": "main"}
    made = await sim.call("POST", "/repos/acme/ml/pulls", body)
    assert (made.status, made.json()["html_url"].rsplit("/", 1)[1]) == (201, str(made.json()["number"]))
    assert (await sim.call("POST", "/repos/acme/ml/pulls", body)).status == 422


async def test_malformed_control_bodies_are_refused(sim: Sim) -> None:
    assert (await sim.call("POST", "/_sim/github/repos", {"repo": "acme/x", "pulls": [{}]})).status == 400
    assert (await sim.call("POST", "/_sim/github/options", {"lapze": 1})).status == 400
