"""The store: one object that writes and reads the durable state.

When ``write`` returns, its changes are on the disk.  Writers that arrive during a commit share the next one, so a
burst costs a few flushes, not one each.  The store decides nothing: it keeps facts and answers queries.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import sqlalchemy as sa

from provisioners.offload import Offload
from runnerd import errors, model
from runnerd.store import commit, database, prune, queries, rows, spending

Change = commit.Change
State = queries.State
T = TypeVar("T")

#: The most changes in one transaction: readers must not wait long for it.
MOST_CHANGES = 20_000


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A call of ``write`` that has not returned yet."""

    changes: Sequence[commit.Encoded]
    done: asyncio.Future[None]


class Store:
    """The durable state.  One per process and database; :meth:`open` creates it."""

    def __init__(self, opened: database.Database, *, offload: Offload, now: Callable[[], float]) -> None:
        self._database = opened
        self._offload = offload
        self._now = now
        self._waiting: list[_Waiting] = []
        self._committer: asyncio.Task[None] | None = None
        self._closed = False

    @classmethod
    async def open(cls, url: str, *, offload: Offload, now: Callable[[], float], migrate: bool = True) -> Store:
        """Open, lock and migrate the database at ``url``; an older SQLite file is copied first.

        Raises :class:`errors.StoreBusy` naming who uses it, :class:`errors.StoreUnwritable` when it cannot be
        written, :class:`errors.StoreError` when it is damaged, of a newer runnerd, not runnerd's, or the URL is bad.
        """
        opened = database.Database(url, now=now)
        try:
            await offload(functools.partial(opened.open, migrate=migrate))
        except asyncio.CancelledError:
            # The thread may hold the lock by now, and nothing else would release it.
            opened.close()
            raise
        return cls(opened, offload=offload, now=now)

    @property
    def commits(self) -> int:
        """Return the number of transactions committed for writers since the store was opened."""
        return self._database.commits

    @property
    def where(self) -> str:
        """Return the database's URL without a password."""
        return self._database.where

    # -- writing ------------------------------------------------------------------------------------------------

    async def write(self, *changes: Change) -> None:
        """Make the changes durable, all or none, in order after earlier calls.

        Rows are replaced by key, events are added.  Raises :class:`errors.StoreUnwritable` when the database cannot
        be written now; the same changes may be written later (after a lost connection they may be durable already).
        Raises :class:`errors.StoreBusy` once another daemon has taken the database, and :class:`errors.StoreError`
        for a change that cannot be stored.  A cancelled call may or may not have been written.
        """
        if self._closed:
            raise errors.StoreError("the store is closed")
        encoded = commit.encode(changes)
        if not encoded:
            return
        loop = asyncio.get_running_loop()
        waiting = _Waiting(encoded, loop.create_future())
        self._waiting.append(waiting)
        if self._committer is None:
            # A task of its own: a writer that is cancelled must not take the others' commit with it.
            self._committer = loop.create_task(self._commit_all(), name="store/commit")
        await waiting.done

    async def _commit_all(self) -> None:
        batch: list[_Waiting] = []
        try:
            while self._waiting:
                batch = self._take()
                changes = [each.changes for each in batch]
                answers = await self._offload(functools.partial(self._database.write, changes))
                for each, answer in zip(batch, answers, strict=True):
                    if each.done.done():
                        continue
                    if answer is None:
                        each.done.set_result(None)
                    else:
                        # One exception object must not be raised in several tasks: their tracebacks would mix.
                        failure = type(answer)(str(answer))
                        failure.__cause__ = answer
                        each.done.set_exception(failure)
        except Exception as error:
            for each in [*batch, *self._waiting]:
                if not each.done.done():
                    each.done.set_exception(errors.StoreError(f"the write was not carried out: {error}"))
            self._waiting.clear()
        except BaseException:
            for each in [*batch, *self._waiting]:
                each.done.cancel()
            self._waiting.clear()
            raise
        finally:
            self._committer = None

    def _take(self) -> list[_Waiting]:
        size = count = 0
        while count < len(self._waiting) and size < MOST_CHANGES:
            size += len(self._waiting[count].changes)
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    async def probe(self) -> None:
        """Make a tiny durable write, for ``/readyz``.  Raises like :meth:`write`."""
        await self._offload(self._database.probe)

    async def prune(self, *, before: float) -> int:
        """Delete what was closed before that time and return the number of rows deleted.

        Closed instances go with their attempts, registrations and consoles; completed jobs and expired blocks go by
        themselves, events after their subjects.  Output of instances goes after
        :data:`prune.CONSOLES_S` seconds in any case.  Other writers get their turn in between.
        """
        total = 0
        steps = [(prune.consoles, max(before, self._now() - prune.CONSOLES_S)), *((one, before) for one in prune.STEPS)]
        for step, until in steps:
            more = True
            while more:
                work = functools.partial(step, before=until)
                deleted, more = await self._offload(functools.partial(self._database.transaction, work))
                total += deleted
        return total

    # -- reading ------------------------------------------------------------------------------------------------

    async def load(self) -> State:
        """Return everything that the controller mirrors in memory, as of one moment."""
        work = functools.partial(queries.load, now=self._now())
        return await self._offload(functools.partial(self._database.transaction, work))

    async def events(
        self,
        *,
        subject: str | None = None,
        id: str | None = None,
        since: float = 0,
        after_rowid: int = 0,
        limit: int = 200,
    ) -> list[model.Event]:
        """Return the last ``limit`` matching events, oldest first; with ``after_rowid`` the first ones after it."""
        numbered = await self.trail(subject=subject, id=id, since=since, after_rowid=after_rowid, limit=limit)
        return [event for _, event in numbered]

    async def trail(
        self,
        *,
        subject: str | None = None,
        id: str | None = None,
        since: float = 0,
        after_rowid: int = 0,
        limit: int = 200,
    ) -> list[tuple[int, model.Event]]:
        """Return events like :meth:`events`, each with the row id to continue after."""
        return await self._read(
            functools.partial(queries.events, subject=subject, id=id, since=since, after_rowid=after_rowid, limit=limit)
        )

    async def instance(self, id: str) -> model.Instance | None:
        """Return the instance of that id, live or closed."""
        return await self._read(functools.partial(queries.instance, id=id))

    async def instances(
        self, *, live: bool | None = None, pool: str | None = None, limit: int = 500
    ) -> list[model.Instance]:
        """Return instances, newest first."""
        return await self._read(functools.partial(queries.instances, live=live, pool=pool, limit=limit))

    async def unexplained(self, since: float) -> list[model.Instance]:
        """Return the instances gone since then for which the provider has given no end reason, oldest first."""
        return await self._read(functools.partial(queries.unexplained, since=since))

    async def consoles(self, instance_id: str) -> list[model.Console]:
        """Return the stored output of an instance, by kind."""
        return await self._read(functools.partial(queries.consoles, instance_id=instance_id))

    async def attempts(self, instance_id: str) -> list[model.Attempt]:
        """Return all attempts for an instance, oldest first."""
        return await self._read(functools.partial(queries.attempts, instance_id=instance_id))

    async def registrations(self, instance_id: str) -> list[model.Registration]:
        """Return all registrations of an instance, oldest first."""
        return await self._read(functools.partial(queries.registrations, instance_id=instance_id))

    async def job(self, name: str) -> list[model.Job]:
        """Return the jobs that ``name`` may mean, newest first: a key, one of the forge's ids, a run or a name."""
        return await self._read(functools.partial(queries.job, name=name))

    async def jobs(
        self, *, state: model.JobState | None = None, pool: str | None = None, limit: int = 500
    ) -> list[model.Job]:
        """Return jobs, newest first."""
        return await self._read(functools.partial(queries.jobs, state=state, pool=pool, limit=limit))

    async def costs(self, since: float) -> list[rows.Cost]:
        """Return the costs of instances that were gone at ``since`` or later, oldest first."""
        return await self._read(functools.partial(queries.costs, since=since))

    async def spending(self, *, by: spending.By, since: float, until: float, now: float) -> spending.Spending:
        """Return costs within a span of time, of live instances up to ``now``, grouped by one of their attributes."""
        return await self._read(functools.partial(spending.spending, by=by, since=since, until=until, now=now))

    async def _read(self, work: Callable[[sa.Connection], T]) -> T:
        return await self._offload(functools.partial(self._database.read, work))

    # -- the end ------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Finish the pending writes, then close the database.  Harmless when done twice."""
        self._closed = True
        while self._committer is not None:
            await asyncio.wait({self._committer})
        await self._offload(self._database.close)

    def abandon(self) -> None:
        """Release everything at once, as a killed process does: pending writes may be lost."""
        self._closed = True
        if self._committer is not None:
            self._committer.cancel()
        for each in self._waiting:
            each.done.cancel()
        self._waiting.clear()
        self._database.close()
