"""One runner record per queue with many managers, for plans that allow few runners.

The record's token is shown once and lives in memory only: after a restart a new record is created beside the old one,
which is deleted when it has no manager left.  An instance is known by its ``system_id``, which we choose and pass to it
as ``RUNNERD_SYSTEM_ID``.  GitLab cannot pause one manager; see :meth:`Flavours.remove` for the substitute.
"""

from __future__ import annotations

from dataclasses import dataclass

from runnerd import errors, model
from runnerd.forges import base
from runnerd.forges.gitlab import discovery, jobs, rest, runners
from runnerd.kit import clock as clocks

#: Begins the forge id of a registration whose record is shared.
PREFIX = "flavour:"
#: The environment variable with the system_id that the instance's runner must use.
SYSTEM_ID = "RUNNERD_SYSTEM_ID"
#: Seconds within which an instance that was given a token appears as a manager.
CONNECTS_WITHIN_S = 3600.0


@dataclass(frozen=True, slots=True)
class _Shared:
    """The present record of a queue."""

    id: str
    token: str
    #: The specification for which the record was created; another one needs another record.
    spec: base.QueueSpec


class Flavours:
    """The shared records of one forge."""

    def __init__(
        self,
        client: rest.Rest,
        records: runners.Runners,
        directory: discovery.Directory,
        *,
        clock: clocks.Clock,
        windows: runners.Windows,
        controller: str,
    ) -> None:
        self._rest = client
        self._records = records
        self._directory = directory
        self._clock = clock
        self._windows = windows
        self._controller = controller
        self._shared: dict[model.Queue, _Shared] = {}
        #: When a record's token was last given to an instance.
        self._handed: dict[str, float] = {}
        #: When the manager of a runner, by name, was deleted.
        self._left: dict[str, float] = {}
        #: When a record, by id, was paused.
        self._paused: dict[str, float] = {}

    def description(self, queue: model.Queue) -> str:
        """Return the description of the queue's shared records."""
        return f"{runners.MARK}flavour {self._controller} {queue}".replace("  ", " ")

    def holds(self, queue: model.Queue) -> bool:
        """Return True when the queue has a shared record whose token we know."""
        return queue in self._shared

    async def token(self, spec: base.QueueSpec, note: str) -> tuple[str, str]:
        """Return the id (with :data:`PREFIX`) and token of the queue's shared record; create it if there is none.

        Raises :class:`errors.ForgeError`; a lost answer leaves a record that the next call removes.
        """
        queue = spec.queue
        shared = self._shared.get(queue)
        if shared is not None and shared.spec == spec and await self._alive(shared):
            self._handed[shared.id] = self._clock.now()
            return PREFIX + shared.id, shared.token
        await self.tidy(spec)
        id_, token = await self._records.create(
            spec, description=self.description(queue), note=self._records.note(note)
        )
        self._shared[queue] = _Shared(id_, token, spec)
        self._handed[id_] = self._clock.now()
        return PREFIX + id_, token

    async def _alive(self, shared: _Shared) -> bool:
        record = await self._records.show(shared.id)
        return record is not None and record.get("paused") is not True

    async def tidy(self, spec: base.QueueSpec) -> None:
        """Delete the queue's former records that no instance uses any more."""
        queue = spec.queue
        current = self._shared.get(queue)
        scope = self._directory.scope(queue.scope)
        for row in await self._records.named(self.description(queue), scope):
            id_ = str(row["id"])
            if current is not None and current.id == id_ and current.spec == spec:
                continue
            if self._clock.now() - self._handed.get(id_, 0.0) < CONNECTS_WITHIN_S:
                continue
            if await self._unused(id_):
                await self._records.delete(id_, queue.scope)

    async def _unused(self, id: str) -> bool:
        return not await self._managers(id) and not await self._records.open_jobs(id)

    async def _managers(self, id: str) -> set[str]:
        try:
            rows = await self._rest.rows(
                "/runners/{id}/managers", what=f"list the managers of runner {id}", path={"id": id}
            )
        except errors.ForgeNotFound:
            return set()
        return {str(row.get("system_id")) for row in rows}

    async def remove(self, registration: model.Registration) -> base.Removal:
        """End one instance's use of the shared record.

        Busy while a job that has not ended is on our ``system_id``, or on one that runnerd did not choose and so could
        be ours.  Then the manager is deleted and must stay away: a process that still lives asks for a job within
        :attr:`runners.Windows.manager` and is back in the list, and then the answer stays PENDING until it has
        stopped.  Where the token is not known any more (after a restart) the whole record is paused instead, as for a
        runner of one's own.
        """
        id_ = registration.forge_id.removeprefix(PREFIX)
        ours = runners.system_id(registration.runner_name)
        shared = self._shared.get(registration.queue)
        if shared is not None and shared.id == id_:
            return await self._leave(id_, ours, shared.token, registration.runner_name)
        if id_ not in self._paused:
            if not await self._records.pause(id_):
                return base.Removal.REMOVED
            self._paused[id_] = self._clock.now()
        asked = self._clock.now()
        unfinished = await self._records.open_jobs(id_)
        if unfinished is None:
            return base.Removal.REMOVED
        if _ours(unfinished, ours):
            return base.Removal.BUSY
        if asked - self._paused[id_] < self._windows.contacted:
            return base.Removal.PENDING
        if not unfinished:
            # Paused, and without a job: none can reach any of its managers.
            await self._records.delete(id_, registration.queue.scope)
            self._paused.pop(id_, None)
        return base.Removal.REMOVED

    async def _leave(self, id: str, ours: str, token: str, name: str) -> base.Removal:
        asked = self._clock.now()
        unfinished = await self._records.open_jobs(id)
        if unfinished is None:
            return base.Removal.REMOVED
        if _ours(unfinished, ours):
            self._left.pop(name, None)
            return base.Removal.BUSY
        left = self._left.get(name)
        if left is None or ours in await self._managers(id):
            await self._delete_manager(id, ours, token)
            self._left[name] = self._clock.now()
            return base.Removal.PENDING
        if asked - left < self._windows.manager:
            return base.Removal.PENDING
        del self._left[name]
        return base.Removal.REMOVED

    async def _delete_manager(self, id: str, ours: str, token: str) -> None:
        try:
            await self._rest.call(
                "DELETE",
                "/runners/managers",
                what=f"delete a manager of runner {id}",
                body={"token": token, "system_id": ours},
                anonymous=True,
            )
        except errors.ForgeNotFound:
            pass


def _ours(unfinished: list[jobs.JobView], ours: str) -> bool:
    """Return True when one of the jobs is on our manager, or on one whose owner is unknown."""
    return any(job.system_id == ours or not job.system_id.startswith("r_rd") for job in unfinished)
