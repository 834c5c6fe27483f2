"""The Actions service: scale sets, sessions, the message queue and what they refuse."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import jwt
import pytest

from runnerd.simulator import github

from .conftest import Sim, given

SETS = "runtime/runnerscalesets"


def kinds(messages: list[dict[str, Any]]) -> list[str]:
    return [message["messageType"] for message in messages]


async def test_the_token_chain_gives_a_url_and_a_token_that_tells_its_expiry(sim: Sim) -> None:
    service = await sim.service("acme/ml")
    claims = jwt.decode(service.token, options={"verify_signature": False})
    assert claims["exp"] == int(sim.world.now()) + 3600
    assert service.url.startswith("https://github.sim.invalid/_actions/")
    await asyncio.sleep(3601)
    assert (await service.call("GET", SETS)).status == 401


@pytest.mark.parametrize(
    ("authorization", "status"),
    [("Bearer {}", 401), ("RemoteAuth nonsense", 404), ("RemoteAuth {}", 200)],
)
async def test_runner_registration_takes_only_remote_auth(sim: Sim, authorization: Any, status: Any) -> None:
    token = (await sim.call("POST", "/orgs/acme/actions/runners/registration-token")).json()["token"]
    answer = await sim.call(
        "POST",
        "/actions/runner-registration",
        {"url": "https://github.sim.invalid/acme", "runner_event": "register"},
        auth=authorization.format(token),
    )
    assert answer.status == status


async def test_a_registration_token_is_good_for_its_scope_and_an_hour(sim: Sim) -> None:
    token = (await sim.call("POST", "/orgs/acme/actions/runners/registration-token")).json()["token"]
    body = {"url": "https://github.sim.invalid/acme/ml", "runner_event": "register"}
    other = await sim.call("POST", "/actions/runner-registration", body, auth=f"RemoteAuth {token}")
    assert other.status == 404
    await asyncio.sleep(3601)
    body["url"] = "https://github.sim.invalid/acme"
    assert (await sim.call("POST", "/actions/runner-registration", body, auth=f"RemoteAuth {token}")).status == 401


async def test_a_set_echoes_its_labels_with_a_lower_case_type_and_is_found_by_name(sim: Sim) -> None:
    service = await sim.service()
    made = await service.make_set("gpu", ["gpu", "linux"])
    assert [(label["name"], label["type"]) for label in made["labels"]] == [("gpu", "system"), ("linux", "system")]
    found = (await service.call("GET", f"{SETS}?runnerGroupId=1&name=gpu")).json()
    assert (found["count"], found["value"][0]["id"]) == (1, made["id"])
    assert (await service.call("GET", f"{SETS}?runnerGroupId=1&name=none")).json() == {"count": 0, "value": []}


async def test_a_set_without_labels_gets_its_name_as_label(sim: Sim) -> None:
    service = await sim.service()
    made = (await service.call("POST", SETS, {"name": "solo"})).json()
    assert [label["name"] for label in made["labels"]] == ["solo"]


async def test_set_refusals(sim: Sim) -> None:
    service = await sim.service()
    await service.make_set("gpu")
    duplicate = await service.call("POST", SETS, {"name": "GPU", "runnerGroupId": 1})
    assert (duplicate.status, "Exists" in duplicate.json()["typeName"]) == (400, True)
    unknown_group = await service.call("POST", SETS, {"name": "x", "runnerGroupId": 99})
    assert (unknown_group.status, "RunnerGroupNotFound" in unknown_group.json()["typeName"]) == (404, True)
    other_group = await service.call("POST", SETS, {"name": "gpu", "runnerGroupId": 3})
    assert other_group.status == 200
    missing = await service.call("GET", f"{SETS}/77")
    assert (missing.status, "RunnerScaleSetNotFoundException" in missing.json()["typeName"]) == (404, True)
    assert (await service.call("GET", SETS, version=False)).status == 400
    assert missing.header("ActivityId")


async def test_groups_are_found_by_name_with_a_trailing_slash(sim: Sim) -> None:
    service = await sim.service()
    found = (await service.call("GET", "runtime/runnergroups/?groupName=gpu")).json()
    assert (found["value"][0]["id"], found["value"][0]["isDefaultGroup"]) == (3, False)
    default = (await service.call("GET", "runtime/runnergroups/?groupName=default")).json()["value"][0]
    assert (default["id"], default["isDefaultGroup"]) == (1, True)


async def test_an_assigned_job_runs_on_a_runner_of_the_set_and_ends(sim: Sim) -> None:
    service = await sim.service()
    made = await service.make_set()
    session = await service.open_session(made["id"])
    [job] = await sim.queue()
    [assigned] = await session.take()
    assert (assigned["messageType"], assigned["runnerRequestId"]) == ("JobAssigned", 0)
    assert assigned["workflowRunId"] == job.run_id
    runner = await service.runner(made["id"], "r1")
    assert await runner.next_job(0) is job
    assert runner.start(job)
    started = (await session.take())[0]
    assert (started["messageType"], started["runnerName"]) == ("JobStarted", "r1")
    statistics = (await service.call("GET", f"{SETS}/{made['id']}")).json()["statistics"]
    assert (statistics["totalAssignedJobs"], statistics["totalBusyRunners"]) == (1, 1)
    runner.finish(job, "succeeded")
    [completed] = await session.take()
    assert (completed["messageType"], completed["result"], completed["runnerName"]) == (
        "JobCompleted",
        "succeeded",
        "r1",
    )
    assert (job.conclusion, job.starts) == ("success", 1)
    assert (await service.call("GET", "distributedtask/pools/0/agents")).json()["count"] == 0
    with pytest.raises(github.RegistrationGone):
        await runner.next_job(0)


async def test_a_poll_blocks_fifty_seconds_then_says_there_is_nothing(sim: Sim) -> None:
    service = await sim.service()
    session = await service.open_session((await service.make_set())["id"])
    before = sim.world.now()
    assert (await session.poll()).status == 202
    assert sim.world.now() - before == pytest.approx(50)


async def test_a_poll_in_flight_wakes_when_a_job_is_queued(sim: Sim) -> None:
    service = await sim.service()
    session = await service.open_session((await service.make_set())["id"])
    poll = asyncio.create_task(session.take())
    await asyncio.sleep(10)
    await sim.queue()
    assert kinds(await poll) == ["JobAssigned"]
    assert asyncio.get_running_loop().time() == pytest.approx(10)


async def test_an_unacknowledged_message_comes_again_unchanged(sim: Sim) -> None:
    service = await sim.service()
    session = await service.open_session((await service.make_set())["id"])
    await sim.queue()
    first = await session.poll()
    await sim.queue()
    again = await session.poll()
    assert first.body == again.body
    assert (await session.ack(first.json()["messageId"])).status == 204
    third = (await session.poll()).json()
    assert third["messageId"] == first.json()["messageId"] + 1


async def test_a_message_holds_at_most_fifty_and_the_rest_follows(sim: Sim) -> None:
    service = await sim.service()
    session = await service.open_session((await service.make_set())["id"])
    await session.poll(200)
    await sim.queue(count=120)
    answer = (await session.poll(200)).json()
    assert answer["statistics"]["totalAssignedJobs"] == 120
    sizes = [len(await session.take(200)) for _ in range(3)]
    assert sizes == [50, 50, 20]


async def test_capacity_is_the_total_that_may_be_held(sim: Sim) -> None:
    service = await sim.service()
    session = await service.open_session((await service.make_set())["id"])
    await sim.queue(count=5)
    assert len(await session.take(2)) == 2
    assert await session.take(2) == []
    assert len(await session.take(3)) == 1


async def test_a_job_that_queues_at_zero_capacity_is_stranded_until_a_runner_comes(sim: Sim) -> None:
    service = await sim.service()
    made = await service.make_set()
    session = await service.open_session(made["id"])
    await session.poll(0)
    [job] = await sim.queue()
    assert await session.take(10) == []
    await service.call("DELETE", f"{SETS}/{made['id']}/sessions/{session.data['sessionId']}")
    assert (await session.poll(10)).status == 401
    fresh = await service.open_session(made["id"])
    assert await fresh.take(10) == []
    assert fresh.data["statistics"]["totalAssignedJobs"] == 0
    runner = await service.runner(made["id"], "rescue")
    assert await runner.next_job(0) is job


async def test_a_second_session_conflicts_until_the_first_is_idle(sim: Sim) -> None:
    service = await sim.service()
    made = await service.make_set()
    await service.open_session(made["id"])
    body = {"ownerName": "second"}
    refused = await service.call("POST", f"{SETS}/{made['id']}/sessions", body)
    assert (refused.status, "SessionConflict" in refused.json()["typeName"]) == (409, True)
    await asyncio.sleep(51)
    assert (await service.call("POST", f"{SETS}/{made['id']}/sessions", body)).status == 200


async def test_a_session_that_is_polled_is_not_idle(sim: Sim) -> None:
    service = await sim.service()
    made = await service.make_set()
    session = await service.open_session(made["id"])
    poll = asyncio.create_task(session.poll())
    await asyncio.sleep(49)
    assert (await service.call("POST", f"{SETS}/{made['id']}/sessions", {"ownerName": "b"})).status == 409
    await poll


async def test_an_expired_queue_token_is_refreshed_by_patch(sim: Sim) -> None:
    service = await sim.service()
    made = await service.make_set()
    session = await service.open_session(made["id"])
    sim.github.options.session_idle = 10_000
    await asyncio.sleep(3601)
    assert (await session.poll()).status == 401
    fresh = await sim.service()
    path = f"{SETS}/{made['id']}/sessions/{session.data['sessionId']}"
    refreshed = await fresh.call("PATCH", path)
    session.data = refreshed.json()
    assert (await session.poll()).status == 202
    assert (await fresh.call("DELETE", path)).status == 204
    gone = await fresh.call("DELETE", path)
    assert (gone.status, "SessionExpired" in gone.json()["typeName"]) == (400, True)
    assert (await fresh.call("PATCH", path)).status == 404


async def test_a_deleted_set_answers_not_found_to_poll_and_refresh_and_orphans_its_runner(sim: Sim) -> None:
    service = await sim.service()
    made = await service.make_set()
    session = await service.open_session(made["id"])
    runner = await service.runner(made["id"], "orphan")
    poll = asyncio.create_task(session.poll())
    await asyncio.sleep(1)
    assert (await service.call("DELETE", f"{SETS}/{made['id']}")).status == 204
    answer = await poll
    assert (answer.status, "RunnerScaleSetNotFound" in answer.json()["typeName"]) == (404, True)
    path = f"{SETS}/{made['id']}/sessions/{session.data['sessionId']}"
    assert (await service.call("PATCH", path)).status == 404
    with pytest.raises(github.RegistrationGone):
        await runner.next_job(0)


async def test_an_assignment_lapses_after_five_minutes_with_a_new_job_id_for_the_same_run(sim: Sim) -> None:
    service = await sim.service()
    session = await service.open_session((await service.make_set())["id"])
    [job] = await sim.queue()
    [first] = await session.take()
    await asyncio.sleep(301)
    lapsed, again = await session.take()
    assert (lapsed["messageType"], lapsed["result"], lapsed["runnerName"]) == ("JobCompleted", "canceled", "")
    assert lapsed["jobId"] == first["jobId"] != again["jobId"]
    assert again["messageType"] == "JobAssigned"
    assert again["workflowRunId"] == first["workflowRunId"]
    assert job.status == "queued"


async def test_labels_match_as_a_superset_without_regard_to_case(sim: Sim) -> None:
    service = await sim.service()
    session = await service.open_session((await service.make_set("a", ["a", "B", "c"]))["id"])
    await sim.queue(["b", "A"])
    await sim.queue(["a", "d"])
    assert len(await session.take()) == 1
    assert await session.take() == []


async def test_a_public_repository_is_refused_unless_the_group_allows_it(sim: Sim) -> None:
    service = await sim.service()
    session = await service.open_session((await service.make_set())["id"])
    await sim.queue(repo="acme/open", public=True)
    assert await session.take() == []
    group = sim.github.tables.group("acme", 1)
    assert group is not None
    group.allows_public = True
    await sim.queue(repo="acme/open")
    assert len(await session.take()) == 1


async def test_an_organisation_set_serves_all_its_repositories_and_a_repository_set_only_its_own(sim: Sim) -> None:
    org = await sim.service("acme")
    repo = await sim.service("acme/ml")
    of_org = await org.open_session((await org.make_set("o", ["o"]))["id"])
    of_repo = await repo.open_session((await repo.make_set("r", ["r"]))["id"])
    await sim.queue(["o"], repo="acme/other")
    await sim.queue(["r"], repo="acme/other")
    assert len(await of_org.take()) == 1
    assert await of_repo.take() == []


async def test_a_jit_name_that_exists_is_refused_and_free_again_after_removal(sim: Sim) -> None:
    service = await sim.service()
    made = await service.make_set()
    jit = await service.jit(made["id"], "r1")
    assert jit["runner"]["runnerScaleSetId"] == made["id"]
    path = f"{SETS}/{made['id']}/generatejitconfig"
    clash = await service.call("POST", path, {"name": "R1", "workFolder": "_work"})
    assert (clash.status, "AgentExistsException" in clash.json()["typeName"]) == (409, True)
    found = (await service.call("GET", "distributedtask/pools/0/agents?agentName=r1")).json()
    assert found["value"][0]["id"] == jit["runner"]["id"]
    agent = f"distributedtask/pools/0/agents/{jit['runner']['id']}"
    assert (await service.call("GET", agent)).status == 200
    assert (await service.call("DELETE", agent)).status == 204
    assert (await service.call("DELETE", agent)).status == 204
    missing = await service.call("GET", agent)
    assert (missing.status, "AgentNotFoundException" in missing.json()["typeName"]) == (404, True)
    assert (await service.call("POST", path, {"name": "r1"})).status == 200


async def test_a_runner_with_a_job_cannot_be_removed(sim: Sim) -> None:
    service = await sim.service()
    made = await service.make_set()
    await sim.queue()
    runner = await service.runner(made["id"], "busy")
    job = await given(runner)
    answer = await service.call("DELETE", f"distributedtask/pools/0/agents/{runner.registration.id}")
    assert (answer.status, "JobStillRunningException" in answer.json()["typeName"]) == (400, True)
    runner.start(job)
    by_rest = await sim.call("DELETE", f"/orgs/acme/actions/runners/{runner.registration.id}")
    assert by_rest.status == 422


async def test_a_dead_runner_stays_busy_until_its_lease_lapses_then_the_job_fails(sim: Sim) -> None:
    service = await sim.service()
    made = await service.make_set()
    [job] = await sim.queue()
    runner = await service.runner(made["id"], "r1")
    runner.start(await given(runner))
    runner.die()
    await asyncio.sleep(590)
    assert (job.status, runner.registration.busy, runner.registration.status) == ("in_progress", True, "offline")
    await asyncio.sleep(20)
    assert (job.status, job.conclusion) == ("completed", "failure")


async def test_an_interrupted_runner_fails_its_job_at_once(sim: Sim) -> None:
    service = await sim.service()
    made = await service.make_set()
    [job] = await sim.queue()
    runner = await service.runner(made["id"], "r1")
    runner.start(await given(runner))
    runner.interrupt()
    assert job.conclusion == "failure"


async def test_a_job_that_its_runner_never_starts_is_given_back(sim: Sim) -> None:
    service = await sim.service()
    made = await service.make_set()
    [job] = await sim.queue()
    await service.runner(made["id"], "sleeper")
    assert job.stage == "handed"
    await asyncio.sleep(61)
    assert (job.stage, job.starts) == ("assigned", 0)


async def test_an_enterprise_server_offers_jobs_to_be_acquired(sim: Sim, options: Any) -> None:
    options.ghes_acquire = True
    service = await sim.service()
    made = await service.make_set()
    session = await service.open_session(made["id"])
    await sim.queue(count=2)
    offers = await session.take()
    assert kinds(offers) == ["JobAvailable", "JobAvailable"]
    ids = [offer["runnerRequestId"] for offer in offers]
    assert all(id > 0 for id in ids)
    assert (await service.call("GET", f"{SETS}/{made['id']}/acquirablejobs")).json()["count"] == 2
    path = f"{SETS}/{made['id']}/acquirejobs"
    by_admin = await service.call("POST", path, ids)
    assert by_admin.status == 401
    queue_auth = f"Bearer {session.data['messageQueueAccessToken']}"
    url = f"{service.url}_apis/{path}?api-version=6.0-preview"
    granted = await sim.call("POST", url, [ids[0], 999], auth=queue_auth)
    assert granted.json() == {"count": 1, "value": [ids[0]]}
    [assigned] = await session.take()
    assert (assigned["messageType"], assigned["runnerRequestId"]) == ("JobAssigned", ids[0])


async def test_labels_beyond_the_name_are_dropped_where_the_feature_is_off(sim: Sim, options: Any) -> None:
    options.custom_labels = False
    made = await (await sim.service()).make_set("gpu", ["gpu", "linux"])
    assert [label["name"] for label in made["labels"]] == ["gpu"]


async def test_the_query_of_the_queue_url_must_be_kept(sim: Sim) -> None:
    service = await sim.service()
    session = await service.open_session((await service.make_set())["id"])
    session.data["messageQueueUrl"] = session.data["messageQueueUrl"].split("?")[0] + "?x=1"
    assert (await session.poll()).status == 400


async def test_two_runners_of_a_set_never_get_the_same_job(sim: Sim) -> None:
    service = await sim.service()
    made = await service.make_set()
    runners = [await service.runner(made["id"], f"r{n}") for n in range(8)]
    jobs = await sim.queue(count=5)
    got = [await runner.next_job(0) for runner in runners]
    assert sorted(job.id for job in got if job) == [job.id for job in jobs]


async def test_a_cancelled_job_that_was_assigned_is_reported_as_canceled(sim: Sim) -> None:
    service = await sim.service()
    session = await service.open_session((await service.make_set())["id"])
    [job] = await sim.queue()
    await session.take()
    assert (await sim.call("POST", f"/_sim/jobs/{job.id}/cancel")).status == 200
    [message] = await session.take()
    assert (message["messageType"], message["result"]) == ("JobCompleted", "canceled")
    assert job.conclusion == "cancelled"


async def test_a_cancelled_running_job_is_told_to_its_runner(sim: Sim) -> None:
    service = await sim.service()
    made = await service.make_set()
    [job] = await sim.queue(duration=1000)
    runner = await service.runner(made["id"], "r1")
    work = asyncio.create_task(runner.run(await given(runner)))
    await asyncio.sleep(5)
    await sim.call("POST", f"/repos/acme/ml/actions/runs/{job.run_id}/cancel")
    await work
    assert job.started_at is not None
    assert (job.conclusion, job.finished_at) == ("cancelled", job.started_at + 5)


async def test_a_thousand_jobs_flow_through_without_a_scan_of_all(sim: Sim) -> None:
    service = await sim.service()
    made = await service.make_set()
    session = await service.open_session(made["id"])
    await session.poll(1000)
    await sim.queue(count=1000)
    seen: set[str] = set()
    while messages := await session.take(1000):
        seen |= {message["jobId"] for message in messages}
    assert len(seen) == 1000


async def test_jit_configuration_is_the_three_files_of_the_runner(sim: Sim) -> None:
    service = await sim.service()
    jit = await service.jit((await service.make_set())["id"], "r1")
    files = github.runners.read_jit_config(jit["encodedJITConfig"])
    assert sorted(files) == [".credentials", ".credentials_rsaparams", ".runner"]
    assert files[".runner"]["AgentName"] == "r1"
    assert json.dumps(files)


async def test_a_job_handed_to_a_dead_runner_is_given_to_the_next(sim: Sim) -> None:
    service = await sim.service()
    made = await service.make_set()
    dead = await service.runner(made["id"], "dead")
    dead.die()
    [job] = await sim.queue()
    assert job.runner == "dead"
    alive = await service.runner(made["id"], "alive")
    assert await alive.next_job(30) is None
    assert await alive.next_job(60) is job
    assert (job.starts, dead.registration.status) == (0, "offline")


async def test_a_runner_that_went_offline_may_connect_again_but_not_twice_at_once(sim: Sim) -> None:
    service = await sim.service()
    config = (await service.jit((await service.make_set())["id"], "r1"))["encodedJITConfig"]
    first = sim.github.connect_runner(config)
    with pytest.raises(github.SessionConflict):
        sim.github.connect_runner(config)
    first.die()
    await asyncio.sleep(61)
    again = sim.github.connect_runner(config)
    assert again.registration.status == "online"
    with pytest.raises(github.RegistrationGone):
        await first.next_job(0)


async def test_somebody_else_may_hold_the_session_for_a_time(sim: Sim) -> None:
    service = await sim.service()
    made = await service.make_set()
    session = await service.open_session(made["id"])
    assert (await sim.call("POST", f"/_sim/scale_sets/{made['id']}/hold", {"seconds": 600})).status == 201
    assert (await session.poll()).status == 401
    path = f"{SETS}/{made['id']}/sessions"
    await asyncio.sleep(590)
    assert (await service.call("POST", path, {"ownerName": "me"})).status == 409
    await asyncio.sleep(20)
    assert (await service.call("POST", path, {"ownerName": "me"})).status == 200
