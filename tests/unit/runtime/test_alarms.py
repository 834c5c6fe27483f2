from __future__ import annotations

import logging

import pytest

from runnerd.runtime import alarms
from tests.support.clocks import START, ManualClock


async def test_repeats_are_folded_and_told_once(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    bells = alarms.Alarms(clock.now)
    told: list[alarms.Alarm] = []
    bells.on_new.append(told.append)
    with caplog.at_level(logging.INFO):
        bells.ring("provider", "sky", "listing-failed", "500")
        await clock.advance(60)
        bells.ring("provider", "sky", "listing-failed", "502")
    (alarm,) = bells.open.values()
    assert (alarm.since, alarm.last, alarm.count, alarm.detail) == (START, START + 60, 2, "502")
    assert len(told) == 1
    assert len(caplog.records) == 1


def test_an_alarm_that_is_over_rings_anew(clock: ManualClock) -> None:
    bells = alarms.Alarms(clock.now)
    told: list[alarms.Alarm] = []
    bells.on_new.append(told.append)
    bells.clear("provider", "sky", "listing-failed")
    for _ in range(2):
        bells.ring("provider", "sky", "listing-failed", "500")
        bells.clear("provider", "sky", "listing-failed")
    assert bells.open == {} and len(told) == 2


def test_alarms_of_different_subjects_stand_side_by_side(clock: ManualClock) -> None:
    bells = alarms.Alarms(clock.now)
    bells.ring("provider", "sky", "listing-failed", "500")
    bells.ring("provider", "sea", "listing-failed", "500")
    bells.clear("provider", "sky", "listing-failed")
    assert list(bells.open) == [("provider", "sea", "listing-failed")]
