"""Adoption: what carries our tags or our names and has no row becomes one.

The database was lost, or a create call arrived late after all.  What is found is counted, billed and ended through the
same termination check as any other; nothing is deleted from here.
"""

from __future__ import annotations

import logging

from provisioners import base
from runnerd import errors, model
from runnerd.forges import base as forges
from runnerd.model import (
    Attempt,
    AttemptKey,
    AttemptState,
    Instance,
    InstanceId,
    InstanceState,
    Queue,
    Reason,
    Registration,
    RegistrationId,
    RegistrationState,
)
from runnerd.offers import request
from runnerd.runtime import providers, shared

log = logging.getLogger(__name__)

#: Random characters of a registration's id.
REGISTRATION_ID_LENGTH = 20


class Adoption:
    """Makes rows for instances and runners that have none."""

    def __init__(self, runtime: shared.Runtime) -> None:
        self._runtime = runtime

    # -- instances ---------------------------------------------------------------------------------------------

    async def adopt(self, provider: providers.Provider, view: base.InstanceView) -> None:
        """Make a row for an instance that carries our tags and has none, and look for its runners."""
        rows = self._runtime.rows
        id = InstanceId(view.name)
        live = rows.instances.get(id)
        duplicate = live is not None and live.state not in model.CLOSED
        if duplicate:
            # A live row with another attempt: this one must not be, and is ended under a name of its own.
            id = second_name(view)
            if id in rows.instances:
                return
        row = self._row(id, provider, view)
        await rows.adopt(
            row, f"found by its tags at {provider.name} as {view.ref}", attempt_row=_attempt(row, self._now())
        )
        self._runtime.observations.adopted(id, view)
        self._runtime.alarms.ring(
            "instance", id, "adopted", f"{view.ref} at {provider.name} carried our tags and had no row"
        )
        if duplicate:
            await rows.step(id, InstanceState.DRAINING, reason=Reason.ORPHAN, detail="duplicate instance name")
            return
        self._runtime.background.spawn(f"discover {id}", self._discover(id))

    def _now(self) -> float:
        return self._runtime.clock.now()

    def _row(self, id: InstanceId, provider: providers.Provider, view: base.InstanceView) -> Instance:
        now = self._now()
        pool = self._runtime.config.pools.get(view.tags.get(base.TAG_POOL, ""))
        return Instance(
            id=id,
            pool=view.tags.get(base.TAG_POOL, ""),
            state=InstanceState.BOOTING,
            created_at=view.created_at or now,
            since=now,
            attempt=AttemptKey(view.tags.get(base.TAG_ATTEMPT, "")) or None,
            provider=provider.name,
            offer=view.offer or view.scope.offer(base.UNKNOWN, base.UNKNOWN),
            region=view.offer.region if view.offer else "",
            zone=view.offer.zone if view.offer else "",
            machine_type=view.offer.machine_type if view.offer else "",
            market=view.offer.market if view.offer else "",
            gpus=pool.gpu_count if pool is not None else 0,
            ref=view.ref,
            price=base.tagged_price(view.tags) or provider.usual_price(view.offer or ""),
            running_at=view.created_at or now,
            deadline=base.tagged_deadline(view.tags),
            repo=view.tags.get(request.TAG_REPO, ""),
            adopted=True,
            detail="found by its tags",
        )

    # -- runners -----------------------------------------------------------------------------------------------

    async def _discover(self, id: InstanceId) -> None:
        row = self._runtime.rows.instances.get(id)
        if row is not None:
            await self.discover(row)
            self._runtime.wake()

    async def discover(self, row: Instance) -> bool:
        """Find the runners that the forges have for an adopted instance; True when every forge could say.

        A runner is named like its instance, so the names prove to which one it belongs.
        """
        known = {one.runner_name for one in self._runtime.rows.registrations_of(row.id)}
        complete = True
        for queue in self._runtime.queues(row.pool):
            forge = self._runtime.forges.get(queue.forge)
            if forge is None:
                continue
            try:
                listing = await forge.list_runners(queue)
            except (errors.ForgeError, errors.TransportError):
                complete = False
                continue
            complete = complete and listing.complete
            for view in listing.views:
                if view.name in known or not (view.name == row.id or view.name.startswith(f"{row.id}-")):
                    continue
                known.add(view.name)
                await self._adopt_runner(row, queue, view)
        return complete

    async def _adopt_runner(self, row: Instance, queue: Queue, view: forges.RunnerView) -> None:
        now = self._now()
        registration = Registration(
            id=RegistrationId(self._runtime.fresh_name(REGISTRATION_ID_LENGTH)),
            instance=row.id,
            queue=queue,
            runner_name=view.name,
            state=RegistrationState.REGISTERED,
            created_at=now,
            since=now,
            forge_id=view.forge_id,
            detail="found at the forge",
        )
        current = self._runtime.rows.instances.get(row.id, row)
        await self._runtime.rows.adopt(current, f"the forge has its runner {view.name}", registration_row=registration)
        if current.state is InstanceState.BOOTING:
            busy = bool(view.busy)
            await self._runtime.rows.step(
                row.id,
                InstanceState.BUSY if busy else InstanceState.REGISTERED,
                expect={InstanceState.BOOTING},
                queue=queue,
                registered_at=now,
                busy_at=now if busy else 0.0,
                job_started=busy,
            )


def second_name(view: base.InstanceView) -> InstanceId:
    """Return the name of an instance that must not be beside the one that has its name."""
    return InstanceId(f"{view.name}-{(view.tags.get(base.TAG_ATTEMPT) or 'x')[:6]}")


def _attempt(row: Instance, now: float) -> Attempt | None:
    """Return the attempt that an adopted instance came from; None where its tags do not name one."""
    if row.attempt is None:
        return None
    return Attempt(
        key=row.attempt,
        instance=row.id,
        state=AttemptState.CREATED,
        provider=row.provider,
        offer=row.offer,
        sealed="",
        created_at=row.created_at,
        since=now,
        price=row.price,
        detail="found by its tags",
    )
