from __future__ import annotations

from typing import Any

import pytest

from runnerd import errors, model, store
from runnerd.forges.base import JobEvent, JobUpdate
from runnerd.jobs import updates as job_updates
from runnerd.model import InstanceState, JobState, Reason
from tests.support.clocks import START, ManualClock
from tests.support.fakes import (
    FULL,
    NONCE,
    QUEUE,
    Place,
    bought,
    registration,
)

Q, S, C, L = JobEvent.QUEUED, JobEvent.STARTED, JobEvent.COMPLETED, JobEvent.ASSIGNMENT_TIMEOUT


def told(event: JobEvent, alias: str = "1", **fields: Any) -> JobUpdate:
    values: dict[str, Any] = {"repo": "acme/ml", "run": "7", "name": "train", "at": START}
    if event in (S, C):
        values["runner_name"] = "vm-1"
    if event is C:
        values["conclusion"] = "success"
    return JobUpdate(event, QUEUE, alias=alias, **(values | fields))


def folded(*updates: JobUpdate) -> model.Job:
    job = None
    for update in updates:
        job = job_updates.fold(job, update, START)
    assert job is not None
    return job


# -- folding -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("updates", "state", "conclusion", "lapses"),
    [
        pytest.param([told(Q)], "queued", "", 0, id="waits"),
        pytest.param([told(Q), told(S), told(C)], "completed", "success", 0, id="in order"),
        pytest.param([told(C), told(S), told(Q)], "completed", "success", 0, id="in reverse"),
        pytest.param([told(S), told(Q)], "running", "", 0, id="a wait does not undo a start"),
        pytest.param([told(Q), told(Q), told(S), told(S), told(C), told(C)], "completed", "success", 0, id="all twice"),
        pytest.param([told(C), told(C, conclusion="failure")], "completed", "success", 0, id="an end is final"),
        pytest.param([told(Q), told(L), told(Q, "2")], "queued", "", 1, id="lapsed and assigned again"),
        pytest.param(
            [told(Q), told(L), told(Q, "2"), told(S, "2"), told(C, "2")], "completed", "success", 1, id="then done"
        ),
        pytest.param([told(C, "1"), told(Q, "2")], "queued", "", 0, id="run again"),
        pytest.param([told(C, "1"), told(S, "2")], "running", "", 0, id="run again, its wait was lost"),
        pytest.param([told(C), told(L)], "completed", "success", 0, id="a lapse after its end"),
        pytest.param([told(C, "2"), told(L, "1")], "completed", "success", 0, id="a lapse of an earlier assignment"),
    ],
)
def test_facts_are_folded_whatever_their_order(
    updates: list[JobUpdate], state: str, conclusion: str, lapses: int
) -> None:
    job = folded(*updates)
    assert (job.state, job.conclusion, job.lapses) == (JobState(state), conclusion, lapses)


def test_a_job_run_again_starts_with_clean_times_and_keeps_its_ids() -> None:
    job = folded(told(Q, at=1), told(S, at=2), told(C, at=3), told(Q, "2", at=4))
    assert (job.queued_at, job.started_at, job.finished_at, job.runner_name) == (4, 0.0, 0.0, "")
    assert job.aliases == ("1", "2")


def test_ids_do_not_pile_up() -> None:
    job = folded(*(told(Q, str(n)) for n in range(50)))
    assert len(job.aliases) == job_updates.ALIASES and job.aliases[-1] == "49"


def test_folding_the_same_fact_again_changes_nothing() -> None:
    once = folded(told(Q), told(S))
    assert job_updates.fold(once, told(S), START + 99) == once


# -- recording -----------------------------------------------------------------------------------------------------


@pytest.fixture
def sink(place: Place) -> job_updates.JobUpdates:
    return job_updates.JobUpdates(place.runtime)


def job(place: Place) -> model.Job:
    (found,) = place.rows.jobs.values()
    return found


async def test_facts_and_cursor_are_one_commit(sink: job_updates.JobUpdates, place: Place) -> None:
    await sink.record(QUEUE, [told(Q), told(Q, name="test")], {"last": 5})
    (commit,) = place.book.commits
    assert sum(isinstance(change, store.Cursor) for change in commit) == 1
    assert sum(isinstance(change, model.Job) for change in commit) == 2
    assert sink.cursor(QUEUE) == {"last": 5}
    assert place.runtime.woken.is_set()


async def test_what_cannot_be_written_is_told_so_that_it_is_not_acknowledged(
    sink: job_updates.JobUpdates, place: Place
) -> None:
    place.book.broken = FULL
    with pytest.raises(errors.StoreError):
        await sink.record(QUEUE, [told(Q)], {"last": 5})
    assert sink.cursor(QUEUE) == {} and not place.rows.jobs
    place.book.broken = None
    await sink.record(QUEUE, [told(Q)], {"last": 5})
    assert sink.cursor(QUEUE) == {"last": 5} and len(place.rows.jobs) == 1


async def test_a_redelivered_message_writes_only_its_cursor(sink: job_updates.JobUpdates, place: Place) -> None:
    await sink.record(QUEUE, [told(Q)], {"last": 5})
    await sink.record(QUEUE, [told(Q)], {"last": 5})
    assert [type(change).__name__ for change in place.book.commits[1]] == ["Cursor"]


@pytest.mark.parametrize("state", ["registering", "registered", "draining"])
async def test_a_start_makes_its_instance_busy(sink: job_updates.JobUpdates, place: Place, state: str) -> None:
    place.put(bought("vm-1", state), registration("r1"))
    await sink.record(QUEUE, [told(S)])
    row = place.row()
    assert (row.state.value, row.job, row.job_started) == ("busy", told(S).key, True)
    assert job(place).instance == "vm-1"


@pytest.mark.parametrize("reason", [Reason.OPERATOR, Reason.MAX_JOB])
async def test_a_start_does_not_undo_an_order(sink: job_updates.JobUpdates, place: Place, reason: Reason) -> None:
    place.put(bought("vm-1", "draining", reason=reason), registration("r1"))
    await sink.record(QUEUE, [told(S)])
    assert (place.state(), place.row().job_started) == ("draining", True)


@pytest.mark.parametrize(
    ("state", "after"),
    [
        ("registered", "draining"),
        ("busy", "draining"),
        ("ready", "ready"),
        ("draining", "draining"),
        ("ending", "ending"),
    ],
)
async def test_an_end_drains_and_never_ends(sink: job_updates.JobUpdates, place: Place, state: str, after: str) -> None:
    place.put(bought("vm-1", state), registration("r1"))
    await sink.record(QUEUE, [told(C)])
    assert place.state() == after
    assert place.sky.calls == []


async def test_start_and_end_in_one_message_leave_it_draining(sink: job_updates.JobUpdates, place: Place) -> None:
    place.put(bought("vm-1", "registered"), registration("r1"))
    await sink.record(QUEUE, [told(Q), told(S), told(C)])
    assert (place.state(), place.row().reason, job(place).state) == ("draining", Reason.JOB_DONE, JobState.COMPLETED)


@pytest.mark.parametrize(
    "update",
    [
        pytest.param(told(C, runner_name="somebody-elses"), id="another's runner"),
        pytest.param(told(S, runner_name=""), id="no runner"),
        pytest.param(told(C, name="", repo="", run=""), id="nothing but an event"),
        pytest.param(told(S, runner_name="x" * 5000), id="a monstrous name"),
    ],
)
async def test_odd_facts_never_block_their_queue(sink: job_updates.JobUpdates, place: Place, update: JobUpdate) -> None:
    place.put(bought("vm-2", "busy"))
    await sink.record(QUEUE, [update, told(Q, name="another")], {"last": 1})
    assert sink.cursor(QUEUE) == {"last": 1}
    assert place.state("vm-2") == "busy"


async def test_a_runner_is_known_by_any_of_its_names(sink: job_updates.JobUpdates, place: Place) -> None:
    place.put(bought("vm-1", "registered"), registration("r2", runner_name="vm-1-2"))
    await sink.record(QUEUE, [told(S, runner_name="vm-1-2")])
    assert place.state() == "busy"


# -- what forges and planner ask -----------------------------------------------------------------------------------


async def test_only_jobs_that_wait_are_told_as_waiting(sink: job_updates.JobUpdates) -> None:
    await sink.record(QUEUE, [told(Q), told(Q, name="b"), told(S, name="b")])
    assert [one.name for one in sink.waiting_jobs(QUEUE)] == ["train"]
    assert sink.waiting_jobs(model.Queue("hub", "acme", "other")) == []


def test_the_announced_capacity_is_never_zero(sink: job_updates.JobUpdates) -> None:
    assert sink.capacity(QUEUE) == 1
    sink.announce({QUEUE: 0})
    assert sink.capacity(QUEUE) == 1
    sink.announce({QUEUE: 7})
    assert sink.capacity(QUEUE) == 7


async def pick_up(place: Place) -> None:
    """Let an agent report that its runner took a job."""
    place.put(bought("vm-1", "registered", queue=QUEUE, agent_nonce=NONCE), registration("r1"))
    await place.rows.step(place.row().id, InstanceState.BUSY, busy_at=place.clock.now(), job_started=True)


async def test_a_pickup_counts_until_the_forge_has_told_or_counted_again(
    sink: job_updates.JobUpdates, place: Place, clock: ManualClock
) -> None:
    await pick_up(place)
    assert sink.pickups(QUEUE, as_of=START - 1) == 1
    # The forge may have counted before the pickup and been heard after it.
    assert sink.pickups(QUEUE, as_of=START + 1) == 1
    await clock.advance(job_updates.COUNT_DELAY_S)
    assert sink.pickups(QUEUE, as_of=START - 1) == 1
    assert sink.pickups(QUEUE, as_of=START + 1) == 0
    await pick_up(place)
    await sink.record(QUEUE, [told(S)])
    assert sink.pickups(QUEUE, as_of=START - 1) == 0


async def test_a_pickup_that_the_forge_never_tells_of_holds_no_job_back_for_ever(
    sink: job_updates.JobUpdates, place: Place, clock: ManualClock
) -> None:
    await pick_up(place)
    await clock.advance(job_updates.LOST_REPORT_S)
    assert sink.pickups(QUEUE, as_of=START - 1) == 0


async def test_a_cursor_survives_by_itself_and_from_before(place: Place) -> None:
    place.rows.load(instances=[], attempts=[], registrations=[], jobs=[], blocks=[], cursors={str(QUEUE): {"last": 3}})
    sink = job_updates.JobUpdates(place.runtime)
    assert sink.cursor(QUEUE) == {"last": 3}
    await sink.save_cursor(QUEUE, {"last": 4})
    assert sink.cursor(QUEUE) == {"last": 4}
    assert place.book.commits == [(store.Cursor(str(QUEUE), {"last": 4}),)]
