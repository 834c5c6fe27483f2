"""Runner records: created once, found by name, and removed only when no job can be on them.

GitLab has no "delete unless busy".  Removal therefore takes several calls, and each derives its step from what GitLab
shows, so that a restart of the daemon in the middle costs a wait and nothing else.
"""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, cast

from runnerd import errors, model
from runnerd.forges import base, fields
from runnerd.forges.gitlab import discovery, jobs, rest
from runnerd.kit import clock as clocks
from runnerd.kit import redaction

#: The shortest ``maximum_timeout`` that GitLab accepts, in seconds (lib/api/user_runners.rb).
SHORTEST_TIMEOUT_S = 600
#: Longest description and maintenance note, in characters.
LONGEST_TEXT = 1024
#: Rows of one page of a list.
PAGE = 100
#: Begins the description of every record that is not an instance's own.
MARK = "runnerd "


class RunnerRow(TypedDict, total=False):
    """A runner record in a list of GitLab, or in full; no field is validated."""

    id: object
    description: object
    #: ``online``, ``offline``, ``stale`` or ``never_contacted``.
    status: object
    online: object
    paused: object
    #: The two below in full records only.
    tag_list: object
    contacted_at: object


@dataclass(frozen=True, slots=True)
class Windows:
    """The waits of a removal, in seconds."""

    #: For a request of the runner that GitLab was already working on when the runner was paused.
    request: float = 30.0
    #: For an assigned job that its runner has not acknowledged to go back (RUNNER_ACK_QUEUE_EXPIRY_TIME).
    acknowledge: float = 120.0
    #: For a runner that was never in contact: only its first request may be on its way.
    never_contacted: float = 10.0
    #: For a create call without an answer, which may still be applied.
    lost_create: float = 120.0
    #: For a runner process in Workhorse's long poll, which asks again after at most 50 s and then appears as a manager.
    manager: float = 60.0

    @property
    def contacted(self) -> float:
        """The wait for a runner that was in contact."""
        return self.request + self.acknowledge


def system_id(name: str) -> str:
    """Return a ``system_id`` in the form that gitlab-runner accepts, derived from the name of its runner."""
    return "r_rd" + hashlib.sha256(name.encode()).hexdigest()[:10]


def creation(
    spec: base.QueueSpec, scope: discovery.Scope, number: int, *, description: str, note: str
) -> dict[str, Any]:
    """Return the body of ``POST /user/runners``; ``number`` is the scope's id."""
    return {
        "runner_type": scope.kind,
        ("group_id" if scope.group else "project_id"): number,
        "description": description[:LONGEST_TEXT],
        "maintenance_note": note[:LONGEST_TEXT],
        "tag_list": list(spec.labels),
        "run_untagged": spec.untagged,
        # Not to be lent to other projects by their maintainers.
        "locked": True,
        "access_level": "ref_protected" if spec.protected_only else "not_protected",
        "maximum_timeout": max(SHORTEST_TIMEOUT_S, int(spec.max_job)),
        "paused": False,
    }


class Runners:
    """The runner records of one forge, one per instance."""

    def __init__(
        self,
        client: rest.Rest,
        directory: discovery.Directory,
        *,
        clock: clocks.Clock,
        windows: Windows,
        controller: str,
    ) -> None:
        self._rest = client
        self._directory = directory
        self._clock = clock
        self._windows = windows
        self._controller = controller
        #: When a record, by id, was paused.
        self._paused: dict[str, float] = {}
        #: When the create call of a runner, by name, lost its answer.
        self._lost: dict[str, float] = {}
        #: Names that one listing of several pages did not show.
        self._missed: set[str] = set()
        #: Records of a scope: those of the last complete listing, and our own changes since.
        self._counts: dict[str, int] = {}
        #: Create calls that are under way, so that a burst does not run into the cap.
        self._under_way: collections.Counter[str] = collections.Counter()
        #: Called with the jobs that a removed runner had: a short one may have come and gone between two polls.
        self.on_history: Callable[[model.Queue, Sequence[jobs.JobView]], Awaitable[None]] | None = None
        #: Ids of records that this process created.
        self.ours: set[int] = set()

    def count(self, scope: str) -> int | None:
        """Return the number of records in the scope, those being created included; None while unknown."""
        known = self._counts.get(scope)
        return None if known is None else known + self._under_way[scope]

    def note(self, note: str) -> str:
        """Return a maintenance note that names the record's controller."""
        return note if note.startswith(MARK) else MARK + " ".join(part for part in (self._controller, note) if part)

    async def create(self, spec: base.QueueSpec, *, description: str, note: str) -> tuple[str, str]:
        """Create a record; return its id and its token.  One POST, never repeated.

        Raises :class:`errors.ForgeError`, with ``maybe_created`` when the record may exist all the same.
        """
        scope = self._directory.scope(spec.queue.scope)
        self._under_way[scope.path] += 1
        try:
            return await self._create(spec, scope, description=description, note=note)
        finally:
            self._under_way[scope.path] -= 1

    async def _create(
        self, spec: base.QueueSpec, scope: discovery.Scope, *, description: str, note: str
    ) -> tuple[str, str]:
        try:
            number = await self._directory.id_of(scope)
        except errors.ForgeError as error:
            # Looking up the scope created no runner, even if it failed.
            error.maybe_created = False
            raise
        what = f"create the runner {description} for {scope.path}"
        body = creation(spec, scope, number, description=description, note=note)
        try:
            answer = await self._rest.call("POST", "/user/runners", what=what, body=body)
            data = self._rest.object(answer, what)
            id_, token = data.get("id"), data.get("token")
            if not isinstance(id_, int) or not isinstance(token, str) or not token:
                raise errors.ForgeUnavailable(
                    f"{self._rest.name}: {what}: GitLab answered without an id or token", maybe_created=True
                )
        except errors.ForgeError as error:
            if error.maybe_created:
                self._lost[description] = self._clock.now()
            raise
        if scope.path in self._counts:
            self._counts[scope.path] += 1
        self.ours.add(id_)
        redaction.learn(token)
        return str(id_), token

    async def rows(self, scope: discovery.Scope) -> list[RunnerRow]:
        """Return all records of the scope itself.  Raises :class:`errors.ForgeError` if any page is missing."""
        rows = await self._rest.rows(
            scope.runners,
            what=f"list the runners of {scope.path}",
            path={"id": scope.path},
            query=(("type", scope.kind), ("per_page", "100")),
        )
        self._counts[scope.path] = len(rows)
        return cast("list[RunnerRow]", rows)

    async def named(self, description: str, scope: discovery.Scope) -> list[RunnerRow]:
        """Return the records with that description, oldest first.  Raises :class:`errors.ForgeError`."""
        rows = [row for row in await self.rows(scope) if row.get("description") == description]
        return sorted(rows, key=lambda row: fields.positive_id(row.get("id")))

    async def show(self, id: str) -> RunnerRow | None:
        """Return one record in full; None when GitLab does not have it.  Raises :class:`errors.ForgeError`."""
        try:
            record = await self._rest.get("/runners/{id}", what=f"read runner {id}", path={"id": id})
        except errors.ForgeNotFound:
            return None
        return cast("RunnerRow", record)

    async def open_jobs(self, id: str) -> list[jobs.JobView] | None:
        """Return the jobs of a shared runner that have not ended, assigned ones included; None when it is gone.

        They are listed by state, because a long job may have any number of newer ones after it.
        """
        unfinished: list[jobs.JobView] = []
        for status in (*sorted(jobs.RUNNING), *sorted(jobs.WAITING)):
            part = await self._jobs(id, status=status)
            if part is None:
                return None
            unfinished += [job for job in part if job.status not in jobs.FINAL]
        return unfinished

    async def history(self, id: str) -> list[jobs.JobView] | None:
        """Return the jobs of an instance's own runner in every state; None when the runner is gone.

        Not by ``status=running``, because a job that is assigned but not acknowledged is pending.
        """
        return await self._jobs(id)

    async def _jobs(self, id: str, *, status: str = "") -> list[jobs.JobView] | None:
        what = f"list the jobs of runner {id}"
        query = [("order_by", "id"), ("sort", "desc"), ("per_page", "100")]
        if status:
            query.insert(0, ("status", status))
        try:
            rows = await self._rest.rows("/runners/{id}/jobs", what=what, path={"id": id}, query=query)
        except errors.ForgeNotFound:
            return None
        except errors.ForgeError as error:
            if error.status != 400 or not status:
                raise
            # A version that cannot filter by this state: list them all.
            return await self._jobs(id)
        # A row that cannot be read might be a running job: no answer is better than a wrong one.
        try:
            return [jobs.read(row, 0) for row in rows]
        except ValueError as error:
            raise errors.ForgeUnavailable(
                f"{self._rest.name}: {what}: GitLab's answer is not understood: {error}"
            ) from error

    async def pause(self, id: str) -> bool:
        """Pause a runner, so that it takes no further job; return False when GitLab does not have it."""
        try:
            await self._rest.call(
                "PUT", "/runners/{id}", what=f"pause runner {id}", path={"id": id}, body={"paused": True}
            )
        except errors.ForgeNotFound:
            return False
        return True

    async def delete(self, id: str, scope: str) -> None:
        """Delete a record; one that is gone already is a success."""
        try:
            await self._rest.call("DELETE", "/runners/{id}", what=f"delete runner {id}", path={"id": id})
        except errors.ForgeNotFound:
            pass
        self._forget(id, scope)

    def _forget(self, id: str, scope: str) -> None:
        self._paused.pop(id, None)
        if id.isdigit() and int(id) in self.ours:
            self.ours.discard(int(id))
            if self._counts.get(scope):
                self._counts[scope] -= 1

    async def resolve(self, registration: model.Registration) -> str | None:
        """Return the id of a registration's record, by name where it is unknown; None when GitLab certainly has none.

        Raises :class:`errors.ForgeConflict` while a create call without an answer may still be applied.
        """
        if registration.forge_id:
            return registration.forge_id
        scope = self._directory.scope(registration.queue.scope)
        now = self._clock.now()
        rows = await self.named(registration.runner_name, scope)
        if rows:
            return str(rows[0]["id"])
        asked = max(registration.created_at, self._lost.get(registration.runner_name, 0.0))
        if now - asked < self._windows.lost_create:
            raise errors.ForgeConflict(
                f"{self._rest.name}: the call that creates {registration.runner_name} may still be under way"
            )
        if (self._counts.get(scope.path) or 0) > PAGE and registration.runner_name not in self._missed:
            # Several pages by offset: a record deleted meanwhile shifts the rest, so one listing can miss ours.
            self._missed.add(registration.runner_name)
            raise errors.ForgeConflict(f"{self._rest.name}: {registration.runner_name} is looked for once more")
        self._missed.discard(registration.runner_name)
        self._lost.pop(registration.runner_name, None)
        return None

    async def remove(self, registration: model.Registration) -> base.Removal:
        """Take one step of the sequence: pause, wait, check that it has no job of any kind, delete.

        A runner with a finished job needs no wait: its process took one job (``--max-builds 1``) and never asks again.
        A busy one stays paused: its job goes on and no other follows.
        """
        try:
            id_ = await self.resolve(registration)
        except errors.ForgeConflict:
            return base.Removal.PENDING
        if id_ is None:
            return base.Removal.REMOVED
        scope = registration.queue.scope
        if id_ not in self._paused:
            # Also after a restart: pausing again is harmless, and the wait counts from now.
            if not await self.pause(id_):
                self._forget(id_, scope)
                return base.Removal.REMOVED
            self._paused[id_] = self._clock.now()
        asked = self._clock.now()
        history = await self.history(id_)
        if history is None:
            self._forget(id_, scope)
            return base.Removal.REMOVED
        if any(job.status not in jobs.FINAL for job in history):
            return base.Removal.BUSY
        if not history and not await self._quiet(id_, asked - self._paused[id_]):
            return base.Removal.PENDING
        if history and self.on_history is not None:
            await self.on_history(registration.queue, history)
        await self.delete(id_, scope)
        if not registration.forge_id and await self.named(registration.runner_name, self._directory.scope(scope)):
            # A proxy repeated the lost call: another record of that name is left.
            return base.Removal.PENDING
        return base.Removal.REMOVED

    async def _quiet(self, id: str, paused_for: float) -> bool:
        """Return True when no request from before the pause can still bring the runner a job."""
        if paused_for >= self._windows.contacted:
            return True
        if paused_for < self._windows.never_contacted:
            return False
        # Contact is noted before a job is looked for, so "never" after the pause excludes a request before it.
        record = await self.show(id)
        return record is not None and record.get("status") == "never_contacted" and not record.get("contacted_at")
