"""The reach of an error: the offers that it says something about, as an offer pattern."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from provisioners import base
from provisioners.aws import families


class ErrorScope(enum.Enum):
    """The reach of a refusal: :meth:`Target.pattern` makes the offer pattern."""

    #: This offer and nothing else.
    OFFER = enum.auto()
    #: The type in its zone, in every market.
    TYPE_IN_ZONE = enum.auto()
    #: The type in the region: what its requests have in common (image, boot script, options) is refused.
    TYPE_IN_REGION = enum.auto()
    #: Everything that is launched in that zone.
    ZONE = enum.auto()
    #: Everything that is launched in that region.
    REGION = enum.auto()
    #: The types that one quota counts together, in this market.
    FAMILY = enum.auto()
    #: The spot market as a whole.
    SPOT = enum.auto()
    #: Everything that is launched in the account.
    ACCOUNT = enum.auto()


@dataclass(frozen=True, slots=True)
class Target:
    """The offer that a call was about; none for a call that is not about one."""

    offer: base.Offer | None = None

    @property
    def spot(self) -> bool:
        """True for an offer in the spot market."""
        return self.offer is not None and self.offer.market is base.Market.SPOT

    def pattern(self, scope: ErrorScope) -> base.OfferPattern | None:
        """Return the offers that an error of that scope speaks for; None for this offer alone, or for no launch."""
        if self.offer is None or scope is ErrorScope.OFFER:
            return None
        offer, any_ = self.offer, base.ANY
        family = families.group_of(offer.machine_type, offer.market).pattern
        region, zone, machine_type, market = {
            ErrorScope.TYPE_IN_ZONE: (offer.region, offer.zone, offer.machine_type, any_),
            ErrorScope.TYPE_IN_REGION: (offer.region, any_, offer.machine_type, any_),
            ErrorScope.ZONE: (offer.region, offer.zone, any_, any_),
            ErrorScope.REGION: (offer.region, any_, any_, any_),
            ErrorScope.FAMILY: (offer.region, any_, family, offer.market.value),
            ErrorScope.SPOT: (any_, any_, any_, base.Market.SPOT.value),
            ErrorScope.ACCOUNT: (any_, any_, any_, any_),
        }[scope]
        return base.OfferPattern.of(offer.provider, offer.account, region, zone, machine_type, market)
