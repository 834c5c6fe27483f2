"""Inventory: listings of what each provider has of ours, taken in as observations.

Absence counts only in a scope that the listing declares complete and past the provider's visibility grace.  What
carries our tags without a live row is adopted; a side resource whose instance is gone is deleted once two listings
have shown it.
"""

from __future__ import annotations

import asyncio
import logging

from provisioners import base
from runnerd import model
from runnerd.kit import clock
from runnerd.lifecycle import adoption
from runnerd.model import Attempt, AttemptState, Instance, InstanceId, InstanceState
from runnerd.runtime import providers, shared

log = logging.getLogger(__name__)

#: Seconds for which an instance that is gone is remembered, so that an old listing does not bring it back.
REMEMBER_S = 3600.0
#: Seconds until a provider that failed is listed again at the latest, and for which wake-ups gather.
RETRY_S, GATHER_S = 10.0, 0.2
#: Seconds in which what a refused attempt left behind is gone as a rule, by its status.
LEFT_BEHIND_S = {base.InstanceStatus.ENDING: 600.0, base.InstanceStatus.FAILED: 60.0}
#: States in which a provider should have the instance.
EXPECTED = frozenset(
    {
        InstanceState.BOOTING,
        InstanceState.READY,
        InstanceState.REGISTERING,
        InstanceState.REGISTERED,
        InstanceState.BUSY,
        InstanceState.DRAINING,
        InstanceState.ENDING,
    }
)


class Inventory:
    """Lists each provider at its pace."""

    def __init__(self, runtime: shared.Runtime, adoption: adoption.Adoption) -> None:
        self._runtime = runtime
        self._adoption = adoption
        #: Side resources without an instance that were seen once; deleted when seen again.
        self._orphans: dict[tuple[str, str], float] = {}
        #: Attempts whose instances were seen gone lately, and attempts that were refused lately, and when.
        self._closed: dict[str, float] = {}
        self._refused: dict[str, float] = {}
        runtime.rows.on_step.append(self._stepped)
        runtime.rows.on_attempt.append(self._attempted)

    def _stepped(self, old: Instance, new: Instance) -> None:
        if new.state is not InstanceState.GONE or not old.attempt:
            return
        self._remember(self._closed, old.attempt)

    def _attempted(self, old: Attempt | None, new: Attempt) -> None:
        if new.state is AttemptState.FAILED:
            self._remember(self._refused, new.key)

    def _remember(self, attempts: dict[str, float], key: str) -> None:
        now = self._runtime.clock.now()
        attempts[key] = now
        while attempts and now - next(iter(attempts.values())) > REMEMBER_S:
            del attempts[next(iter(attempts))]

    async def follow(self, provider: providers.Provider) -> None:
        """List a provider until cancelled."""
        while True:
            try:
                await self.look(provider)
            except Exception as error:
                # What was seen could not be written, or a plugin broke: the next listing shows it again.
                log.exception("%s: a listing could not be processed", provider.name)
                self._runtime.alarms.ring("provider", provider.name, "listing-failed", str(error))
            interval = self._runtime.config.reconcile.list_interval
            if provider.problem:
                interval = min(RETRY_S, interval)
            await clock.sleep_or_wake(self._runtime.clock, interval, provider.listing_wanted)
            # A burst of wake-ups makes one listing.
            await self._runtime.clock.sleep(GATHER_S)

    async def look(self, provider: providers.Provider) -> None:
        """List a provider once and take in what it says."""
        started = self._runtime.clock.now()
        try:
            await provider.ensure_started()
            listing = await provider.provisioner.list_owned(self._runtime.scopes(provider.name))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if not isinstance(error, base.ProvisionError):
                log.exception("%s: listing failed in an unexpected way", provider.name)
            provider.problem = f"listing failed: {error}"
            self._runtime.alarms.ring("provider", provider.name, "listing-failed", str(error))
            return
        provider.listing, provider.listed_at = listing, started
        if listing.failures:
            detail = "; ".join(f"{scope}: {why}" for scope, why in sorted(listing.failures.items()))
            self._runtime.alarms.ring("provider", provider.name, "listing-partial", detail)
        else:
            self._runtime.alarms.clear("provider", provider.name, "listing-partial")
        self._runtime.alarms.clear("provider", provider.name, "listing-failed")
        self._runtime.alarms.clear("provider", provider.name, "start-failed")
        provider.problem = ""
        await self._take_in(provider, listing, started)
        await self._sweep_orphans(provider, listing)
        self._runtime.wake()

    async def _take_in(self, provider: providers.Provider, listing: base.Listing, started: float) -> None:
        rows = self._runtime.rows
        seen: set[str] = set()
        for view in listing.views:
            attempt = view.tags.get(base.TAG_ATTEMPT, "")
            row = rows.instances.get(InstanceId(view.name))
            if row is not None and row.attempt != attempt:
                # A second one under one name has a row under a name of its own.
                row = rows.instances.get(adoption.second_name(view), row)
            if row is not None and row.state not in model.CLOSED and row.attempt == attempt:
                seen.add(row.id)
                if row.adopted and row.price <= 0 and (price := provider.usual_price(row.offer)) > 0:
                    await rows.amend(row.id, price=price)
                if row.state in EXPECTED:
                    self._runtime.observations.listed(row.id, view, asked_at=started)
                continue
            if view.status is base.InstanceStatus.GONE:
                continue
            if self._left_behind(attempt, view, started):
                continue
            closed_at = self._closed.get(attempt)
            if closed_at is not None and started < closed_at + provider.provisioner.traits.visibility_grace:
                continue  # an old listing: it was seen gone since
            await self._adoption.adopt(provider, view)
        grace = provider.provisioner.traits.visibility_grace
        for row in list(rows.instances.values()):
            if row.provider != provider.name or row.state not in EXPECTED or row.id in seen:
                continue
            key = base.OfferKey.read(row.offer)
            # The row must be older than the listing by the grace: a young instance may not be listed yet.
            if key is not None and listing.covers(key.scope) and started - max(row.running_at, row.created_at) > grace:
                self._runtime.observations.missed(row.id)

    def _left_behind(self, attempt: str, view: base.InstanceView, started: float) -> bool:
        """Return True for what a refused attempt left: it never ran and is being deleted; if it stays it is adopted."""
        refused_at = self._refused.get(attempt)
        patience = LEFT_BEHIND_S.get(view.status)
        return refused_at is not None and patience is not None and started - refused_at <= patience

    async def _sweep_orphans(self, provider: providers.Provider, listing: base.Listing) -> None:
        present = set()
        failed = []
        for orphan in listing.residues:
            key = (provider.name, orphan.ref)
            present.add(key)
            owner = self._runtime.rows.instances.get(InstanceId(orphan.tags.get(base.TAG_INSTANCE, "")))
            grace = provider.provisioner.traits.visibility_grace
            if owner is not None or self._runtime.clock.now() - orphan.created_at < grace:
                continue
            if key not in self._orphans:
                self._orphans[key] = self._runtime.clock.now()
                continue
            try:
                await provider.provisioner.delete_residue(orphan)
            except base.ProvisionError as error:
                failed.append(f"{orphan.kind} {orphan.ref}: {error}")
        if failed:
            self._runtime.alarms.ring("provider", provider.name, "residue", "; ".join(failed[:5]))
        else:
            self._runtime.alarms.clear("provider", provider.name, "residue")
        for key in [key for key in self._orphans if key[0] == provider.name and key not in present]:
            del self._orphans[key]
