"""Routes, faults, timers and the control endpoints."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from runnerd.simulator import faults, http, page, world

from .conftest import Sim


async def _answer(request: http.Request) -> http.Response:
    return http.json_response(dict(request.params))


def router(*templates: str) -> http.Router:
    made = http.Router()
    for template in templates:
        made.add(http.Route("GET", template, _answer, "github"))
    return made


@pytest.mark.parametrize(
    ("path", "template", "params"),
    [
        ("/a/fixed", "/a/fixed", {}),
        ("/a/other", "/a/{x}", {"x": "other"}),
        ("/a/acme%2Fml", "/a/{x}", {"x": "acme/ml"}),
        ("/a/fixed/deep", "/a/{x}/deep", {"x": "fixed"}),
        ("/files/one/two", "/files/{rest:path}", {"rest": "one/two"}),
    ],
)
def test_a_literal_segment_wins_and_parameters_are_decoded_after_splitting(
    path: Any, template: Any, params: Any
) -> None:
    made = router("/a/{x}", "/a/fixed", "/a/{x}/deep", "/files/{rest:path}")
    matched = made.match(http.request("GET", path))
    assert matched is not None
    route, request = matched
    assert (route.template, dict(request.params)) == (template, params)


def test_templates_that_cannot_match_are_refused() -> None:
    made = router("/a/{x}")
    for bad in ("a", "/a/{x}", "/a/{x:path}/more"):
        with pytest.raises(ValueError):
            made.add(http.Route("GET", bad, _answer, "github"))


@pytest.mark.parametrize(
    "data",
    [
        {"stauts": 500},
        {"method": "GET"},
        {"status": 99},
        {"drop": "maybe"},
        {"hang": True, "probability": 2},
        {"latency": -1},
        {"hang": True, "count": 0},
        {"hang": True, "forge": "bitbucket"},
        {"hang": True, "seconds": "long"},
    ],
)
def test_a_misspelt_or_senseless_fault_is_refused(data: Any) -> None:
    with pytest.raises(ValueError):
        faults.parse(data, now=0.0)


async def script(sim: Sim, *items: Any) -> None:
    answer = await sim.call("POST", "/_sim/faults", {"faults": list(items)})
    assert answer.status == 201, answer.text


async def test_an_error_is_answered_as_often_as_scripted_and_not_applied(sim: Sim) -> None:
    await script(sim, {"method": "POST", "path": "*/comments", "status": 500, "count": 2})
    await sim.queue(["x"])
    path = "/repos/acme/ml/issues/1/comments"
    assert [(await sim.call("POST", path, {"body": "b"})).status for _ in range(3)] == [500, 500, 201]
    assert len(sim.world.comments) == 1


async def test_an_applied_request_whose_answer_is_lost_has_been_applied(sim: Sim) -> None:
    await script(sim, {"path": "*/generate-jitconfig", "drop": "after", "count": 1})
    body = {"name": "r", "runner_group_id": 1, "labels": ["x"]}
    with pytest.raises(http.ConnectionDropped):
        await sim.call("POST", "/orgs/acme/actions/runners/generate-jitconfig", body)
    assert (await sim.call("POST", "/orgs/acme/actions/runners/generate-jitconfig", body)).status == 409


async def test_a_request_dropped_before_is_not_applied(sim: Sim) -> None:
    await script(sim, {"path": "*/generate-jitconfig", "drop": "before", "count": 1})
    body = {"name": "r", "runner_group_id": 1, "labels": ["x"]}
    with pytest.raises(http.ConnectionDropped):
        await sim.call("POST", "/orgs/acme/actions/runners/generate-jitconfig", body)
    assert (await sim.call("POST", "/orgs/acme/actions/runners/generate-jitconfig", body)).status == 201


async def test_latency_outage_window_page_mark_and_empty_body(sim: Sim) -> None:
    await script(sim, {"forge": "github", "outage": True, "start_in": 10, "seconds": 5})
    assert (await sim.call("GET", "/users/a")).status == 200
    await asyncio.sleep(11)
    down = await sim.call("GET", "/users/a")
    assert (down.status, down.header("content-type").startswith("text/html")) == (503, True)
    await asyncio.sleep(5)
    await script(sim, {"latency": 7, "bom": True, "path": "*/users/a"}, {"empty": True, "path": "*/users/b"})
    before = sim.world.now()
    slow = await sim.call("GET", "/users/a")
    assert sim.world.now() - before == pytest.approx(7)
    assert slow.body[:3] == b"\xef\xbb\xbf"
    assert (await sim.call("GET", "/users/b")).body == b""
    assert (await sim.call("DELETE", "/_sim/faults")).status == 204
    assert (await sim.call("GET", "/users/b")).body != b""


async def test_a_hanging_request_never_answers(sim: Sim) -> None:
    await script(sim, {"hang": True})
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(sim.call("GET", "/users/a"), 1000)


async def test_a_token_can_be_revoked_and_a_quota_used_up_by_fault(sim: Sim) -> None:
    await script(sim, {"path": "*/users/b", "exhaust_rate": True}, {"path": "*/users/a", "revoke_token": True})
    assert (await sim.call("GET", "/users/b")).status == 403
    assert (await sim.call("GET", "/users/a")).status == 401
    assert (await sim.call("GET", "/users/c")).status == 401


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"forge": "svn", "repo": "a/b", "labels": []}, "forge must be"),
        ({"forge": "github", "repo": "ab", "labels": []}, "repo must be"),
        ({"forge": "github", "repo": "a/b/c", "labels": []}, "owner/name"),
        ({"forge": "github", "repo": "a/b", "labels": "x"}, "labels must be"),
        ({"forge": "github", "repo": "a/b", "labels": [], "count": 0}, "count must be"),
        ({"forge": "github", "repo": "a/b", "labels": [], "script": "x"}, "script must be"),
        ({"forge": "github", "repo": "a/b", "labels": [], "duration": "x"}, "duration must be"),
        ({"forge": "github", "repo": "a/b", "labels": [], "scirpt": ["x"]}, "unknown field 'scirpt'"),
        ([], "JSON object"),
    ],
)
async def test_queueing_refuses_bad_input_and_says_what_is_wrong(sim: Sim, body: Any, text: Any) -> None:
    answer = await sim.call("POST", "/_sim/jobs", body)
    assert answer.status == 400
    assert text in answer.json()["error"]


async def test_the_state_counts_requests_by_template(sim: Sim) -> None:
    await sim.queue(["x"])
    await sim.call("GET", "/repos/acme/ml")
    await sim.call("GET", "/repos/acme/other")
    await sim.call("GET", "/nowhere")
    state = (await sim.call("GET", "/_sim/state")).json()
    assert state["requests"]["GET /api/v3/repos/{owner}/{repo}"] == 2
    assert state["requests"]["GET <unmatched>"] == 1
    [job] = state["jobs"]
    assert {"id", "forge", "repo", "labels", "status", "conclusion", "runner", "queued_at", "starts"} <= set(job)
    assert {"runners", "comments", "uploads", "scale_sets", "sessions"} <= set(state)


async def test_github_com_addresses_reach_the_same_api(sim: Sim) -> None:
    answer = await sim.call("GET", "https://api.github.com/users/octocat")
    assert answer.json()["login"] == "octocat"


async def test_a_wait_ends_at_its_timeout_and_timers_run_in_order(sim: Sim) -> None:
    seen = []
    sim.world.call_later(2, lambda: seen.append("two"))
    sim.world.call_later(1, lambda: seen.append("one"))
    sim.world.call_later(1.5, lambda: seen.append("never")).cancel()
    assert await sim.world.wait("key", 3) is False
    assert seen == ["one", "two"]


def test_times_are_printed_as_the_forges_print_them() -> None:
    assert world.iso(1_780_000_000.9) == "2026-05-28T20:26:40Z"
    assert world.iso_milliseconds(1_780_000_000.25) == "2026-05-28T20:26:40.250Z"
    assert world.iso(None) is None


def test_reports_are_rendered_without_scripts() -> None:
    shown = page.render("# hi\n<script>alert(1)</script>\n\n![m](https://x.invalid/m.png)\n\n|a|\n|-|\n|1|\n")
    assert "<h1>hi</h1>" in shown and "script" not in shown
    assert 'src="https://x.invalid/m.png"' in shown and "<table>" in shown
