from __future__ import annotations

import pytest
from core_fakes import ManualClock, Place, refusal

from provisioners import base


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
