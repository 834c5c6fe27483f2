"""Provisioning: one attempt at a time, each committed before it is sent.

A create call ends in one of three ways.  It yielded an instance; it certainly did not, and the next offer is tried at
once; or its outcome is unknown, and then nothing else is tried for this instance until
:mod:`runnerd.lifecycle.unknown_creates` has resolved it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
from collections.abc import Callable

from provisioners import base
from runnerd import config
from runnerd.model import Attempt, AttemptKey, AttemptState, Instance, InstanceId, InstanceState, Reason
from runnerd.offers import admission, selection
from runnerd.offers import request as launch_request
from runnerd.runtime import providers, shared, step_facts

log = logging.getLogger(__name__)

#: Seconds that a create call may take before its outcome counts as unknown.
CREATE_TIMEOUT_S = 300.0
#: Seconds for which an API that throttled without naming a time is left alone.
BACKOFF_S = 2.0
#: Seconds after which a call that was given up on is surely not being carried out any more.
LINGER_S = 60.0
#: Offers tried for one instance in a row; then it is planned anew, with what was learned meanwhile.
MOST_TRIES = 25
#: Random characters of an attempt's key.
_KEY_LENGTH = 26


class Launcher:
    """Turns planned instances into booting ones."""

    def __init__(
        self,
        runtime: shared.Runtime,
        admission: admission.Admission,
        selection: selection.Selection,
        *,
        bundle: Callable[[], str],
    ) -> None:
        self._runtime = runtime
        self._admission = admission
        self._selection = selection
        #: The SHA-256 of the agent archive.
        self._bundle = bundle
        #: Attempts whose answer was lost, and when last.
        self._lost: dict[AttemptKey, float] = {}

    # -- requesting --------------------------------------------------------------------------------------------

    async def request(self, id: InstanceId) -> None:
        """Try offers for a planned instance until one yields it, none is left, or it is no longer wanted."""
        tries = 0
        while tries < MOST_TRIES:
            row = self._planned(id)
            if row is None:
                return
            pool = self._runtime.config.pools.get(row.pool)
            if pool is None:
                await self._give_up(id, Reason.RETIRED, "its pool was removed from the configuration")
                return
            patient = self._runtime.clock.now() < self._selection.spill_at(row, pool)
            ranked = self._selection.for_instance(row, pool)
            best = next((one for one in ranked if one.open), None)
            if best is None and patient:
                return  # it stays planned; the planner asks again
            if best is None:
                await self._give_up(id, Reason.NO_OFFER, self._selection.why_none(pool, ranked))
                return
            provider = self._runtime.providers[best.offer.provider]
            bucket = provider.bucket(best.offer.region)
            # The wait may be long: is it still wanted, and is the offer still open?
            if not await bucket.take(unless=functools.partial(self._overtaken, id, best.offer)):
                continue
            reservation = self._admission.reserve(best.offer, pool=pool.name, repo=row.repo, lifetime=pool.lifetime)
            if reservation is None:
                bucket.give_back()
                continue  # what was left went to another meanwhile; the next offer may have room
            tries += 1
            with reservation:
                await self._attempt(row, pool, provider, reservation)
        await self._give_up(id, Reason.NO_OFFER, f"{MOST_TRIES} offers were tried in a row and refused")

    def _planned(self, id: InstanceId) -> Instance | None:
        row = self._runtime.rows.instances.get(id)
        return row if row is not None and row.state is InstanceState.PLANNED else None

    def _overtaken(self, id: InstanceId, offer: base.Offer) -> bool:
        """Return True when an offer need not be waited for any more: it is closed, or the instance is not wanted."""
        return self._planned(id) is None or not self._selection.still_open(offer)

    async def _give_up(self, id: InstanceId, reason: Reason, detail: str) -> None:
        await self._runtime.rows.step(
            id, InstanceState.FAILED, expect={InstanceState.PLANNED}, reason=reason, detail=detail
        )
        self._runtime.wake()

    async def _attempt(
        self, row: Instance, pool: config.Pool, provider: providers.Provider, reservation: admission.Reservation
    ) -> None:
        """Commit one attempt at an offer, and send it."""
        now = self._runtime.clock.now()
        offer = reservation.offer
        key = AttemptKey(self._runtime.fresh_name(_KEY_LENGTH))
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
        stepped = await self._runtime.rows.step(
            row.id,
            InstanceState.REQUESTING,
            expect={InstanceState.PLANNED},
            reason=Reason.NONE,
            attempt_row=attempt,
            # The setters of an instance's place: it is accounted to it from here on.
            **_place(key, offer, request.deadline),
        )
        if stepped is not None:
            reservation.commit()
            await self.send(attempt, provider)

    # -- sending -----------------------------------------------------------------------------------------------

    async def send(self, attempt: Attempt, provider: providers.Provider) -> None:
        """Send a committed attempt and commit what came of it."""
        request = launch_request.unseal(attempt.sealed, self._runtime.tokens.boot(attempt.key))
        try:
            async with asyncio.timeout(CREATE_TIMEOUT_S):
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
            await self.created(attempt, view)

    async def created(self, attempt: Attempt, view: base.InstanceView) -> None:
        """Commit that an attempt yielded an instance."""
        self._runtime.observations.created(attempt.instance, view)
        self._lost.pop(attempt.key, None)
        await self._runtime.rows.step(
            attempt.instance,
            InstanceState.BOOTING,
            expect={InstanceState.REQUESTING, InstanceState.UNKNOWN},
            attempt_row=self.moved(attempt, AttemptState.CREATED),
            ref=view.ref,
            running_at=self._runtime.clock.now(),
        )
        self._runtime.wake()

    async def _failed(
        self, attempt: Attempt, offer: base.Offer, provider: providers.Provider, error: base.ProvisionError
    ) -> None:
        """Commit a refusal with what it blocks, or an outcome that is unknown."""
        fault = None
        if error.maybe_created:
            self._lost[attempt.key] = self._runtime.clock.now()
            provider.listing_wanted.set()
        elif error.kind is base.Kind.THROTTLED:
            provider.bucket(offer.region).pause(error.retry_after or BACKOFF_S)
        else:
            fault = step_facts.Fault(error.kind.value, error.failure)
        unknown = error.maybe_created or self._lingers(attempt)
        moved = dataclasses.replace(
            self.moved(attempt, AttemptState.UNKNOWN if unknown else AttemptState.FAILED),
            failure=error.kind.value,
            code=error.code,
            detail=str(error),
        )
        where = f"{offer.key}: {error.kind.value}: {error}"
        if unknown:
            await self._runtime.rows.step(
                attempt.instance,
                InstanceState.UNKNOWN,
                expect={InstanceState.REQUESTING},
                attempt_row=moved,
                detail=where,
                fault=fault,
            )
            self._runtime.wake()
            return
        await self._runtime.rows.step(
            attempt.instance,
            InstanceState.PLANNED,
            expect={InstanceState.REQUESTING, InstanceState.UNKNOWN},
            reason=Reason.REFUSED,
            detail=where,
            attempt_row=moved,
            fault=fault,
            **no_place(),
        )
        self._lost.pop(attempt.key, None)

    def _lingers(self, attempt: Attempt) -> bool:
        """Return True while an earlier send of the attempt may still be carried out, though this one was refused."""
        if attempt.sends < 2:
            return False
        return self._runtime.clock.now() - self._lost.get(attempt.key, attempt.sent_at) < LINGER_S

    def moved(self, attempt: Attempt, to: AttemptState) -> Attempt:
        """Return the attempt's row as it is now, moved to a state."""
        current = self._runtime.rows.attempts.get(attempt.key, attempt)
        return dataclasses.replace(current, state=to, since=self._runtime.clock.now())


def _place(key: AttemptKey, offer: base.Offer, deadline: float) -> step_facts.InstanceFacts:
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


def no_place() -> step_facts.InstanceFacts:
    """Return the facts of an instance that lost its offer: it belongs to no place until the next one."""
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
