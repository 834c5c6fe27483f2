from __future__ import annotations

import asyncio
import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest

from provisioners import base, fake
from runnerd import errors, model
from runnerd.forges.base import Removal, RunnerView
from runnerd.lifecycle import adoption, agent_sessions, end_reasons, termination
from runnerd.lifecycle import consoles as lifecycle_consoles
from runnerd.lifecycle import registration as lifecycle_registration
from runnerd.model import InstanceId, Reason
from runnerd.reconcile import loop
from runnerd.runtime import step_facts
from tests.support import small_daemon
from tests.support.clocks import START, settle
from tests.support.fakes import (
    FULL,
    NONCE,
    QUEUE,
    Place,
    assign,
    bought,
    refusal,
    registration,
)

VM = InstanceId("vm-1")


@pytest.fixture
def reaper(place: Place, monkeypatch: pytest.MonkeyPatch) -> termination.Reaper:
    monkeypatch.setattr(lifecycle_consoles, "ANSWER_S", 0.02)
    monkeypatch.setattr(end_reasons, "ANSWER_S", 0.02)
    sessions = agent_sessions.AgentSessions(place.runtime, assign=assign)
    return termination.Reaper(
        place.runtime,
        lifecycle_registration.Registrar(place.runtime, sessions),
        sessions,
        adoption=adoption.Adoption(place.runtime),
        consoles=lifecycle_consoles.Consoles(place.runtime),
        end_reasons=end_reasons.EndReasons(place.runtime),
    )


def draining(place: Place, reason: Reason = Reason.IDLE, *, agent: str = "denies", **fields: Any) -> None:
    """A draining instance with a runner, and what its agent last said."""
    row = bought("vm-1", "draining", reason=reason, agent_nonce=NONCE, registered_at=START - 60, queue=QUEUE, **fields)
    place.put(row, registration("r1"))
    if agent != "silent":
        place.runtime.observations.heard(VM, worker=agent == "works")
    place.sky.machines[row.ref] = base.InstanceView(
        row.ref,
        row.id,
        base.Scope("sky/acct/east/a"),
        base.InstanceStatus.RUNNING,
        {base.TAG_ATTEMPT: "key-vm-1"},
        START,
    )


def deleted(place: Place) -> bool:
    return place.sky.count("delete") > 0


# -- drain ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "drained"),
    [
        ("booting", True),
        ("ready", True),
        ("registering", True),
        ("registered", True),
        ("busy", True),
        ("draining", False),
        ("ending", False),
        ("planned", False),
        ("requesting", False),
        ("unknown", False),
        ("gone", False),
    ],
)
async def test_what_may_have_a_job_is_drained_first(
    reaper: termination.Reaper, place: Place, state: str, drained: bool
) -> None:
    place.put(bought("vm-1", state))
    assert await reaper.drain(VM, Reason.OPERATOR, "by hand") is drained
    assert place.state() == ("draining" if drained else state)
    assert not deleted(place)


# -- the gate ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("forge", "agent", "state"),
    [
        pytest.param(Removal.REMOVED, "denies", "forgotten", id="both deny a job"),
        pytest.param(Removal.REMOVED, "works", "busy", id="the agent has a job"),
        pytest.param(Removal.REMOVED, "silent", "draining", id="the second witness is missing"),
        pytest.param(Removal.BUSY, "denies", "busy", id="the forge says busy"),
        pytest.param(Removal.BUSY, "silent", "busy", id="the forge says busy, the agent nothing"),
        pytest.param(Removal.BUSY, "works", "busy", id="both have a job"),
        pytest.param(Removal.PENDING, "denies", "draining", id="the forge is not ready"),
        pytest.param(Removal.PENDING, "works", "busy", id="the forge is not ready, the agent has a job"),
        pytest.param(errors.ForgeUnavailable("503"), "denies", "draining", id="the forge is out of order"),
        pytest.param(errors.TransportError("reset"), "silent", "draining", id="nobody can be asked"),
    ],
)
async def test_it_ends_only_when_both_witnesses_deny_a_job(
    reaper: termination.Reaper, place: Place, forge: Any, agent: str, state: str
) -> None:
    draining(place, agent=agent)
    place.forge.removals = [forge]
    await reaper.release(VM, forced=False)
    assert place.state() == state
    assert deleted(place) is (state == "forgotten")


async def test_an_agent_that_fell_silent_is_no_witness(reaper: termination.Reaper, place: Place) -> None:
    draining(place, agent="works")
    await place.clock.advance(100)
    await reaper.release(VM, forced=False)
    assert place.state() == "draining" and not deleted(place)


async def test_who_never_exchanged_its_token_needs_no_witness(reaper: termination.Reaper, place: Place) -> None:
    place.put(bought("vm-1", "draining", reason=Reason.BOOT_TIMEOUT))
    await reaper.release(VM, forced=False)
    assert deleted(place)


@pytest.mark.parametrize("forge", [Removal.BUSY, Removal.PENDING, errors.ForgeUnavailable("503")])
async def test_an_override_ends_it_whatever_the_witnesses_say(
    reaper: termination.Reaper, place: Place, forge: Any
) -> None:
    draining(place, Reason.MAX_JOB, agent="works")
    place.forge.removals = [forge]
    await reaper.release(VM, forced=True)
    assert deleted(place)
    assert place.state() == "gone", "its registration keeps it in mind"
    assert len(place.rows.registrations) == 1


async def test_a_runner_that_is_busy_for_a_moment_after_its_job_is_asked_again(
    reaper: termination.Reaper, place: Place
) -> None:
    draining(place, Reason.JOB_DONE)
    place.forge.removals = [Removal.BUSY, Removal.BUSY]
    for _ in range(2):
        await reaper.release(VM, forced=False)
        assert place.state() == "draining"
    await reaper.release(VM, forced=False)
    assert deleted(place)


async def test_an_adopted_instance_is_not_ended_while_a_forge_cannot_say_what_it_has(
    reaper: termination.Reaper, place: Place
) -> None:
    place.put(bought("vm-1", "draining", adopted=True, reason=Reason.BOOT_TIMEOUT))
    place.runtime.observations.heard(VM)
    place.forge.listing_error = errors.ForgeUnavailable("503")
    await reaper.release(VM, forced=False)
    assert place.state() == "draining"
    place.forge.listing_error = None
    place.forge.runners = {"vm-1": RunnerView("7", "vm-1", True, True)}
    place.forge.removals = [Removal.BUSY]
    await reaper.release(VM, forced=False)
    assert (place.state(), deleted(place)) == ("busy", False)


async def test_nothing_is_released_that_is_not_draining(reaper: termination.Reaper, place: Place) -> None:
    place.put(bought("vm-1", "busy"), registration("r1"))
    await reaper.release(VM, forced=True)
    assert place.forge.calls == [] and not deleted(place)


# -- delete --------------------------------------------------------------------------------------------------------


async def test_what_the_provider_confirms_is_closed_with_its_reason(reaper: termination.Reaper, place: Place) -> None:
    draining(place)
    seen = []
    place.rows.on_step.append(lambda _, new: seen.append((new.state.value, new.reason.value)))
    await reaper.release(VM, forced=False)
    assert seen == [("ending", "idle"), ("gone", "idle")]


def _view(place: Place) -> base.InstanceView:
    offer = place.sky.offer()
    return base.InstanceView("i-key-vm-1", "vm-1", offer.scope, base.InstanceStatus.RUNNING, {}, START)


async def test_not_found_counts_twice_and_not_while_it_is_young(reaper: termination.Reaper, place: Place) -> None:
    place.put(bought("vm-1", "ending", age=10.0))
    await reaper.delete(VM)
    await reaper.delete(VM)
    assert place.state() == "ending", "a young instance may not show yet"
    await place.clock.advance(60)
    await reaper.delete(VM)
    assert place.state() == "ending"
    await reaper.delete(VM)
    assert place.state() == "forgotten"
    assert place.sky.count("delete") == 2, "an accepted order is not repeated with every look"


async def test_an_order_that_was_accepted_is_given_again_after_a_while(
    reaper: termination.Reaper, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.put(bought("vm-1", "ending"))
    place.sky.machines["i-key-vm-1"] = dataclasses.replace(_view(place), status=base.InstanceStatus.ENDING)
    orders: list[float] = []

    async def accepted(ref: str) -> None:
        orders.append(place.clock.now())

    monkeypatch.setattr(place.sky, "delete", accepted)
    for _ in range(4):
        await reaper.delete(VM)
        await place.clock.advance(termination.DELETE_AGAIN_S / 2)
    assert orders == [START, START + termination.DELETE_AGAIN_S]


async def test_what_was_seen_once_is_gone_when_it_is_not_there_any_more_however_young(
    reaper: termination.Reaper, place: Place
) -> None:
    place.put(bought("vm-1", "ending", age=5.0))
    place.runtime.observations.seen(VM, _view(place))
    await reaper.delete(VM)
    assert place.state() == "ending", "one look alone proves nothing"
    await reaper.delete(VM)
    assert place.state() == "forgotten"


async def test_a_delete_that_fails_is_alarmed_and_tried_again(reaper: termination.Reaper, place: Place) -> None:
    draining(place)
    place.sky.delete_error = refusal(base.Kind.THROTTLED, retry_after=30.0)
    await reaper.release(VM, forced=False)
    assert place.state() == "ending" and place.alarms() == {"delete-failed"}
    assert place.runtime.providers["sky"].paused_until == 0, "creates have a bucket of their own"
    place.sky.delete_error = None
    await reaper.delete(VM)
    assert place.state() == "forgotten" and not place.alarms()


async def test_an_instance_that_is_still_on_its_way_out_stays_ending(
    reaper: termination.Reaper, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    draining(place)

    async def slow(ref: str) -> None:
        view = place.sky.machines[ref]
        place.sky.machines[ref] = dataclasses.replace(view, status=base.InstanceStatus.ENDING)

    monkeypatch.setattr(place.sky, "delete", slow)
    await reaper.release(VM, forced=False)
    assert place.state() == "ending"


async def test_an_instance_of_an_unconfigured_provider_is_alarmed_not_forgotten(
    reaper: termination.Reaper, place: Place
) -> None:
    place.put(bought("vm-1", "ending"))
    place.runtime.providers.clear()
    await reaper.delete(VM)
    assert place.state() == "ending" and place.alarms() == {"no-provider"}


# -- close ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        pytest.param(base.EndKind.PREEMPTED, Reason.PREEMPTED, id="proven"),
        pytest.param(base.EndKind.UNKNOWN, Reason.VANISHED, id="absence proves nothing"),
        pytest.param(base.EndKind.SELF_ENDED, Reason.VANISHED, id="ended itself"),
    ],
)
async def test_a_preemption_is_what_the_provider_proves(
    reaper: termination.Reaper, place: Place, kind: base.EndKind, reason: Reason
) -> None:
    seen = []
    place.rows.on_step.append(lambda _, new: seen.append(new.reason))
    place.put(bought("vm-1", "busy"))
    place.sky.ends = kind
    await reaper.close(VM, Reason.VANISHED)
    assert seen == [reason]
    assert VM not in place.runtime.observations


async def test_what_was_observed_of_an_instance_is_forgotten_with_its_row(
    reaper: termination.Reaper, place: Place
) -> None:
    place.put(bought("vm-1", "busy"), registration("r1"))
    place.runtime.observations.heard(VM)
    await reaper.close(VM, Reason.VANISHED)
    assert VM in place.runtime.observations
    await place.rows.step_registration(model.RegistrationId("r1"), model.RegistrationState.GONE)
    assert VM not in place.runtime.observations


async def test_closing_keeps_the_row_until_its_registration_is_gone(reaper: termination.Reaper, place: Place) -> None:
    place.put(bought("vm-1", "busy"), registration("r1"))
    await reaper.close(VM, Reason.VANISHED)
    assert place.state() == "gone"
    await reaper.close(VM, Reason.VANISHED)
    assert place.book.events() == ["gone"]


@pytest.mark.parametrize(
    ("state", "reason", "kind", "end", "told"),
    [
        pytest.param("ending", Reason.JOB_DONE, base.EndKind.ENDED_BY_US, Reason.JOB_DONE, False, id="by us"),
        pytest.param("ending", Reason.JOB_DONE, base.EndKind.FAILED, Reason.JOB_DONE, False, id="broke at its end"),
        pytest.param("busy", Reason.NONE, base.EndKind.FAILED, Reason.VANISHED, True, id="broke"),
        pytest.param("busy", Reason.NONE, base.EndKind.PREEMPTED, Reason.PREEMPTED, True, id="taken back"),
    ],
)
async def test_every_end_is_told_in_the_providers_words(
    reaper: termination.Reaper, place: Place, state: str, reason: Reason, kind: base.EndKind, end: Reason, told: bool
) -> None:
    seen: list[model.Instance] = []
    place.rows.on_step.append(lambda _, new: seen.append(new))
    place.put(bought("vm-1", state, reason=reason))
    answers(place, why=base.EndReason(kind, "Client.UserInitiatedShutdown:\n by token ghp_" + "a1B2" * 6))
    await reaper.close(VM, reason or Reason.VANISHED)
    assert (seen[-1].end, seen[-1].reason) == (kind.value, end)
    assert seen[-1].end_detail == "Client.UserInitiatedShutdown: by token ***"
    assert seen[-1].detail == (seen[-1].end_detail if told else "")


@pytest.mark.parametrize(
    ("why", "words"),
    [
        pytest.param(refusal(base.Kind.AUTH), "sky: auth, says the cloud", id="refused"),
        pytest.param(RuntimeError("a fault"), "sky: RuntimeError", id="a fault of the plugin"),
        pytest.param("never", "sky did not answer within 0 s", id="no answer"),
    ],
)
async def test_a_provider_that_does_not_say_why_does_not_keep_a_row_open(
    reaper: termination.Reaper, place: Place, why: Any, words: str
) -> None:
    seen: list[model.Instance] = []
    place.rows.on_step.append(lambda _, new: seen.append(new))
    place.put(bought("vm-1", "busy"))
    answers(place, why=why)
    async with asyncio.timeout(2):
        await reaper.close(VM, Reason.VANISHED)
    assert (seen[-1].state.value, seen[-1].reason, seen[-1].end) == ("gone", Reason.VANISHED, "unknown")
    assert seen[-1].end_detail == words


async def test_a_launch_that_failed_says_so_once_to_who_wants_to_know(reaper: termination.Reaper, place: Place) -> None:
    told: list[tuple[str, base.Failure]] = []

    def judge(row: model.Instance, fault: step_facts.Fault) -> list[model.Block]:
        told.append((row.offer, fault.failure))
        return []

    place.rows.on_fault.append(judge)
    failure = base.Failure(
        base.Kind.CAPACITY, "no t4 left in a", base.OfferPattern("sky/acct/east/a/*/*"), "Server.Insufficient"
    )
    seen: list[model.Instance] = []
    place.rows.on_step.append(lambda _, new: seen.append(new))
    place.put(bought("vm-1", "booting"))
    answers(place, why=base.EndReason(base.EndKind.FAILED, "", failure))
    await asyncio.gather(reaper.close(VM, Reason.VANISHED), reaper.close(VM, Reason.VANISHED))
    assert told == [("sky/acct/east/a/small/on-demand", failure)]
    assert [(row.reason, row.end, row.detail) for row in seen] == [(Reason.LAUNCH_FAILED, "failed", "no t4 left in a")]


async def test_what_came_up_and_broke_later_is_no_failed_launch(reaper: termination.Reaper, place: Place) -> None:
    seen: list[model.Instance] = []
    place.rows.on_step.append(lambda _, new: seen.append(new))
    place.put(bought("vm-1", "busy", ready_at=START - 60))
    answers(place, why=base.EndReason(base.EndKind.FAILED, "it broke", base.Failure(base.Kind.BOOT, "it broke")))
    await reaper.close(VM, Reason.VANISHED)
    assert seen[-1].reason is Reason.VANISHED


# -- what it printed -----------------------------------------------------------------------------------------------


def answers(place: Place, *, console: Any = "[ 1.0] booted\n", why: Any = None) -> list[str]:
    """Have the provider answer, fail, or ``never`` answer; the calls in order."""
    calls: list[str] = []

    async def answer(told: Any) -> Any:
        if told == "never":
            await asyncio.get_running_loop().create_future()
        if isinstance(told, Exception):
            raise told
        return told

    async def console_log(ref: str) -> str | None:
        calls.append("console")
        return await answer(console)

    async def end_reason(ref: str) -> base.EndReason:
        calls.append("why")
        return await answer(why or base.EndReason(place.sky.ends))

    delete = place.sky.delete

    async def deleted(ref: str) -> None:
        calls.append("delete")
        await delete(ref)

    place.sky.console_log = console_log  # type: ignore[method-assign]
    place.sky.end_reason = end_reason  # type: ignore[method-assign]
    place.sky.delete = deleted  # type: ignore[method-assign]
    return calls


def kept(place: Place, kind: model.ConsoleKind = model.ConsoleKind.CONSOLE) -> list[tuple[str, str]]:
    return [
        (change.text, change.problem)
        for commit in place.book.commits
        for change in commit
        if isinstance(change, model.Console) and change.kind is kind
    ]


async def test_what_it_printed_is_kept_before_it_is_deleted(reaper: termination.Reaper, place: Place) -> None:
    draining(place)
    calls = answers(place, console="\x1b[1mbooted\x1b[0m with ghp_" + "a1B2" * 6 + "\r\n")
    await reaper.release(VM, forced=False)
    assert calls == ["console", "delete", "why"]
    assert kept(place) == [("booted with ***\n", "")]


@pytest.mark.parametrize(
    ("console", "problem"),
    [
        pytest.param(None, "sky has no console output for it", id="nothing there"),
        pytest.param(refusal(base.Kind.THROTTLED, retry_after=90.0), "sky: throttled, says the cloud", id="refused"),
        pytest.param(ValueError("a fault"), "sky: ValueError", id="a fault of the plugin"),
        pytest.param("never", "sky did not answer within 0 s", id="no answer"),
    ],
)
async def test_an_end_does_not_wait_long_for_what_it_printed(
    reaper: termination.Reaper, place: Place, console: Any, problem: str
) -> None:
    draining(place, Reason.MAX_JOB)
    answers(place, console=console)
    async with asyncio.timeout(2):
        await reaper.release(VM, forced=True)
    assert deleted(place)
    assert kept(place) == [("", problem)]


async def test_a_console_is_asked_for_once_however_often_the_delete_is_repeated(
    reaper: termination.Reaper, place: Place
) -> None:
    place.put(bought("vm-1", "ending", reason=Reason.LAUNCH_FAILED))
    calls = answers(place, console=refusal())
    place.sky.delete_error = refusal(base.Kind.TRANSIENT)
    for _ in range(100):
        await reaper.delete(VM)
    assert (calls.count("console"), calls.count("delete")) == (1, 100)


async def test_a_console_is_not_asked_for_again_after_a_restart(reaper: termination.Reaper, place: Place) -> None:
    place.put(bought("vm-1", "ending"))
    await place.book.write(model.Console(VM, model.ConsoleKind.CONSOLE, START, "", "sky: no answer"))
    calls = answers(place)
    await reaper.delete(VM)
    assert "console" not in calls and "delete" in calls


async def test_what_vanished_is_asked_for_what_it_printed(reaper: termination.Reaper, place: Place) -> None:
    place.put(bought("vm-1", "busy"))
    calls = answers(place, console="Kernel panic - not syncing\n")
    await reaper.close(VM, Reason.VANISHED)
    assert sorted(calls) == ["console", "why"]
    assert kept(place) == [("Kernel panic - not syncing\n", "")]


async def test_an_instance_is_deleted_although_its_console_cannot_be_written(
    reaper: termination.Reaper, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.put(bought("vm-1", "ending"))
    answers(place)
    write = place.book.write

    async def full(*changes: Any) -> None:
        if any(isinstance(change, model.Console) for change in changes):
            raise FULL
        await write(*changes)

    monkeypatch.setattr(place.book, "write", full)
    await reaper.delete(VM)
    assert deleted(place)


async def test_last_words_are_kept_and_many_of_them_are_not_all_written(place: Place) -> None:
    agent = model.ConsoleKind.AGENT
    printed = lifecycle_consoles.Consoles(place.runtime)
    place.put(bought("vm-1", "draining"))
    for number in range(50):
        printed.keep_diagnostics(VM, f"words {number} ghp_" + "a1B2" * 6)
    await settle()
    assert kept(place, agent) == [("words 49 ***", "")]
    printed.keep_diagnostics(VM, "and more")
    printed.keep_diagnostics(VM, "and the last")
    await place.clock.advance(2 * lifecycle_consoles.DIAGNOSTICS_S)
    assert [text for text, _ in kept(place, agent)] == ["words 49 ***", "and the last"]
    await place.clock.advance(2 * lifecycle_consoles.DIAGNOSTICS_S)
    printed.keep_diagnostics(VM, "one more")
    await settle()
    assert [text for text, _ in kept(place, agent)][-1] == "one more"
    await place.runtime.background.close()


async def test_a_provider_that_learns_late_is_asked_again_who_interrupted_a_job(
    reaper: termination.Reaper, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.sky.traits = dataclasses.replace(place.sky.traits, proof_lag=900.0)
    proofs: list[model.Instance] = []
    place.rows.on_proof.append(lambda old, new: proofs.append(new))
    place.put(bought("vm-1", "busy", market="spot", busy_at=START - 60, job=model.JobKey("j")))
    await reaper.close(VM, Reason.VANISHED)
    await place.clock.advance(100)
    assert not proofs
    place.sky.ends = base.EndKind.PREEMPTED
    await place.clock.advance(400)
    assert [(one.reason, one.end) for one in proofs] == [(Reason.PREEMPTED, "preempted")]
    assert proofs[0] in [change for commit in place.book.commits for change in commit]


async def test_no_proof_within_the_time_in_which_it_may_come_is_none(reaper: termination.Reaper, place: Place) -> None:
    place.sky.traits = dataclasses.replace(place.sky.traits, proof_lag=120.0)
    proofs: list[model.Instance] = []
    place.rows.on_proof.append(lambda old, new: proofs.append(new))
    place.put(bought("vm-1", "busy", market="spot", busy_at=START - 60, job=model.JobKey("j")))
    await reaper.close(VM, Reason.VANISHED)
    await place.clock.advance(1000)
    place.sky.ends = base.EndKind.PREEMPTED
    await place.clock.advance(1000)
    assert not proofs and not place.errors


async def test_a_proof_that_could_not_be_written_is_asked_for_again(reaper: termination.Reaper, place: Place) -> None:
    place.sky.traits = dataclasses.replace(place.sky.traits, proof_lag=900.0)
    proofs: list[model.Instance] = []
    place.rows.on_proof.append(lambda old, new: proofs.append(new))
    place.put(bought("vm-1", "busy", market="spot", busy_at=START - 60, job=model.JobKey("j")))
    await reaper.close(VM, Reason.VANISHED)
    place.sky.ends = base.EndKind.PREEMPTED
    place.book.broken = FULL
    await place.clock.advance(40)
    assert not proofs
    place.book.broken = None
    await place.clock.advance(200)
    assert [one.reason for one in proofs] == [Reason.PREEMPTED] and not place.errors


@pytest.mark.parametrize("down", [60.0, 6 * 3600.0])
async def test_a_restarted_daemon_goes_on_asking_who_interrupted_a_job(place: Place, down: float) -> None:
    place.sky.traits = dataclasses.replace(place.sky.traits, proof_lag=900.0)
    proofs: list[model.Instance] = []
    place.rows.on_proof.append(lambda old, new: proofs.append(new))
    gone: dict[str, Any] = {"market": "spot", "job": model.JobKey("j"), "gone_at": START - down, "end": "unknown"}
    await place.book.write(
        bought("vm-1", "gone", busy_at=START - down - 60, **gone),
        bought("vm-2", "gone", busy_at=0.0, **gone),
        bought("vm-3", "gone", busy_at=START - down - 60, **gone | {"end": "preempted"}),
    )
    place.sky.ends = base.EndKind.PREEMPTED
    restarted = loop.Controller(place.runtime, bundle=lambda: "", assign=assign).end_reasons
    await restarted.resume()
    await place.clock.advance(1000)
    assert [one.id for one in proofs] == ["vm-1"] and not place.errors


async def test_a_proof_that_comes_after_a_restart_of_the_daemon_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def taken_back(self: fake.Fake, ref: str) -> base.EndReason:
        return base.EndReason(base.EndKind.PREEMPTED, "evicted")

    row = bought("vm-1", "gone", market="spot", busy_at=time.time() - 90, gone_at=time.time() - 60, end="unknown")
    async with small_daemon.running(tmp_path / "state") as small:
        await small.daemon.store.write(row)
    traits = fake.Fake.traits.fget  # type: ignore[attr-defined]
    late = property(lambda self: dataclasses.replace(traits(self), proof_lag=60.01))
    monkeypatch.setattr(fake.Fake, "traits", late)
    monkeypatch.setattr(fake.Fake, "end_reason", taken_back)
    monkeypatch.setattr(end_reasons, "FIRST_RETRY_S", 0.01)
    async with small_daemon.running(tmp_path / "state") as small:
        async with asyncio.timeout(5):
            while (found := await small.daemon.store.instance("vm-1")) is None or found.end == "unknown":
                await asyncio.sleep(0.01)
        assert (found.reason, found.end, found.end_detail) == (Reason.PREEMPTED, "preempted", "evicted")


async def test_a_deletion_that_never_ends_is_told(
    reaper: termination.Reaper, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.put(bought("vm-1", "ending", age=1.0))
    place.sky.machines["i-key-vm-1"] = dataclasses.replace(_view(place), status=base.InstanceStatus.ENDING)

    async def accepted(ref: str) -> None:
        return None

    monkeypatch.setattr(place.sky, "delete", accepted)
    await reaper.delete(VM)
    assert not place.alarms()
    await place.clock.advance(termination.STUCK_S)
    await reaper.delete(VM)
    assert place.alarms() == {"delete-stuck"}
    place.sky.machines.clear()
    await reaper.delete(VM)
    await reaper.delete(VM)
    assert place.state() == "forgotten" and not place.alarms()
