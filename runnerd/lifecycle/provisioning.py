"""Buys instances: one attempt at a time, each committed before it is sent, each unclear answer resolved first.

A create call ends in one of three ways.  It yielded an instance; it certainly did not, and the next offer is tried at
once; or nobody knows, and then nothing else is tried for this instance until a listing, or the same request again
within the provider's replay window, has told.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import Any

from provisioners import base
from runnerd import config, planner
from runnerd.model import Attempt, AttemptKey, AttemptState, Instance, InstanceId, InstanceState, Reason
from runnerd.offers import admission, blocklist, ranking
from runnerd.offers import request as launch_request
from runnerd.runtime import providers, shared

log = logging.getLogger(__name__)

#: Seconds that a create call may take before its outcome counts as unclear.
CREATE_TIMEOUT = 300.0
#: Seconds for which the pause of an API is waited for; a longer one turns to other offers.
PATIENCE = 10.0
#: Seconds after which a call that was given up on is surely not being carried out any more.
LINGER = 60.0
#: Offers tried for one instance in a row; then it is planned anew, with what was learned meanwhile.
MOST_TRIES = 25


class Launcher:
    """Turns planned instances into booting ones."""

    def __init__(
        self,
        runtime: shared.Runtime,
        admission: admission.Admission,
        blame: blocklist.Blame,
        *,
        bundle: Callable[[], str],
    ) -> None:
        self._runtime = runtime
        self._admission = admission
        self._blame = blame
        #: Attempts whose answer was lost, and when last.
        self._lost: dict[AttemptKey, float] = {}
        self._bundle = bundle
        #: Whether a pool buys outside the spot market only, for now.
        self.on_demand_only: Callable[[config.Pool], bool] = lambda _: False
        #: Called with (pool, words) when a planned instance found no offer.
        self.on_give_up: Callable[[str, str], None] = lambda pool, words: None

    # -- choosing ----------------------------------------------------------------------------------------------

    def spill_at(self, row: Instance, pool: config.Pool) -> float:
        """When a planned instance may come from another provider than the pool's first."""
        return row.created_at + pool.spill_after

    def rank(self, pool: config.Pool, *, first_only: bool = False, repo: str = "") -> list[ranking.Ranked]:
        """The pool's offers in the order they are tried, each with why it cannot be tried now.

        ``first_only`` closes every provider but the first, for a job that still waits for it (``spill_after``);
        with ``repo`` the limits of its team count as well.
        """
        now = self._runtime.clock.now()
        awaited = [
            name
            for name in pool.from_
            if (seller := self._runtime.providers.get(name)) is not None
            and not self._closed(seller)
            and seller.awaited(pool, now)
        ]
        known: list[base.Offer] = []
        closed: dict[str, str] = {}
        for name in pool.from_:
            provider = self._runtime.providers.get(name)
            if provider is None:
                continue
            known += provider.known_offers(pool)
            traits = provider.provisioner.traits
            why = self._closed(provider) or launch_request.boot_script_problem(self._runtime.config, pool, name, traits)
            if not why and awaited:
                why = f"waits for the first offers of {awaited[0]}"
            if not why and first_only and name != pool.from_[0]:
                why = f"waits {pool.spill_after:.0f} s for {pool.from_[0]} first"
            if why:
                closed[name] = why
        ranked = ranking.rank(
            known,
            providers=pool.from_,
            cheapest=pool.order is config.Order.CHEAPEST,
            blocks=self._runtime.rows.blocks.values(),
            now=now,
            closed_providers=closed,
        )
        if pool.market is config.MarketChoice.SPOT_THEN_ON_DEMAND:
            # Stable: the whole list of spot offers comes before the first at list price.
            ranked.sort(key=lambda one: one.offer.market is not base.Market.SPOT)
        lifetime = launch_request.lifetime_of(pool)
        sure = self.on_demand_only(pool)
        result = []
        for one in ranked:
            if one.open:
                words = self._unfit(one.offer, pool, sure=sure)
                words = words or self._admission.refusal(one.offer, pool=pool.name, repo=repo, lifetime=lifetime)
                one = dataclasses.replace(one, refusal=words)
            if one.open:
                one = self._paused(one, now)
            result.append(one)
        return result

    def _paused(self, one: ranking.Ranked, now: float) -> ranking.Ranked:
        """A short pause of an API is waited for; while a long one lasts, others are asked."""
        until = self._runtime.providers[one.offer.provider].bucket(one.offer.region).paused_until
        if until - now <= PATIENCE:
            return one
        return dataclasses.replace(one, refusal=f"its API asks to be left alone for {until - now:.0f} s", until=until)

    def _unfit(self, offer: base.Offer, pool: config.Pool, *, sure: bool) -> str:
        """Why the pool itself does not want an offer now; empty when it does."""
        if sure and offer.market is base.Market.SPOT:
            return "an interrupted job runs again: on demand only"
        if pool.max_price is not None and offer.price > pool.max_price:
            return f"${offer.price:.2f} an hour is above the pool's max_price of ${pool.max_price:.2f}"
        return ""

    def why_none(self, pool: config.Pool, ranked: list[ranking.Ranked]) -> str:
        """Plain words for an empty list of offers to try."""
        if ranked:
            return why_none(ranked)
        found = []
        now = self._runtime.clock.now()
        for name in pool.from_:
            provider = self._runtime.providers.get(name)
            if provider is not None and provider.awaited(pool, now):
                return f"waits for the first offers of {name}"
            words = provider.provisioner.why_none(pool.shape(name)) if provider is not None else ""
            if words:
                found.append(f"{name}: {words}")
        return "; ".join(found) or "no provider of the pool offers a machine that fits"

    def _closed(self, provider: providers.Provider) -> str:
        if provider.retired:
            return "the provider left the configuration"
        return provider.problem or self._admission.provider_refusal(provider.name)

    # -- requesting --------------------------------------------------------------------------------------------

    async def request(self, id: InstanceId) -> None:
        """Try offers for a planned instance until one yields it, none is left, or nobody wants it any more."""
        tries = 0
        while tries < MOST_TRIES:
            row = self._runtime.rows.instances.get(id)
            if row is None or row.state is not InstanceState.PLANNED:
                return
            pool = self._runtime.config.pools.get(row.pool)
            if pool is None:
                await self._give_up(id, Reason.RETIRED, "its pool left the configuration")
                return
            patient = self._runtime.clock.now() < self.spill_at(row, pool)
            ranked = self.rank(pool, first_only=patient, repo=row.repo)
            best = next((one for one in ranked if one.open), None)
            if best is None and patient:
                return  # it stays planned; the planner asks again
            if best is None:
                await self._give_up(id, Reason.NO_OFFER, self.why_none(pool, ranked))
                return
            provider = self._runtime.providers[best.offer.provider]
            bucket = provider.bucket(best.offer.region)
            # The wait may be long: is it still wanted, and is the offer still open?
            if not await bucket.take(unless=functools.partial(self._passed, id, provider, best.offer)):
                continue
            refusal = self._admission.admit(
                best.offer, pool=pool.name, repo=row.repo, lifetime=launch_request.lifetime_of(pool), instance=id
            )
            if refusal:
                bucket.give_back()
                continue  # what was left went to another meanwhile; the next offer may have room
            tries += 1
            await self._attempt(row, pool, provider, best.offer)
        await self._give_up(id, Reason.NO_OFFER, f"{MOST_TRIES} offers were tried in a row and refused")

    def _passed(self, id: InstanceId, provider: providers.Provider, offer: base.Offer) -> bool:
        """True when an offer need not be waited for any more: it is closed, or the instance is not wanted."""
        row = self._runtime.rows.instances.get(id)
        if row is None or row.state is not InstanceState.PLANNED:
            return True
        return bool(self._closed(provider)) or self._blocked(offer)

    def _blocked(self, offer: base.Offer) -> bool:
        now = self._runtime.clock.now()
        active = (block for block in self._runtime.rows.blocks.values() if block.until > now)
        return ranking.blocking(offer, active) is not None

    async def _give_up(self, id: InstanceId, reason: Reason, detail: str) -> None:
        stepped = await self._runtime.rows.step(
            id, InstanceState.FAILED, expect={InstanceState.PLANNED}, reason=reason, detail=detail
        )
        if stepped is not None and reason is Reason.NO_OFFER:
            self.on_give_up(stepped.pool, detail)
        self._runtime.wake()

    async def _attempt(self, row: Instance, pool: config.Pool, provider: providers.Provider, offer: base.Offer) -> None:
        now = self._runtime.clock.now()
        key = AttemptKey(self._runtime.fresh_name(26))
        request = launch_request.compose(
            self._runtime.config,
            offer,
            pool=pool,
            traits=provider.provisioner.traits,
            instance=row.id,
            key=key,
            repo=row.repo,
            bundle=self._bundle(),
            now=now,
        )
        attempt = Attempt(
            key=key,
            instance=row.id,
            state=AttemptState.REQUESTING,
            provider=provider.name,
            offer=offer.key,
            sealed=launch_request.seal(request),
            created_at=now,
            since=now,
            sent_at=now,
            sends=1,
            price=offer.price,
        )
        try:
            stepped = await self._runtime.rows.step(
                row.id,
                InstanceState.REQUESTING,
                expect={InstanceState.PLANNED},
                reason=Reason.NONE,
                attempt_row=attempt,
                # The setters of an instance's place: it is accounted to it from here on.
                **_place(key, offer, request.deadline),
            )
        finally:
            self._admission.settle(row.id)
        if stepped is None:
            self._release(row, offer)
        else:
            await self._send(attempt, provider)

    def _release(self, row: Instance, offer: base.Offer) -> None:
        """Nothing came of an admitted instance; its place is free, first of all for its own next offer."""
        pool = self._runtime.config.pools.get(row.pool)
        lifetime = launch_request.lifetime_of(pool) if pool is not None else 0.0
        self._admission.release(offer, pool=row.pool, repo=row.repo, lifetime=lifetime)

    # -- sending -----------------------------------------------------------------------------------------------

    async def _send(self, attempt: Attempt, provider: providers.Provider) -> None:
        """Send a committed attempt and commit what came of it."""
        request = launch_request.unseal(attempt.sealed, self._runtime.tokens.boot(attempt.key))
        try:
            async with asyncio.timeout(CREATE_TIMEOUT):
                view = await provider.provisioner.create(request)
        except asyncio.CancelledError:
            # The daemon stops; the row says REQUESTING and the next start resolves it.
            raise
        except base.ProvisionError as error:
            await self._failed(attempt, request.offer, provider, error)
        except Exception as error:
            log.exception("%s: create failed in an unexpected way", provider.name)
            wrapped = base.ProvisionError(base.Kind.TRANSIENT, str(error), maybe_created=True)
            await self._failed(attempt, request.offer, provider, wrapped)
        else:
            await self._created(attempt, view)

    async def _created(self, attempt: Attempt, view: base.InstanceView) -> None:
        now = self._runtime.clock.now()
        witness = self._runtime.witness(attempt.instance)
        witness.cloud, witness.cloud_at, witness.absences = view.status, now, 0
        witness.failure = view.failure
        self._lost.pop(attempt.key, None)
        await self._runtime.rows.step(
            attempt.instance,
            InstanceState.BOOTING,
            expect={InstanceState.REQUESTING, InstanceState.UNKNOWN},
            attempt_row=self._moved(attempt, AttemptState.CREATED),
            ref=view.ref,
            running_at=now,
        )
        self._runtime.wake()

    async def _failed(
        self, attempt: Attempt, offer: base.Offer, provider: providers.Provider, error: base.ProvisionError
    ) -> None:
        detail = str(error)
        where = f"{offer.key}: {error.kind.value}: {detail}"
        if error.maybe_created:
            self._lost[attempt.key] = self._runtime.clock.now()
            provider.listing_wanted.set()
        elif error.kind is base.Kind.THROTTLED:
            provider.bucket(offer.region).pause(error.retry_after or 2.0)
        else:
            await self._blame.offer(offer, error.kind.value, error.failure)
        if error.maybe_created or self._lingers(attempt):
            moved = self._moved(attempt, AttemptState.UNKNOWN, failure=error.kind.value, code=error.code, detail=detail)
            await self._runtime.rows.step(
                attempt.instance,
                InstanceState.UNKNOWN,
                expect={InstanceState.REQUESTING},
                attempt_row=moved,
                detail=where,
            )
            self._runtime.wake()
            return
        moved = self._moved(attempt, AttemptState.FAILED, failure=error.kind.value, code=error.code, detail=detail)
        stepped = await self._runtime.rows.step(
            attempt.instance,
            InstanceState.PLANNED,
            expect={InstanceState.REQUESTING, InstanceState.UNKNOWN},
            reason=Reason.REFUSED,
            detail=where,
            attempt_row=moved,
            **_no_place(),
        )
        self._lost.pop(attempt.key, None)
        if stepped is not None:
            self._release(stepped, offer)

    def _lingers(self, attempt: Attempt) -> bool:
        """True while an earlier send of the attempt may still be carried out, whatever this one was told."""
        if attempt.sends < 2:
            return False
        return self._runtime.clock.now() - self._lost.get(attempt.key, attempt.sent_at) < LINGER

    def _moved(self, attempt: Attempt, to: AttemptState, **fields: Any) -> Attempt:
        current = self._runtime.rows.attempts.get(attempt.key, attempt)
        return dataclasses.replace(current, state=to, since=self._runtime.clock.now(), **fields)

    async def lost(self, id: InstanceId) -> None:
        """Nobody waits for the answer of a create call any more, because it could not be written: it is unclear."""
        row = self._runtime.rows.instances.get(id)
        if row is None or row.state is not InstanceState.REQUESTING or row.attempt is None:
            return
        attempt = self._runtime.rows.attempts.get(row.attempt)
        moved = None
        if attempt is not None and attempt.state is AttemptState.REQUESTING:
            moved = self._moved(attempt, AttemptState.UNKNOWN)
        await self._runtime.rows.step(
            id,
            InstanceState.UNKNOWN,
            expect={InstanceState.REQUESTING},
            attempt_row=moved,
            detail="its answer could not be written",
        )
        self._runtime.wake()

    # -- resolving ---------------------------------------------------------------------------------------------

    async def resolve(self, id: InstanceId, *, wanted: bool) -> None:
        """Find out what became of an unclear create call; one look, the planner asks again."""
        row = self._runtime.rows.instances.get(id)
        if row is None or row.state is not InstanceState.UNKNOWN or row.attempt is None:
            return
        attempt = self._runtime.rows.attempts.get(row.attempt)
        provider = self._runtime.providers.get(row.provider)
        if attempt is None or provider is None:
            self._runtime.alarms.ring(
                "instance", id, "unresolved", f"its provider {row.provider} is not configured; it may exist and cost"
            )
            return
        asked_at = self._runtime.clock.now()
        try:
            listing = await provider.provisioner.list_owned(self._runtime.scopes(provider.name))
        except base.ProvisionError as error:
            provider.problem = f"listing failed: {error}"
            return
        for view in listing.views:
            if view.tags.get(base.TAG_ATTEMPT) == attempt.key:
                await self._found(attempt, view)
                return
        offer = launch_request.unseal(attempt.sealed, "").offer
        traits = provider.provisioner.traits
        age = asked_at - attempt.sent_at
        if wanted and traits.idempotent_create and age < traits.replay_window:
            # The provider itself knows the token: its answer is worth more than a listing, and it is there at once.
            await self._replay(id, attempt, provider, offer)
            return
        if not listing.covers(offer.scope):
            return
        # A slow call may have been applied at its very end, so absence counts from when its outcome became unclear.
        if asked_at - attempt.since < traits.visibility_grace:
            return
        witness = self._runtime.witness(id)
        witness.absences += 1
        if witness.absences < planner.ABSENCES:
            return
        witness.absences = 0
        detail = f"not there {age:.0f} s after it was sent; shown absent by {planner.ABSENCES} complete listings"
        moved = self._moved(attempt, AttemptState.FAILED, detail=detail)
        target = InstanceState.PLANNED if wanted else InstanceState.FAILED
        fields = _no_place() if wanted else {}
        await self._runtime.rows.step(
            id,
            target,
            expect={InstanceState.UNKNOWN},
            reason=Reason.REFUSED if wanted else Reason.NOT_WANTED,
            detail=detail,
            attempt_row=moved,
            **fields,
        )
        self._runtime.wake()

    async def _found(self, attempt: Attempt, view: base.InstanceView) -> None:
        current = self._runtime.rows.attempts.get(attempt.key)
        if current is None or current.state is not AttemptState.UNKNOWN:
            return
        await self._created(attempt, view)

    async def _replay(self, id: InstanceId, attempt: Attempt, provider: providers.Provider, offer: base.Offer) -> None:
        """Send the same request again, byte for byte."""
        await provider.bucket(offer.region).take()
        again = self._moved(attempt, AttemptState.REQUESTING, sends=attempt.sends + 1)
        stepped = await self._runtime.rows.step(
            id, InstanceState.REQUESTING, expect={InstanceState.UNKNOWN}, attempt_row=again
        )
        if stepped is not None:
            await self._send(again, provider)


def why_none(ranked: list[ranking.Ranked]) -> str:
    """Plain words on offers of which none can be tried."""
    reasons: dict[str, list[str]] = {}
    for one in ranked:
        reasons.setdefault(one.refusal, []).append(one.offer.key)
    return "; ".join(f"{reason} [{', '.join(keys[:3])}]" for reason, keys in list(reasons.items())[:5])


def _place(key: AttemptKey, offer: base.Offer, deadline: float) -> dict[str, Any]:
    return {
        "attempt": key,
        "provider": offer.provider,
        "offer": offer.key,
        "region": offer.region,
        "zone": offer.zone,
        "machine_type": offer.machine_type,
        "market": offer.market.value,
        "gpus": offer.gpus,
        "cpus": offer.cpus,
        "image": offer.image,
        "price": offer.price,
        "price_source": offer.price_source,
        "deadline": deadline,
    }


def _no_place() -> dict[str, Any]:
    """An instance that lost its offer belongs to no place until the next one."""
    return {
        "attempt": None,
        "provider": "",
        "offer": "",
        "region": "",
        "zone": "",
        "machine_type": "",
        "market": "",
        "cpus": 0,
        "image": "",
        "price": 0.0,
        "price_source": "",
        "deadline": 0.0,
    }
