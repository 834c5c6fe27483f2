from __future__ import annotations

import asyncio
import time

import pytest

from runnerd.kit import clock as clocks
from tests.support.clocks import ManualClock, settle


def test_the_hosts_clock_is_near_the_wall_and_does_not_follow_its_jumps(monkeypatch: pytest.MonkeyPatch) -> None:
    host = clocks.SystemClock()
    assert abs(clocks.drift(host)) < 1
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 86400)
    assert clocks.drift(host) == pytest.approx(86400, abs=1)
    host.reanchor()
    assert abs(clocks.drift(host)) < 1


async def test_sleeping_ends_with_the_time_or_with_the_event(clock: ManualClock) -> None:
    wake = asyncio.Event()
    sleeper = asyncio.ensure_future(clocks.sleep_or_wake(clock, 10, wake))
    await clock.advance(9)
    assert not sleeper.done()
    await clock.advance(1)
    assert await sleeper is False
    sleeper = asyncio.ensure_future(clocks.sleep_or_wake(clock, 10, wake))
    await settle()
    wake.set()
    assert await clock.finish(sleeper) is True
    assert not wake.is_set(), "the event is used up"


async def test_an_event_that_is_set_already_costs_no_time(clock: ManualClock) -> None:
    wake = asyncio.Event()
    wake.set()
    assert await clocks.sleep_or_wake(clock, 10, wake) is True


async def test_a_cancelled_sleeper_leaves_nothing_behind(clock: ManualClock) -> None:
    before = len(asyncio.all_tasks())
    sleeper = asyncio.ensure_future(clocks.sleep_or_wake(clock, 10, asyncio.Event()))
    await settle()
    sleeper.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeper
    await settle()
    assert len(asyncio.all_tasks()) == before
