"""What can be bought: the catalogue in the zones of the configured subnets, at what an hour costs there now."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from provisioners import base, catalogue
from provisioners.aws import availability, images, settings, spot_prices

log = logging.getLogger(__name__)


class Market:
    """The offers of one provider."""

    def __init__(
        self,
        provider: str,
        chosen: settings.Settings,
        book: catalogue.Book,
        available: availability.Availability,
        spot: spot_prices.SpotPrices,
    ) -> None:
        self._provider = provider
        self._settings = chosen
        self._book = book
        self._available = available
        self._spot = spot
        #: Region -> why it has no offers, as of the last time they were asked for.
        self._trouble: dict[str, str] = {}

    async def offers(self, shape: base.Shape, options: Mapping[str, Any]) -> list[base.Offer]:
        """By market as asked, region and zone as written, then by price.

        Raises :class:`base.ProvisionError` when no region has any and one could not tell.
        """
        pool, problems = settings.read_pool(options, self._book)
        if problems:
            raise base.ProvisionError(base.Kind.CONFIG, "; ".join(problems), code="BadPoolOptions")
        markets = [one for one in shape.markets if one in self._settings.markets]
        machines = self._book.fitting(shape)
        found: dict[base.Market, list[base.Offer]] = {one: [] for one in markets}
        failed: list[base.ProvisionError] = []
        for region in self._regions(pool) if machines and markets else ():
            try:
                for market, offers in (await self._offers_of(region, machines, markets, pool)).items():
                    found[market] += offers
                self._trouble.pop(region.name, None)
            except base.ProvisionError as error:
                log.warning("%s: no offers from %s: %s", self._provider, region.name, error)
                self._trouble[region.name] = str(error)
                failed.append(error)
        offers = [offer for market in markets for offer in found[market]]
        if failed and not offers:
            raise failed[0]
        return offers

    def _regions(self, pool: settings.PoolOptions) -> list[settings.Region]:
        return [one for one in self._settings.regions.values() if not pool.regions or one.name in pool.regions]

    async def _offers_of(
        self,
        region: settings.Region,
        machines: Sequence[catalogue.Machine],
        markets: Sequence[base.Market],
        pool: settings.PoolOptions,
    ) -> dict[base.Market, list[base.Offer]]:
        """The offers of one region by market: zones as the subnets stand in the file, types by price."""
        zones = await self.zones(region, pool)
        if not zones:
            subnets = pool.subnets or region.subnets
            raise base.ProvisionError(
                base.Kind.CONFIG,
                f"{region.name} has none of the subnets {', '.join(subnets)}",
                code="InvalidSubnetID.NotFound",
            )
        sold = await self._available.types(region.name, [one.name for one in machines])
        if base.Market.SPOT in markets:
            await self._spot.refresh(region.name, [one.name for one in machines])
        launch = pool.over(region.launch, region.name)
        resolved: dict[str, str] = {}
        found: dict[base.Market, list[base.Offer]] = {}
        for market in markets:
            offers: list[base.Offer] = []
            for zone in dict.fromkeys(zones.values()):
                there: list[base.Offer] = []
                for machine in machines:
                    if not _sold(self._book, machine.name, region.name, zone, sold):
                        continue
                    price = self._price(machine.name, region.name, zone, market)
                    if price is None:
                        continue
                    image = launch.image or images.default(machine)
                    key = f"{image} {machine.arch}"
                    if key not in resolved:
                        resolved[key] = (await self._available.image(region.name, image, machine.arch)).id
                    there.append(
                        machine.offer(
                            price,
                            provider=self._provider,
                            account=self._settings.account,
                            region=region.name,
                            zone=zone,
                            market=market,
                            image=resolved[key],
                        )
                    )
                offers += sorted(there, key=lambda offer: offer.price)
            found[market] = offers
        return found

    async def zones(self, region: settings.Region, pool: settings.PoolOptions) -> dict[str, str]:
        """Subnet -> zone of what that pool may use in a region, in the operator's order."""
        wanted = [one for one in region.subnets if not pool.subnets or one in pool.subnets]
        return await self._available.zones(region.name, wanted)

    def _price(self, machine_type: str, region: str, zone: str, market: base.Market) -> catalogue.Price | None:
        overrides = self._settings.prices
        operators = overrides.dollars(machine_type, region=region, market=market)
        if market is base.Market.SPOT and operators is None:
            told = self._spot.of(machine_type, zone)
            if told is not None:
                return told
        return self._book.price(machine_type, region=region, market=market, overrides=overrides)

    def why_none(self, shape: base.Shape, options: Mapping[str, Any]) -> str:
        """Why there is no offer, for people; empty where there should be some."""
        pool, problems = settings.read_pool(options, self._book)
        if problems:
            return "; ".join(problems)
        regions = self._regions(pool)
        if not regions:
            return f"the pool wants {', '.join(pool.regions)}; configured: {', '.join(self._settings.regions)}"
        if not set(shape.markets) & set(self._settings.markets):
            wanted, set_to = (", ".join(markets) for markets in (shape.markets, self._settings.markets))
            return f"the pool buys {wanted}, the provider is set to {set_to}"
        why = self._book.why_none(shape, regions=[one.name for one in regions], overrides=self._settings.prices)
        if why:
            return why
        troubled = {one.name: self._trouble[one.name] for one in regions if one.name in self._trouble}
        if troubled:
            return "; ".join(f"{region}: {words}" for region, words in troubled.items())
        if pool.subnets and not any(set(pool.subnets) & set(one.subnets) for one in regions):
            return f"the pool's subnets {', '.join(pool.subnets)} are none of the provider's"
        names = ", ".join(one.name for one in self._book.fitting(shape)[:5])
        return f"no zone of the configured subnets has {names}"


def _sold(
    book: catalogue.Book, machine_type: str, region: str, zone: str, told: Mapping[str, frozenset[str]] | None
) -> bool:
    """Whether a zone has a type, as far as anybody tells."""
    return book.offered(machine_type, region) if told is None else zone in told.get(machine_type, ())
