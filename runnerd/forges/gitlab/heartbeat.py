"""Heartbeat records, which keep jobs waiting: GitLab drops a job after an hour if no online runner could take it.

A pool that scales to zero has no runner, so each queue has one record with its tags that is kept in contact through
``POST /runners/verify`` and never asks for a job.  GitLab does not document that this counts as contact, so it is
checked each time, and an alarm is raised when it does not.  Tokens live in memory only: after a restart the record's
token is reset.
"""

from __future__ import annotations

import logging
import random

from runnerd import errors, model
from runnerd.forges import base, fields
from runnerd.forges.gitlab import discovery, rate_limits, rest, runners
from runnerd.kit import clock as clocks

log = logging.getLogger(__name__)

#: Seconds between two contacts.  GitLab drops a job after 1 h without a runner that was in contact in the last 2 h.
EVERY_S = 1500.0
#: Seconds until a failed contact is tried again, by failures in a row.
AGAIN_S = (10.0, 30.0, 60.0, 300.0)
#: The alarm's reason.
REASON = "heartbeat"
#: Failures in a row from which an outage raises the alarm.
ALARM_AFTER = 3


class Heartbeats:
    """The heartbeat records of one forge."""

    def __init__(
        self,
        client: rest.Rest,
        records: runners.Runners,
        directory: discovery.Directory,
        *,
        clock: clocks.Clock,
        rng: random.Random,
        controller: str,
    ) -> None:
        self._rest = client
        self._records = records
        self._directory = directory
        self._clock = clock
        self._rng = rng
        self._controller = controller
        self._tokens: dict[model.Queue, tuple[str, str]] = {}

    @property
    def mark(self) -> str:
        """The beginning of the description of our heartbeat records."""
        return f"{runners.MARK}heartbeat {self._controller}".rstrip()

    def description(self, queue: model.Queue) -> str:
        """Return the description of the queue's record."""
        return f"{self.mark} {queue}"

    async def keep(self, spec: base.QueueSpec, sink: base.Sink) -> None:
        """Keep the queue's record in contact until cancelled; raise the alarm while it is not."""
        failures = 0
        while True:
            problem, delay = "", EVERY_S * self._rng.uniform(0.9, 1.0)
            try:
                problem = await self.beat(spec)
                failures = 0
                if problem:
                    delay = AGAIN_S[-1]
            except errors.ForgeError as error:
                failures += 1
                delay = rate_limits.backoff(AGAIN_S, failures, self._rng)
                passing = isinstance(error, errors.ForgeUnavailable | errors.ForgeThrottled)
                problem = "" if passing and failures < ALARM_AFTER else str(error)
            except Exception as error:
                log.exception("%s: the heartbeat of %s failed", self._rest.name, spec.queue)
                problem, delay = f"{type(error).__name__}: {error}", AGAIN_S[-1]
            if problem:
                sink.alarm("queue", str(spec.queue), REASON, problem)
            elif not failures:
                sink.clear("queue", str(spec.queue), REASON)
            await self._clock.sleep(delay)

    async def beat(self, spec: base.QueueSpec) -> str:
        """Contact GitLab as the queue's record once; return the problem for people, empty for none.

        Raises :class:`errors.ForgeError` when GitLab refused a step; the caller tries again.
        """
        id_, token = self._tokens.get(spec.queue) or await self._take(spec)
        self._tokens[spec.queue] = (id_, token)
        try:
            await self._rest.call(
                "POST",
                "/runners/verify",
                what=f"keep the heartbeat record {id_} in contact",
                body={"token": token, "system_id": runners.system_id(self.description(spec.queue))},
                anonymous=True,
            )
        except (errors.ForgeForbidden, errors.ForgeNotFound, errors.ForgeAuthFailed):
            # It was deleted or its token was reset: the next round gets a new one.
            del self._tokens[spec.queue]
            raise
        return self._problem(id_, await self._records.show(id_), spec)

    def _problem(self, id: str, record: runners.RunnerRow | None, spec: base.QueueSpec) -> str:
        if record is None:
            self._tokens.pop(spec.queue, None)
            return f"the heartbeat record {id} is gone; runnerd creates it again"
        risk = "a waiting job may be dropped by GitLab after an hour"
        if record.get("paused") is True:
            return f"the heartbeat record {id} is paused, so it does not count: {risk}. Resume it in GitLab."
        if record.get("status") != "online":
            return (
                f"the heartbeat record {id} is {record.get('status')!r} although it was verified: {risk}."
                " Keep one instance warm, or a small permanent runner with the same tags."
            )
        tags = record.get("tag_list")
        if isinstance(tags, list) and set(tags) != set(spec.labels):
            # The labels of the pool or the tags of the record were changed: the next round creates it again.
            self._tokens.pop(spec.queue, None)
            return f"the heartbeat record {id} has the tags {sorted(map(str, tags))} and is created again: {risk}"
        return ""

    async def _take(self, spec: base.QueueSpec) -> tuple[str, str]:
        """Return id and token of the queue's record: the present one with a reset token, else a new one."""
        scope = self._directory.scope(spec.queue.scope)
        description = self.description(spec.queue)
        rows = await self._records.named(description, scope)
        for extra in rows[1:]:
            # Left by a create call whose answer was lost.
            await self._records.delete(str(extra["id"]), scope.path)
        if rows:
            id_ = str(rows[0]["id"])
            if await self._fits(id_, spec):
                token = await self._reset(id_)
                if token:
                    return id_, token
            await self._records.delete(id_, scope.path)
        return await self._records.create(
            spec,
            description=description,
            note=self._records.note("keeps waiting jobs from being dropped while no instance runs; takes no job"),
        )

    async def _fits(self, id: str, spec: base.QueueSpec) -> bool:
        record = await self._records.show(id)
        if record is None or record.get("paused") is True:
            return False
        tags = record.get("tag_list")
        return isinstance(tags, list) and set(tags) == set(spec.labels)

    async def _reset(self, id: str) -> str:
        """Return a new token for a record; empty when GitLab refuses that."""
        what = f"reset the token of the heartbeat record {id}"
        try:
            answer = await self._rest.call(
                "POST", "/runners/{id}/reset_authentication_token", what=what, path={"id": id}
            )
        except (errors.ForgeNotFound, errors.ForgeForbidden):
            return ""
        token = self._rest.object(answer, what).get("token")
        return token if isinstance(token, str) else ""

    async def retire(self, keep: set[model.Queue], scope: discovery.Scope) -> None:
        """Delete the scope's heartbeat records of queues that left the configuration."""
        rows = await self._records.rows(scope)
        wanted = {self.description(queue) for queue in keep}
        # Without a controller's name the mark could be another daemon's, so nothing is deleted.
        for row in rows if self._controller else ():
            description = str(row.get("description"))
            if (
                description.startswith(self.mark + " ")
                and description not in wanted
                and fields.positive_id(row.get("id"))
            ):
                await self._records.delete(str(row["id"]), scope.path)
