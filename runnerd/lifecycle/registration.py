"""Gives runners to ready instances, and takes them back.

A runner's name is committed before the forge is asked.  When the answer is unclear, that name is removed before
another is tried: a runner that nobody holds the key of would count as capacity for ever.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

from runnerd import errors, model
from runnerd.forges import base as forges
from runnerd.lifecycle import agent_sessions
from runnerd.model import InstanceId, InstanceState, Queue, Registration, RegistrationId, RegistrationState
from runnerd.runtime import shared

log = logging.getLogger(__name__)

#: Seconds between looks for runners that nobody knows of.
SWEEP_EVERY = 300.0
#: Seconds without a try after so many refusals in a row.
PAUSES = (0.0, 1.0, 2.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0)


@dataclass(frozen=True, slots=True)
class Pause:
    """A queue whose forge did not register the last runners: instances wait, and are not bought again and again."""

    refusals: int = 0
    until: float = 0.0
    words: str = ""


class Registrar:
    """Registers and deregisters runners."""

    def __init__(self, runtime: shared.Runtime, agents: agent_sessions.Agents) -> None:
        self._runtime = runtime
        self._agents = agents
        self._pauses: dict[Queue, Pause] = {}
        #: Registrations whose call has not been answered yet.
        self._under_way: set[RegistrationId] = set()
        #: Runner names seen at a forge without a row; removed when seen again.
        self._strangers: set[tuple[Queue, str]] = set()

    def _forge(self, queue: Queue) -> forges.Forge | None:
        return self._runtime.forges.get(queue.forge)

    # -- giving ------------------------------------------------------------------------------------------------

    async def register(self, id: InstanceId, queue: Queue) -> None:
        """Register a runner for a ready instance and hand it to the agent that asks."""
        forge = self._forge(queue)
        row = self._runtime.rows.instances.get(id)
        if forge is None or row is None or row.state is not InstanceState.READY:
            return
        # The forge must not have anything under a name that nobody holds the key of.
        for old in self._runtime.rows.registrations_of(id):
            if not await self.remove(old.id):
                return
        now = self._runtime.clock.now()
        registration = Registration(
            id=RegistrationId(self._runtime.fresh_name(20)),
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
        self._pauses.pop(registration.queue, None)
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

    def pause(self, queue: Queue) -> Pause:
        """How the last tries for a queue went; without refusals when the last one succeeded."""
        return self._pauses.get(queue, Pause())

    def _refused(self, queue: Queue, words: str) -> None:
        now = self._runtime.clock.now()
        last = self.pause(queue)
        if now < last.until:
            return  # one of a burst that was sent together
        count = last.refusals + 1
        self._pauses[queue] = Pause(count, now + PAUSES[min(count, len(PAUSES) - 1)], words)

    async def _back_to_ready(self, id: InstanceId, detail: str) -> None:
        await self._runtime.rows.step(
            id, InstanceState.READY, expect={InstanceState.REGISTERING}, detail=detail, queue=None
        )

    # -- clearing up -------------------------------------------------------------------------------------------

    async def renew(self, id: InstanceId) -> None:
        """An agent asks for a runner that was registered but never reached it: remove that name, start over.

        Called for instances that are registering or registered while their agent waits and this process holds no
        configuration for them: the answer was lost, or the daemon restarted in between.
        """
        row = self._runtime.rows.instances.get(id)
        if row is None or row.job_started or id in self._agents.grants:
            return
        for registration in self._runtime.rows.registrations_of(id):
            if not await self.remove(registration.id):
                return
        if row.state is InstanceState.REGISTERED:
            await self._runtime.rows.step(
                id, InstanceState.REGISTERING, expect={InstanceState.REGISTERED}, detail="its configuration was lost"
            )
        await self._back_to_ready(id, "registers again under a new name")
        self._runtime.wake()

    async def discover(self, row: model.Instance) -> bool:
        """Find the runners that the forges have for an adopted instance; True when every forge could say.

        A runner is named like its instance, so the names prove whose it is.
        """
        known = {one.runner_name for one in self._runtime.rows.registrations_of(row.id)}
        complete = True
        for queue in self._runtime.queues(row.pool):
            forge = self._forge(queue)
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
                await self._take_over(row, queue, view)
        return complete

    async def _take_over(self, row: model.Instance, queue: Queue, view: forges.RunnerView) -> None:
        now = self._runtime.clock.now()
        registration = Registration(
            id=RegistrationId(self._runtime.fresh_name(20)),
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

    async def remove(self, id: RegistrationId) -> bool:
        """Ask the forge to remove a runner; True when it is gone.  The registration row keeps the intent."""
        registration = self._runtime.rows.registrations.get(id)
        if registration is None:
            return True
        outcome = await self.try_remove(registration)
        return outcome is forges.Removal.REMOVED

    async def try_remove(self, registration: Registration) -> forges.Removal:
        """One removal call with its outcome committed.  A forge that cannot be asked says PENDING."""
        forge = self._forge(registration.queue)
        if forge is None:
            self._runtime.alarms.ring(
                "registration",
                registration.runner_name,
                "no-forge",
                f"forge {registration.queue.forge} is not configured any more; remove the runner by hand",
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

    # -- sweeping ----------------------------------------------------------------------------------------------

    async def sweep_for_ever(self) -> None:
        """Look for runners of ours that no row knows, until cancelled."""
        while True:
            await self._runtime.clock.sleep(SWEEP_EVERY)
            for spec in self._runtime.specs:
                try:
                    await self.sweep(spec.queue)
                except (errors.ForgeError, errors.TransportError) as error:
                    log.info("%s: runners cannot be listed: %s", spec.queue, error)

    async def sweep(self, queue: Queue) -> None:
        """Remove runners that carry a name of ours and belong to nothing, once two listings have shown them.

        A forge has been seen to confirm a removal that it did not make; such a runner would stay for a day.
        """
        forge = self._forge(queue)
        if forge is None:
            return
        prefix = re.escape(name_prefix(self._runtime.config.controller, queue.pool))
        ours = re.compile(rf"(?P<id>{prefix}[a-z0-9]{{10}})(-\d+)?")
        listing = await forge.list_runners(queue)
        seen: set[tuple[Queue, str]] = set()
        for view in listing.views:
            found = ours.fullmatch(view.name)
            if found is None or InstanceId(found["id"]) in self._runtime.rows.instances:
                continue
            if self._runtime.rows.runner(view.name) is not None:
                continue
            if (queue, view.name) not in self._strangers:
                seen.add((queue, view.name))
                continue
            now = self._runtime.clock.now()
            stray = Registration(
                id=RegistrationId(""),
                instance=InstanceId(found["id"]),
                queue=queue,
                runner_name=view.name,
                state=RegistrationState.REMOVING,
                created_at=now,
                since=now,
                forge_id=view.forge_id,
            )
            if await forge.deregister(stray) is not forges.Removal.REMOVED:
                seen.add((queue, view.name))
        self._strangers = {one for one in self._strangers if one[0] != queue} | seen


def name_prefix(controller: str, pool: str) -> str:
    """How the names of a pool's instances, and so of their runners, begin."""
    return f"{controller[:16]}-{pool[:18]}-".replace("_", "-")
