from __future__ import annotations

import dataclasses

import pytest

from provisioners import base
from runnerd.runtime import providers
from tests.support.clocks import ManualClock
from tests.support.fakes import (
    Place,
    refusal,
)


async def test_offers_are_known_until_they_are_stale_and_survive_a_failure(
    place: Place, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider, pool = place.runtime.providers["sky"], place.runtime.config.pools["gpu"]
    provider._offers.clear()
    assert provider.known_offers(pool) == [] and provider.stale(pool, clock.now())
    await provider.refresh(pool, clock.now())
    assert len(provider.known_offers(pool)) == 2
    assert not provider.stale(pool, clock.now() + 299) and provider.stale(pool, clock.now() + 301)

    async def broken(*_: object) -> list[base.Offer]:
        raise refusal(base.Kind.AUTH)

    monkeypatch.setattr(place.sky, "offers", broken)
    with pytest.raises(base.ProvisionError):
        await provider.refresh(pool, clock.now() + 400)
    assert len(provider.known_offers(pool)) == 2


async def test_other_options_of_the_pool_make_known_offers_old(place: Place, clock: ManualClock) -> None:
    provider, pool = place.runtime.providers["sky"], place.runtime.config.pools["gpu"]
    await provider.refresh(pool, clock.now())
    other = pool.model_copy(update={"options": {"sky": {"image": "mine"}}})
    assert provider.stale(other, clock.now()) and provider.known_offers(other) == []


def test_each_region_has_a_bucket_of_its_own_where_the_provider_counts_so(place: Place) -> None:
    provider = place.runtime.providers["sky"]
    assert provider.bucket("east") is provider.bucket("west")
    provider._buckets.clear()
    place.sky.traits = dataclasses.replace(place.sky.traits, paced_by_region=True)
    provider.bucket("east").pause(30)
    assert provider.bucket("west").paused_until == 0 < provider.bucket("east").paused_until == provider.paused_until


async def test_a_provisioner_that_cannot_start_is_started_again_before_it_is_asked(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider, tries = place.runtime.providers["sky"], list[int]()

    async def start() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise refusal(base.Kind.AUTH)

    monkeypatch.setattr(place.sky, "start", start)
    with pytest.raises(base.ProvisionError):
        await provider.ensure_started()
    await provider.ensure_started()
    await provider.ensure_started()
    assert len(tries) == 2


async def test_the_first_offers_of_a_provider_are_awaited_for_a_while(place: Place, clock: ManualClock) -> None:
    provider, pool = place.runtime.providers["sky"], place.runtime.config.pools["gpu"]
    assert not provider.awaited(pool, clock.now()), "they are known"
    provider._offers.clear()
    assert provider.awaited(pool, clock.now())
    assert not provider.awaited(pool, clock.now() + providers.OFFERS_AWAITED)
    provider._awaited.clear()
    place.sky.listing_error = None
    assert provider.awaited(pool, clock.now())
    await provider.refresh(pool, clock.now())
    assert not provider.awaited(pool, clock.now())


async def test_a_provider_that_failed_to_tell_its_offers_is_not_waited_for(
    place: Place, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider, pool = place.runtime.providers["sky"], place.runtime.config.pools["gpu"]
    provider._offers.clear()

    async def broken(*_: object) -> list[base.Offer]:
        raise refusal(base.Kind.AUTH)

    monkeypatch.setattr(place.sky, "offers", broken)
    with pytest.raises(base.ProvisionError):
        await provider.refresh(pool, clock.now())
    assert not provider.awaited(pool, clock.now())
