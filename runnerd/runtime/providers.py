"""A configured provider while the daemon runs: its provisioner, its pace, and what it last said."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provisioners import base
from provisioners.support import numbers, ratelimit
from runnerd import config, errors
from runnerd.kit import clock

log = logging.getLogger(__name__)

#: Seconds for which a provider's offers are taken as known.
OFFERS_FRESH = 300.0
#: Seconds that the first offers of one provider may keep those of the next ones waiting.
OFFERS_AWAITED = 15.0
#: Seconds for which an account's quotas are taken as known; AWS answers six such questions a minute.
QUOTAS_FRESH = 300.0


#: What a provider is asked for a pool's offers: the shape, and the pool's options for it.
_Question = tuple[base.Shape, Mapping[str, Any]]


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
    #: Why it cannot be used now, for people; empty when it can.
    problem: str = ""
    #: Whether its provisioner has been started; until then nothing else is asked of it.
    started: bool = False
    #: The account's quotas as last reported, and when they were asked for.
    quotas: list[base.Quota] = field(default_factory=list)
    quotas_at: float = 0.0
    #: Pool -> when its offers were first asked for; those of which the first answer is awaited.
    _awaited: dict[str, float] = field(default_factory=dict)
    _offers: dict[str, tuple[float, _Question, list[base.Offer]]] = field(default_factory=dict)
    #: Wakes the listing loop before its time.
    listing_wanted: asyncio.Event = field(default_factory=asyncio.Event)
    _buckets: dict[str, ratelimit.Bucket] = field(default_factory=dict)

    async def ensure_started(self) -> None:
        """Start the provisioner unless it is.  Raises :class:`base.ProvisionError`; the next look tries again."""
        if not self.started:
            await self.provisioner.start()
            self.started = True

    def bucket(self, region: str) -> ratelimit.Bucket:
        """Return the bucket that paces the create calls to a region."""
        traits = self.provisioner.traits
        key = region if traits.paced_by_region else ""
        found = self._buckets.get(key)
        if found is None:
            found = self._buckets[key] = ratelimit.Bucket(
                rate=traits.create_rate, burst=traits.create_burst, now=self.clock.now, sleep=self.clock.sleep
            )
        return found

    @property
    def paused_until(self) -> float:
        """The time at which its last backoff ends; in the past when none holds."""
        return max((one.paused_until for one in self._buckets.values()), default=0.0)

    def known_offers(self, pool: config.Pool) -> list[base.Offer]:
        """Return the offers for a pool as last reported; empty before :meth:`refresh`."""
        _, asked, offers = self._offers.get(pool.name, (0.0, None, []))
        return offers if asked == self._question(pool) else []

    def stale(self, pool: config.Pool, now: float) -> bool:
        """Return True when the offers for a pool should be asked for again."""
        asked_at, asked, _ = self._offers.get(pool.name, (float("-inf"), None, []))
        return now - asked_at > OFFERS_FRESH or asked != self._question(pool)

    def awaited(self, pool: config.Pool, now: float) -> bool:
        """Return True while the first answer about a pool's offers is awaited: later providers wait for it."""
        if pool.name in self._offers or self.retired:
            return False
        return now - self._awaited.setdefault(pool.name, now) < OFFERS_AWAITED

    async def refresh(self, pool: config.Pool, now: float) -> None:
        """Ask for the offers of a pool.  Raises :class:`base.ProvisionError`; the old ones stay known."""
        asked = self._question(pool)
        try:
            await self.ensure_started()
            offered = await self.provisioner.offers(*asked)
            # No limit holds against a price that is no number.
            priced = [offer for offer in offered if numbers.real(offer.price) is not None]
            if len(priced) < len(offered):
                log.warning("%s: %d offers have no readable price", self.name, len(offered) - len(priced))
            self._offers[pool.name] = (now, asked, priced)
        except base.ProvisionError:
            self._awaited[pool.name] = float("-inf")
            raise

    def usual_price(self, text: str) -> float:
        """Return dollars per hour for an offer whose price was lost: its own, else the highest for its machine type.

        0 while none is known.
        """
        key = base.OfferKey.read(text)
        known = [offer for _, _, offers in self._offers.values() for offer in offers]
        own = [offer.price for offer in known if offer.key == text]
        alike = [offer.price for offer in known if key is not None and offer.machine_type == key.machine_type]
        return max(own or alike, default=0.0)

    def why_none(self, pool: config.Pool) -> str:
        """Say why the provider has no offers for a pool; empty when it does not know."""
        return self.provisioner.why_none(*self._question(pool))

    def _question(self, pool: config.Pool) -> _Question:
        return pool.shape(self.name), pool.options.get(self.name, {})

    def distrust_quotas(self) -> None:
        """Ask for the account's quotas again soon: a refusal has shown that they were too high, or are old."""
        self.quotas_at = 0.0

    async def refresh_quotas(self, now: float) -> None:
        """Ask for the account's ceilings.  Raises :class:`base.ProvisionError`; the old ones stay known."""
        self.quotas_at = now
        await self.ensure_started()
        self.quotas = await self.provisioner.quotas()


def context(settings: config.Config, name: str, *, clock: clock.Clock, directory: Path | None = None) -> base.Context:
    """Return the surroundings of a provisioner; ``directory`` stands in for its place in the state."""

    def reveal(reference: str) -> str:
        # The mask learns the value here, before anybody can print it.
        try:
            return settings.secret_of(reference, place=f"providers.{name}").reveal()
        except errors.SecretMissing as error:
            raise ValueError(str(error)) from error

    return base.Context(
        name=name,
        controller=settings.controller,
        directory=str(settings.state / "providers" / name if directory is None else directory),
        now=clock.now,
        sleep=clock.sleep,
        secret=reveal,
    )
