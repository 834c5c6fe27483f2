"""Demand from counts: what a reading changes and what it must not."""

from __future__ import annotations

import random
from typing import Any

import pytest

from runnerd import model
from runnerd.forges import base
from runnerd.forges.github.scalesets.messages import Statistics
from runnerd.forges.github.scalesets.tally import DOUBT_S, GRACE_S, STALE_S, Tally
from tests.support.clocks import START, ManualClock
from tests.unit.forges.github import gh_lab

QUEUE = gh_lab.spec().queue


def update(event: base.JobEvent, alias: str = "a", name: str = "train", repo: str = "acme/ml") -> base.JobUpdate:
    return base.JobUpdate(event, QUEUE, repo, "7", name, alias)


def counts(assigned: int, running: int = 0) -> Statistics:
    return Statistics(assigned=assigned, running=running)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def tally(clock: ManualClock) -> Tally:
    return Tally(clock)


QUEUED, STARTED, COMPLETED, TIMEOUT = (
    base.JobEvent.QUEUED,
    base.JobEvent.STARTED,
    base.JobEvent.COMPLETED,
    base.JobEvent.ASSIGNMENT_TIMEOUT,
)


def test_nothing_is_known_before_the_first_reading(tally: Tally) -> None:
    assert tally.demand() == model.Demand(repos=tally.demand().repos)
    assert not tally.demand().known


def test_waiting_is_what_is_assigned_and_does_not_run(tally: Tally) -> None:
    tally.read(counts(5, 2))
    demand = tally.demand()
    assert (demand.waiting, demand.running, demand.known) == (3, 2, True)


def test_waiting_jobs_are_told_by_repository_and_never_more_than_wait(tally: Tally) -> None:
    for number, repo in enumerate(["acme/a", "acme/a", "acme/b"]):
        tally.note(update(QUEUED, f"id{number}", f"n{number}", repo))
    tally.read(counts(4))
    assert tally.demand().repos == {"acme/a": 2, "acme/b": 1}
    tally.read(counts(2))
    assert sum(tally.demand().repos.values()) == 2


def test_one_zero_against_open_assignments_is_doubted_and_the_second_believed(tally: Tally) -> None:
    tally.note(update(QUEUED))
    tally.read(counts(1))
    tally.read(counts(0))
    assert tally.demand().waiting == 1 and tally.doubted
    tally.read(counts(0))
    assert tally.demand().waiting == 0 and not tally.doubted


def test_an_assignment_that_comes_with_all_zero_counts_is_demand(tally: Tally) -> None:
    tally.read(counts(0))
    tally.note(update(QUEUED))
    tally.read(counts(0))
    assert tally.demand().waiting == 1


def test_a_zero_is_believed_at_once_when_every_assignment_has_ended(tally: Tally) -> None:
    tally.note(update(QUEUED))
    tally.read(counts(1))
    tally.note(update(STARTED))
    tally.note(update(COMPLETED))
    tally.read(counts(0))
    assert tally.demand().waiting == 0


def test_a_doubted_zero_without_a_second_reading_ends_by_itself(tally: Tally, clock: ManualClock) -> None:
    tally.note(update(QUEUED))
    tally.read(counts(1))
    tally.read(counts(0))
    clock.time += DOUBT_S / 2
    tally.confirm()
    assert tally.demand().waiting == 1
    clock.time += DOUBT_S
    tally.confirm()
    assert tally.demand().waiting == 0


def test_a_lapsed_job_counts_until_it_is_assigned_anew(tally: Tally) -> None:
    tally.note(update(QUEUED, "a"))
    tally.read(counts(1))
    tally.note(update(TIMEOUT, "a"))
    tally.read(counts(0))
    assert tally.demand().waiting == 1
    assert tally.demand().repos == {"acme/ml": 1}
    tally.note(update(QUEUED, "b"))
    tally.read(counts(1))
    assert tally.demand().waiting == 1


def test_a_lapsed_job_that_the_counts_still_hold_counts_once(tally: Tally) -> None:
    tally.note(update(QUEUED, "a"))
    tally.read(counts(1))
    tally.note(update(TIMEOUT, "a"))
    tally.read(counts(1))
    assert tally.demand().waiting == 1


def test_a_lapse_told_after_the_new_assignment_changes_nothing(tally: Tally) -> None:
    tally.note(update(QUEUED, "a"))
    tally.note(update(QUEUED, "b"))
    tally.note(update(TIMEOUT, "a"))
    tally.read(counts(1))
    assert tally.demand().waiting == 1
    assert not tally.timed_out()


def test_a_lapse_is_over_when_its_run_says_so_or_its_grace_ends(tally: Tally, clock: ManualClock) -> None:
    for name in ("x", "y"):
        tally.note(update(TIMEOUT, name, name))
    tally.read(counts(0))
    assert tally.demand().waiting == 2
    tally.settle(update(TIMEOUT, "x", "x").key)
    assert tally.demand().waiting == 1
    clock.time += GRACE_S + 1
    assert tally.demand().waiting == 0


def test_repeated_and_late_messages_change_nothing(tally: Tally) -> None:
    story = [update(QUEUED), update(STARTED), update(COMPLETED)]
    for fact in story:
        tally.note(fact)
    tally.read(counts(0))
    for fact in random.Random(3).choices(story, k=20):
        tally.note(fact)
    tally.read(counts(0))
    assert tally.demand().waiting == 0


def test_an_old_word_is_kept_but_not_known(tally: Tally, clock: ManualClock) -> None:
    tally.read(counts(4))
    clock.time += STALE_S + 1
    demand = tally.demand()
    assert (demand.waiting, demand.known) == (4, False)
    tally.confirm()
    assert tally.demand().known


def test_a_restart_takes_up_the_last_word_and_its_age(clock: ManualClock) -> None:
    before = Tally(clock)
    before.read(counts(4, 1))
    clock.time += 100
    after = Tally(clock)
    after.restore(before.remember(), [gh_lab.job(QUEUE, "acme/ml", "7", "train", aliases=("a",))])
    assert after.demand() == model.Demand(3, 1, START, True, {"acme/ml": 1})


@pytest.mark.parametrize("cursor", [{}, {"waiting": None, "running": "x", "as_of": []}])
def test_a_cursor_that_says_nothing_is_no_demand(tally: Tally, cursor: dict[str, Any]) -> None:
    tally.restore(cursor, [])
    assert not tally.demand().known


def test_stranded_jobs_come_on_top(tally: Tally) -> None:
    tally.read(counts(1))
    demand = tally.demand(extra={"acme/other": 2})
    assert (demand.waiting, demand.repos["acme/other"]) == (3, 2)
