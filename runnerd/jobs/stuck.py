"""Jobs that look stuck, because a message was lost or never sent: their forges are asked for them by name.

A job that runs on an instance that is gone, or waits much longer than its pool takes, is asked for a few at a time and
seldom, so that what `jobs` and `explain` say stays true without weighing on a rate limit.
"""

from __future__ import annotations

import logging

from runnerd import errors, model
from runnerd.jobs import updates as job_updates
from runnerd.model import Job, JobKey, JobState
from runnerd.runtime import shared

log = logging.getLogger(__name__)

#: Seconds between rounds, and between two questions about one job.
PERIOD_S, PATIENCE_S = 120.0, 900.0
#: Seconds after which a waiting job is asked for.
LONG_WAIT_S = 1800.0
#: Jobs asked for in one round.
MOST_JOBS = 10


class StuckJobs:
    """Finds jobs that look stuck and asks for them."""

    def __init__(self, runtime: shared.Runtime, updates: job_updates.JobUpdates) -> None:
        self._runtime = runtime
        self._updates = updates
        self._asked: dict[JobKey, float] = {}

    async def run(self) -> None:
        """Ask in rounds until cancelled."""
        while True:
            await self._runtime.clock.sleep(PERIOD_S)
            try:
                await self.ask()
            except errors.StoreError as error:
                log.info("reported states of stuck jobs were not saved: %s", error)

    def stuck(self) -> list[Job]:
        """Return the jobs worth a question now, the longest unasked first."""
        now = self._runtime.clock.now()
        rows = self._runtime.rows
        self._asked = {key: at for key, at in self._asked.items() if key in rows.jobs}
        found = []
        for job in rows.jobs.values():
            if job.state is JobState.COMPLETED or now - self._asked.get(job.key, 0.0) < PATIENCE_S:
                continue
            if job.state is JobState.RUNNING:
                row = rows.instances.get(job.instance) if job.instance else None
                if row is not None and row.state is model.InstanceState.BUSY:
                    continue
                if now - job.started_at < PERIOD_S:
                    continue
            elif now - job.queued_at < LONG_WAIT_S:
                continue
            found.append(job)
        found.sort(key=lambda job: self._asked.get(job.key, 0.0))
        return found[:MOST_JOBS]

    async def ask(self) -> None:
        """Ask for the jobs that look stuck, once."""
        by_forge: dict[str, list[Job]] = {}
        for job in self.stuck():
            self._asked[job.key] = self._runtime.clock.now()
            by_forge.setdefault(job.queue.forge, []).append(job)
        for name, jobs in by_forge.items():
            forge = self._runtime.forges.get(name)
            if forge is None:
                continue
            try:
                updates = await forge.job_states(jobs)
            except (errors.ForgeError, errors.TransportError) as error:
                log.info("%s did not report the states of %d stuck jobs: %s", name, len(jobs), error)
                continue
            for queue in {update.queue for update in updates}:
                await self._updates.record(queue, [update for update in updates if update.queue == queue])
