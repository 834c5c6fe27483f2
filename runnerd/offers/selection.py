"""Selection: the offers of a pool in the order they are tried now, each with why it cannot be.

Provisioning buys the first open one, the snapshot plans by it and ``explain`` shows it: all ask here, so that what is
shown is what would be done.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from provisioners import base
from runnerd import config
from runnerd.kit import display
from runnerd.model import Instance, InstanceState
from runnerd.offers import admission, blocklist, ranking, request
from runnerd.runtime import providers, shared

#: Seconds for which an API's backoff is waited for; a longer one turns to other offers.
PATIENCE_S = 10.0


class Selection:
    """The offers that can be tried now."""

    def __init__(
        self,
        runtime: shared.Runtime,
        admission: admission.Admission,
        *,
        rerun_outstanding: Callable[[str], bool] = lambda pool: False,
    ) -> None:
        self._runtime = runtime
        self._admission = admission
        self._rerun_outstanding = rerun_outstanding

    def on_demand_only(self, pool: config.Pool) -> bool:
        """Return True while a preempted job runs again and the pool may buy outside the spot market."""
        return base.Market.ON_DEMAND in pool.market.markets and self._rerun_outstanding(pool.name)

    def spill_at(self, row: Instance, pool: config.Pool) -> float:
        """Return when a planned instance may come from another provider than the pool's first."""
        return row.created_at + pool.spill_after

    def for_instance(self, row: Instance, pool: config.Pool) -> list[ranking.Ranked]:
        """Rank the offers for a planned instance: its repository's team pays, and it may still wait to spill."""
        first_only = self._runtime.clock.now() < self.spill_at(row, pool)
        return self.rank(pool, first_only=first_only, repo=row.repo)

    def for_next(self, pool: config.Pool, *, repo: str = "") -> list[ranking.Ranked]:
        """Rank the offers for the instance that is bought next: the oldest planned one, or one that is planned now."""
        planned = [
            row
            for row in self._runtime.rows.instances.values()
            if row.pool == pool.name and row.state is InstanceState.PLANNED
        ]
        if planned:
            return self.for_instance(min(planned, key=lambda row: (row.created_at, row.id)), pool)
        return self.rank(pool, first_only=pool.spill_after > 0, repo=repo)

    def rank(self, pool: config.Pool, *, first_only: bool = False, repo: str = "") -> list[ranking.Ranked]:
        """Return the pool's offers in the order they are tried, each with why it cannot be tried now.

        ``first_only`` closes every provider but the first, for a job that still waits for it (``spill_after``);
        with ``repo`` the limits of its team count as well.
        """
        now = self._runtime.clock.now()
        known: list[base.Offer] = []
        for name in pool.from_:
            provider = self._runtime.providers.get(name)
            if provider is not None:
                known += provider.known_offers(pool)
        ranked = ranking.rank(
            known,
            providers=pool.from_,
            cheapest=pool.order is config.Order.CHEAPEST,
            blocks=self._runtime.rows.blocks.values(),
            now=now,
            closed_providers=self._closed_providers(pool, now, first_only=first_only),
        )
        if pool.market is config.MarketChoice.SPOT_THEN_ON_DEMAND:
            # Stable: the whole list of spot offers comes before the first at list price.
            ranked.sort(key=lambda one: one.offer.market is not base.Market.SPOT)
        on_demand_only = self.on_demand_only(pool)
        return [self._judged(one, pool, repo, on_demand_only, now) if one.open else one for one in ranked]

    def _closed_providers(self, pool: config.Pool, now: float, *, first_only: bool) -> Mapping[str, str]:
        """Return why nothing is bought from some of the pool's providers now."""
        awaited = [
            name
            for name in pool.from_
            if (provider := self._runtime.providers.get(name)) is not None
            and not self.closed(provider)
            and provider.awaited(pool, now)
        ]
        found: dict[str, str] = {}
        for name in pool.from_:
            provider = self._runtime.providers.get(name)
            if provider is None:
                continue
            traits = provider.provisioner.traits
            why = self.closed(provider) or request.boot_script_problem(self._runtime.config, pool, name, traits)
            if not why and awaited:
                why = f"waiting for the first offers from {awaited[0]}"
            if not why and first_only and name != pool.from_[0]:
                why = f"opens after {display.span(pool.spill_after)} of waiting for {pool.from_[0]} (spill_after)"
            if why:
                found[name] = why
        return found

    def _judged(
        self, one: ranking.Ranked, pool: config.Pool, repo: str, on_demand_only: bool, now: float
    ) -> ranking.Ranked:
        """Return an offer that no block holds with what the pool, limits, quotas and the API's backoff say to it."""
        refusal = self._unfit(one.offer, pool, on_demand_only) or self._admission.refusal(
            one.offer, pool=pool.name, repo=repo, lifetime=pool.lifetime
        )
        if refusal:
            return dataclasses.replace(one, refusal=refusal)
        until = self._runtime.providers[one.offer.provider].bucket(one.offer.region).paused_until
        if until - now <= PATIENCE_S:
            return one
        return dataclasses.replace(one, refusal=f"rate-limited; retry in {display.span(until - now)}", until=until)

    def _unfit(self, offer: base.Offer, pool: config.Pool, on_demand_only: bool) -> str:
        """Return why the pool itself does not want an offer now; empty when it does."""
        if on_demand_only and offer.market is base.Market.SPOT:
            return "on-demand only while a preempted job is re-run"
        if pool.max_price is not None and offer.price > pool.max_price:
            return f"${offer.price:.2f} an hour is above the pool's max_price of ${pool.max_price:.2f}"
        return ""

    def closed(self, provider: providers.Provider) -> str:
        """Return why nothing at all is bought from a provider now; empty when something may be."""
        if provider.retired:
            return "the provider was removed from the configuration"
        return provider.problem or self._admission.provider_refusal(provider.name)

    def still_open(self, offer: base.Offer) -> bool:
        """Return False when an offer was blocked, or its provider closed, since it was ranked."""
        now = self._runtime.clock.now()
        active = (block for block in self._runtime.rows.blocks.values() if block.until > now)
        # A reload takes a provider that has changed away for a moment.
        provider = self._runtime.providers.get(offer.provider)
        return provider is not None and not self.closed(provider) and blocklist.blocking(offer, active) is None

    def why_none(self, pool: config.Pool, ranked: list[ranking.Ranked]) -> str:
        """Say why none of the pool's offers can be tried, or why there are none."""
        if ranked:
            return ranking.summary(ranked)
        found = []
        now = self._runtime.clock.now()
        for name in pool.from_:
            provider = self._runtime.providers.get(name)
            if provider is not None and provider.awaited(pool, now):
                return f"waiting for the first offers from {name}"
            why = provider.why_none(pool) if provider is not None else ""
            if why:
                found.append(f"{name}: {why}")
        return "; ".join(found) or "no provider of the pool offers a machine that fits"
