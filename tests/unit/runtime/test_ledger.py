from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from provisioners import base
from runnerd import errors, model
from runnerd.model import AttemptState, InstanceState, Reason, RegistrationState
from runnerd.runtime import ledger
from tests.support.clocks import START, ManualClock, settle
from tests.support.fakes import (
    FULL,
    Book,
    bought,
    instance,
    registration,
)

S = InstanceState


@pytest.fixture
def rows(book: Book, clock: ManualClock) -> ledger.Ledger:
    return ledger.Ledger(book, clock.now)


def attempt(key: str = "key-vm-1", state: str = "requesting", owner: str = "vm-1") -> model.Attempt:
    return model.Attempt(
        model.AttemptKey(key), model.InstanceId(owner), AttemptState(state), "sky", "offer", "{}", START, START
    )


async def test_a_burst_is_one_commit_with_an_event_for_each(rows: ledger.Ledger, book: Book) -> None:
    await rows.plan([instance(f"vm-{n}", "planned") for n in range(200)])
    assert len(book.commits) == 1
    assert book.events() == ["planned"] * 200
    assert len(rows.instances) == 200


async def test_a_step_is_committed_with_its_event_before_it_is_seen(rows: ledger.Ledger, book: Book) -> None:
    rows._instances[model.InstanceId("vm-1")] = instance("vm-1", "planned")
    book.gate = asyncio.Event()
    step = asyncio.ensure_future(rows.step(model.InstanceId("vm-1"), S.REQUESTING))
    await settle()
    assert rows.instances[model.InstanceId("vm-1")].state is S.PLANNED
    book.gate.set()
    stepped = await step
    assert stepped is not None and stepped.state is S.REQUESTING
    assert book.events() == ["requesting"]


async def test_an_illegal_step_is_refused_and_writes_nothing(rows: ledger.Ledger, book: Book) -> None:
    rows._instances[model.InstanceId("vm-1")] = instance("vm-1", "planned")
    with pytest.raises(errors.IllegalTransition):
        await rows.step(model.InstanceId("vm-1"), S.BUSY)
    assert not book.commits


async def test_a_step_from_another_state_than_expected_does_nothing(rows: ledger.Ledger, book: Book) -> None:
    rows._instances[model.InstanceId("vm-1")] = instance("vm-1", "draining")
    assert await rows.step(model.InstanceId("vm-1"), S.REGISTERING, expect={S.READY}) is None
    assert await rows.step(model.InstanceId("nobody"), S.GONE) is None
    assert not book.commits


async def test_of_two_tasks_that_want_the_same_step_one_is_told_that_it_was_late(rows: ledger.Ledger) -> None:
    rows._instances[model.InstanceId("vm-1")] = instance("vm-1", "ready")
    answers = await asyncio.gather(
        rows.step(model.InstanceId("vm-1"), S.REGISTERING, expect={S.READY}),
        rows.step(model.InstanceId("vm-1"), S.DRAINING, expect={S.READY}),
    )
    assert [answer is None for answer in answers] == [False, True]


async def test_a_refused_write_leaves_memory_as_it_was(rows: ledger.Ledger, book: Book) -> None:
    row, runner = bought("vm-1", "booting"), registration("r1")
    known = model.Block("sea/*", "quota", START + 60, START)
    rows.load(instances=[row], attempts=[attempt()], registrations=[runner], jobs=[], blocks=[known])
    book.broken = FULL
    block = model.Block("sky/*", "capacity", START + 60, START)
    job = model.Job(model.JobKey("j"), runner.queue, "acme/ml", "1", "train")
    for work in (
        rows.step(row.id, S.READY, attempt_row=dataclasses.replace(attempt(), state=AttemptState.CREATED)),
        rows.amend(row.id, repo="acme/other"),
        rows.step_registration(runner.id, RegistrationState.REMOVING),
        rows.plan([instance("vm-2", "planned")]),
        rows.adopt(instance("vm-3", "booting"), "found"),
        rows.write_jobs([job]),
        rows.write_block(block),
        rows.lift_block("sea/*"),
        rows.write_setting("drained/gpu", "yes"),
        rows.write_jobs((), queue=runner.queue, cursor={"last": 1}),
    ):
        with pytest.raises(errors.StoreUnwritable):
            await work
    assert rows.instances == {row.id: row}
    assert rows.attempts == {attempt().key: attempt()}
    assert rows.registrations == {runner.id: runner}
    assert rows.blocks == {"sea/*": known}
    assert not rows.jobs and not rows.settings and not rows.cursors


async def test_attempt_and_registration_are_in_the_same_commit_as_the_step(rows: ledger.Ledger, book: Book) -> None:
    rows._instances[model.InstanceId("vm-1")] = instance("vm-1", "planned")
    await rows.step(model.InstanceId("vm-1"), S.REQUESTING, attempt_row=attempt())
    rows._instances[model.InstanceId("vm-1")] = instance("vm-1", "ready")
    await rows.step(model.InstanceId("vm-1"), S.REGISTERING, registration_row=registration(state="registering"))
    kinds = [{type(change).__name__ for change in commit} for commit in book.commits]
    assert kinds == [{"Instance", "Attempt", "Event"}, {"Instance", "Registration", "Event"}]


@pytest.mark.parametrize(
    ("old", "new", "legal"),
    [
        pytest.param("requesting", "created", True, id="answered"),
        pytest.param("unknown", "requesting", True, id="replayed"),
        pytest.param("created", "failed", False, id="created stays"),
        pytest.param("failed", "requesting", False, id="failed stays"),
        pytest.param(None, "unknown", True, id="adopted by a restart"),
    ],
)
async def test_an_attempts_own_table_is_enforced_inside_the_step(
    rows: ledger.Ledger, book: Book, old: str | None, new: str, legal: bool
) -> None:
    row = instance("vm-1", "unknown")
    rows.load(instances=[row], attempts=[attempt(state=old)] if old else [], registrations=[], jobs=[], blocks=[])
    if legal:
        await rows.step(row.id, S.BOOTING, attempt_row=attempt(state=new))
        assert rows.attempts[attempt().key].state is AttemptState(new)
        return
    with pytest.raises(errors.IllegalTransition):
        await rows.step(row.id, S.BOOTING, attempt_row=attempt(state=new))
    assert rows.instances[row.id].state is S.UNKNOWN and not book.commits


async def test_time_in_a_state_starts_with_the_step_and_amending_does_not_touch_it(
    rows: ledger.Ledger, clock: ManualClock, book: Book
) -> None:
    row = instance("vm-1", "booting", age=100.0)
    rows._instances[row.id] = row
    await clock.advance(5)
    amended = await rows.amend(row.id, repo="acme/ml")
    assert amended is not None and amended.since == row.since
    stepped = await rows.step(row.id, S.READY)
    assert stepped is not None and stepped.since == START + 5
    commits = len(book.commits)
    await rows.amend(row.id, repo="acme/ml")
    assert len(book.commits) == commits, "nothing changed, nothing is written"


async def test_a_step_keeps_reason_and_detail_unless_told_otherwise(rows: ledger.Ledger) -> None:
    row = instance("vm-1", "draining", reason=Reason.IDLE, detail="waited in vain")
    rows._instances[row.id] = row
    kept = await rows.step(row.id, S.ENDING)
    assert kept is not None and (kept.reason, kept.detail) == (Reason.IDLE, "waited in vain")


async def test_listeners_see_the_row_before_and_after(rows: ledger.Ledger) -> None:
    seen: list[tuple[str, str]] = []
    rows.on_step.append(lambda old, new: seen.append((old.state.value, new.state.value)))
    rows._instances[model.InstanceId("vm-1")] = instance("vm-1", "planned")
    await rows.step(model.InstanceId("vm-1"), S.REQUESTING)
    assert seen == [("planned", "requesting")]


# -- forgetting ----------------------------------------------------------------------------------------------------


async def test_a_closed_instance_is_forgotten_once_no_registration_of_it_is_left(
    rows: ledger.Ledger, clock: ManualClock
) -> None:
    row = bought("vm-1", "ending")
    runners = [registration("r1"), registration("r2", runner_name="vm-1-2")]
    rows.load(instances=[row], attempts=[attempt()], registrations=runners, jobs=[], blocks=[])
    await rows.step(row.id, S.GONE)
    assert rows.instances[row.id].gone_at == clock.now()
    await rows.step_registration(runners[0].id, RegistrationState.GONE)
    assert row.id in rows.instances
    await rows.step_registration(runners[1].id, RegistrationState.GONE)
    assert (rows.instances, rows.attempts, rows.registrations) == ({}, {}, {})
    assert rows.runner("vm-1") is None


async def test_what_an_instance_cost_is_counted_once(rows: ledger.Ledger) -> None:
    row = bought("vm-1", "ending", price=2.0, running_at=START - 3600)
    rows.load(instances=[row], attempts=[], registrations=[registration("r1")], jobs=[], blocks=[])
    await rows.step(row.id, S.GONE)
    await rows.step_registration(model.RegistrationId("r1"), RegistrationState.GONE)
    assert list(rows.tally.dollars.values()) == [2.0]


async def test_what_was_closed_before_a_restart_is_not_counted_again(rows: ledger.Ledger) -> None:
    # The store's own list of costs has it already.
    row = bought("vm-1", "gone", gone_at=START - 5)
    rows.load(instances=[row], attempts=[], registrations=[registration("r1")], jobs=[], blocks=[])
    await rows.step_registration(model.RegistrationId("r1"), RegistrationState.GONE)
    assert rows.tally.dollars == {}
    assert rows.instances == {}


async def test_what_never_ran_costs_nothing(rows: ledger.Ledger) -> None:
    rows._instances[model.InstanceId("vm-1")] = instance("vm-1", "planned")
    await rows.step(model.InstanceId("vm-1"), S.FAILED, reason=Reason.NO_OFFER)
    assert rows.tally.dollars == {} and rows.instances == {}


# -- registrations -------------------------------------------------------------------------------------------------


async def test_a_registration_goes_its_way_and_no_other(rows: ledger.Ledger, book: Book) -> None:
    rows.load(instances=[], attempts=[], registrations=[registration("r1", state="unclear")], jobs=[], blocks=[])
    id = model.RegistrationId("r1")
    with pytest.raises(errors.IllegalTransition):
        await rows.step_registration(id, RegistrationState.REGISTERED)
    assert await rows.step_registration(id, RegistrationState.GONE, expect={RegistrationState.REGISTERED}) is None
    again = await rows.step_registration(id, RegistrationState.UNCLEAR)
    assert again is not None and not book.commits
    await rows.step_registration(id, RegistrationState.REMOVING)
    await rows.step_registration(id, RegistrationState.GONE)
    assert book.events("registration") == ["removing", "gone"]
    assert await rows.step_registration(id, RegistrationState.GONE) is None


def test_runners_are_found_by_name_and_by_instance(rows: ledger.Ledger) -> None:
    rows.load(
        instances=[],
        attempts=[],
        registrations=[registration("r1"), registration("r2", runner_name="vm-1-2"), registration("r3", "vm-2")],
        jobs=[],
        blocks=[],
    )
    found = rows.runner("vm-1-2")
    assert found is not None and found.id == "r2"
    assert [one.id for one in rows.registrations_of(model.InstanceId("vm-1"))] == ["r1", "r2"]
    assert rows.runner("vm-9") is None


async def test_an_adopted_instance_is_one_commit(rows: ledger.Ledger, book: Book) -> None:
    changes: dict[str, Any] = {"attempt_row": attempt(state="created"), "registration_row": registration()}
    await rows.adopt(bought("vm-1", "booting", adopted=True), "found by its tags", **changes)
    assert len(book.commits) == 1
    assert rows.runner("vm-1") is not None and rows.attempts and rows.instances


async def test_a_late_proof_is_durable_before_it_is_announced_and_is_taken_once(
    rows: ledger.Ledger, book: Book
) -> None:
    proofs: list[tuple[model.Instance, model.Instance]] = []
    rows.on_proof.append(lambda old, new: proofs.append((old, new)))
    rows.load(instances=[bought("vm-1", "busy")], attempts=[], registrations=[], jobs=[], blocks=[])
    gone = await rows.step(model.InstanceId("vm-1"), S.GONE, reason=Reason.VANISHED, end="unknown")
    assert gone is not None and not rows.instances
    spent = dict(rows.tally.dollars)
    book.broken = FULL
    with pytest.raises(errors.StoreError):
        await rows.prove(gone.id, base.EndKind.PREEMPTED)
    assert not proofs
    book.broken, book.gate = None, asyncio.Event()
    both = asyncio.gather(*(rows.prove(gone.id, base.EndKind.PREEMPTED, "evicted") for _ in range(2)))
    await settle()
    assert not proofs
    book.gate.set()
    assert [answer is None for answer in await both] == [False, True]
    [(old, new)] = proofs
    assert old == gone and new == dataclasses.replace(
        gone, reason=Reason.PREEMPTED, end="preempted", end_detail="evicted"
    )
    assert book.events() == ["gone", "proven"] and rows.tally.dollars == spent and not rows.instances


@pytest.mark.parametrize("kind", [base.EndKind.PREEMPTED, base.EndKind.UNKNOWN])
async def test_a_proof_without_a_gone_row_is_none(rows: ledger.Ledger, book: Book, kind: base.EndKind) -> None:
    rows._instances[model.InstanceId("vm-1")] = bought("vm-1", "ending")
    assert await rows.prove(model.InstanceId("vm-1"), kind) is None
    assert await rows.prove(model.InstanceId("never-seen"), kind) is None
    assert not book.commits


async def test_a_late_proof_of_a_row_that_a_registration_keeps_is_seen_in_memory(
    rows: ledger.Ledger, book: Book
) -> None:
    rows.load(instances=[bought("vm-1", "busy")], attempts=[], registrations=[registration("r1")], jobs=[], blocks=[])
    await rows.step(model.InstanceId("vm-1"), S.GONE, reason=Reason.VANISHED, end="unknown")
    await rows.prove(model.InstanceId("vm-1"), base.EndKind.PREEMPTED)
    assert rows.instances[model.InstanceId("vm-1")].reason is Reason.PREEMPTED
