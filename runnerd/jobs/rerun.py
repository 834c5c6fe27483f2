"""Re-runs of jobs that a preemption interrupted: proven, capped, queued durably, off unless configured.

A re-run may publish twice, so nothing is guessed.  The proof is the provider's own word for why the instance ended;
an agent's word or an absence is none.  Only a job that the forge calls failed is run again, at most so often as the
forge's ``retry.preempted`` says.  While one is outstanding, its pool buys and registers on demand only, because a
second preemption would be our own doing.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable

from runnerd import errors, model
from runnerd.forges import base as forges
from runnerd.model import Event, Instance, InstanceState, JobKey, JobState, Reason
from runnerd.runtime import shared
from runnerd.runtime.durable_settings import Rerun

log = logging.getLogger(__name__)

#: Seconds between tries.
PERIOD_S = 20.0
#: Seconds after which an interrupted job is left to its people.
GIVE_UP_S = 24 * 3600.0
#: Seconds for which a pool stays on demand after a re-run that was not seen to start.
OUTSTANDING_S = 3600.0


class Reruns:
    """The durable queue of re-runs."""

    def __init__(self, runtime: shared.Runtime) -> None:
        self._runtime = runtime
        #: What could not be written yet, with its event: no forge is asked before it is.
        self._unwritten: dict[JobKey, tuple[Rerun, Event]] = {}
        #: Called with the forge's name and what became of a re-run there.
        self.on_outcome: list[Callable[[str, forges.RetryOutcome], None]] = []
        runtime.rows.on_step.append(self._stepped)
        runtime.rows.on_proof.append(self._stepped)

    def outstanding(self, pool: str) -> bool:
        """Return True while an interrupted job of the pool is on its way to run again."""
        return any(self._open(one) for one in self._runtime.durable.reruns.values() if one.pool == pool)

    def _open(self, rerun: Rerun) -> bool:
        now = self._runtime.clock.now()
        if not rerun.taken_at:
            return now - rerun.interrupted_at < GIVE_UP_S and self._allowed(rerun)
        job = self._runtime.rows.jobs.get(rerun.job)
        started = job is not None and job.started_at > rerun.taken_at
        return not started and now - rerun.taken_at < OUTSTANDING_S

    def _allowed(self, rerun: Rerun) -> bool:
        settings = self._runtime.config.forges.get(rerun.job.split("|", 1)[0])
        return settings is not None and rerun.count < settings.retry.preempted

    def _stepped(self, old: Instance, new: Instance) -> None:
        if new.state is InstanceState.GONE and new.reason is Reason.PREEMPTED:
            self._preempted(new)

    def _preempted(self, row: Instance) -> None:
        """Queue the job of an instance that its provider took back, as the provider proves."""
        if row.job is None or row.busy_at <= 0:
            return
        before = self._runtime.durable.reruns.get(row.job)
        rerun = Rerun(row.job, row.pool, self._runtime.clock.now(), before.count if before else 0)
        if self._allowed(rerun):
            self._runtime.background.spawn(f"rerun {row.job}", self._save(rerun, "wanted", row.id))

    async def _save(self, rerun: Rerun, what: str, detail: str) -> None:
        event = Event(self._runtime.clock.now(), "job", rerun.job, f"retry-{what}", "preempted", detail)
        self._unwritten[rerun.job] = rerun, event
        await self._write(rerun.job)

    async def _write(self, job: JobKey) -> None:
        """Write what is not written of a job; nothing is left when another task was faster."""
        unwritten = self._unwritten.get(job)
        if unwritten is None:
            return
        await self._runtime.durable.write_rerun(*unwritten)
        if self._unwritten.get(job) is unwritten:
            del self._unwritten[job]

    async def run(self) -> None:
        """Try what is wanted until cancelled."""
        while True:
            await self._runtime.clock.sleep(PERIOD_S)
            try:
                await self._round()
            except errors.StoreError as error:
                log.warning("pending re-runs could not be saved yet: %s", error)

    async def _round(self) -> None:
        for job in list(self._unwritten):
            await self._write(job)
        for rerun in list(self._runtime.durable.reruns.values()):
            if not rerun.taken_at and self._open(rerun):
                await self._try(rerun)

    async def _try(self, rerun: Rerun) -> None:
        job = self._runtime.rows.jobs.get(rerun.job)
        if job is None or job.state is not JobState.COMPLETED:
            return  # the forge notices the loss of its runner some minutes late
        if job.finished_at < rerun.interrupted_at - GIVE_UP_S or job.conclusion == "success":
            await self._drop(rerun, f"it ended with {job.conclusion}")
            return
        forge = self._runtime.forges.get(job.queue.forge)
        if forge is None:
            return
        try:
            outcome = await forge.retry(job)
        except (errors.ForgeError, errors.TransportError) as error:
            log.info("%s: not re-run yet: %s", rerun.job, error)
            return
        for listener in self.on_outcome:
            listener(job.queue.forge, outcome)
        if outcome is forges.RetryOutcome.RETRIED:
            count = rerun.count + 1
            taken = dataclasses.replace(rerun, count=count, taken_at=self._runtime.clock.now())
            await self._save(taken, "taken", f"re-run number {count}")
            self._runtime.wake()
        elif outcome is forges.RetryOutcome.REFUSED:
            self._runtime.alarms.ring("job", rerun.job, "retry-refused", "the forge refused the re-run")
            await self._drop(rerun, "the forge refused the re-run")

    async def _drop(self, rerun: Rerun, why: str) -> None:
        event = Event(self._runtime.clock.now(), "job", rerun.job, "retry-dropped", "", why)
        await self._runtime.durable.drop_rerun(rerun.job, event)


def interrupted(row: model.Instance) -> bool:
    """Return True when the provider should be asked why an instance ended: it could be preempted, and had a job."""
    return row.market == "spot" and row.busy_at > 0
