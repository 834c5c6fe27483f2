"""Refreshing offers and quotas in the background.

A cloud that hangs must not stop the passes of the others: a pass works with the last answers.
"""

from __future__ import annotations

import asyncio
import logging

from provisioners import base
from runnerd import config
from runnerd.kit import tasks
from runnerd.runtime import providers, shared

log = logging.getLogger(__name__)

#: Seconds that a provider may take to answer, and seconds until it is asked for offers again after a failure.
ANSWER_S, BACKOFF_S = 60.0, 10.0


class Refresher:
    """Keeps what is known of offers and quotas fresh."""

    def __init__(self, runtime: shared.Runtime, actions: tasks.Group) -> None:
        self._runtime = runtime
        self._actions = actions
        #: Provider and pool -> when its offers may be asked for again.
        self._after: dict[tuple[str, str], float] = {}

    def refresh(self) -> None:
        """Ask for what is stale; called at the start of each pass."""
        now = self._runtime.clock.now()
        for pool in self._runtime.config.pools.values():
            for name in pool.from_:
                provider = self._runtime.providers.get(name)
                if provider is None or not provider.stale(pool, now):
                    continue
                if now >= self._after.get((name, pool.name), 0.0):
                    self._after[name, pool.name] = now + ANSWER_S
                    self._actions.spawn(f"offers {name} {pool.name}", self._ask_offers(provider, pool))
        for provider in self._runtime.providers.values():
            if now - provider.quotas_at > providers.QUOTAS_FRESH:
                self._actions.spawn(f"quotas {provider.name}", self._ask_quotas(provider))

    async def _ask_offers(self, provider: providers.Provider, pool: config.Pool) -> None:
        name = provider.name
        try:
            async with asyncio.timeout(ANSWER_S):
                await provider.refresh(pool, self._runtime.clock.now())
        except (base.ProvisionError, TimeoutError) as error:
            self._runtime.alarms.ring("provider", name, "offers-failed", str(error) or "no answer in time")
            self._after[name, pool.name] = self._runtime.clock.now() + BACKOFF_S
            return
        self._after.pop((name, pool.name), None)
        self._runtime.alarms.clear("provider", name, "offers-failed")
        self._runtime.wake()

    async def _ask_quotas(self, provider: providers.Provider) -> None:
        """Ask for the quotas; without an answer nothing is held back, and the provider itself refuses what is over."""
        try:
            async with asyncio.timeout(ANSWER_S):
                await provider.refresh_quotas(self._runtime.clock.now())
        except (base.ProvisionError, TimeoutError) as error:
            log.info("%s: quotas are unknown: %s", provider.name, error or "no answer in time")
