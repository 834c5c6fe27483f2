"""How far an error speaks: the offers that it says something about, as an offer pattern."""

from __future__ import annotations

import enum

from provisioners import base
from provisioners.aws import families


class ErrorScope(enum.StrEnum):
    """How far a refusal speaks: an offer pattern with the offer's own parts."""

    #: This offer and nothing else.
    OFFER = ""
    #: The type in its zone, in every market.
    TYPE_IN_ZONE = "{provider}/{account}/{region}/{zone}/{type}/*"
    #: The type in the region: what its requests have in common (image, boot script, options) is refused.
    TYPE_IN_REGION = "{provider}/{account}/{region}/*/{type}/*"
    #: Whatever is launched in that zone.
    ZONE = "{provider}/{account}/{region}/{zone}/*/*"
    REGION = "{provider}/{account}/{region}/*/*/*"
    #: The types that one quota counts together, in this market.
    FAMILY = "{provider}/{account}/{region}/*/{family}/{market}"
    #: The spot market as a whole.
    SPOT = "{provider}/{account}/*/*/*/spot"
    ACCOUNT = "{provider}/{account}/*/*/*/*"


def pattern(scope: ErrorScope, offer: base.Offer | None) -> str:
    """The offer pattern that a refusal speaks for."""
    if offer is None:
        return ""
    return scope.value.format(
        provider=offer.provider,
        account=offer.account,
        region=offer.region,
        zone=offer.zone,
        type=offer.machine_type,
        market=offer.market.value,
        family=families.group_of(offer.machine_type, offer.market).pattern,
    )
