from __future__ import annotations

import pytest

from provisioners import base
from runnerd.model import InstanceId
from runnerd.planner import ABSENCES, SILENCE_S
from runnerd.runtime import observations
from tests.support.clocks import START, ManualClock

VM = InstanceId("vm-1")
SCOPE = base.Scope("sky/acct/east/a")
RUNNING, GONE = base.InstanceStatus.RUNNING, base.InstanceStatus.GONE


@pytest.fixture
def known(clock: ManualClock) -> observations.Observations:
    return observations.Observations(clock.now)


def view(status: base.InstanceStatus = RUNNING, *, healthy: bool | None = None) -> base.InstanceView:
    return base.InstanceView("i-1", VM, SCOPE, status, {}, START, healthy=healthy)


async def test_a_report_of_the_agent_is_fresh_for_a_while_and_keeps_what_it_did_not_say(
    known: observations.Observations, clock: ManualClock
) -> None:
    known.heard(VM, worker=True, asking=True)
    await clock.advance(SILENCE_S - 1)
    assert known.of(VM).fresh(clock.now())
    known.heard(VM, asking=False)
    assert (known.of(VM).worker, known.of(VM).asking, known.of(VM).agent_at) == (True, False, clock.now())
    await clock.advance(SILENCE_S)
    assert not known.of(VM).fresh(clock.now())


def test_a_listing_is_as_old_as_its_question(known: observations.Observations, clock: ManualClock) -> None:
    known.listed(VM, view(healthy=True), asked_at=START - 20)
    assert (known.of(VM).cloud, known.of(VM).cloud_at, known.of(VM).healthy) == (RUNNING, START - 20, True)
    known.seen(VM, view())
    assert (known.of(VM).cloud_at, known.of(VM).healthy) == (START, True), "one machine's view has no verdict on it"


def test_only_what_a_provider_shows_counts_as_seen(known: observations.Observations) -> None:
    known.created(VM, view())
    assert not known.of(VM).seen, "a listing may not show it for a while"
    known.listed(VM, view(), asked_at=START)
    assert known.of(VM).seen


def test_absence_is_two_complete_answers_in_a_row(known: observations.Observations) -> None:
    for _ in range(ABSENCES - 1):
        known.missed(VM)
    assert not known.of(VM).absent
    known.seen(VM, view())
    assert known.missed(VM).absences == 1
    for _ in range(ABSENCES - 1):
        known.missed(VM)
    assert known.of(VM).absent
    known.count_afresh(VM)
    assert not known.of(VM).absent
    known.seen(VM, view(GONE))
    assert known.of(VM).absent, "the provider says so itself"


def test_every_time_moves_with_the_clock_and_never_stays_never(
    known: observations.Observations, clock: ManualClock
) -> None:
    known.heard(VM)
    known.deleted(VM)
    known.shift(100.0)
    moved = known.of(VM)
    assert (moved.agent_at, moved.deleted_at, moved.cloud_at) == (START + 100, START + 100, 0.0)


def test_what_is_forgotten_is_as_if_it_had_never_been_observed(known: observations.Observations) -> None:
    known.heard(VM, worker=True)
    before = known.of(VM)
    known.forget(VM)
    known.forget(VM)
    assert VM not in known and not known.of(VM).worker
    assert before.worker, "an observation that was taken is a fact and does not change"
