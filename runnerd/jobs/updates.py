"""Job updates from forges, made durable and turned into facts about instances.

The forge clients hand over messages here and acknowledge them only after :meth:`JobUpdates.record` has returned.  Facts
may come late, twice or out of order, so each is folded into the job's row by rules that do not depend on the order:
an end is final, a start beats a wait, and an unknown runner name is not ours.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from runnerd import errors, model
from runnerd.forges import base as forges
from runnerd.model import Event, InstanceId, InstanceState, Job, JobState, Queue, Reason
from runnerd.runtime import shared

log = logging.getLogger(__name__)

#: Seconds for which a count may still be older than its receipt says, and for which a pickup outweighs a count at most:
#: a forge whose report of it was lost is believed again, or one job would wait for ever.
COUNT_DELAY_S, LOST_REPORT_S = 5.0, 120.0
#: How many ids of one job are remembered.
ALIASES = 8


class JobUpdates:
    """The sink that every forge client reports into."""

    def __init__(self, runtime: shared.Runtime) -> None:
        self._runtime = runtime
        self._capacity: dict[Queue, int] = {}
        #: Queue -> instances that our agents saw picking up a job before the forge reported it, with the time.
        self._pickups: dict[Queue, dict[InstanceId, float]] = {}
        #: Called with (before, after) for each job whose row changed.
        self.on_job: list[Callable[[Job | None, Job], None]] = []
        runtime.rows.on_step.append(self._stepped)

    # -- facts -------------------------------------------------------------------------------------------------

    async def record(
        self, queue: Queue, updates: Sequence[forges.JobUpdate], cursor: Mapping[str, Any] | None = None
    ) -> None:
        """Make facts and cursor durable in one commit, then act on them."""
        now = self._runtime.clock.now()
        fresh: dict[model.JobKey, Job] = {}
        before: dict[model.JobKey, Job | None] = {}
        events: list[Event] = []
        for update in updates:
            old = fresh.get(update.key) or self._runtime.rows.jobs.get(update.key)
            new = fold(old, update, now)
            if new == old:
                continue
            before.setdefault(update.key, self._runtime.rows.jobs.get(update.key))
            fresh[update.key] = new
            events.append(Event(now, "job", update.key, update.event.value, update.conclusion, update.runner_name))
        owners = [self._owner(update) for update in updates]
        for update, owner in zip(updates, owners, strict=True):
            job = fresh.get(update.key)
            if job is not None and owner is not None and job.instance != owner.id:
                fresh[update.key] = dataclasses.replace(job, instance=owner.id)
        try:
            await self._runtime.rows.write_jobs(fresh.values(), events, queue=queue, cursor=cursor)
        except errors.StoreError as error:
            self._runtime.alarms.ring("daemon", "store", "state-unwritable", str(error))
            raise
        for key, job in fresh.items():
            for listener in self.on_job:
                listener(before[key], job)
        for update, owner in zip(updates, owners, strict=True):
            if owner is not None:
                await self._act(update, owner)
        self._runtime.wake()

    def _owner(self, update: forges.JobUpdate) -> model.Instance | None:
        if not update.runner_name:
            return None
        registration = self._runtime.rows.runner(update.runner_name)
        if registration is not None:
            return self._runtime.rows.instances.get(registration.instance)
        return self._runtime.rows.instances.get(InstanceId(update.runner_name))

    async def _act(self, update: forges.JobUpdate, owner: model.Instance) -> None:
        rows = self._runtime.rows
        self.forget_pickup(update.queue, owner.id)
        try:
            if update.event is forges.JobEvent.STARTED:
                expect = {InstanceState.REGISTERING, InstanceState.REGISTERED}
                if owner.reason not in (Reason.MAX_JOB, Reason.OPERATOR):
                    expect.add(InstanceState.DRAINING)  # otherwise its end was ordered, job or not
                stepped = await rows.step(
                    owner.id,
                    InstanceState.BUSY,
                    expect=expect,
                    job=update.key,
                    busy_at=owner.busy_at or self._runtime.clock.now(),
                    job_started=True,
                )
                if stepped is None and owner.state in (InstanceState.BUSY, InstanceState.DRAINING):
                    await rows.amend(owner.id, job=update.key, job_started=True)
            elif update.event is forges.JobEvent.COMPLETED:
                # Only draining, never ending: the forge has been seen to say this while the job still ran.
                await rows.step(
                    owner.id,
                    InstanceState.DRAINING,
                    expect={InstanceState.REGISTERED, InstanceState.BUSY},
                    reason=Reason.JOB_DONE,
                    detail=update.conclusion,
                    job=update.key,
                    job_ended_at=self._runtime.clock.now(),
                )
        except errors.IllegalTransition as error:
            # A message must never block its queue; the row says what is true.
            log.warning("%s: %s", update.queue, error)

    # -- cursor ------------------------------------------------------------------------------------------------

    def cursor(self, queue: Queue) -> Mapping[str, Any]:
        return self._runtime.rows.cursors.get(str(queue), {})

    async def save_cursor(self, queue: Queue, cursor: Mapping[str, Any]) -> None:
        await self._runtime.rows.write_jobs((), queue=queue, cursor=cursor)

    # -- what forges ask ---------------------------------------------------------------------------------------

    def wake(self) -> None:
        self._runtime.wake()

    def capacity(self, queue: Queue) -> int:
        return max(1, self._capacity.get(queue, 1))

    def announce(self, capacity: Mapping[Queue, int]) -> None:
        """Set the capacity that each queue announces; called after each plan."""
        self._capacity = dict(capacity)

    def waiting_jobs(self, queue: Queue) -> Sequence[Job]:
        return [job for job in self._runtime.rows.jobs.values() if job.queue == queue and job.state is JobState.QUEUED]

    def alarm(self, subject: str, id: str, reason: str, detail: str) -> None:
        self._runtime.alarms.ring(subject, id, reason, detail)

    def clear(self, subject: str, id: str, reason: str) -> None:
        self._runtime.alarms.clear(subject, id, reason)

    # -- pickups -----------------------------------------------------------------------------------------------

    def _stepped(self, old: model.Instance, new: model.Instance) -> None:
        """Note that an agent saw its runner take a job: the forge's count may still have it waiting.

        A job that the forge reported is named in the row; an instance that was adopted took its job long ago.
        """
        started = new.state is InstanceState.BUSY and new.job_started and not old.busy_at
        adopted = old.state is InstanceState.BOOTING
        if started and not adopted and new.job is None and new.queue is not None:
            self._pickups.setdefault(new.queue, {})[new.id] = self._runtime.clock.now()

    def forget_pickup(self, queue: Queue, id: InstanceId) -> None:
        """Forget a pickup that the forge has reported: its own count is right again."""
        self._pickups.get(queue, {}).pop(id, None)

    def pickups(self, queue: Queue, as_of: float) -> int:
        """Return the number of jobs that were taken after the forge counted."""
        found = self._pickups.get(queue)
        if not found:
            return 0
        now = self._runtime.clock.now()
        for id in [id for id, at in found.items() if now - at >= (LOST_REPORT_S if at > as_of else COUNT_DELAY_S)]:
            del found[id]
        return len(found)


def fold(old: Job | None, update: forges.JobUpdate, now: float) -> Job:
    """Return a job's row with one more fact.

    An end is final; a wait never overwrites a start of the same assignment.
    """
    at = update.at or now
    if old is None:
        old = Job(
            key=update.key,
            queue=update.queue,
            repo=update.repo,
            run=update.run,
            name=update.name,
            labels=update.labels,
            queued_at=at,
            url=update.url,
        )
    known = not update.alias or update.alias in old.aliases
    aliases = old.aliases if known else (*old.aliases, update.alias)[-ALIASES:]
    job = dataclasses.replace(
        old, aliases=aliases, url=update.url or old.url, labels=update.labels or old.labels, queue=update.queue
    )
    if update.event is forges.JobEvent.QUEUED:
        if old.state is not JobState.QUEUED and not known:
            # Another assignment under the same name: a re-run, or an assignment timeout whose end came first.
            return dataclasses.replace(
                job,
                state=JobState.QUEUED,
                conclusion="",
                instance=None,
                runner_name="",
                queued_at=at,
                started_at=0.0,
                finished_at=0.0,
            )
        return job
    if update.event is forges.JobEvent.ASSIGNMENT_TIMEOUT:
        if old.state is JobState.COMPLETED or (known and old.lapses and not update.alias):
            return job
        return dataclasses.replace(job, lapses=old.lapses + 1)
    if update.event is forges.JobEvent.STARTED:
        if old.state is JobState.COMPLETED and known:
            return job
        return dataclasses.replace(
            job,
            state=JobState.RUNNING,
            runner_name=update.runner_name or old.runner_name,
            started_at=old.started_at if old.state is JobState.RUNNING and old.started_at else at,
            conclusion="",
            finished_at=0.0,
        )
    if old.state is JobState.COMPLETED and known:
        return job
    return dataclasses.replace(
        job,
        state=JobState.COMPLETED,
        conclusion=update.conclusion,
        runner_name=update.runner_name or old.runner_name,
        finished_at=at,
    )
