"""Availability at EC2: the zones of the configured subnets, and their spot prices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from provisioners import base, catalogue
from provisioners.aws import availability, images, settings, spot_prices
from provisioners.cloud_common import offers


class Offers(offers.Offers[settings.PoolOptions]):
    """The offers of one account."""

    def __init__(
        self,
        provider: str,
        chosen: settings.Settings,
        catalog: catalogue.Catalog,
        available: availability.Availability,
        spot: spot_prices.SpotPrices,
    ) -> None:
        super().__init__(
            provider,
            chosen.account,
            regions=chosen.regions,
            markets=chosen.markets,
            catalog=catalog,
            overrides=chosen.prices,
        )
        self._settings = chosen
        self._available = available
        self._spot = spot

    async def stock(
        self,
        region: str,
        machines: Sequence[catalogue.Machine],
        markets: Sequence[base.Market],
        pool: settings.PoolOptions,
    ) -> offers.Stock:
        configured = self._settings.regions[region]
        zones = await self.zones(configured, pool)
        if not zones:
            raise base.ProvisionError(
                base.Kind.CONFIG,
                f"{region} has none of the subnets {', '.join(pool.subnets or configured.subnets)}",
                code="InvalidSubnetID.NotFound",
            )
        names = [machine.name for machine in machines]
        types = await self._available.types(region, names)
        if base.Market.SPOT in markets:
            await self._spot.refresh(region, names)
        launch = pool.over(configured.launch, region)
        return Stock(
            region,
            tuple(dict.fromkeys(zones.values())),
            types,
            image=launch.image,
            catalog=self._catalog,
            available=self._available,
            spot=self._spot,
        )

    async def zones(self, region: settings.Region, pool: settings.PoolOptions) -> dict[str, str]:
        """Return subnet -> zone of what that pool may use in a region, in the operator's order."""
        wanted = [subnet for subnet in region.subnets if not pool.subnets or subnet in pool.subnets]
        return await self._available.zones(region.name, wanted)

    def why_unsold(
        self, machines: Sequence[catalogue.Machine], regions: Sequence[str], pool: settings.PoolOptions
    ) -> str:
        subnets = {subnet for region in regions for subnet in self._settings.regions[region].subnets}
        if pool.subnets and not subnets & set(pool.subnets):
            return f"the pool's subnets {', '.join(pool.subnets)} are none of the provider's"
        return f"no zone of the configured subnets has {', '.join(machine.name for machine in machines[:5])}"


class Stock(offers.Stock):
    """A region of EC2."""

    def __init__(
        self,
        region: str,
        zones: Sequence[str],
        types: Mapping[str, frozenset[str]] | None,
        *,
        image: images.Image | None,
        catalog: catalogue.Catalog,
        available: availability.Availability,
        spot: spot_prices.SpotPrices,
    ) -> None:
        self._region = region
        self._zones = zones
        #: Machine type -> zones that have it; None where EC2 does not say.
        self._types = types
        self._image = image
        self._catalog = catalog
        self._available = available
        self._spot = spot

    @property
    def zones(self) -> Sequence[str]:
        return self._zones

    def sells(self, machine: catalogue.Machine, zone: str, market: base.Market) -> bool:
        if self._types is None:
            return self._catalog.offered(machine.name, self._region)
        return zone in self._types.get(machine.name, ())

    async def image(self, machine: catalogue.Machine) -> str:
        image = self._image or images.default(machine)
        return (await self._available.image(self._region, image, machine.arch)).id

    def spot_price(self, machine: catalogue.Machine, zone: str) -> catalogue.Price | None:
        return self._spot.of(machine.name, zone)
