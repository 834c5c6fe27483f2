"""Availability at Azure: the sizes that a region has for the subscription."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from provisioners import base, catalogue
from provisioners.azure import availability, images, settings
from provisioners.cloud_common import offers


class Offers(offers.Offers[settings.PoolOptions]):
    """The offers of one subscription."""

    def __init__(
        self,
        provider: str,
        chosen: settings.Settings,
        catalog: catalogue.Catalog,
        available: availability.Availability,
    ) -> None:
        super().__init__(
            provider,
            chosen.subscription,
            regions=chosen.regions,
            markets=chosen.markets,
            catalog=catalog,
            overrides=chosen.prices,
        )
        self._settings = chosen
        self._available = available

    async def stock(
        self,
        region: str,
        machines: Sequence[catalogue.Machine],
        markets: Sequence[base.Market],
        pool: settings.PoolOptions,
    ) -> offers.Stock:
        return Stock(
            self._settings.regions[region],
            await self._available.sizes(region),
            image=pool.image or self._settings.image,
            available=self._available,
        )

    def why_unsold(
        self, machines: Sequence[catalogue.Machine], regions: Sequence[str], pool: settings.PoolOptions
    ) -> str:
        return ""


class Stock(offers.Stock):
    """A region of Azure."""

    def __init__(
        self,
        region: settings.Region,
        sizes: Mapping[str, availability.Size] | None,
        *,
        image: str,
        available: availability.Availability,
    ) -> None:
        self._region = region
        #: None where Azure does not say: then nothing is ruled out.
        self._sizes = sizes
        self._image = image
        self._available = available

    @property
    def zones(self) -> Sequence[str]:
        return self._region.offered_zones

    def sells(self, machine: catalogue.Machine, zone: str, market: base.Market) -> bool:
        if self._sizes is None:
            return True
        size = self._sizes.get(machine.name)
        if size is None or size.restricted or (market is base.Market.SPOT and not size.spot):
            return False
        return zone == settings.NO_ZONE or zone in size.zones

    async def image(self, machine: catalogue.Machine) -> str:
        image = self._image or images.default(machine.gpu_count, machine.arch)
        return await self._available.image(self._region.name, image)
