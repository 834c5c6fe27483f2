"""The order in which offers are tried.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from provisioners.base import Offer
from runnerd.kit import display
from runnerd.model import Block
from runnerd.offers import blocklist


@dataclass(frozen=True, slots=True)
class Ranked:
    """An offer with what can be said about trying it now."""

    offer: Offer
    #: Empty when it can be tried; otherwise why not, for people.
    refusal: str = ""
    #: When the refusal ends by itself; 0 when it does not.
    until: float = 0.0

    @property
    def open(self) -> bool:
        """True when the offer can be tried now."""
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
        block = blocklist.blocking(offer, active)
        result.append(Ranked(offer) if block is None else Ranked(offer, _blocked(block, now), block.until))
    return result


def _blocked(block: Block, now: float) -> str:
    cause = f"{block.reason}: {block.detail}" if block.detail else block.reason
    return f"blocked {display.span(now - block.since)} ago ({cause}); retry in {display.span(block.until - now)}"


def summary(ranked: Iterable[Ranked]) -> str:
    """Say why none of some offers can be tried, each reason with the first offers that it holds back."""
    reasons: dict[str, list[str]] = {}
    for one in ranked:
        reasons.setdefault(one.refusal, []).append(one.offer.key)
    return "; ".join(f"{reason} [{', '.join(keys[:3])}]" for reason, keys in list(reasons.items())[:5])
