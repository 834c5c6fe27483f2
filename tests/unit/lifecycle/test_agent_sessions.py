from __future__ import annotations

import asyncio
from typing import Any

import pytest

from runnerd import errors, model
from runnerd.forges.base import RunnerConfig
from runnerd.lifecycle import agent_sessions
from runnerd.model import AttemptKey, InstanceId, InstanceState, Reason
from runnerd.runtime import step_facts
from tests.support.clocks import START, ManualClock, settle
from tests.support.fakes import (
    NONCE,
    QUEUE,
    TOKENS,
    Place,
    assign,
    bought,
    registration,
)

KEY = AttemptKey("key-vm-1")
BOOT = TOKENS.boot(KEY)
SESSION = TOKENS.session(KEY, NONCE)
OTHER = "nonce-of-somebody-else"
VM = InstanceId("vm-1")


@pytest.fixture
def sessions(place: Place) -> agent_sessions.AgentSessions:
    return agent_sessions.AgentSessions(place.runtime, assign=assign)


def known(place: Place, state: str, **fields: Any) -> None:
    """An instance whose agent has exchanged its token."""
    place.put(bought("vm-1", state, **({"agent_nonce": NONCE, "queue": QUEUE} | fields)))


def grant(name: str = "vm-1") -> agent_sessions.Grant:
    config = RunnerConfig("github", "7", {"JIT": "secret"}, ("--once",))
    return agent_sessions.Grant(model.RegistrationId("r1"), name, config)


# -- hello ---------------------------------------------------------------------------------------------------------


async def test_the_boot_token_is_exchanged_for_a_session_and_the_duty(
    sessions: agent_sessions.AgentSessions, place: Place
) -> None:
    place.put(bought("vm-1", "booting"))
    answer = await sessions.hello(BOOT, nonce=NONCE, protocol=1)
    assert TOKENS.read_session(answer["session"]) == (KEY, NONCE)
    assert answer["gate"] == {"gpus": 1, "gpu": "t4"}
    assert answer["limits"]["max_job"] == 7200.0
    assert place.row().agent_nonce == NONCE
    assert place.book.commits, "the nonce is durable before the session is told"


async def test_a_lost_answer_is_repeated_for_the_same_nonce(
    sessions: agent_sessions.AgentSessions, place: Place
) -> None:
    place.put(bought("vm-1", "booting"))
    first = await sessions.hello(BOOT, nonce=NONCE, protocol=1)
    assert await sessions.hello(BOOT, nonce=NONCE, protocol=1) == first
    assert not place.alarms()


async def test_another_nonce_is_refused_and_alarmed(sessions: agent_sessions.AgentSessions, place: Place) -> None:
    place.put(bought("vm-1", "booting"))
    await sessions.hello(BOOT, nonce=NONCE, protocol=1)
    with pytest.raises(errors.Refused, match="exchanged already") as caught:
        await sessions.hello(BOOT, nonce=OTHER, protocol=1)
    assert caught.value.status == 403
    assert place.alarms() == {"token-replayed"}
    assert place.row().agent_nonce == NONCE


async def test_of_two_agents_at_the_same_moment_one_gets_the_session(
    sessions: agent_sessions.AgentSessions, place: Place
) -> None:
    place.put(bought("vm-1", "booting"))
    answers = await asyncio.gather(
        sessions.hello(BOOT, nonce=NONCE, protocol=1),
        sessions.hello(BOOT, nonce=OTHER, protocol=1),
        return_exceptions=True,
    )
    assert sum(isinstance(answer, errors.Refused) for answer in answers) == 1


@pytest.mark.parametrize(
    ("token", "nonce", "protocol", "status"),
    [
        pytest.param("rb1.x." + "0" * 64, NONCE, 1, 401, id="wrong token"),
        pytest.param(SESSION, NONCE, 1, 401, id="a session instead"),
        pytest.param(TOKENS.boot(AttemptKey("never-made")), NONCE, 1, 403, id="no such attempt"),
        pytest.param(BOOT, "short", 1, 400, id="short nonce"),
        pytest.param(BOOT, "x" * 20 + "é", 1, 400, id="odd nonce"),
        pytest.param(BOOT, NONCE, 99, 426, id="protocol of the future"),
        pytest.param(BOOT, NONCE, 0, 426, id="protocol of the past"),
    ],
)
async def test_a_bad_hello_is_refused_with_its_status(
    sessions: agent_sessions.AgentSessions, place: Place, token: str, nonce: str, protocol: int, status: int
) -> None:
    place.put(bought("vm-1", "booting"))
    with pytest.raises(errors.Refused) as caught:
        await sessions.hello(token, nonce=nonce, protocol=protocol)
    assert caught.value.status == status
    assert place.row().agent_nonce == ""


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("requesting", 409),
        ("unknown", 409),
        ("ready", 403),
        ("registered", 403),
        ("busy", 403),
        ("draining", 403),
        ("ending", 403),
        ("gone", 403),
        ("failed", 403),
    ],
)
async def test_a_token_that_was_never_exchanged_counts_only_while_its_instance_boots(
    sessions: agent_sessions.AgentSessions, place: Place, state: str, status: int
) -> None:
    place.put(bought("vm-1", state))
    with pytest.raises(errors.Refused) as caught:
        await sessions.hello(BOOT, nonce=NONCE, protocol=1)
    assert caught.value.status == status


async def test_a_token_of_an_earlier_attempt_is_worth_nothing(
    sessions: agent_sessions.AgentSessions, place: Place
) -> None:
    place.put(bought("vm-1", "booting", attempt=AttemptKey("key-of-the-next-offer")))
    with pytest.raises(errors.Refused):
        await sessions.hello(BOOT, nonce=NONCE, protocol=1)


async def test_a_stolen_boot_token_gets_nothing_when_the_database_was_lost_and_the_agent_has_spoken(
    sessions: agent_sessions.AgentSessions, place: Place
) -> None:
    await sessions.heartbeat(SESSION, phase="job", worker=True, job_started=True)
    place.put(bought("vm-1", "booting", adopted=True))
    with pytest.raises(errors.Refused):
        await sessions.hello(BOOT, nonce=OTHER, protocol=1)
    await sessions.heartbeat(SESSION, phase="job", worker=True, job_started=True)
    assert (place.state(), place.row().agent_nonce) == ("busy", NONCE)


# -- register ------------------------------------------------------------------------------------------------------


async def test_asking_makes_a_booting_instance_ready_and_waits_for_a_queue(
    sessions: agent_sessions.AgentSessions, place: Place, clock: ManualClock
) -> None:
    known(place, "booting", queue=None)
    asked = asyncio.ensure_future(sessions.register(SESSION, runner_started=False))
    await settle()
    assert place.state() == "ready"
    assert place.runtime.observations[VM].asking
    await clock.advance(agent_sessions.HOLD_S)
    assert await asked == {"action": "wait", "after": 0.0}
    assert not place.runtime.observations[VM].asking


async def test_a_grant_reaches_the_agent_that_waits_at_once(
    sessions: agent_sessions.AgentSessions, place: Place, clock: ManualClock
) -> None:
    known(place, "ready")
    asked = asyncio.ensure_future(sessions.register(SESSION, runner_started=False))
    await settle()
    place.put(bought("vm-1", "registered", agent_nonce=NONCE))
    sessions.grant(VM, grant())
    answer = await asked
    assert clock.now() == START
    assert answer["action"] == "run"
    assert (answer["name"], answer["command"]) == ("vm-1", ["/runner", "run", "--once"])
    assert answer["environment"] == {"A": "b", "JIT": "secret"}


async def test_a_lost_answer_is_given_again_until_a_job_starts(
    sessions: agent_sessions.AgentSessions, place: Place
) -> None:
    known(place, "registered")
    sessions.grant(VM, grant())
    first = await sessions.register(SESSION, runner_started=False)
    assert await sessions.register(SESSION, runner_started=False) == first
    await sessions.job(SESSION, event="started")
    with pytest.raises(errors.Refused, match="never registers again"):
        await sessions.register(SESSION, runner_started=False)
    assert sessions.grants == {}


async def test_who_says_that_a_runner_was_started_gets_no_other(
    sessions: agent_sessions.AgentSessions, place: Place
) -> None:
    known(place, "registered")
    sessions.grant(VM, grant())
    with pytest.raises(errors.Refused):
        await sessions.register(SESSION, runner_started=True)


async def test_a_heartbeat_after_a_restart_closes_the_credential_as_well(
    sessions: agent_sessions.AgentSessions, place: Place
) -> None:
    known(place, "registered")
    await sessions.heartbeat(SESSION, phase="finished", worker=False, job_started=True)
    with pytest.raises(errors.Refused):
        await sessions.register(SESSION, runner_started=False)
    assert place.row().job_started


@pytest.mark.parametrize("state", ["draining", "ending", "gone"])
async def test_who_is_not_wanted_is_told_to_end(
    sessions: agent_sessions.AgentSessions, place: Place, state: str
) -> None:
    known(place, state, reason=Reason.IDLE)
    answer = await sessions.register(SESSION, runner_started=False)
    assert answer["action"] == "end"


async def test_who_waits_is_told_as_soon_as_it_is_drained(sessions: agent_sessions.AgentSessions, place: Place) -> None:
    known(place, "ready")
    asked = asyncio.ensure_future(sessions.register(SESSION, runner_started=False))
    await settle()
    known(place, "draining", reason=Reason.IDLE)
    sessions.nudge(VM)
    assert await asked == {"action": "end", "reason": "idle"}


async def test_a_stray_is_told_to_wait(sessions: agent_sessions.AgentSessions, place: Place) -> None:
    assert (await sessions.register(SESSION, runner_started=False))["action"] == "wait"


@pytest.mark.parametrize(
    "session",
    [
        pytest.param("", id="none"),
        pytest.param(BOOT, id="the boot token"),
        pytest.param(SESSION[:-1] + ("0" if SESSION[-1] != "0" else "1"), id="another signature"),
    ],
)
async def test_without_a_session_nothing_is_answered(
    sessions: agent_sessions.AgentSessions, place: Place, session: str
) -> None:
    known(place, "registered")
    for call in (
        sessions.register(session, runner_started=False),
        sessions.heartbeat(session, phase="idle", worker=False),
        sessions.job(session, event="started"),
        sessions.failed(session, stage="gate", detail=""),
        sessions.diagnostics(session, text=""),
    ):
        with pytest.raises(errors.Refused) as caught:
            await call
        assert caught.value.status == 401


async def test_a_session_of_another_nonce_is_refused_and_alarmed(
    sessions: agent_sessions.AgentSessions, place: Place
) -> None:
    known(place, "registered")
    with pytest.raises(errors.Refused) as caught:
        await sessions.register(TOKENS.session(KEY, OTHER), runner_started=False)
    assert caught.value.status == 403 and place.alarms() == {"token-replayed"}


# -- heartbeats ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "reason", "worker", "action"),
    [
        pytest.param("registered", Reason.NONE, False, "continue", id="waits for a job"),
        pytest.param("busy", Reason.NONE, True, "continue", id="has a job"),
        pytest.param("draining", Reason.IDLE, False, "stop", id="draining without a job or a runner"),
        pytest.param("draining", Reason.IDLE, True, "continue", id="a job slipped in"),
        pytest.param("draining", Reason.MAX_JOB, True, "end", id="its job ran too long"),
        pytest.param("draining", Reason.OPERATOR, True, "end", id="a person said so"),
        pytest.param("ending", Reason.IDLE, False, "end", id="ending"),
        pytest.param("gone", Reason.VANISHED, False, "end", id="said to be gone"),
        pytest.param("gone", Reason.VANISHED, True, "continue", id="said to be gone, with a job"),
    ],
)
async def test_a_heartbeat_is_told_whether_to_go_on(
    sessions: agent_sessions.AgentSessions, place: Place, state: str, reason: Reason, worker: bool, action: str
) -> None:
    known(place, state, reason=reason)
    answer = await sessions.heartbeat(SESSION, phase="x", worker=worker)
    assert answer["action"] == action


async def test_a_worker_in_a_heartbeat_is_a_started_job(sessions: agent_sessions.AgentSessions, place: Place) -> None:
    known(place, "registered")
    seen: list[str] = []
    place.rows.on_step.append(lambda old, new: seen.append(f"{new.id} {new.state.value}"))
    await sessions.heartbeat(SESSION, phase="job", worker=True, job_started=True)
    assert (place.state(), place.row().job_started, seen) == ("busy", True, ["vm-1 busy"])
    assert place.runtime.observations[VM].fresh(START)


async def test_an_agent_without_a_row_is_kept_in_mind_and_told_to_go_on(
    sessions: agent_sessions.AgentSessions, place: Place
) -> None:
    answer = await sessions.heartbeat(SESSION, phase="job", worker=True, runner="vm-1", job_started=True)
    assert answer["action"] == "continue"
    place.put(bought("vm-1", "booting"))
    with pytest.raises(errors.Refused, match="exchanged already"):
        await sessions.hello(BOOT, nonce=OTHER, protocol=1)
    assert await sessions.hello(BOOT, nonce=NONCE, protocol=1)


async def test_an_adopted_instance_gets_its_nonce_and_its_job_back_from_the_heartbeat(
    sessions: agent_sessions.AgentSessions, place: Place
) -> None:
    place.put(bought("vm-1", "booting", adopted=True))
    await sessions.heartbeat(SESSION, phase="job", worker=True, job_started=True)
    row = place.row()
    assert (row.state, row.agent_nonce, row.job_started) == (InstanceState.BUSY, NONCE, True)
    with pytest.raises(errors.Refused):
        await sessions.heartbeat(TOKENS.session(KEY, OTHER), phase="job", worker=True)


# -- jobs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["registering", "registered", "draining"])
async def test_a_started_job_makes_the_instance_busy(
    sessions: agent_sessions.AgentSessions, place: Place, state: str
) -> None:
    known(place, state)
    await sessions.job(SESSION, event="started")
    assert (place.state(), place.row().busy_at) == ("busy", START)
    assert place.runtime.observations[VM].worker


@pytest.mark.parametrize("reason", [Reason.OPERATOR, Reason.MAX_JOB])
async def test_a_late_start_does_not_undo_an_order(
    sessions: agent_sessions.AgentSessions, place: Place, reason: Reason
) -> None:
    known(place, "draining", reason=reason)
    await sessions.job(SESSION, event="started")
    assert (place.state(), place.row().reason, place.row().job_started) == ("draining", reason, True)


async def test_a_start_that_is_told_twice_changes_nothing(
    sessions: agent_sessions.AgentSessions, place: Place, clock: ManualClock
) -> None:
    known(place, "registered")
    await sessions.job(SESSION, event="started")
    await clock.advance(60)
    await sessions.job(SESSION, event="started")
    assert place.row().busy_at == START


@pytest.mark.parametrize(
    ("state", "started", "reason"),
    [
        pytest.param("busy", True, Reason.JOB_DONE, id="its job is done"),
        pytest.param("registered", False, Reason.RUNNER_EXITED, id="the runner left without a job"),
    ],
)
async def test_an_ended_runner_drains_the_instance(
    sessions: agent_sessions.AgentSessions, place: Place, state: str, started: bool, reason: Reason
) -> None:
    known(place, state, job_started=started)
    sessions.grant(VM, grant())
    await sessions.job(SESSION, event="ended", result="succeeded")
    assert (place.state(), place.row().reason, place.row().job_ended_at) == ("draining", reason, START)
    assert sessions.grants == {}


async def test_a_heartbeat_tells_the_end_whose_own_report_was_lost(
    sessions: agent_sessions.AgentSessions, place: Place
) -> None:
    known(place, "busy", job_started=True)
    await sessions.heartbeat(SESSION, phase="finished", worker=False, job_started=True)
    assert (place.state(), place.row().reason) == ("draining", Reason.JOB_DONE)


async def test_a_runner_is_stopped_only_after_the_forge_has_removed_it(
    sessions: agent_sessions.AgentSessions, place: Place
) -> None:
    known(place, "draining", reason=Reason.IDLE)
    place.put(registration("r1"))
    assert (await sessions.heartbeat(SESSION, phase="idle", worker=False))["action"] == "continue"
    await place.rows.step_registration(model.RegistrationId("r1"), model.RegistrationState.GONE)
    assert (await sessions.heartbeat(SESSION, phase="idle", worker=False))["action"] == "stop"


async def test_an_unknown_event_is_refused(sessions: agent_sessions.AgentSessions, place: Place) -> None:
    known(place, "busy")
    with pytest.raises(errors.Refused) as caught:
        await sessions.job(SESSION, event="paused")
    assert (caught.value.status, place.state()) == (400, "busy")


@pytest.mark.parametrize(("stage", "reason"), [("gate", Reason.GATE_FAILED), ("runner", Reason.RUNNER_EXITED)])
async def test_an_instance_that_cannot_work_is_drained_and_its_offer_blamed(
    sessions: agent_sessions.AgentSessions, place: Place, stage: str, reason: Reason
) -> None:
    known(place, "booting")
    seen: list[tuple[str, str]] = []

    def judge(row: model.Instance, fault: step_facts.Fault) -> list[model.Block]:
        seen.append((fault.reason, fault.failure.message))
        return []

    place.rows.on_fault.append(judge)
    await sessions.failed(SESSION, stage=stage, detail="no GPU")
    assert (place.state(), place.row().reason, place.row().detail) == ("draining", reason, "no GPU")
    assert seen == [({"gate": "gate", "runner": "register"}[stage], "no GPU")]


async def test_last_words_are_kept_for_instances_that_are_known(
    sessions: agent_sessions.AgentSessions, place: Place
) -> None:
    words: list[str] = []
    sessions.on_diagnostics.append(lambda id, text: words.append(f"{id}: {text}"))
    await sessions.diagnostics(SESSION, text="lost")
    known(place, "draining")
    await sessions.diagnostics(SESSION, text="kernel panic")
    assert words == ["vm-1: kernel panic"]


async def test_a_write_that_fails_is_told_and_nothing_is_promised(
    sessions: agent_sessions.AgentSessions, place: Place
) -> None:
    place.put(bought("vm-1", "booting"))
    place.book.broken = errors.StoreUnwritable("full")
    with pytest.raises(errors.StoreUnwritable):
        await sessions.hello(BOOT, nonce=NONCE, protocol=1)
    assert place.row().agent_nonce == ""


async def test_forgetting_lets_a_waiting_agent_go(sessions: agent_sessions.AgentSessions, place: Place) -> None:
    known(place, "ready")
    place.put(registration("r1", state="registered"))
    asked = asyncio.ensure_future(sessions.register(SESSION, runner_started=False))
    await settle()
    del place.rows._instances[VM]
    sessions.forget(VM)
    assert (await asked)["action"] == "end"
