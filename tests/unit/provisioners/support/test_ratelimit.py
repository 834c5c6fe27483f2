from __future__ import annotations

import asyncio

import pytest

from provisioners.support import ratelimit
from tests.support.clocks import START, ManualClock, settle


def _bucket(clock: ManualClock, *, rate: float, burst: int) -> ratelimit.Bucket:
    return ratelimit.Bucket(rate=rate, burst=burst, now=clock.now, sleep=clock.sleep)


async def _take(bucket: ratelimit.Bucket, clock: ManualClock, times: int) -> list[float]:
    taken: list[float] = []

    async def one() -> None:
        await bucket.take()
        taken.append(clock.now())

    await clock.finish(asyncio.gather(*(one() for _ in range(times))))
    return [at - taken[0] for at in taken]


async def test_a_bucket_lets_a_burst_through_and_then_keeps_the_rate(clock: ManualClock) -> None:
    taken = await _take(_bucket(clock, rate=2.0, burst=3), clock, 6)
    assert taken == pytest.approx([0, 0, 0, 0.5, 1.0, 1.5])


async def test_a_paused_bucket_lets_nothing_through(clock: ManualClock) -> None:
    bucket = _bucket(clock, rate=10.0, burst=5)
    start = clock.now()
    bucket.pause(30)
    bucket.pause(10)
    assert bucket.paused_until == start + 30
    await clock.finish(bucket.take())
    assert clock.now() == start + 30


async def test_a_pause_reaches_who_waits_already(clock: ManualClock) -> None:
    bucket = _bucket(clock, rate=1.0, burst=1)
    await bucket.take()
    start = clock.now()
    waiting = asyncio.ensure_future(bucket.take())
    await settle()
    bucket.pause(20)
    await clock.finish(waiting)
    assert clock.now() == start + 20


async def test_who_gives_up_waiting_does_not_hold_up_the_others(clock: ManualClock) -> None:
    bucket = _bucket(clock, rate=1.0, burst=1)
    await bucket.take()
    first, second = asyncio.ensure_future(bucket.take()), asyncio.ensure_future(bucket.take())
    await settle()
    first.cancel()
    await clock.finish(second)
    assert second.done()


async def test_who_does_not_want_to_go_any_more_costs_nothing_and_holds_nobody_up(clock: ManualClock) -> None:
    bucket = _bucket(clock, rate=1.0, burst=1)
    await bucket.take()
    start = clock.now()
    wanted = True
    waiting = asyncio.gather(*(bucket.take(unless=lambda: not wanted) for _ in range(50)), bucket.take())
    await settle()
    wanted = False
    granted = await clock.finish(waiting)
    assert granted == [False] * 50 + [True]
    assert clock.now() - start <= 1.0


async def test_what_was_granted_and_not_used_is_there_for_the_next(clock: ManualClock) -> None:
    bucket = _bucket(clock, rate=0.1, burst=1)
    await bucket.take()
    bucket.give_back()
    start = clock.now()
    await clock.finish(bucket.take())
    assert clock.now() == start


class Host:
    """A clock that tells unix time as a float, in steps of a quarter of a microsecond."""

    def __init__(self, time: float) -> None:
        self.time = time
        self.slept = 0

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds
        self.slept += 1
        assert self.slept < 1000, "it sleeps less than the clock can tell"


@pytest.mark.parametrize("rate", [0.2, 0.7, 2.0, 500 / 60, 24.0])
async def test_a_wait_that_is_too_short_for_the_clock_to_see_is_none(rate: float) -> None:
    for fraction in range(40):
        host = Host(START + fraction / 41)
        bucket = ratelimit.Bucket(rate=rate, burst=1, now=host.now, sleep=host.sleep)
        for _ in range(40):
            await bucket.take()
