"""Registering and removing: one request, honest about what may be left, paced after refusals."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from runnerd import config, errors
from runnerd.forges import base
from runnerd.forges.github.registration import PER_WINDOW
from runnerd.kit import http
from tests.unit.forges.github import gh_lab
from tests.unit.forges.github.gh_lab import Reply, on_virtual_time
from tests.unit.forges.github.gh_service import Service

SET_JIT = "/generatejitconfig"
REST_JIT = "/generate-jitconfig"
GOOD = {"runner": {"id": 4, "name": "m1"}, "encodedJITConfig": "SECRET", "encoded_jit_config": "SECRET"}
MODES = pytest.mark.parametrize(("mode", "path"), [("scale-set", SET_JIT), ("rest", REST_JIT)])


async def started(directory: Path, mode: str, **fields: Any) -> tuple[Service, Any]:
    lab = Service(directory, mode=config.Mode(mode), repos=("acme/ml",), **fields)
    lab.script.on("GET", "/actions/runs", Reply(200, {"total_count": 0, "workflow_runs": [], "jobs": []}))
    groups = {
        "total_count": 2,
        "runner_groups": [{"id": 1, "name": "Default", "default": True}, {"id": 5, "name": "gpu"}],
    }
    lab.script.on("GET", "/runner-groups", Reply(200, groups))
    watching = lab.watching()
    await watching.__aenter__()
    await gh_lab.until(lambda: lab.client.demand(lab.spec.queue).known)
    return lab, watching


@MODES
@on_virtual_time
async def test_a_runner_reads_its_configuration_from_the_environment(tmp_path: Path, mode: str, path: str) -> None:
    lab, watching = await started(tmp_path, mode)
    lab.script.on("POST", path, Reply(201, GOOD))
    made = await lab.client.register("m1", lab.spec.queue)
    assert (made.kind, made.forge_id, made.arguments) == ("github", "4", ())
    assert made.environment == {"ACTIONS_RUNNER_INPUT_JITCONFIG": "SECRET"}
    assert "SECRET" not in repr(made)
    asked = json.loads(next(r.body or b"" for r in lab.script.asked if path in r.url))
    if mode == "rest":
        assert asked == {"name": "m1", "runner_group_id": 1, "labels": ["gpu-t4"], "work_folder": "_work"}
    else:
        assert asked == {"name": "m1", "workFolder": "_work"}
    await watching.__aexit__()


@MODES
@pytest.mark.parametrize(
    ("reply", "error", "maybe"),
    [
        pytest.param(Reply(lost=True), errors.ForgeUnavailable, True, id="answer-lost"),
        pytest.param(Reply(unsent=True), errors.ForgeUnavailable, False, id="never-sent"),
        pytest.param(Reply(500), errors.ForgeUnavailable, True, id="500"),
        pytest.param(Reply(503, b"<html>"), errors.ForgeUnavailable, True, id="gateway"),
        pytest.param(Reply(200, b""), errors.ForgeUnavailable, True, id="empty-success"),
        pytest.param(Reply(200, b"<html>"), errors.ForgeUnavailable, True, id="html-success"),
        pytest.param(Reply(200, {"runner": {}}), errors.ForgeUnavailable, True, id="success-without-runner"),
        pytest.param(Reply(403, {"message": "no"}), errors.ForgeForbidden, False, id="forbidden"),
        pytest.param(Reply(429, {"message": "slow"}), errors.ForgeThrottled, False, id="throttled"),
        pytest.param(Reply(422, {"message": "bad label"}), errors.ForgeError, False, id="unprocessable"),
        pytest.param(Reply(409, {"message": "Already exists"}), errors.ForgeConflict, True, id="name-taken"),
        pytest.param(
            Reply(400, {"typeName": "X.AgentExistsException, X", "message": "exists"}), None, None, id="agent-exists"
        ),
    ],
)
@on_virtual_time
async def test_a_refusal_says_whether_the_runner_may_exist_and_is_asked_once(
    tmp_path: Path, mode: str, path: str, reply: Reply, error: type[errors.ForgeError] | None, maybe: bool | None
) -> None:
    if error is None:
        error, maybe = (errors.ForgeConflict, True) if mode == "scale-set" else (errors.ForgeError, False)
    lab, watching = await started(tmp_path, mode)
    lab.script.on("POST", path, reply)
    with pytest.raises(error) as caught:
        await lab.client.register("m1", lab.spec.queue)
    assert caught.value.maybe_created is maybe
    assert lab.script.count("POST", path) == 1
    assert "acme" in str(caught.value) and "m1" in str(caught.value)
    await watching.__aexit__()


@on_virtual_time
async def test_a_refused_admin_token_is_replaced_and_the_request_repeated_since_nothing_was_done(
    tmp_path: Path,
) -> None:
    lab, watching = await started(tmp_path, "scale-set")
    lab.script.on("POST", SET_JIT, Reply(401), Reply(200, GOOD))
    assert (await lab.client.register("m1", lab.spec.queue)).forge_id == "4"
    assert lab.script.count("POST", "/registration-token") == 2
    await watching.__aexit__()


@on_virtual_time
async def test_a_failure_before_the_request_leaves_nothing_behind(tmp_path: Path) -> None:
    lab, watching = await started(tmp_path, "scale-set")
    await watching.__aexit__()
    lab.client = lab.another()
    lab.script.on("POST", "/registration-token", Reply(lost=True))
    watching = lab.watching()
    await watching.__aenter__()
    await asyncio.sleep(1)
    with pytest.raises(errors.ForgeUnavailable) as caught:
        await lab.client.register("m1", lab.spec.queue)
    assert not caught.value.maybe_created
    await watching.__aexit__()


@on_virtual_time
async def test_a_burst_of_refusals_is_one_refusal(tmp_path: Path) -> None:
    lab, watching = await started(tmp_path, "scale-set")
    refuse = {"yes": True}

    async def answer(_: http.Request) -> Reply:
        await asyncio.sleep(1)
        return Reply(403) if refuse["yes"] else Reply(200, GOOD)

    lab.script.on("POST", SET_JIT, answer)
    burst = (lab.client.register(f"m{number}", lab.spec.queue) for number in range(100))
    assert len(await asyncio.gather(*burst, return_exceptions=True)) == 100
    after = lab.client.health(lab.spec.queue).register_after - lab.clock.now()
    assert 0 < after <= 6.1
    refuse["yes"] = False
    await asyncio.sleep(after + 0.1)
    # One is let through to see; the others wait for its fate.
    tried = await asyncio.gather(
        *(lab.client.register(f"n{number}", lab.spec.queue) for number in range(5)), return_exceptions=True
    )
    assert sum(isinstance(item, base.RunnerConfig) for item in tried) == 1
    assert lab.client.headroom(lab.spec.queue) == PER_WINDOW - 101
    await watching.__aexit__()


@on_virtual_time
async def test_a_time_to_stay_away_is_obeyed(tmp_path: Path) -> None:
    lab, watching = await started(tmp_path, "rest")
    lab.script.on("POST", REST_JIT, Reply(429, {"message": "slow"}, {"retry-after": "120"}))
    with pytest.raises(errors.ForgeThrottled) as caught:
        await lab.client.register("m1", lab.spec.queue)
    assert caught.value.retry_after == 120
    assert lab.client.health(lab.spec.queue).register_after >= lab.clock.now() + 119
    assert lab.client.headroom(lab.spec.queue) == 0
    await watching.__aexit__()


@on_virtual_time
async def test_no_more_than_fifteen_hundred_in_five_minutes(tmp_path: Path) -> None:
    lab, watching = await started(tmp_path, "scale-set")
    lab.script.on("POST", SET_JIT, Reply(200, GOOD))
    for number in range(PER_WINDOW):
        await lab.client.register(f"m{number}", lab.spec.queue)
    assert lab.client.headroom(lab.spec.queue) == 0
    with pytest.raises(errors.ForgeThrottled):
        await lab.client.register("one-more", lab.spec.queue)
    await asyncio.sleep(301)
    assert lab.client.headroom(lab.spec.queue) == PER_WINDOW
    await watching.__aexit__()


@on_virtual_time
async def test_the_runners_of_a_group_end_at_ten_thousand(tmp_path: Path) -> None:
    lab, watching = await started(tmp_path, "scale-set")
    lab.say(1, statistics={"totalAssignedJobs": 0, "totalRegisteredRunners": 9_990})
    await gh_lab.until(lambda: lab.acked == [1])
    assert lab.client.headroom(lab.spec.queue) == 10
    await watching.__aexit__()


@pytest.mark.parametrize(
    ("mode", "reply", "removal"),
    [
        ("scale-set", Reply(204), base.Removal.REMOVED),
        ("scale-set", Reply(404, {"typeName": "AgentNotFoundException"}), base.Removal.REMOVED),
        ("scale-set", Reply(400, {"typeName": "A.JobStillRunningException, A"}), base.Removal.BUSY),
        ("rest", Reply(204), base.Removal.REMOVED),
        ("rest", Reply(404, {"message": "Not Found"}), base.Removal.REMOVED),
        ("rest", Reply(422, {"message": "is currently running a job"}), base.Removal.BUSY),
        ("scale-set", Reply(400, {"typeName": "SomethingElse"}), None),
        ("scale-set", Reply(500), None),
        ("scale-set", Reply(lost=True), None),
        ("rest", Reply(403, {"message": "no"}), None),
        ("rest", Reply(lost=True), None),
    ],
)
@on_virtual_time
async def test_removal_says_gone_only_when_the_forge_did(
    tmp_path: Path, mode: str, reply: Reply, removal: base.Removal | None
) -> None:
    lab = Service(tmp_path, mode=config.Mode(mode))
    lab.script.on("DELETE", "/agents/4" if mode == "scale-set" else "/actions/runners/4", reply)
    gone = gh_lab.registration(lab.spec.queue, "m1", "4")
    if removal is None:
        with pytest.raises(errors.ForgeError):
            await lab.client.deregister(gone)
    else:
        assert await lab.client.deregister(gone) is removal


@pytest.mark.parametrize(("mode", "part"), [("scale-set", "/agents?"), ("rest", "/actions/runners?")])
@on_virtual_time
async def test_a_runner_without_an_id_is_removed_by_its_exact_name(tmp_path: Path, mode: str, part: str) -> None:
    lab = Service(tmp_path, mode=config.Mode(mode))
    found = [{"id": 8, "name": "m10", "status": "online", "busy": True}, {"id": 4, "name": "m1", "status": "offline"}]
    lab.script.on("GET", part, Reply(200, {"count": 2, "total_count": 2, "value": found, "runners": found}))
    lab.script.on("DELETE", "/4", Reply(204))
    assert await lab.client.deregister(gh_lab.registration(lab.spec.queue, "m1")) is base.Removal.REMOVED
    assert lab.script.count("DELETE", "/4") == 1
    assert await lab.client.deregister(gh_lab.registration(lab.spec.queue, "m")) is base.Removal.REMOVED
    listing = await lab.client.list_runners(lab.spec.queue)
    assert [(view.online, view.busy) for view in listing.views] == [(True, True), (False, None)]
    assert listing.complete
    lab.script.on("GET", part, Reply(200, {"count": 3, "total_count": 3, "value": found, "runners": found}))
    assert not (await lab.client.list_runners(lab.spec.queue)).complete


@on_virtual_time
async def test_a_listing_that_failed_is_no_absence(tmp_path: Path) -> None:
    lab = Service(tmp_path)
    lab.script.on("GET", "/agents?", Reply(500))
    with pytest.raises(errors.ForgeUnavailable):
        await lab.client.find("m1", lab.spec.queue)
    with pytest.raises(errors.ForgeUnavailable):
        await lab.client.deregister(gh_lab.registration(lab.spec.queue, "m1"))


@on_virtual_time
async def test_a_group_that_does_not_exist_is_named(tmp_path: Path) -> None:
    lab, watching = await started(tmp_path, "rest")
    await watching.__aexit__()
    spec = gh_lab.spec(runner_group="nobody")
    async with lab.watching(spec):
        await asyncio.sleep(1)
        with pytest.raises(errors.ForgeNotFound, match="nobody"):
            await lab.client.register("m1", spec.queue)
