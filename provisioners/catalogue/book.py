"""The catalogue of one cloud: machine types with what they have, and their prices by region and market.

A price is looked for in this order: the operator's own; the price list as it was last renewed; the one that ships with
runnerd; the highest known of that type in any region, which is an estimate that errs on the safe side of a budget.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from provisioners import base
from provisioners.catalogue import hints, price, renewed, shipped
from provisioners.catalogue.machine import Machine
from provisioners.catalogue.overrides import Overrides
from provisioners.catalogue.price import Price

_GIB = 2**30
_NO_OVERRIDES = Overrides()


@dataclass(slots=True)
class Book:
    """The machines of one cloud, and what they cost.  Each provider has its own, for its renewed prices."""

    cloud: str
    _shipped: shipped.Shipped
    _renewed: renewed.Renewed = field(default_factory=renewed.Renewed)

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
        """Where the shipped data comes from, for people."""
        return self._shipped.sources

    def fitting(self, shape: base.Shape) -> list[Machine]:
        """The machines that serve that shape, the cheapest first; those without any price come last."""
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
        """What an hour of it costs there; None when nobody knows.

        A spot price that nobody tells is the on-demand price, which it does not exceed.  A type that is not sold on
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

    def sold_in(self, machine_type: str) -> frozenset[str]:
        """The regions for which a price of that type is known, in either market."""
        return frozenset(self._shipped.prices(machine_type)) | self._renewed.sold_in(machine_type)

    def nearest_region(self, name: str) -> str:
        """A hint to append to a complaint about a region that does not exist."""
        return hints.nearest(name, self.regions)

    def load_renewed(self, directory: str) -> str:
        """Take over the price list that was last renewed there; plain words when it cannot be used, else empty."""
        self._renewed, problem = renewed.read(directory, self.cloud)
        return problem

    def use_renewed(self, prices: renewed.Renewed) -> None:
        """Look prices up in those first, from now on."""
        self._renewed = prices

    def why_none(
        self,
        shape: base.Shape,
        *,
        regions: Collection[str] = (),
        overrides: Overrides | None = None,
    ) -> str:
        """Why nothing here serves that shape in those regions, with the nearest thing that exists; empty if it does."""
        fitting = self.fitting(shape)
        if not fitting:
            return self._why_unfit(shape)
        places = [(region, market) for region in regions for market in shape.markets]
        if not places or any(
            self.price(machine.name, region=region, market=market, overrides=overrides)
            for machine in fitting
            for region, market in places
        ):
            return ""
        names = hints.listed(machine.name for machine in fitting)
        return f"no price is known for {names}: set one under prices, or renew the price list"

    def _why_unfit(self, shape: base.Shape) -> str:
        machines = list(self.machines.values())
        if shape.types:
            known = {machine.type_name for machine in machines} | set(self.machines)
            for name in shape.types:
                if name not in known:
                    return f'no machine type "{name}"{hints.nearest(name, known)}'
            machines = [machine for machine in machines if {machine.name, machine.type_name} & set(shape.types)]
        where = f"of {hints.listed(shape.types)}" if shape.types else "here"
        if shape.gpu:
            models = {machine.gpu for machine in machines if machine.gpu}
            if shape.gpu not in models:
                close = "" if shape.types else hints.nearest(shape.gpu, models)
                there = ", ".join(sorted(models))
                have = f"; GPUs {where}: {there}" if there and "known:" not in close else close and ""
                return f'no machine {where} has the GPU "{shape.gpu}"{close}{have}'
            machines = [machine for machine in machines if machine.gpu == shape.gpu]
            counts = sorted({machine.gpu_count for machine in machines})
            wanted = shape.gpu_count or 1
            machines = [m for m in machines if m.gpu_count == wanted or (shape.types and m.gpu_count > wanted)]
            if not machines:
                return f"no machine {where} has {wanted} x {shape.gpu}; they come with {hints.listed(counts)}"
        elif not shape.types:
            machines = [machine for machine in machines if not machine.gpu_count]
        what = f"with {shape.gpu_count or 1} x {shape.gpu}" if shape.gpu else "without a GPU"
        what = where if shape.types else what
        archs = sorted({machine.arch for machine in machines})
        machines = [machine for machine in machines if machine.arch == shape.arch]
        if not machines:
            return f"no machine {what} is {shape.arch}; they are {hints.listed(archs)}"
        most = max(machine.cpus for machine in machines)
        if most < shape.cpus:
            return f"no machine {what} has {shape.cpus} vCPUs; the largest has {most}"
        machines = [machine for machine in machines if machine.cpus >= shape.cpus]
        largest = max(machine.memory for machine in machines)
        if largest < shape.memory:
            beside = f" and {shape.cpus} vCPUs" if shape.cpus else ""
            asked, has = shape.memory / _GIB, largest / _GIB
            return f"no machine {what}{beside} has {asked:g} GiB of memory; the largest has {has:g} GiB"
        return f"no machine {what} fits"

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
        known = [self._listed(machine_type, region, market) for region in self.sold_in(machine_type)]
        highest = max((one for one in known if one), key=lambda one: (one.dollars, one.as_of), default=None)
        return None if highest is None else Price(highest.dollars, price.ESTIMATE, highest.as_of)

    def _usual(self, machine_type: str) -> float:
        """The lowest known price on demand: what types are compared by before a region is chosen."""
        pairs = self._shipped.prices(machine_type).values()
        return min((pair[0] for pair in pairs if pair[0] is not None), default=float("inf"))


def load(cloud: str) -> Book:
    """The catalogue that ships with runnerd for ``aws``, ``gcp`` or ``azure``; KeyError for any other name."""
    return Book(cloud, shipped.read(cloud))
