"""Which offer to try next: ranking and the blocklist.  Pure.

A failure speaks for a place: one zone, one region, one account.  It blocks a wildcard pattern over
``provider/account/region/zone/type/market``, with ``a|b`` for either, for a time that depends on its class or that the
provider documents, and everything under the pattern is skipped until then.  A seventh segment is the image: what does
not boot is blamed on its image once other types fail with it too.  Throttling is not here: it pauses an API, the offer
is not to blame.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from provisioners.base import Failure, Kind, Offer, OfferPattern
from runnerd.model import Block

#: Seconds that a failure blocks its scope, first and at most; it doubles while the same pattern fails again.
BLOCK_TIMES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        Kind.CAPACITY: (60.0, 900.0),
        Kind.QUOTA: (120.0, 1800.0),
        Kind.PRICE: (300.0, 1800.0),
        Kind.AUTH: (120.0, 900.0),
        Kind.CONFIG: (300.0, 3600.0),
        Kind.TRANSIENT: (5.0, 120.0),
        Kind.NOT_FOUND: (300.0, 3600.0),
        # Failures on our side of the create call count against the offer as well.
        Kind.BOOT: (300.0, 3600.0),
        "gate": (900.0, 7200.0),
        "register": (120.0, 1800.0),
        "preempted": (300.0, 1800.0),
    }
)


@dataclass(frozen=True, slots=True)
class Ranked:
    """An offer with what can be said about trying it now."""

    offer: Offer
    #: Empty when it can be tried; otherwise why not, in plain words.
    refusal: str = ""
    #: When the refusal ends by itself; 0 when it does not.
    until: float = 0.0

    @property
    def open(self) -> bool:
        return not self.refusal


def rank(
    offers: Sequence[Offer],
    *,
    providers: Sequence[str],
    cheapest: bool,
    blocks: Iterable[Block],
    now: float,
    closed_providers: Mapping[str, str] = MappingProxyType({}),
) -> list[Ranked]:
    """Put offers in the order in which they are tried; blocked ones keep their place and carry the reason.

    ``closed_providers`` maps a provider to why it takes nothing now (its limit, no answer, retired).
    """
    place = {name: index for index, name in enumerate(providers)}
    known = [offer for offer in offers if offer.provider in place]
    if cheapest:
        ranked = sorted(known, key=lambda offer: (offer.price, place[offer.provider]))
    else:
        # Stable: within a provider the provisioner's own order stands.
        ranked = sorted(known, key=lambda offer: place[offer.provider])
    active = [block for block in blocks if block.until > now]
    result = []
    for offer in ranked:
        closed = closed_providers.get(offer.provider, "")
        if closed:
            result.append(Ranked(offer, closed))
            continue
        block = blocking(offer, active)
        if block is None:
            result.append(Ranked(offer))
        else:
            wait = max(0, round(block.until - now))
            words = f"{block.reason} since {max(0, round(now - block.since))} s, tried again in {wait} s"
            result.append(Ranked(offer, f"{words} ({block.detail})" if block.detail else words, block.until))
    return result


def blocking(offer: Offer, blocks: Iterable[Block]) -> Block | None:
    """The block that holds an offer longest, if any does."""
    found: Block | None = None
    key = offer.key.with_image(offer.image)
    for block in blocks:
        if OfferPattern(block.pattern).matches(key) and (found is None or block.until > found.until):
            found = block
    return found


def block(offer: Offer, reason: str, failure: Failure, *, blocks: Iterable[Block], now: float) -> Block | None:
    """The block that a failure earns for a reason; None when its class blocks nothing, or nothing more than is.

    The reason is the failure's kind, or ours: ``gate``, ``register``, ``preempted``.  The time that the provider
    documents wins; otherwise it doubles when the same pattern failed for the same reason not long ago.
    """
    times = BLOCK_TIMES.get(reason)
    if times is None:
        return None
    first, most = times
    pattern = failure.scope or offer.key
    old = next((one for one in blocks if one.pattern == pattern), None)
    duration = first
    if old is not None and old.reason == reason and now - old.until < most:
        duration = min(most, max(first, 2 * (old.until - old.since)))
    until = now + (failure.block_for or duration)
    if old is not None and old.reason != reason and old.until > until:
        return None  # what is known already holds it longer
    return Block(pattern=pattern, reason=reason, until=until, since=now, detail=failure.message)
