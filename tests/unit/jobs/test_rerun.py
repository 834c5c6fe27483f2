from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runnerd import model
from runnerd.forges import base as forges
from runnerd.jobs import rerun
from runnerd.model import InstanceId, InstanceState, JobState, Reason
from tests.support import fakes
from tests.support.clocks import START, ManualClock, settle
from tests.support.fakes import (
    FULL,
    QUEUE,
    Place,
    bought,
)

KEY = model.job_key("hub", "acme/ml", "1", "train")
HUB = fakes.SETTINGS["forges"]["hub"]


@pytest.fixture
def place(tmp_path: Path, clock: ManualClock) -> Place:
    """A runtime whose forge runs preempted jobs again, twice at most."""
    made = fakes.place(tmp_path, clock, forges={"hub": {**HUB, "retry": {"preempted": 2}}})
    job = model.Job(
        KEY, QUEUE, "acme/ml", "1", "train", state=JobState.COMPLETED, conclusion="failure", finished_at=START
    )
    made.put(bought("vm-1", "busy", job=KEY, busy_at=START, market="spot"), job)
    return made


@pytest.fixture
def asked(place: Place, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The jobs that the forge was asked to run again; it does."""
    found: list[str] = []

    async def retry(job: model.Job, *, whole_run: bool = False) -> forges.RetryOutcome:
        found.append(job.key)
        return forges.RetryOutcome.RETRIED

    monkeypatch.setattr(place.forge, "retry", retry)
    return found


@pytest.fixture
async def queue(place: Place, asked: list[str]) -> AsyncIterator[rerun.Reruns]:
    made = rerun.Reruns(place.runtime)
    task = asyncio.ensure_future(made.run())
    yield made
    task.cancel()


async def preempt(place: Place) -> None:
    await place.rows.step(InstanceId("vm-1"), InstanceState.GONE, reason=Reason.PREEMPTED)


async def test_a_preempted_job_is_written_down_before_it_counts_and_runs_again(
    place: Place, queue: rerun.Reruns, asked: list[str], clock: ManualClock
) -> None:
    await preempt(place)
    place.book.gate = asyncio.Event()
    await settle()
    assert not queue.outstanding("gpu"), "nothing is true before it is on the disk"
    place.book.gate.set()
    await settle()
    assert queue.outstanding("gpu")
    await clock.advance(rerun.PERIOD_S)
    assert asked == [KEY]
    kept = json.loads(place.rows.settings[f"retry/{KEY}"])
    assert kept == {"pool": "gpu", "at": START, "count": 1, "taken_at": START + rerun.PERIOD_S}


async def test_a_rerun_that_could_not_be_written_is_written_later(
    place: Place, queue: rerun.Reruns, asked: list[str], clock: ManualClock
) -> None:
    await preempt(place)
    place.book.broken = FULL
    await clock.advance(3 * rerun.PERIOD_S)
    assert asked == []
    place.book.broken = None
    await clock.advance(2 * rerun.PERIOD_S)
    assert asked == [KEY]


async def test_jobs_that_are_preempted_together_just_before_a_round_do_not_end_the_rounds(
    place: Place, queue: rerun.Reruns, asked: list[str], clock: ManualClock
) -> None:
    keys = [model.job_key("hub", "acme/ml", "1", name) for name in ("one", "two", "three")]
    for number, key in enumerate(keys):
        job = model.Job(
            key, QUEUE, "acme/ml", "1", "x", state=JobState.COMPLETED, conclusion="failure", finished_at=START
        )
        place.put(bought(f"vm-1{number}", "busy", job=key, busy_at=START, market="spot"), job)
    gate = asyncio.Event()
    place.rows.on_step.append(lambda *_: setattr(place.book, "gate", gate))
    await asyncio.gather(
        *(
            place.rows.step(InstanceId(f"vm-1{number}"), InstanceState.GONE, reason=Reason.PREEMPTED)
            for number in range(len(keys))
        )
    )
    await settle()
    await clock.advance(rerun.PERIOD_S)  # the round finds all of them unwritten, and writes one after the other
    gate.set()
    await settle()
    await clock.advance(rerun.PERIOD_S)
    assert sorted(asked) == sorted(keys)


async def test_a_forge_is_not_asked_twice_because_its_answer_could_not_be_written(
    place: Place, queue: rerun.Reruns, asked: list[str], clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await preempt(place)
    await settle()
    retry = place.forge.retry

    async def then_full(job: model.Job, *, whole_run: bool = False) -> forges.RetryOutcome:
        place.book.broken = FULL
        return await retry(job, whole_run=whole_run)

    monkeypatch.setattr(place.forge, "retry", then_full)
    await clock.advance(5 * rerun.PERIOD_S)
    place.book.broken = None
    await clock.advance(5 * rerun.PERIOD_S)
    assert asked == [KEY]
    assert json.loads(place.rows.settings[f"retry/{KEY}"])["count"] == 1


async def test_what_an_earlier_version_wrote_is_read(place: Place) -> None:
    old = {"pool": "gpu", "at": START, "count": 0, "taken_at": 0.0}
    settings = {f"retry/{KEY}": json.dumps(old), "retry/done": "", "drained/gpu": "no"}
    place.rows.load(instances=[], attempts=[], registrations=[], jobs=[], blocks=[], settings=settings)
    place.runtime.durable.__init__(place.rows)  # type: ignore[misc]
    assert rerun.Reruns(place.runtime).outstanding("gpu")
    assert not place.runtime.durable.drained("gpu") and place.runtime.durable.ever_drained("gpu")
