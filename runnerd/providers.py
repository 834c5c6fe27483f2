"""A configured provider while the daemon runs: its provisioner, its pace, and what it last said."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from provisioners import base
from runnerd import clock, config

log = logging.getLogger(__name__)

#: Seconds for which a provider's offers are taken as known.
OFFERS_FRESH = 300.0


class Bucket:
    """Paces create calls: ``burst`` at once, ``rate`` per second in the long run, nothing while paused."""

    def __init__(self, clock: clock.Clock, *, rate: float, burst: int) -> None:
        self._clock = clock
        self._rate = rate
        self._burst = float(burst)
        self._tokens = float(burst)
        self._at = clock.now()
        self._paused_until = 0.0
        self._turn = asyncio.Lock()

    @property
    def paused_until(self) -> float:
        return self._paused_until

    def pause(self, seconds: float) -> None:
        """The provider asked to be left alone."""
        self._paused_until = max(self._paused_until, self._clock.now() + seconds)

    async def take(self) -> None:
        """Wait for the right to send one call; first come, first served."""
        async with self._turn:
            while True:
                now = self._clock.now()
                self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
                self._at = now
                wait = max(self._paused_until - now, (1.0 - self._tokens) / self._rate)
                if wait <= 0:
                    self._tokens -= 1.0
                    return
                await self._clock.sleep(wait)


@dataclass(slots=True)
class Provider:
    """One provider."""

    name: str
    settings: config.Provider
    provisioner: base.Provisioner
    bucket: Bucket
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
