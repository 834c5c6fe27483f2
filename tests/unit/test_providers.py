from __future__ import annotations

import asyncio

import pytest
from core_fakes import ManualClock, Place, refusal, settle

from provisioners import base
from runnerd import providers


async def _take(bucket: providers.Bucket, clock: ManualClock, times: int) -> list[float]:
    taken: list[float] = []

    async def one() -> None:
        await bucket.take()
        taken.append(clock.now())

    await clock.finish(asyncio.gather(*(one() for _ in range(times))))
    return [at - taken[0] for at in taken]


async def test_a_bucket_lets_a_burst_through_and_then_keeps_the_rate(clock: ManualClock) -> None:
    taken = await _take(providers.Bucket(clock, rate=2.0, burst=3), clock, 6)
    assert taken == pytest.approx([0, 0, 0, 0.5, 1.0, 1.5])


async def test_a_paused_bucket_lets_nothing_through(clock: ManualClock) -> None:
    bucket = providers.Bucket(clock, rate=10.0, burst=5)
    start = clock.now()
    bucket.pause(30)
    bucket.pause(10)
    assert bucket.paused_until == start + 30
    await clock.finish(bucket.take())
    assert clock.now() == start + 30


async def test_a_pause_reaches_who_waits_already(clock: ManualClock) -> None:
    bucket = providers.Bucket(clock, rate=1.0, burst=1)
    await bucket.take()
    start = clock.now()
    waiting = asyncio.ensure_future(bucket.take())
    await settle()
    bucket.pause(20)
    await clock.finish(waiting)
    assert clock.now() == start + 20


async def test_who_gives_up_waiting_does_not_hold_up_the_others(clock: ManualClock) -> None:
    bucket = providers.Bucket(clock, rate=1.0, burst=1)
    await bucket.take()
    first, second = asyncio.ensure_future(bucket.take()), asyncio.ensure_future(bucket.take())
    await settle()
    first.cancel()
    await clock.finish(second)
    assert second.done()


async def test_offers_are_known_until_they_are_stale_and_survive_a_failure(
    place: Place, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider, shape = place.station.providers["sky"], base.Shape(gpu="t4")
    assert provider.known_offers(shape) == [] and provider.stale(shape, clock.now())
    await provider.refresh(shape, clock.now())
    assert len(provider.known_offers(shape)) == 2
    assert not provider.stale(shape, clock.now() + 299) and provider.stale(shape, clock.now() + 301)

    async def broken(shape: base.Shape) -> list[base.Offer]:
        raise refusal(base.Kind.AUTH)

    monkeypatch.setattr(place.sky, "offers", broken)
    with pytest.raises(base.ProvisionError):
        await provider.refresh(shape, clock.now() + 400)
    assert len(provider.known_offers(shape)) == 2
