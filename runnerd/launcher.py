"""Buys instances: one attempt at a time, each committed before it is sent, each unclear answer resolved first.

A create call ends in one of three ways.  It yielded an instance; it certainly did not, and the next offer is tried at
once; or nobody knows, and then nothing else is tried for this instance until a listing, or the same request again
within the provider's replay window, has told.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import sys
from collections.abc import Callable
from typing import Any

from provisioners import base
from runnerd import admission, bootstrap, config, offers, planner, providers, station
from runnerd.model import Attempt, AttemptKey, AttemptState, Instance, InstanceId, InstanceState, Reason

log = logging.getLogger(__name__)

#: Seconds that a create call may take before its outcome counts as unclear.
CREATE_TIMEOUT = 300.0
#: Providers whose instances run beside the daemon and so have its Python.
BESIDE_US = frozenset({"local", "fake"})


class Launcher:
    """Turns planned instances into booting ones."""

    def __init__(self, station: station.Station, admission: admission.Admission, *, bundle: Callable[[], str]) -> None:
        self._station = station
        self._admission = admission
        self._bundle = bundle
        #: Whether a pool buys outside the spot market only, for now.
        self.on_demand_only: Callable[[config.Pool], bool] = lambda _: False
        #: Called with (pool, words) when a planned instance found no offer.
        self.on_give_up: Callable[[str, str], None] = lambda pool, words: None

    # -- choosing ----------------------------------------------------------------------------------------------

    def spill_at(self, row: Instance, pool: config.Pool) -> float:
        """When a planned instance may come from another provider than the pool's first."""
        return row.created_at + pool.spill_after

    def rank(self, pool: config.Pool, *, first_only: bool = False, repo: str = "") -> list[offers.Ranked]:
        """The pool's offers in the order they are tried, each with why it cannot be tried now.

        ``first_only`` closes every provider but the first, for a job that still waits for it (``spill_after``);
        with ``repo`` the limits of its team count as well.
        """
        now = self._station.clock.now()
        known: list[base.Offer] = []
        closed: dict[str, str] = {}
        for name in pool.from_:
            provider = self._station.providers.get(name)
            if provider is None:
                continue
            known += provider.known_offers(pool.shape(name))
            why = self._closed(provider)
            if not why and first_only and name != pool.from_[0]:
                why = f"waits {pool.spill_after:.0f} s for {pool.from_[0]} first"
            if why:
                closed[name] = why
        ranked = offers.rank(
            known,
            providers=pool.from_,
            cheapest=pool.order is config.Order.CHEAPEST,
            blocks=self._station.rows.blocks.values(),
            now=now,
            closed_providers=closed,
        )
        if pool.market is config.MarketChoice.SPOT_THEN_ON_DEMAND:
            # Stable: the whole list of spot offers comes before the first at list price.
            ranked.sort(key=lambda one: one.offer.market is not base.Market.SPOT)
        lifetime = lifetime_of(pool)
        sure = self.on_demand_only(pool)
        result = []
        for one in ranked:
            if sure and one.open and one.offer.market is base.Market.SPOT:
                one = dataclasses.replace(one, refusal="an interrupted job runs again: on demand only")
            if one.open:
                words = self._admission.refusal(one.offer, pool=pool.name, repo=repo, lifetime=lifetime)
                one = dataclasses.replace(one, refusal=words)
            result.append(one)
        return result

    def _closed(self, provider: providers.Provider) -> str:
        if provider.retired:
            return "the provider left the configuration"
        return provider.problem or self._admission.provider_refusal(provider.name)

    # -- requesting --------------------------------------------------------------------------------------------

    async def request(self, id: InstanceId) -> None:
        """Try offers for a planned instance until one yields it, none is left, or nobody wants it any more."""
        while True:
            row = self._station.rows.instances.get(id)
            if row is None or row.state is not InstanceState.PLANNED:
                return
            pool = self._station.config.pools.get(row.pool)
            if pool is None:
                await self._give_up(id, Reason.RETIRED, "its pool left the configuration")
                return
            patient = self._station.clock.now() < self.spill_at(row, pool)
            ranked = self.rank(pool, first_only=patient, repo=row.repo)
            best = next((one for one in ranked if one.open), None)
            if best is None and patient:
                return  # it stays planned; the planner asks again
            if best is None:
                await self._give_up(id, Reason.NO_OFFER, why_none(ranked))
                return
            provider = self._station.providers[best.offer.provider]
            await provider.bucket(best.offer.region).take()
            # The wait may have been long: is it still wanted, and is the offer still open?
            row = self._station.rows.instances.get(id)
            if row is None or row.state is not InstanceState.PLANNED:
                return
            if self._closed(provider) or self._blocked(best.offer):
                continue
            refusal = self._admission.admit(
                best.offer, pool=pool.name, repo=row.repo, lifetime=lifetime_of(pool), instance=id
            )
            if refusal:
                continue  # what was left went to another meanwhile; the next offer may have room
            await self._attempt(row, pool, provider, best.offer)

    def _blocked(self, offer: base.Offer) -> bool:
        now = self._station.clock.now()
        active = (block for block in self._station.rows.blocks.values() if block.until > now)
        return offers.blocking(offer.key, active) is not None

    async def _give_up(self, id: InstanceId, reason: Reason, detail: str) -> None:
        stepped = await self._station.rows.step(
            id, InstanceState.FAILED, expect={InstanceState.PLANNED}, reason=reason, detail=detail
        )
        if stepped is not None and reason is Reason.NO_OFFER:
            self.on_give_up(stepped.pool, detail)
        self._station.wake()

    async def _attempt(self, row: Instance, pool: config.Pool, provider: providers.Provider, offer: base.Offer) -> None:
        now = self._station.clock.now()
        key = AttemptKey(f"{self._station.fresh_name(26)}")
        deadline = now + lifetime_of(pool)
        request = base.CreateRequest(
            key=key,
            name=row.id,
            offer=offer,
            user_data=self._user_data(row, provider),
            tags=self._tags(row, pool, provider, offer, key, deadline),
            deadline=deadline,
            disk=pool.disk or 0,
            options=pool.options.get(provider.name, {}),
        )
        attempt = Attempt(
            key=key,
            instance=row.id,
            state=AttemptState.REQUESTING,
            provider=provider.name,
            offer=offer.key,
            sealed=seal(request),
            created_at=now,
            since=now,
            sent_at=now,
            sends=1,
            price=offer.price,
        )
        try:
            stepped = await self._station.rows.step(
                row.id,
                InstanceState.REQUESTING,
                expect={InstanceState.PLANNED},
                reason=Reason.NONE,
                attempt_row=attempt,
                # The setters of an instance's place: it is accounted to it from here on.
                **_place(key, offer, deadline),
            )
        finally:
            self._admission.settle(row.id)
        if stepped is None:
            self._release(row, offer)
        else:
            await self._send(attempt, provider)

    def _release(self, row: Instance, offer: base.Offer) -> None:
        """Nothing came of an admitted instance; its place is free, first of all for its own next offer."""
        pool = self._station.config.pools.get(row.pool)
        lifetime = lifetime_of(pool) if pool is not None else 0.0
        self._admission.release(offer, pool=row.pool, repo=row.repo, lifetime=lifetime)

    def _user_data(self, row: Instance, provider: providers.Provider) -> str:
        url = self._station.config.agent_address(provider.name)
        beside = provider.settings.type in BESIDE_US
        return bootstrap.render(
            url=url.rstrip("/"),
            instance=row.id,
            bundle=self._bundle(),
            python=sys.executable if beside else "python3",
            power_off=() if beside else bootstrap.POWER_OFF,
        )

    def _tags(
        self,
        row: Instance,
        pool: config.Pool,
        provider: providers.Provider,
        offer: base.Offer,
        key: AttemptKey,
        deadline: float,
    ) -> dict[str, str]:
        settings = self._station.config
        tags = {
            **settings.tags_for(pool.name, provider=provider.name, repo=row.repo),
            base.TAG_CONTROLLER: settings.controller,
            base.TAG_INSTANCE: row.id,
            base.TAG_POOL: row.pool,
            base.TAG_ATTEMPT: key,
            base.TAG_DEADLINE: str(int(deadline)),
            base.TAG_PRICE: f"{offer.price:g}",
        }
        if row.repo:
            tags["runnerd-repo"] = row.repo
        return tags

    # -- sending -----------------------------------------------------------------------------------------------

    async def _send(self, attempt: Attempt, provider: providers.Provider) -> None:
        """Send a committed attempt and commit what came of it."""
        request = unseal(attempt.sealed, self._station.tokens.boot(attempt.key))
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
        now = self._station.clock.now()
        witness = self._station.witness(attempt.instance)
        witness.cloud, witness.cloud_at, witness.absences = view.status, now, 0
        await self._station.rows.step(
            attempt.instance,
            InstanceState.BOOTING,
            expect={InstanceState.REQUESTING, InstanceState.UNKNOWN},
            attempt_row=self._moved(attempt, AttemptState.CREATED),
            ref=view.ref,
            running_at=now,
        )
        self._station.wake()

    async def _failed(
        self, attempt: Attempt, offer: base.Offer, provider: providers.Provider, error: base.ProvisionError
    ) -> None:
        detail = str(error)
        where = f"{offer.key}: {error.kind.value}: {detail}"
        if error.maybe_created:
            moved = self._moved(attempt, AttemptState.UNKNOWN, failure=error.kind.value, code=error.code, detail=detail)
            await self._station.rows.step(
                attempt.instance,
                InstanceState.UNKNOWN,
                expect={InstanceState.REQUESTING},
                attempt_row=moved,
                detail=where,
            )
            provider.listing_wanted.set()
            self._station.wake()
            return
        if error.kind is base.Kind.THROTTLED:
            provider.bucket(offer.region).pause(error.retry_after or 2.0)
        else:
            found = offers.block(
                offer,
                error.kind.value,
                scope=error.scope,
                detail=detail,
                blocks=self._station.rows.blocks.values(),
                now=self._station.clock.now(),
            )
            if found is not None:
                await self._station.rows.write_block(found)
        moved = self._moved(attempt, AttemptState.FAILED, failure=error.kind.value, code=error.code, detail=detail)
        stepped = await self._station.rows.step(
            attempt.instance,
            InstanceState.PLANNED,
            expect={InstanceState.REQUESTING, InstanceState.UNKNOWN},
            reason=Reason.REFUSED,
            detail=where,
            attempt_row=moved,
            **_no_place(),
        )
        if stepped is not None:
            self._release(stepped, offer)

    def _moved(self, attempt: Attempt, to: AttemptState, **fields: Any) -> Attempt:
        current = self._station.rows.attempts.get(attempt.key, attempt)
        return dataclasses.replace(current, state=to, since=self._station.clock.now(), **fields)

    async def lost(self, id: InstanceId) -> None:
        """Nobody waits for the answer of a create call any more, because it could not be written: it is unclear."""
        row = self._station.rows.instances.get(id)
        if row is None or row.state is not InstanceState.REQUESTING or row.attempt is None:
            return
        attempt = self._station.rows.attempts.get(row.attempt)
        moved = None
        if attempt is not None and attempt.state is AttemptState.REQUESTING:
            moved = self._moved(attempt, AttemptState.UNKNOWN)
        await self._station.rows.step(
            id,
            InstanceState.UNKNOWN,
            expect={InstanceState.REQUESTING},
            attempt_row=moved,
            detail="its answer could not be written",
        )
        self._station.wake()

    # -- resolving ---------------------------------------------------------------------------------------------

    async def resolve(self, id: InstanceId, *, wanted: bool) -> None:
        """Find out what became of an unclear create call; one look, the planner asks again."""
        row = self._station.rows.instances.get(id)
        if row is None or row.state is not InstanceState.UNKNOWN or row.attempt is None:
            return
        attempt = self._station.rows.attempts.get(row.attempt)
        provider = self._station.providers.get(row.provider)
        if attempt is None or provider is None:
            self._station.alarms.ring(
                "instance", id, "unresolved", f"its provider {row.provider} is not configured; it may exist and cost"
            )
            return
        asked_at = self._station.clock.now()
        try:
            listing = await provider.provisioner.list_owned()
        except base.ProvisionError as error:
            provider.problem = f"listing failed: {error}"
            return
        for view in listing.views:
            if view.tags.get(base.TAG_ATTEMPT) == attempt.key:
                await self._found(attempt, view)
                return
        offer = unseal(attempt.sealed, "").offer
        if not listing.covers(offer.scope):
            return
        traits = provider.provisioner.traits
        age = asked_at - attempt.sent_at
        # A slow call may have been applied at its very end, so absence counts from when its outcome became unclear.
        if asked_at - attempt.since < traits.visibility_grace:
            return
        witness = self._station.witness(id)
        witness.absences += 1
        if witness.absences < planner.ABSENCES:
            return
        witness.absences = 0
        if wanted and age < traits.replay_window and traits.idempotent_create:
            await self._replay(id, attempt, provider)
            return
        detail = f"not there {age:.0f} s after it was sent; shown absent by {planner.ABSENCES} complete listings"
        moved = self._moved(attempt, AttemptState.FAILED, detail=detail)
        target = InstanceState.PLANNED if wanted else InstanceState.FAILED
        fields = _no_place() if wanted else {}
        await self._station.rows.step(
            id,
            target,
            expect={InstanceState.UNKNOWN},
            reason=Reason.REFUSED if wanted else Reason.NOT_WANTED,
            detail=detail,
            attempt_row=moved,
            **fields,
        )
        self._station.wake()

    async def _found(self, attempt: Attempt, view: base.InstanceView) -> None:
        current = self._station.rows.attempts.get(attempt.key)
        if current is None or current.state is not AttemptState.UNKNOWN:
            return
        await self._created(attempt, view)

    async def _replay(self, id: InstanceId, attempt: Attempt, provider: providers.Provider) -> None:
        """Send the same request again, byte for byte."""
        again = self._moved(attempt, AttemptState.REQUESTING, sends=attempt.sends + 1)
        stepped = await self._station.rows.step(
            id, InstanceState.REQUESTING, expect={InstanceState.UNKNOWN}, attempt_row=again
        )
        if stepped is not None:
            await self._send(again, provider)


def lifetime_of(pool: config.Pool) -> float:
    """Seconds from launch to the deadline that ends an instance whatever happens."""
    wait = pool.max_idle_age if pool.warm else pool.idle
    return pool.boot + wait + pool.max_job + 2 * planner.SLACK


def why_none(ranked: list[offers.Ranked]) -> str:
    """Plain words for an empty list of offers to try."""
    if not ranked:
        return "no provider of the pool offers a machine that fits"
    reasons: dict[str, list[str]] = {}
    for one in ranked:
        reasons.setdefault(one.refusal, []).append(one.offer.key)
    return "; ".join(f"{reason} [{', '.join(keys[:3])}]" for reason, keys in list(reasons.items())[:5])


def seal(request: base.CreateRequest) -> str:
    """The whole request as JSON, its token a placeholder."""
    return json.dumps(dataclasses.asdict(request), sort_keys=True)


def unseal(sealed: str, token: str) -> base.CreateRequest:
    """The request as it is sent."""
    raw = json.loads(sealed)
    offer = raw.pop("offer")
    offer["market"] = base.Market(offer["market"])
    raw["user_data"] = raw["user_data"].replace(base.TOKEN_PLACEHOLDER, token)
    return base.CreateRequest(offer=base.Offer(**offer), **raw)


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
        "price": offer.price,
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
        "price": 0.0,
        "deadline": 0.0,
    }
