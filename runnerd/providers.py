"""A configured provider while the daemon runs: its provisioner, its pace, and what it last said."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from provisioners import base, pace
from runnerd import clock, config

log = logging.getLogger(__name__)

#: Seconds for which a provider's offers are taken as known.
OFFERS_FRESH = 300.0


@dataclass(slots=True)
class Provider:
    """One provider."""

    name: str
    settings: config.Provider
    provisioner: base.Provisioner
    clock: clock.Clock
    #: It left the configuration but has instances: nothing is bought from it any more.
    retired: bool = False
    #: What its last listing said, and when; None before the first.
    listing: base.Listing | None = None
    listed_at: float = 0.0
    #: Why it cannot be used now, in plain words; empty when it can.
    problem: str = ""
    _offers: dict[base.Shape, tuple[float, list[base.Offer]]] = field(default_factory=dict)
    #: Wakes the listing loop before its time.
    listing_wanted: asyncio.Event = field(default_factory=asyncio.Event)
    _buckets: dict[str, pace.Bucket] = field(default_factory=dict)

    def bucket(self, region: str) -> pace.Bucket:
        """What paces the create calls that go to a region."""
        traits = self.provisioner.traits
        key = region if traits.paced_by_region else ""
        found = self._buckets.get(key)
        if found is None:
            found = self._buckets[key] = pace.Bucket(
                rate=traits.create_rate, burst=traits.create_burst, now=self.clock.now, sleep=self.clock.sleep
            )
        return found

    @property
    def paused_until(self) -> float:
        """When the last of its pauses ends; in the past when none holds."""
        return max((one.paused_until for one in self._buckets.values()), default=0.0)

    def known_offers(self, shape: base.Shape) -> list[base.Offer]:
        """The offers for a shape as last told; empty before :meth:`refresh`."""
        return self._offers.get(shape, (0.0, []))[1]

    def stale(self, shape: base.Shape, now: float) -> bool:
        """True when the offers for a shape should be asked for again."""
        return now - self._offers.get(shape, (float("-inf"), []))[0] > OFFERS_FRESH

    async def refresh(self, shape: base.Shape, now: float) -> None:
        """Ask for the offers of a shape.  Raises :class:`base.ProvisionError`; the old ones stay known."""
        offers = await self.provisioner.offers(shape)
        self._offers[shape] = (now, offers)
