"""The ledger: rows in memory and on disk at once, and the only place that changes one.

Every step of a life cycle is checked against its table, written with its event in one commit, and only then visible
in memory.  A caller awaits a step before it acts on it, so an intent is durable before its effect.  ``expect`` makes
a step a compare-and-set: when another task was faster, nothing happens and None says so.  What else must know of a
step listens to it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import weakref
from collections.abc import Callable, Container, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Protocol, Unpack

from provisioners import base
from provisioners.support import numbers
from runnerd import model, store
from runnerd.model import (
    Attempt,
    AttemptKey,
    AttemptState,
    Block,
    Event,
    Instance,
    InstanceId,
    InstanceState,
    Job,
    JobKey,
    Queue,
    Registration,
    RegistrationId,
    RegistrationState,
)
from runnerd.runtime import budget, step_facts

NONE: Mapping[str, Any] = MappingProxyType({})


class Writer(Protocol):
    """The part of the store that changes rows.  Nothing but the ledger holds one."""

    async def write(self, *changes: Any) -> None: ...

    async def probe(self) -> None: ...

    async def prune(self, *, before: float) -> int: ...

    async def instance(self, id: str) -> Instance | None: ...


class Ledger:
    """Live rows by id, with every change going through the store first."""

    def __init__(self, store: Writer, now: Callable[[], float]) -> None:
        self._store = store
        self._now = now
        self._instances: dict[InstanceId, Instance] = {}
        self._attempts: dict[AttemptKey, Attempt] = {}
        self._registrations: dict[RegistrationId, Registration] = {}
        self._jobs: dict[JobKey, Job] = {}
        self._blocks: dict[str, Block] = {}
        self._settings: dict[str, str] = {}
        self._cursors: dict[str, Mapping[str, Any]] = {}
        # The same rows for reading: their types let no other room change them.
        self.instances: Mapping[InstanceId, Instance] = self._instances
        self.attempts: Mapping[AttemptKey, Attempt] = self._attempts
        self.registrations: Mapping[RegistrationId, Registration] = self._registrations
        self.jobs: Mapping[JobKey, Job] = self._jobs
        self.blocks: Mapping[str, Block] = self._blocks
        #: Small durable facts by name; :mod:`runnerd.runtime.durable_settings` knows what they mean.
        self.settings: Mapping[str, str] = self._settings
        #: Queue -> where the reading of its forge's messages stands.
        self.cursors: Mapping[str, Mapping[str, Any]] = self._cursors
        #: What closed instances have cost.
        self.tally = budget.Tally()
        #: Called after each instance step with the row before and after.
        self.on_step: list[Callable[[Instance, Instance], None]] = []
        #: Called with each attempt row that a step wrote, before and after.
        self.on_attempt: list[Callable[[Attempt | None, Attempt], None]] = []
        #: Called inside a step with the row as it was and the fault that the step carries; the blocks that are returned
        #: join its commit.
        self.on_fault: list[Callable[[Instance, step_facts.Fault], Iterable[Block]]] = []
        #: Called once with each gone instance whose provider said late why it ended, before and after.
        self.on_proof: list[Callable[[Instance, Instance], None]] = []
        #: Called with each instance whose row leaves memory.
        self.on_forget: list[Callable[[InstanceId], None]] = []
        #: A lock lives as long as a task holds it or waits for it.
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._by_runner: dict[str, RegistrationId] = {}
        self._by_instance: dict[InstanceId, list[RegistrationId]] = {}
        #: Closed instances whose cost is in ``tally`` while a registration keeps them in memory.
        self._costed: set[InstanceId] = set()

    # -- filling -----------------------------------------------------------------------------------------------

    def load(
        self,
        *,
        instances: Iterable[Instance],
        attempts: Iterable[Attempt],
        registrations: Iterable[Registration],
        jobs: Iterable[Job],
        blocks: Iterable[Block],
        settings: Mapping[str, str] = NONE,
        cursors: Mapping[str, Mapping[str, Any]] = NONE,
    ) -> None:
        """Take over what the store holds; called once, before anything else."""
        self._instances.update({row.id: _priced(row) for row in instances})
        self._attempts.update({row.key: row for row in attempts})
        for registration in registrations:
            self._keep(registration)
        self._jobs.update({row.key: row for row in jobs})
        self._blocks.update({row.pattern: row for row in blocks})
        self._settings.update(settings)
        self._cursors.update(cursors)
        # What these cost is read from the store with the costs of all others.
        self._costed = {row.id for row in self._instances.values() if row.state in model.CLOSED}

    def count_costs(self, costs: Iterable[store.Cost]) -> None:
        """Add what instances have cost that were closed before this process started."""
        for cost in costs:
            account = budget.Account(cost.pool, cost.provider, cost.repo, cost.market)
            self.tally.add(account, start=cost.running_at, end=cost.gone_at, price=cost.price)

    def _keep(self, registration: Registration) -> None:
        if registration.state is RegistrationState.GONE:
            self._registrations.pop(registration.id, None)
            owned = self._by_instance.get(registration.instance, [])
            if registration.id in owned:
                owned.remove(registration.id)
                if not owned:
                    del self._by_instance[registration.instance]
            return
        self._registrations[registration.id] = registration
        self._by_runner[registration.runner_name] = registration.id
        owned = self._by_instance.setdefault(registration.instance, [])
        if registration.id not in owned:
            owned.append(registration.id)

    # -- reading -----------------------------------------------------------------------------------------------

    def registrations_of(self, instance: InstanceId) -> list[Registration]:
        """Return the registrations of an instance that the forge may still have, oldest first."""
        return [self.registrations[one] for one in self._by_instance.get(instance, [])]

    def runner(self, name: str) -> Registration | None:
        """Return the registration with that runner name, if it is not gone."""
        found = self._by_runner.get(name)
        return self.registrations.get(found) if found else None

    # -- adding ------------------------------------------------------------------------------------------------

    async def plan(self, rows: Iterable[Instance]) -> None:
        """Make a burst of planned instances durable in one commit."""
        new = list(rows)
        events = [self._event(row, row.state.value, row.reason.value, row.detail) for row in new]
        await self._store.write(*new, *events)
        for row in new:
            self._instances[row.id] = row

    async def adopt(
        self,
        instance: Instance,
        detail: str,
        *,
        attempt_row: Attempt | None = None,
        registration_row: Registration | None = None,
    ) -> None:
        """Take over what was found in the world without a row: an instance by its tags, a runner by its name."""
        found = [row for row in (instance, attempt_row, registration_row) if row is not None]
        await self._store.write(*found, self._event(instance, "adopted", instance.state.value, detail))
        self._instances[instance.id] = instance
        if attempt_row is not None:
            self._attempts[attempt_row.key] = attempt_row
        if registration_row is not None:
            self._keep(registration_row)

    # -- stepping ----------------------------------------------------------------------------------------------

    async def step(
        self,
        id: InstanceId,
        to: InstanceState,
        *,
        expect: Container[InstanceState] | None = None,
        reason: model.Reason | None = None,
        detail: str = "",
        attempt_row: Attempt | None = None,
        registration_row: Registration | None = None,
        fault: step_facts.Fault | None = None,
        **facts: Unpack[step_facts.InstanceFacts],
    ) -> Instance | None:
        """Move an instance along an edge; its attempt, its registration and what a fault blocks join the commit.

        Returns the new row, or None when the instance is not in an expected state (any more).  Raises
        :class:`errors.IllegalTransition` for an edge that the table does not have.
        """
        async with self._lock(id):
            old = self.instances.get(id)
            if old is None or (expect is not None and old.state not in expect):
                return None
            if to is not old.state:
                model.check_transition(f"instance {id}", old.state, to)
            now = self._now()
            new = dataclasses.replace(
                old,
                state=to,
                since=now if to is not old.state else old.since,
                reason=old.reason if reason is None else reason,
                detail=detail or old.detail,
                **facts,
            )
            if to in model.CLOSED and not new.gone_at:
                new = dataclasses.replace(new, gone_at=now)
            changes: list[Any] = [new, self._event(new, to.value, new.reason.value, detail)]
            if attempt_row is not None:
                changes += self._attempt_changes(attempt_row)
            if registration_row is not None:
                changes += self._registration_changes(registration_row)
            blocks = [block for judge in self.on_fault for block in judge(old, fault)] if fault is not None else []
            for block in blocks:
                changes += self._block_changes(block)
            await self._store.write(*changes)
            self._instances[id] = new
            self._blocks.update({block.pattern: block for block in blocks})
            attempt_before = self.attempts.get(attempt_row.key) if attempt_row is not None else None
            if attempt_row is not None:
                if attempt_row.state is AttemptState.FAILED:
                    self._attempts.pop(attempt_row.key, None)
                else:
                    self._attempts[attempt_row.key] = attempt_row
            if registration_row is not None:
                self._keep(registration_row)
            if to in model.CLOSED:
                self._forget(new)
        if attempt_row is not None:
            for attempt_listener in self.on_attempt:
                attempt_listener(attempt_before, attempt_row)
        for listener in self.on_step:
            listener(old, new)
        return new

    def shift(self, drift: float) -> None:
        """Move every time of the live rows, because the clock that stamped them was moved; :meth:`keep` stores them."""
        for row in list(self.instances.values()):
            if row.state not in model.CLOSED:
                self._instances[row.id] = step_facts.shifted(row, drift)
        for attempt in list(self.attempts.values()):
            self._attempts[attempt.key] = step_facts.shifted(attempt, drift)
        for registration in list(self.registrations.values()):
            self._registrations[registration.id] = step_facts.shifted(registration, drift)

    async def keep(self, event: Event) -> None:
        """Write every row in memory anew, with why."""
        await self._store.write(*self.instances.values(), *self.attempts.values(), *self.registrations.values(), event)

    async def amend(
        self,
        id: InstanceId,
        *,
        expect: Callable[[Instance], bool] | None = None,
        **facts: Unpack[step_facts.InstanceFacts],
    ) -> Instance | None:
        """Change facts of an instance without moving it; None when it is not as expected (any more)."""
        async with self._lock(id):
            old = self.instances.get(id)
            if old is None or (expect is not None and not expect(old)):
                return None
            new = dataclasses.replace(old, **facts)
            if new != old:
                await self._store.write(new)
                self._instances[id] = new
            return new

    async def prove(self, id: InstanceId, kind: base.EndKind, detail: str = "") -> Instance | None:
        """Write why a gone instance ended, which its provider said only after the row was closed.

        The row keeps its state and leaves its cost alone; a preemption becomes its reason.  The durable row decides,
        because a closed one leaves memory: None when it is not gone, its end is known already, or nothing is said.
        """
        if kind is base.EndKind.UNKNOWN:
            return None
        async with self._lock(id):
            old = self.instances.get(id) or await self._store.instance(id)
            if old is None or old.state is not InstanceState.GONE or old.end not in _UNPROVEN:
                return None
            reason = model.Reason.PREEMPTED if kind is base.EndKind.PREEMPTED else old.reason
            new = dataclasses.replace(old, reason=reason, end=kind.value, end_detail=detail)
            await self._store.write(new, self._event(new, "proven", reason.value, detail))
            if id in self.instances:
                self._instances[id] = new
        for listener in self.on_proof:
            listener(old, new)
        return new

    async def step_registration(
        self,
        id: RegistrationId,
        to: RegistrationState,
        *,
        expect: Container[RegistrationState] | None = None,
        detail: str = "",
        forge_id: str | None = None,
    ) -> Registration | None:
        """Move a registration along an edge; None when it is not in an expected state."""
        async with self._lock(f"registration/{id}"):
            old = self.registrations.get(id)
            if old is None or (expect is not None and old.state not in expect):
                return None
            if to is old.state:
                return old
            new = dataclasses.replace(
                old,
                state=to,
                since=self._now(),
                detail=detail or old.detail,
                forge_id=old.forge_id if forge_id is None else forge_id,
            )
            await self._store.write(*self._registration_changes(new))
            self._keep(new)
        owner = self.instances.get(new.instance)
        if owner is not None and owner.state in model.CLOSED:
            self._forget(owner)
        return new

    def _attempt_changes(self, new: Attempt) -> list[Any]:
        old = self.attempts.get(new.key)
        if old is not None and old.state is not new.state:
            model.check_transition(f"attempt {new.key}", old.state, new.state)
        elif old is None and new.state is not AttemptState.REQUESTING:
            model.check_transition(f"attempt {new.key}", AttemptState.REQUESTING, new.state)
        message = " ".join(part for part in (new.code, new.detail) if part)
        return [new, Event(self._now(), "attempt", new.key, new.state.value, new.failure, message or new.offer)]

    def _registration_changes(self, new: Registration) -> list[Any]:
        old = self.registrations.get(new.id)
        if old is not None and old.state is not new.state:
            model.check_transition(f"registration {new.runner_name}", old.state, new.state)
        return [
            new,
            Event(self._now(), "registration", new.runner_name, new.state.value, str(new.queue), new.detail),
        ]

    # -- jobs, blocks, events ----------------------------------------------------------------------------------

    async def write_jobs(
        self,
        jobs: Iterable[Job],
        events: Iterable[Event] = (),
        *,
        queue: Queue | None = None,
        cursor: Mapping[str, Any] | None = None,
    ) -> None:
        """Make facts about jobs durable, in one commit with their events and the cursor of their queue."""
        rows = list(jobs)
        changes: list[Any] = [*rows, *events]
        if queue is not None and cursor is not None:
            changes.append(store.Cursor(str(queue), dict(cursor)))
        if not changes:
            return
        await self._store.write(*changes)
        self._jobs.update({row.key: row for row in rows})
        if queue is not None and cursor is not None:
            self._cursors[str(queue)] = dict(cursor)

    def forget_jobs(self, *, before: float) -> None:
        """Let jobs leave memory that were completed before a time; the store keeps them longer."""
        for key, job in list(self._jobs.items()):
            if job.state is model.JobState.COMPLETED and job.finished_at < before:
                del self._jobs[key]

    async def write_block(self, block: Block) -> None:
        """Write a blocked pattern."""
        await self._store.write(*self._block_changes(block))
        self._blocks[block.pattern] = block

    def _block_changes(self, block: Block) -> list[Any]:
        return [block, Event(block.since, "offer", block.pattern, "blocked", block.reason, block.detail)]

    async def lift_block(self, pattern: str) -> None:
        """Forget a blocked pattern."""
        await self._store.write(store.Unblock(pattern))
        self._blocks.pop(pattern, None)

    async def write_setting(self, name: str, value: str, *events: Event) -> None:
        """Keep a small durable fact, in one commit with the events about it."""
        await self._store.write(store.Setting(name, value), *events)
        self._settings[name] = value

    async def write_console(self, console: model.Console) -> None:
        """Keep what an instance printed; only the store holds it."""
        await self._store.write(console)

    async def note(self, *events: Event) -> None:
        """Add to the audit trail."""
        await self._store.write(*events)

    async def probe(self) -> None:
        """Make a tiny durable write.  Raises :class:`errors.StoreError` while rows cannot be written."""
        await self._store.probe()

    async def prune(self, *, before: float) -> int:
        """Delete the rows of what was closed before a time; returns how many."""
        return await self._store.prune(before=before)

    def _event(self, row: Instance, what: str, reason: str, detail: str) -> Event:
        return Event(self._now(), "instance", row.id, what, reason, detail)

    # -- forgetting --------------------------------------------------------------------------------------------

    def _forget(self, closed: Instance) -> None:
        """Let a closed instance leave memory once no registration of it is left; its cost stays."""
        if closed.running_at > 0 and closed.id not in self._costed:
            account = budget.Account(closed.pool, closed.provider, closed.repo, closed.market)
            self.tally.add(account, start=closed.running_at, end=closed.gone_at, price=closed.price)
            self._costed.add(closed.id)
        if self._by_instance.get(closed.id):
            return
        self._instances.pop(closed.id, None)
        if closed.attempt is not None:
            self._attempts.pop(closed.attempt, None)
        self._costed.discard(closed.id)
        for listener in self.on_forget:
            listener(closed.id)

    def _lock(self, name: str) -> asyncio.Lock:
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        return lock


#: How a row says that its provider has not said yet why the instance ended.
_UNPROVEN = ("", base.EndKind.UNKNOWN.value)


def _priced(row: Instance) -> Instance:
    """Return the row with a price that can be added up: earlier versions took any tag's."""
    return row if numbers.real(row.price) is not None else dataclasses.replace(row, price=0.0)
