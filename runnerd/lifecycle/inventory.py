"""Listings: what each provider has of ours, turned into evidence, and what has no row, adopted or swept.

Absence counts only in a scope that the listing declares complete and past the provider's visibility grace.  What
carries our tags without a live row (the database was lost, or a create call arrived late after all) becomes a row at
once, so that it is counted, billed and ended through the same gate as any other; nothing is deleted from here.
"""

from __future__ import annotations

import asyncio
import logging

from provisioners import base
from provisioners.support import numbers
from runnerd import model
from runnerd.kit import clock
from runnerd.lifecycle import registration
from runnerd.model import Attempt, AttemptKey, AttemptState, Instance, InstanceId, InstanceState, Reason
from runnerd.offers import request
from runnerd.runtime import providers, shared

log = logging.getLogger(__name__)

#: Seconds for which an instance that is gone is remembered, so that an old listing does not bring it back.
REMEMBER = 3600.0
#: Seconds in which what a refused attempt left behind is gone as a rule: on its way out, or about to be.
LEFT_BEHIND = {base.InstanceStatus.ENDING: 600.0, base.InstanceStatus.FAILED: 60.0}
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


class Observer:
    """Lists each provider at its pace."""

    def __init__(self, runtime: shared.Runtime, registrar: registration.Registrar) -> None:
        self._runtime = runtime
        self._registrar = registrar
        #: Residues seen once; deleted when seen again.
        self._residues: dict[tuple[str, str], float] = {}
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
        while attempts and now - next(iter(attempts.values())) > REMEMBER:
            del attempts[next(iter(attempts))]

    async def follow(self, provider: providers.Provider) -> None:
        """List a provider until cancelled."""
        while True:
            try:
                await self.look(provider)
            except Exception as error:
                # What was seen could not be written, or a plugin broke: the next look sees it again.
                log.exception("%s: a listing could not be taken in", provider.name)
                self._runtime.alarms.ring("provider", provider.name, "listing-failed", str(error))
            failing = bool(provider.problem)
            interval = (
                min(10.0, self._runtime.config.reconcile.list_interval)
                if failing
                else (self._runtime.config.reconcile.list_interval)
            )
            await clock.sleep_or_wake(self._runtime.clock, interval, provider.listing_wanted)
            # A burst of wishes makes one listing.
            await self._runtime.clock.sleep(0.2)

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
            words = "; ".join(f"{scope}: {why}" for scope, why in sorted(listing.failures.items()))
            self._runtime.alarms.ring("provider", provider.name, "listing-partial", words)
        else:
            self._runtime.alarms.clear("provider", provider.name, "listing-partial")
        self._runtime.alarms.clear("provider", provider.name, "listing-failed")
        self._runtime.alarms.clear("provider", provider.name, "start-failed")
        provider.problem = ""
        await self._take_in(provider, listing, started)
        await self._sweep_residues(provider, listing)
        self._runtime.wake()

    async def _take_in(self, provider: providers.Provider, listing: base.Listing, started: float) -> None:
        rows = self._runtime.rows
        seen: set[str] = set()
        for view in listing.views:
            attempt = view.tags.get(base.TAG_ATTEMPT, "")
            row = rows.instances.get(InstanceId(view.name))
            if row is not None and row.attempt != attempt:
                # A second one under one name has a row under a name of its own.
                row = rows.instances.get(_second(view), row)
            if row is not None and row.state not in model.CLOSED and row.attempt == attempt:
                seen.add(row.id)
                if row.adopted and row.price <= 0 and (price := provider.usual_price(row.offer)) > 0:
                    await rows.amend(row.id, price=price)
                if row.state in EXPECTED:
                    witness = self._runtime.witness(row.id)
                    witness.cloud, witness.cloud_at, witness.absences, witness.seen = view.status, started, 0, True
                    witness.healthy, witness.failure = view.healthy, view.failure
                continue
            if view.status is base.InstanceStatus.GONE:
                continue
            if self._left_behind(attempt, view, started):
                continue
            closed_at = self._closed.get(attempt)
            if closed_at is not None and started < closed_at + provider.provisioner.traits.visibility_grace:
                continue  # an old listing: it was seen gone since
            await self._adopt(provider, view)
        grace = provider.provisioner.traits.visibility_grace
        for row in list(rows.instances.values()):
            if row.provider != provider.name or row.state not in EXPECTED or row.id in seen:
                continue
            key = base.OfferKey.read(row.offer)
            # The row must be older than the listing by the grace: a young instance may not be listed yet.
            if key is not None and listing.covers(key.scope) and started - max(row.running_at, row.created_at) > grace:
                self._runtime.witness(row.id).absences += 1

    def _left_behind(self, attempt: str, view: base.InstanceView, started: float) -> bool:
        """What a refused attempt left never ran and is being deleted; only if it stays it becomes a row of its own."""
        refused_at = self._refused.get(attempt)
        patience = LEFT_BEHIND.get(view.status)
        return refused_at is not None and patience is not None and started - refused_at <= patience

    async def _adopt(self, provider: providers.Provider, view: base.InstanceView) -> None:
        """Make a row for an instance that carries our tags and has none."""
        rows = self._runtime.rows
        id = InstanceId(view.name)
        key = AttemptKey(view.tags.get(base.TAG_ATTEMPT, ""))
        live = rows.instances.get(id)
        if live is not None and live.state not in model.CLOSED:
            # A live row with another attempt: this one must not be, and is ended under a name of its own.
            id = _second(view)
            if id in rows.instances:
                return
        now = self._runtime.clock.now()
        row = Instance(
            id=id,
            pool=view.tags.get(base.TAG_POOL, ""),
            state=InstanceState.BOOTING,
            created_at=view.created_at or now,
            since=now,
            attempt=key or None,
            provider=provider.name,
            offer=view.offer or view.scope.offer(base.UNKNOWN, base.UNKNOWN),
            region=view.offer.region if view.offer else "",
            zone=view.offer.zone if view.offer else "",
            machine_type=view.offer.machine_type if view.offer else "",
            market=view.offer.market if view.offer else "",
            gpus=pool.gpu_count if (pool := self._runtime.config.pools.get(view.tags.get(base.TAG_POOL, ""))) else 0,
            ref=view.ref,
            price=numbers.real(view.tags.get(base.TAG_PRICE)) or provider.usual_price(view.offer or ""),
            running_at=view.created_at or now,
            deadline=numbers.real(view.tags.get(base.TAG_DEADLINE)) or 0.0,
            repo=view.tags.get(request.TAG_REPO, ""),
            adopted=True,
            detail="found by its tags",
        )
        attempt: Attempt | None = None
        if key:
            attempt = Attempt(
                key=key,
                instance=id,
                state=AttemptState.CREATED,
                provider=provider.name,
                offer=row.offer,
                sealed="",
                created_at=row.created_at,
                since=now,
                price=row.price,
                detail="found by its tags",
            )
        await rows.adopt(row, f"found by its tags at {provider.name} as {view.ref}", attempt_row=attempt)
        witness = self._runtime.witness(id)
        witness.cloud, witness.cloud_at, witness.healthy = view.status, now, view.healthy
        witness.failure = view.failure
        self._runtime.alarms.ring(
            "instance", id, "adopted", f"{view.ref} at {provider.name} carried our tags and had no row"
        )
        if live is not None and live.id != id:
            await rows.step(id, InstanceState.DRAINING, reason=Reason.ORPHAN, detail="a second one under one name")
            return
        self._runtime.background.spawn(f"discover {id}", self._discover(id))

    async def _discover(self, id: InstanceId) -> None:
        row = self._runtime.rows.instances.get(id)
        if row is not None:
            await self._registrar.discover(row)
            self._runtime.wake()

    async def _sweep_residues(self, provider: providers.Provider, listing: base.Listing) -> None:
        present = set()
        failed = []
        for residue in listing.residues:
            key = (provider.name, residue.ref)
            present.add(key)
            owner = self._runtime.rows.instances.get(InstanceId(residue.tags.get(base.TAG_INSTANCE, "")))
            grace = provider.provisioner.traits.visibility_grace
            if owner is not None or self._runtime.clock.now() - residue.created_at < grace:
                continue
            if key not in self._residues:
                self._residues[key] = self._runtime.clock.now()
                continue
            try:
                await provider.provisioner.delete_residue(residue)
            except base.ProvisionError as error:
                failed.append(f"{residue.kind} {residue.ref}: {error}")
        if failed:
            self._runtime.alarms.ring("provider", provider.name, "residue", "; ".join(failed[:5]))
        else:
            self._runtime.alarms.clear("provider", provider.name, "residue")
        for key in [key for key in self._residues if key[0] == provider.name and key not in present]:
            del self._residues[key]


def _second(view: base.InstanceView) -> InstanceId:
    """The name under which an instance is known that must not be beside the one that has its name."""
    return InstanceId(f"{view.name}-{(view.tags.get(base.TAG_ATTEMPT) or 'x')[:6]}")
