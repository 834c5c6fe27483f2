from __future__ import annotations

import asyncio
from typing import Any

import pytest

from runnerd import errors, model
from runnerd.forges.base import Removal
from runnerd.lifecycle import agent_sessions
from runnerd.lifecycle import registration as lifecycle_registration
from runnerd.model import InstanceId, RegistrationId
from tests.support.clocks import START, settle
from tests.support.fakes import (
    FULL,
    NONCE,
    QUEUE,
    Place,
    assign,
    bought,
    registration,
)

VM = InstanceId("vm-1")


@pytest.fixture
def sessions(place: Place) -> agent_sessions.AgentSessions:
    return agent_sessions.AgentSessions(place.runtime, assign=assign)


@pytest.fixture
def registrar(place: Place, sessions: agent_sessions.AgentSessions) -> lifecycle_registration.Registrar:
    return lifecycle_registration.Registrar(place.runtime, sessions)


def runners(place: Place) -> dict[str, str]:
    """Registrations that are not gone, by runner name."""
    return {one.runner_name: one.state.value for one in place.rows.registrations.values()}


async def test_the_name_is_durable_before_the_forge_is_asked(
    registrar: lifecycle_registration.Registrar, place: Place
) -> None:
    place.put(bought("vm-1", "ready", agent_nonce=NONCE))
    place.forge.gate = asyncio.Event()
    work = asyncio.ensure_future(registrar.register(VM, QUEUE))
    await settle()
    assert place.forge.calls == [("register", "vm-1")]
    assert (place.state(), runners(place)) == ("registering", {"vm-1": "registering"})
    assert {type(change).__name__ for change in place.book.commits[0]} == {"Instance", "Registration", "Event"}
    place.forge.gate.set()
    await work


async def test_a_registered_runner_is_granted_to_the_agent(
    registrar: lifecycle_registration.Registrar, place: Place, sessions: agent_sessions.AgentSessions
) -> None:
    place.put(bought("vm-1", "ready", agent_nonce=NONCE))
    await registrar.register(VM, QUEUE)
    row = place.row()
    assert (row.state.value, row.queue, row.registered_at) == ("registered", QUEUE, START)
    assert sessions.grants[VM].config.forge_id == "id-vm-1"
    (runner,) = place.rows.registrations.values()
    assert (runner.state.value, runner.forge_id) == ("registered", "id-vm-1")
    assert "secret" not in repr(place.book.commits)


async def test_nothing_is_registered_for_an_instance_that_is_drained_meanwhile(
    registrar: lifecycle_registration.Registrar, place: Place
) -> None:
    place.put(bought("vm-1", "draining"))
    await registrar.register(VM, QUEUE)
    assert place.forge.calls == []


async def test_a_clear_refusal_lets_the_instance_wait_and_try_under_a_new_name(
    registrar: lifecycle_registration.Registrar, place: Place
) -> None:
    place.put(bought("vm-1", "ready"))
    place.forge.refusals = [errors.ForgeForbidden("no runners for you", status=403)]
    await registrar.register(VM, QUEUE)
    assert (place.state(), place.row().queue, place.row().detail) == ("ready", None, "no runners for you")
    assert runners(place) == {}
    await registrar.register(VM, QUEUE)
    assert place.forge.calls[-1] == ("register", "vm-1-2")
    assert place.state() == "registered"


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(errors.TransportError("reset"), id="answer lost"),
        pytest.param(errors.ForgeUnavailable("502", status=502, maybe_created=True), id="a proxy answered"),
    ],
)
@pytest.mark.parametrize("applied", [True, False])
async def test_an_unclear_answer_is_removed_by_name_before_another_is_tried(
    registrar: lifecycle_registration.Registrar, place: Place, error: Exception, applied: bool
) -> None:
    place.put(bought("vm-1", "ready", agent_nonce=NONCE))
    place.forge.refusals, place.forge.applied = [error], applied
    await registrar.register(VM, QUEUE)
    assert (place.state(), runners(place)) == ("registering", {"vm-1": "unclear"})
    await registrar.renew(VM)
    assert place.state() == "ready" and runners(place) == {} and place.forge.runners == {}
    await registrar.register(VM, QUEUE)
    assert place.forge.calls == [("register", "vm-1"), ("deregister", "vm-1"), ("register", "vm-1-2")]


async def test_a_request_that_never_left_is_a_clear_refusal(
    registrar: lifecycle_registration.Registrar, place: Place
) -> None:
    place.put(bought("vm-1", "ready"))
    place.forge.refusals = [errors.TransportError("cannot connect", maybe_applied=False)]
    await registrar.register(VM, QUEUE)
    assert (place.state(), runners(place)) == ("ready", {})


async def test_a_name_that_cannot_be_removed_yet_blocks_the_next_one(
    registrar: lifecycle_registration.Registrar, place: Place
) -> None:
    place.put(bought("vm-1", "registering", agent_nonce=NONCE), registration("r1", state="unclear"))
    place.forge.removals = [errors.ForgeUnavailable("503"), Removal.PENDING, Removal.BUSY]
    for _ in range(3):
        await registrar.renew(VM)
        assert (place.state(), runners(place)) == ("registering", {"vm-1": "removing"})
    await registrar.renew(VM)
    assert (place.state(), runners(place)) == ("ready", {})


async def test_a_configuration_that_was_lost_in_a_restart_is_made_anew(
    registrar: lifecycle_registration.Registrar, place: Place
) -> None:
    place.put(bought("vm-1", "registered", agent_nonce=NONCE, queue=QUEUE), registration("r1"))
    await registrar.renew(VM)
    assert (place.state(), runners(place)) == ("ready", {})
    await registrar.register(VM, QUEUE)
    assert place.forge.calls[-1] == ("register", "vm-1-2")


@pytest.mark.parametrize("fields", [{"job_started": True}, {}])
async def test_nothing_is_renewed_after_a_job_started_or_while_the_configuration_is_there(
    registrar: lifecycle_registration.Registrar,
    place: Place,
    sessions: agent_sessions.AgentSessions,
    fields: dict[str, Any],
) -> None:
    place.put(bought("vm-1", "registered", **fields), registration("r1"))
    if not fields:
        sessions.grants[VM] = agent_sessions.Grant(RegistrationId("r1"), "vm-1", None)  # type: ignore[arg-type]
    await registrar.renew(VM)
    assert place.forge.calls == [] and place.state() == "registered"


async def test_a_runner_whose_registration_is_under_way_is_not_removed_before_its_answer(
    registrar: lifecycle_registration.Registrar, place: Place
) -> None:
    # A removal now would find nothing, and the runner would come to be after it, for ever.
    place.put(bought("vm-1", "ready", agent_nonce=NONCE))
    place.forge.gate = asyncio.Event()
    work = asyncio.ensure_future(registrar.register(VM, QUEUE))
    await settle()
    await place.rows.step(VM, model.InstanceState.DRAINING, reason=model.Reason.OPERATOR)
    (one,) = place.rows.registrations_of(VM)
    assert await registrar.try_remove(one) is Removal.PENDING
    place.forge.gate.set()
    await work
    assert runners(place) == {"vm-1": "registered"}
    (one,) = place.rows.registrations_of(VM)
    assert await registrar.try_remove(one) is Removal.REMOVED
    assert place.forge.runners == {} and runners(place) == {}


async def test_a_free_name_is_one_that_was_never_used(
    registrar: lifecycle_registration.Registrar, place: Place
) -> None:
    # After the database was lost only the later name was found at the forge.
    place.put(bought("vm-1", "ready", agent_nonce=NONCE))
    gone = registration("r1", state="gone", runner_name="vm-1-2")
    place.book.known[gone.id] = gone
    await registrar.register(VM, QUEUE)
    assert place.forge.calls[-1][1] != "vm-1-2"


# -- removal -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "outcome", "left"),
    [
        pytest.param(Removal.REMOVED, Removal.REMOVED, {}, id="removed"),
        pytest.param(Removal.BUSY, Removal.BUSY, {"vm-1": "registered"}, id="busy"),
        pytest.param(Removal.PENDING, Removal.PENDING, {"vm-1": "registered"}, id="on its way"),
        pytest.param(errors.ForgeUnavailable("503"), Removal.PENDING, {"vm-1": "registered"}, id="out of order"),
        pytest.param(errors.TransportError("reset"), Removal.PENDING, {"vm-1": "registered"}, id="answer lost"),
        pytest.param(errors.ForgeAuthFailed("revoked"), Removal.PENDING, {"vm-1": "registered"}, id="token revoked"),
    ],
)
async def test_only_the_forges_own_word_makes_a_registration_gone(
    registrar: lifecycle_registration.Registrar, place: Place, answer: Any, outcome: Removal, left: dict[str, str]
) -> None:
    place.put(bought("vm-1", "draining"), registration("r1"))
    place.forge.removals = [answer]
    assert await registrar.try_remove(place.rows.registrations[RegistrationId("r1")]) is outcome
    assert runners(place) == left


async def test_the_wish_to_remove_an_unclear_name_is_durable_before_the_call(
    registrar: lifecycle_registration.Registrar, place: Place
) -> None:
    place.put(bought("vm-1", "registering"), registration("r1", state="unclear"))
    place.book.broken = FULL
    with pytest.raises(errors.StoreUnwritable):
        await registrar.try_remove(place.rows.registrations[RegistrationId("r1")])
    assert place.forge.calls == []


async def test_a_registration_at_a_forge_that_left_the_configuration_is_alarmed(
    registrar: lifecycle_registration.Registrar, place: Place
) -> None:
    place.put(bought("vm-1", "draining"), registration("r1"))
    place.runtime.forges.clear()
    assert await registrar.remove(RegistrationId("r1")) is False
    assert place.alarms() == {"no-forge"}


async def test_removing_what_is_gone_already_is_success(registrar: lifecycle_registration.Registrar) -> None:
    assert await registrar.remove(RegistrationId("never")) is True
