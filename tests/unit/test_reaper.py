from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from core_fakes import NONCE, QUEUE, START, Place, bought, duty, refusal, registration

from provisioners import base
from runnerd import agents, errors, reaper, registrar
from runnerd.forges.base import Removal, RunnerView
from runnerd.model import InstanceId, Reason

VM = InstanceId("vm-1")


@pytest.fixture
def gate(place: Place) -> reaper.Reaper:
    talk = agents.Agents(
        rows=place.rows,
        evidence=place.station.evidence,
        tokens=place.station.tokens,
        clock=place.clock,
        alarms=place.station.alarms,
        wake=place.station.wake,
        duty=duty,
        background=place.station.background,
    )
    return reaper.Reaper(place.station, registrar.Registrar(place.station, talk), talk)


def draining(place: Place, reason: Reason = Reason.IDLE, *, agent: str = "denies", **fields: Any) -> None:
    """A draining instance with a runner, and what its agent last said."""
    row = bought("vm-1", "draining", reason=reason, agent_nonce=NONCE, registered_at=START - 60, queue=QUEUE, **fields)
    place.put(row, registration("r1"))
    witness = place.station.witness(VM)
    if agent != "silent":
        witness.agent_at, witness.worker = place.clock.now(), agent == "works"
    place.sky.machines[row.ref] = base.InstanceView(
        row.ref, row.id, "sky/acct/east/a", base.InstanceStatus.RUNNING, {base.TAG_ATTEMPT: "key-vm-1"}, START
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
    gate: reaper.Reaper, place: Place, state: str, drained: bool
) -> None:
    place.put(bought("vm-1", state))
    assert await gate.drain(VM, Reason.OPERATOR, "by hand") is drained
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
    gate: reaper.Reaper, place: Place, forge: Any, agent: str, state: str
) -> None:
    draining(place, agent=agent)
    place.forge.removals = [forge]
    await gate.release(VM, forced=False)
    assert place.state() == state
    assert deleted(place) is (state == "forgotten")


async def test_an_agent_that_fell_silent_is_no_witness(gate: reaper.Reaper, place: Place) -> None:
    draining(place, agent="works")
    await place.clock.advance(100)
    await gate.release(VM, forced=False)
    assert place.state() == "draining" and not deleted(place)


async def test_who_never_exchanged_its_token_needs_no_witness(gate: reaper.Reaper, place: Place) -> None:
    place.put(bought("vm-1", "draining", reason=Reason.BOOT_TIMEOUT))
    await gate.release(VM, forced=False)
    assert deleted(place)


@pytest.mark.parametrize("forge", [Removal.BUSY, Removal.PENDING, errors.ForgeUnavailable("503")])
async def test_an_override_ends_it_whatever_the_witnesses_say(gate: reaper.Reaper, place: Place, forge: Any) -> None:
    draining(place, Reason.MAX_JOB, agent="works")
    place.forge.removals = [forge]
    await gate.release(VM, forced=True)
    assert deleted(place)
    assert place.state() == "gone", "its registration keeps it in mind"
    assert len(place.rows.registrations) == 1


async def test_a_runner_that_is_busy_for_a_moment_after_its_job_is_asked_again(
    gate: reaper.Reaper, place: Place
) -> None:
    draining(place, Reason.JOB_DONE)
    place.forge.removals = [Removal.BUSY, Removal.BUSY]
    for _ in range(2):
        await gate.release(VM, forced=False)
        assert place.state() == "draining"
    await gate.release(VM, forced=False)
    assert deleted(place)


async def test_an_adopted_instance_is_not_ended_while_a_forge_cannot_say_what_it_has(
    gate: reaper.Reaper, place: Place
) -> None:
    place.put(bought("vm-1", "draining", adopted=True, reason=Reason.BOOT_TIMEOUT))
    place.station.witness(VM).agent_at = START
    place.forge.listing_error = errors.ForgeUnavailable("503")
    await gate.release(VM, forced=False)
    assert place.state() == "draining"
    place.forge.listing_error = None
    place.forge.runners = {"vm-1": RunnerView("7", "vm-1", True, True)}
    place.forge.removals = [Removal.BUSY]
    await gate.release(VM, forced=False)
    assert (place.state(), deleted(place)) == ("busy", False)


async def test_nothing_is_released_that_is_not_draining(gate: reaper.Reaper, place: Place) -> None:
    place.put(bought("vm-1", "busy"), registration("r1"))
    await gate.release(VM, forced=True)
    assert place.forge.calls == [] and not deleted(place)


# -- delete --------------------------------------------------------------------------------------------------------


async def test_what_the_provider_confirms_is_closed_with_its_reason(gate: reaper.Reaper, place: Place) -> None:
    draining(place)
    seen = []
    place.rows.on_step.append(lambda _, new: seen.append((new.state.value, new.reason.value)))
    await gate.release(VM, forced=False)
    assert seen == [("ending", "idle"), ("gone", "idle")]


async def test_not_found_counts_twice_and_not_while_it_is_young(gate: reaper.Reaper, place: Place) -> None:
    place.put(bought("vm-1", "ending", age=10.0))
    await gate.delete(VM)
    await gate.delete(VM)
    assert place.state() == "ending", "a young instance may not show yet"
    await place.clock.advance(60)
    await gate.delete(VM)
    assert place.state() == "ending"
    await gate.delete(VM)
    assert place.state() == "forgotten"
    assert place.sky.count("delete") == 4, "each look repeats the delete"


async def test_a_delete_that_fails_is_alarmed_and_tried_again(gate: reaper.Reaper, place: Place) -> None:
    draining(place)
    place.sky.delete_error = refusal(base.Kind.THROTTLED, retry_after=30.0)
    await gate.release(VM, forced=False)
    assert place.state() == "ending" and place.alarms() == {"delete-failed"}
    assert place.station.providers["sky"].paused_until == 0, "creates have a bucket of their own"
    place.sky.delete_error = None
    await gate.delete(VM)
    assert place.state() == "forgotten" and not place.alarms()


async def test_an_instance_that_is_still_on_its_way_out_stays_ending(
    gate: reaper.Reaper, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    draining(place)

    async def slow(ref: str) -> None:
        view = place.sky.machines[ref]
        place.sky.machines[ref] = dataclasses.replace(view, status=base.InstanceStatus.ENDING)

    monkeypatch.setattr(place.sky, "delete", slow)
    await gate.release(VM, forced=False)
    assert place.state() == "ending"


async def test_an_instance_of_an_unconfigured_provider_is_alarmed_not_forgotten(
    gate: reaper.Reaper, place: Place
) -> None:
    place.put(bought("vm-1", "ending"))
    place.station.providers.clear()
    await gate.delete(VM)
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
    gate: reaper.Reaper, place: Place, kind: base.EndKind, reason: Reason
) -> None:
    seen = []
    place.rows.on_step.append(lambda _, new: seen.append(new.reason))
    place.put(bought("vm-1", "busy"))
    place.sky.ends = kind
    await gate.close(VM, Reason.VANISHED)
    assert seen == [reason]
    assert VM not in place.station.evidence


async def test_closing_keeps_the_row_until_its_registration_is_gone(gate: reaper.Reaper, place: Place) -> None:
    place.put(bought("vm-1", "busy"), registration("r1"))
    await gate.close(VM, Reason.VANISHED)
    assert place.state() == "gone"
    await gate.close(VM, Reason.VANISHED)
    assert place.book.events() == ["gone"]
