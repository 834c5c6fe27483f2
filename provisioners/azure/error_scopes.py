"""The reach of an error: the offers that it says something about, as an offer pattern."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from provisioners import base, catalogue


class ErrorScope(enum.Enum):
    """The reach of a failure."""

    #: This size, market and zone.
    OFFER = enum.auto()
    #: This size in this zone, in both markets.
    SIZE_IN_ZONE = enum.auto()
    #: This size and every larger one of its family in this zone, in both markets.
    LARGER_IN_ZONE = enum.auto()
    #: This size and market in every zone of the region.
    SIZE_AND_MARKET = enum.auto()
    #: This size in the region, in both markets.
    SIZE = enum.auto()
    #: Every size of the family in the region, in this market.
    FAMILY_AND_MARKET = enum.auto()
    #: Everything in the spot market of the region.
    SPOT = enum.auto()
    #: Everything in the region.
    REGION = enum.auto()
    #: Everything in the subscription.
    ACCOUNT = enum.auto()


@dataclass(frozen=True, slots=True)
class Target:
    """The offer that a call was about, with the sizes that share its fate."""

    provider: str
    account: str
    region: str = "*"
    zone: str = "*"
    machine_type: str = "*"
    market: str = "*"
    #: This size and the larger ones of its family.
    larger: tuple[str, ...] = ()
    family: tuple[str, ...] = ()

    @property
    def spot(self) -> bool:
        """True for an offer in the spot market."""
        return self.market == base.Market.SPOT.value

    def pattern(self, scope: ErrorScope) -> base.OfferPattern | None:
        """Return the offers that a failure of that scope speaks for; None for this offer alone."""
        if scope is ErrorScope.OFFER:
            return None
        larger = "|".join(self.larger) or self.machine_type
        family = "|".join(self.family) or self.machine_type
        region, zone, size, market = {
            ErrorScope.SIZE_IN_ZONE: (self.region, self.zone, self.machine_type, "*"),
            ErrorScope.LARGER_IN_ZONE: (self.region, self.zone, larger, "*"),
            ErrorScope.SIZE_AND_MARKET: (self.region, "*", self.machine_type, self.market),
            ErrorScope.SIZE: (self.region, "*", self.machine_type, "*"),
            ErrorScope.FAMILY_AND_MARKET: (self.region, "*", family, self.market),
            ErrorScope.SPOT: (self.region, "*", "*", base.Market.SPOT.value),
            ErrorScope.REGION: (self.region, "*", "*", "*"),
            ErrorScope.ACCOUNT: ("*", "*", "*", "*"),
        }[scope]
        return base.OfferPattern.of(self.provider, self.account, region, zone, size, market)


def target(offer: base.Offer, catalog: catalogue.Catalog) -> Target:
    """Return an offer with the sizes of the catalogue that share its fate."""
    machine = catalog.machines.get(offer.machine_type)
    family = [
        one for one in catalog.machines.values() if machine is not None and one.family and one.family == machine.family
    ]
    larger = [one for one in family if machine is not None and one.cpus >= machine.cpus]
    return Target(
        provider=offer.provider,
        account=offer.account,
        region=offer.region,
        zone=offer.zone,
        machine_type=offer.machine_type,
        market=offer.market.value,
        larger=tuple(sorted(one.name for one in larger)),
        family=tuple(sorted(one.name for one in family)),
    )
