"""Registration: runners for ready instances, and their removal.

A runner's name is committed before the forge is asked.  When the answer is unclear, that name is removed before
another is tried: a runner whose key is lost would count as capacity for ever.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from runnerd import errors, model
from runnerd.forges import base as forges
from runnerd.lifecycle import adoption, agent_sessions
from runnerd.model import InstanceId, InstanceState, Queue, Registration, RegistrationId, RegistrationState
from runnerd.runtime import shared

log = logging.getLogger(__name__)

#: Seconds without a try after so many refusals in a row.
BACKOFF_S = (0.0, 1.0, 2.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0)


@dataclass(frozen=True, slots=True)
class Backoff:
    """A queue whose forge did not register the last runners: instances wait, and are not bought again and again."""

    refusals: int = 0
    until: float = 0.0
    detail: str = ""


class Registrar:
    """Registers and deregisters runners."""

    def __init__(self, runtime: shared.Runtime, agents: agent_sessions.AgentSessions) -> None:
        self._runtime = runtime
        self._agents = agents
        self._backoffs: dict[Queue, Backoff] = {}
        #: Registrations whose call has not been answered yet.
        self._under_way: set[RegistrationId] = set()
        #: Instances for which a task of this process is registering a runner.
        self._registering: set[InstanceId] = set()

    def _forge(self, queue: Queue) -> forges.Forge | None:
        return self._runtime.forges.get(queue.forge)

    # -- giving ------------------------------------------------------------------------------------------------

    async def register(self, id: InstanceId, queue: Queue) -> None:
        """Register a runner for a ready instance and hand it to the agent that asks."""
        self._registering.add(id)
        try:
            await self._register(id, queue)
        finally:
            self._registering.discard(id)

    async def _register(self, id: InstanceId, queue: Queue) -> None:
        forge = self._forge(queue)
        row = self._runtime.rows.instances.get(id)
        if forge is None or row is None or row.state is not InstanceState.READY:
            return
        # The forge must not keep anything under a name whose key is lost.
        for old in self._runtime.rows.registrations_of(id):
            if not await self.remove(old.id):
                return
        now = self._runtime.clock.now()
        registration = Registration(
            id=RegistrationId(self._runtime.fresh_name(adoption.REGISTRATION_ID_LENGTH)),
            instance=id,
            queue=queue,
            runner_name=await self._free_name(row),
            state=RegistrationState.REGISTERING,
            created_at=now,
            since=now,
        )
        stepped = await self._runtime.rows.step(
            id,
            InstanceState.REGISTERING,
            expect={InstanceState.READY},
            registration_row=registration,
            queue=queue,
        )
        if stepped is not None:
            self._under_way.add(registration.id)
            try:
                await self._ask(forge, registration)
            finally:
                self._under_way.discard(registration.id)

    async def _free_name(self, row: model.Instance) -> str:
        used = {one.runner_name for one in await self._runtime.history.registrations(row.id)}
        name, number = str(row.id), 1
        while name in used:
            number += 1
            name = f"{row.id}-{number}"
        return name

    async def _ask(self, forge: forges.Forge, registration: Registration) -> None:
        id = registration.instance
        try:
            config = await forge.register(
                registration.runner_name, registration.queue, note=f"runnerd {self._runtime.config.controller}"
            )
        except (errors.ForgeError, errors.TransportError) as error:
            self._refused(registration.queue, str(error))
            unclear = error.maybe_created if isinstance(error, errors.ForgeError) else error.maybe_applied
            if unclear:
                await self._runtime.rows.step_registration(
                    registration.id, RegistrationState.UNCLEAR, detail=str(error)
                )
            else:
                await self._runtime.rows.step_registration(registration.id, RegistrationState.GONE, detail=str(error))
                await self._back_to_ready(id, str(error))
            self._runtime.wake()
            return
        self._backoffs.pop(registration.queue, None)
        moved = await self._runtime.rows.step_registration(
            registration.id,
            RegistrationState.REGISTERED,
            expect={RegistrationState.REGISTERING},
            forge_id=config.forge_id,
        )
        if moved is None:
            return
        stepped = await self._runtime.rows.step(
            id,
            InstanceState.REGISTERED,
            expect={InstanceState.REGISTERING},
            registered_at=self._runtime.clock.now(),
        )
        if stepped is not None:
            self._agents.grant(id, agent_sessions.Grant(registration.id, registration.runner_name, config))

    def backoff(self, queue: Queue) -> Backoff:
        """Return how the last tries for a queue went; without refusals when the last one succeeded."""
        return self._backoffs.get(queue, Backoff())

    def _refused(self, queue: Queue, detail: str) -> None:
        now = self._runtime.clock.now()
        last = self.backoff(queue)
        if now < last.until:
            return  # one of a burst that was sent together
        count = last.refusals + 1
        self._backoffs[queue] = Backoff(count, now + BACKOFF_S[min(count, len(BACKOFF_S) - 1)], detail)

    async def _back_to_ready(self, id: InstanceId, detail: str) -> None:
        await self._runtime.rows.step(
            id, InstanceState.READY, expect={InstanceState.REGISTERING}, detail=detail, queue=None
        )

    # -- clearing up -------------------------------------------------------------------------------------------

    def lost_grants(self) -> Iterator[InstanceId]:
        """Yield instances whose agent waits for a configuration that this process does not have.

        The answer of the forge was lost or its name is unclear, or the daemon restarted in between.
        """
        for id, seen in self._runtime.observations.items():
            row = self._runtime.rows.instances.get(id) if seen.asking and id not in self._agents.grants else None
            if row is None or row.job_started:
                continue
            if row.state is InstanceState.REGISTERED or (
                row.state is InstanceState.REGISTERING and id not in self._registering
            ):
                yield id

    async def renew(self, id: InstanceId) -> None:
        """Start over for an agent whose runner was registered and never reached it: that name is removed first."""
        row = self._runtime.rows.instances.get(id)
        if row is None or row.job_started or id in self._agents.grants:
            return
        for registration in self._runtime.rows.registrations_of(id):
            if not await self.remove(registration.id):
                return
        if row.state is InstanceState.REGISTERED:
            await self._runtime.rows.step(
                id,
                InstanceState.REGISTERING,
                expect={InstanceState.REGISTERED},
                detail="its runner configuration never reached the agent",
            )
        await self._back_to_ready(id, "to be registered again under a new name")
        self._runtime.wake()

    async def remove(self, id: RegistrationId) -> bool:
        """Ask the forge to remove a runner; True when it is gone.  The registration row keeps the intent."""
        registration = self._runtime.rows.registrations.get(id)
        if registration is None:
            return True
        outcome = await self.try_remove(registration)
        return outcome is forges.Removal.REMOVED

    async def try_remove(self, registration: Registration) -> forges.Removal:
        """Make one removal call and commit its outcome; PENDING where the forge cannot be asked."""
        forge = self._forge(registration.queue)
        if forge is None:
            self._runtime.alarms.ring(
                "registration",
                registration.runner_name,
                "no-forge",
                f"forge {registration.queue.forge} is no longer configured; remove the runner by hand",
            )
            return forges.Removal.PENDING
        if registration.id in self._under_way:
            # A removal now finds nothing, and the runner would come to be after it.
            return forges.Removal.PENDING
        rows = self._runtime.rows
        if registration.state in (RegistrationState.REGISTERING, RegistrationState.UNCLEAR):
            # The intent to remove is durable before the call: a restart must not hand this name out.
            moved = await rows.step_registration(registration.id, RegistrationState.REMOVING)
            registration = moved or registration
        try:
            outcome = await forge.deregister(registration)
        except (errors.ForgeError, errors.TransportError) as error:
            log.info("%s: removal of %s: %s", registration.queue, registration.runner_name, error)
            return forges.Removal.PENDING
        if outcome is forges.Removal.REMOVED:
            await rows.step_registration(registration.id, RegistrationState.GONE)
        return outcome
