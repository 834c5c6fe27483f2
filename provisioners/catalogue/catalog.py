"""The catalogue of one cloud: machine types with what they have, and their prices by region and market.

A price is looked for in this order: the operator's own; the price list as it was last renewed; the one that ships with
runnerd; the highest known of that type in any region, which is an estimate that errs on the safe side of a budget.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from provisioners import base, options
from provisioners.catalogue import overrides as own_prices
from provisioners.catalogue import price, reasons, renewed, shipped
from provisioners.catalogue.machine import Machine
from provisioners.catalogue.overrides import Overrides
from provisioners.catalogue.price import Price

#: The clouds that have a catalogue, as people call them.
NAMES = {"aws": "AWS", "azure": "Azure", "gcp": "Google Cloud"}
#: The number of machine types that are named before the rest is summed up.
_NAMED = 4
_NO_OVERRIDES = Overrides()


@dataclass(slots=True)
class Catalog:
    """The machines of one cloud, and what they cost.  Each provider has its own, for its renewed prices."""

    cloud: str
    _shipped: shipped.Shipped = field(repr=False)
    _renewed: renewed.Renewed = field(default_factory=renewed.Renewed, repr=False)

    @property
    def machines(self) -> Mapping[str, Machine]:
        """By name."""
        return self._shipped.machines

    @property
    def regions(self) -> frozenset[str]:
        """Every region that the cloud is known to have."""
        return self._shipped.regions | self._renewed.regions

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources of the shipped data, for people."""
        return self._shipped.sources

    def fitting(self, shape: base.Shape) -> list[Machine]:
        """Return the machines that serve a shape, the cheapest first; those without any price come last."""
        found = [machine for machine in self.machines.values() if machine.fits(shape)]
        return sorted(found, key=lambda machine: (self._usual(machine.name), machine.name))

    def price(
        self,
        machine_type: str,
        *,
        region: str,
        market: base.Market,
        overrides: Overrides | None = None,
    ) -> Price | None:
        """Return the price of an hour there; None when none is known.

        An unknown spot price is taken to be the on-demand price, which it does not exceed.  A type that is not sold on
        demand at all has no price there.
        """
        dollars = (overrides or _NO_OVERRIDES).dollars(machine_type, region=region, market=market)
        if dollars is not None:
            return Price(dollars, price.OPERATOR)
        found = self._listed(machine_type, region, market)
        if found is not None:
            return found
        if market is base.Market.SPOT:
            ceiling = self.price(machine_type, region=region, market=base.Market.ON_DEMAND, overrides=overrides)
            if ceiling is not None:
                return Price(ceiling.dollars, price.CEILING, ceiling.as_of)
        return self._estimate(machine_type, market)

    def available_in(self, machine_type: str) -> frozenset[str]:
        """Return the regions in which the type is known to be available, mostly by a price of it in either market."""
        return frozenset(self._shipped.prices(machine_type)) | self._renewed.available_in(machine_type)

    def offered(self, machine_type: str, region: str) -> bool:
        """Return False where the type is known to be unavailable: the region's price list is complete and lacks it."""
        if region in self.available_in(machine_type):
            return True
        return region not in self._renewed.regions and region not in self._shipped.whole

    def nearest_region(self, name: str) -> str:
        """Return a hint to append to a complaint about a region that does not exist."""
        return options.nearest(name, self.regions)

    def read_overrides(self, reader: options.Reader, key: str) -> Overrides:
        """Read the operator's own prices under a key of the options."""
        return own_prices.read(reader, key, machines=self.machines, regions=self.regions)

    def load_renewed(self, directory: str) -> str:
        """Load the price list that was last renewed there; return what is wrong with it, empty when it can be used."""
        self._renewed, problem = renewed.read(directory, self.cloud)
        return problem

    def use_renewed(self, prices: renewed.Renewed) -> None:
        """Prefer those prices from now on."""
        self._renewed = prices

    def why_none(
        self,
        shape: base.Shape,
        *,
        regions: Collection[str] = (),
        overrides: Overrides | None = None,
    ) -> str:
        """Explain why no machine serves a shape in those regions, with the nearest that exists; empty if one does."""
        fitting = self.fitting(shape)
        if not fitting:
            others = [cloud for cloud in NAMES if cloud != self.cloud and shape.gpu and not shape.types]
            elsewhere = [NAMES[cloud] for cloud in others if load(cloud)._sells(shape.gpu)]
            return reasons.unfit(self.machines.values(), shape, elsewhere=elsewhere)
        names = [machine.name for machine in fitting]
        few = options.listed(names if len(names) <= _NAMED else [*names[:_NAMED], f"{len(names) - _NAMED} others"])
        where = options.listed(sorted(regions)) if regions else ""
        own = overrides or _NO_OVERRIDES
        places = [
            (name, region, market)
            for name in names
            for region in regions
            for market in shape.markets
            if self.offered(name, region) or own.dollars(name, region=region, market=market) is not None
        ]
        if regions and not places:
            sold = sorted({region for name in names for region in self.available_in(name)})
            return f"{few}: not sold in {where}; sold in {', '.join(sold) or 'no region that is known'}"
        if regions and not any(
            self.price(name, region=region, market=market, overrides=own) for name, region, market in places
        ):
            markets = options.listed(shape.markets)
            return f"no price is known for {few}, {markets} in {where}: set one under prices, or renew the price list"
        return ""

    def _sells(self, gpu: str) -> bool:
        return any(machine.gpu == gpu and machine.gpu_count for machine in self.machines.values())

    def _listed(self, machine_type: str, region: str, market: base.Market) -> Price | None:
        spot = market is base.Market.SPOT
        pair = self._renewed.pair(region, machine_type)
        if pair is not None and pair[spot] is not None:
            return Price(pair[spot] or 0.0, price.RENEWED, self._renewed.day(region))
        pair = self._shipped.prices(machine_type).get(region)
        if pair is not None and pair[spot] is not None:
            return Price(pair[spot] or 0.0, price.SHIPPED, self._shipped.day(region))
        return None

    def _estimate(self, machine_type: str, market: base.Market) -> Price | None:
        known = [self._listed(machine_type, region, market) for region in self.available_in(machine_type)]
        highest = max((one for one in known if one), key=lambda one: (one.dollars, one.as_of), default=None)
        return None if highest is None else Price(highest.dollars, price.ESTIMATE, highest.as_of)

    def _usual(self, machine_type: str) -> float:
        """Return the lowest known on-demand price, by which types are compared before a region is chosen."""
        pairs = self._shipped.prices(machine_type).values()
        return min((pair[0] for pair in pairs if pair[0] is not None), default=float("inf"))


def load(cloud: str) -> Catalog:
    """The catalogue that ships with runnerd for ``aws``, ``gcp`` or ``azure``; KeyError for any other name."""
    return Catalog(cloud, shipped.read(cloud))
