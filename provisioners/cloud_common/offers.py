"""The offers of a cloud: one loop over regions, markets, machine types and zones."""

from __future__ import annotations

import abc
import logging
from collections.abc import Collection, Sequence
from typing import Generic, Protocol, TypeVar

from provisioners import base, catalogue
from provisioners.cloud_common import regions

log = logging.getLogger(__name__)


class Pool(Protocol):
    """A pool's options for a provider, as far as they choose among its regions."""

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions to buy in, empty for all."""
        ...


P = TypeVar("P", bound=Pool)


class Stock(abc.ABC):
    """The machine types, zones and images of one region for a pool."""

    @property
    @abc.abstractmethod
    def zones(self) -> Sequence[str]:
        """The zones to buy in, in the operator's order."""

    @abc.abstractmethod
    def sells(self, machine: catalogue.Machine, zone: str, market: base.Market) -> bool:
        """Return False where a zone is known not to have a machine in a market."""

    @abc.abstractmethod
    async def image(self, machine: catalogue.Machine) -> str:
        """Return what a machine boots from there, as concrete as can be.  Raises :class:`base.ProvisionError`."""

    def spot_price(self, machine: catalogue.Machine, zone: str) -> catalogue.Price | None:
        """Return the current spot price in a zone; None where only the catalogue has one."""
        return None


class Offers(abc.ABC, Generic[P]):
    """The offers of one provider."""

    def __init__(
        self,
        provider: str,
        account: str,
        *,
        regions: Collection[str],
        markets: Collection[base.Market],
        catalog: catalogue.Catalog,
        overrides: catalogue.Overrides,
    ) -> None:
        self._provider = provider
        self._account = account
        self._regions = tuple(regions)
        self._markets = tuple(markets)
        self._catalog = catalog
        self._overrides = overrides
        #: Region -> why it had no offers when they were last asked for.
        self._failures: dict[str, base.ProvisionError] = {}

    @abc.abstractmethod
    async def stock(
        self, region: str, machines: Sequence[catalogue.Machine], markets: Sequence[base.Market], pool: P
    ) -> Stock:
        """Look up what a region has.  Raises :class:`base.ProvisionError`."""

    @abc.abstractmethod
    def why_unsold(self, machines: Sequence[catalogue.Machine], regions: Sequence[str], pool: P) -> str:
        """Say why no zone of the regions has the machines, for people; empty where one may have them."""

    async def find(self, shape: base.Shape, pool: P) -> list[base.Offer]:
        """Return the offers for a shape.

        Raises :class:`base.ProvisionError` when no region has any and one could not be asked.
        """
        markets = [market for market in shape.markets if market in self._markets]
        machines = self._catalog.fitting(shape)
        if not machines or not markets:
            return []
        wanted = self._wanted(pool)
        found, failures = await regions.ask_each(wanted, lambda region: self._region(region, machines, markets, pool))
        for region in wanted:
            self._failures.pop(region, None)
        for region, error in failures.items():
            log.warning("%s: no offers from %s: %s", self._provider, region, error)
            self._failures[region] = error
        keyed = [
            (_rank(offer, shape, region=index, zone=zone), offer)
            for index, region in enumerate(wanted)
            for zone, offer in found.get(region, ())
        ]
        if failures and not keyed:
            raise next(iter(failures.values()))
        return [offer for _, offer in sorted(keyed, key=lambda pair: pair[0])]

    def _wanted(self, pool: P) -> list[str]:
        return [region for region in self._regions if not pool.regions or region in pool.regions]

    async def _region(
        self, region: str, machines: Sequence[catalogue.Machine], markets: Sequence[base.Market], pool: P
    ) -> list[tuple[int, base.Offer]]:
        """Return the offers of a region, each with the place of its zone in the operator's order."""
        stock = await self.stock(region, machines, markets, pool)
        offers: list[tuple[int, base.Offer]] = []
        for machine in machines:
            image = ""
            for market in markets:
                for place, zone in enumerate(stock.zones):
                    price = self._price(machine, region, zone, market, stock)
                    if price is None or not stock.sells(machine, zone, market):
                        continue
                    image = image or await stock.image(machine)
                    offer = machine.offer(
                        price,
                        provider=self._provider,
                        account=self._account,
                        region=region,
                        zone=zone,
                        market=market,
                        image=image,
                    )
                    offers.append((place, offer))
        return offers

    def _price(
        self, machine: catalogue.Machine, region: str, zone: str, market: base.Market, stock: Stock
    ) -> catalogue.Price | None:
        if market is base.Market.SPOT and self._overrides.dollars(machine.name, region=region, market=market) is None:
            current = stock.spot_price(machine, zone)
            if current is not None:
                return current
        return self._catalog.price(machine.name, region=region, market=market, overrides=self._overrides)

    def why_none(self, shape: base.Shape, pool: P) -> str:
        """Say why there is no offer, for people; empty where there should be some."""
        wanted = self._wanted(pool)
        if not wanted:
            return f"the pool wants {', '.join(pool.regions)}; configured: {', '.join(self._regions)}"
        if not set(shape.markets) & set(self._markets):
            return f"the pool buys {', '.join(shape.markets)}, the provider is set to {', '.join(self._markets)}"
        why = self._catalog.why_none(shape, regions=wanted, overrides=self._overrides)
        if why:
            return why
        failed = [region for region in wanted if region in self._failures]
        if failed:
            return "; ".join(f"{region}: {self._failures[region]}" for region in failed)
        return self.why_unsold(self._catalog.fitting(shape), wanted, pool)


def _rank(offer: base.Offer, shape: base.Shape, *, region: int, zone: int) -> tuple[float, ...]:
    """Return the key by which offers are sorted: as the pool and the provider list them, then by price.

    ``region`` and ``zone`` are places in the operator's order.  What the key leaves equal stays in the order of the
    catalogue.
    """
    listed = {name: place for place, name in enumerate(shape.types)}
    machine_type = offer.machine_type
    named = listed.get(machine_type, listed.get(machine_type.partition("+")[0], len(listed)))
    return shape.markets.index(offer.market), region, named, offer.price, zone
