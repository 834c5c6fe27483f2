"""The audit: a search for stranded jobs, which wait at GitHub although no message says so.

Such jobs exist: queued while a set had no listener, or re-run on an idle set (pytorch/ci-infra #900).  The audit asks
the runs of recorded waiting jobs first, then the repositories whose jobs were seen, and stays within its share of the
hourly quota.  A stranded job counts as demand for one instance; if that did not help, an alarm is raised.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from runnerd import errors, model
from runnerd.forges import base, fields
from runnerd.forges.github import backoff
from runnerd.forges.github.rate_limits import Allowance
from runnerd.forges.github.rest.rest import Rest
from runnerd.forges.github.rest.runs import Runs, WorkflowJob, fits, labels_of, match, update_of
from runnerd.forges.github.rest.stranded import StrandedJobs
from runnerd.kit import clock as clocks

log = logging.getLogger(__name__)

#: Age in seconds at which a queued job that nothing covers is stranded; GitHub assigns within seconds.
STRANDED_AFTER_S = 600.0
#: Seconds until the first search if jobs were left waiting: nothing else observes an assignment that timed out before a
#: restart.
FIRST_SEARCH_S = 60.0
#: Statuses of runs that may hold a queued job: a running one may, too.
ACTIVE = ("queued", "in_progress")


class Listener(Protocol):
    """The listener of one queue, as far as the audit reads it and adds to its demand."""

    queue: model.Queue
    stranded: StrandedJobs
    #: Repositories whose jobs were seen, newest last.
    repositories: dict[str, None]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the queue's runners."""
        ...

    def covered(self) -> int:
        """Return how many waiting jobs the demand holds without the stranded ones."""
        ...

    def announced(self, key: model.JobKey) -> bool:
        """Return True while an announced assignment of the job is open."""
        ...

    async def count_stranded(self, job_id: str, repo: str) -> bool:
        """Count a stranded job as demand; return False when it had its instance before."""
        ...

    async def conclude(self, update: base.JobUpdate) -> None:
        """Record what the run says has become of a job.  Raises :class:`errors.StoreError`."""
        ...


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A job that REST shows as queued."""

    id: str
    repo: str
    run: str
    name: str
    since: float
    url: str


class ShareUsedUp(Exception):
    """The share of the quota is used up for now."""


class Audit:
    """The search for stranded jobs of one forge."""

    def __init__(
        self,
        rest: Rest,
        runs: Runs,
        *,
        clock: clocks.Clock,
        rng: random.Random,
        interval: float,
        share: float,
        repositories: Sequence[str],
        listeners: Callable[[], Sequence[Listener]],
    ) -> None:
        self._rest = rest
        self._runs = runs
        self._clock = clock
        self._rng = rng
        self._interval = interval
        self._allowance = Allowance(rest.limits, rest.wire, share)
        self._repositories = repositories
        self._listeners = listeners
        #: Repositories still to be searched in this round; a round may take several passes.
        self._round_left: list[str] = []

    async def run(self, sink: base.Sink) -> None:
        """Search every interval until cancelled; soon after the start where jobs waited before it."""
        left = any(sink.waiting_jobs(listener.queue) for listener in self._listeners())
        wait = min(self._interval, FIRST_SEARCH_S) if left else self._interval
        while True:
            await self._clock.sleep(backoff.spread(wait, self._rng))
            wait = self._interval
            try:
                await self.search(sink)
                sink.clear("forge", self._rest.wire.forge, "audit-failing")
            except (errors.ForgeAuthFailed, errors.ForgeForbidden, errors.ForgeNotFound) as error:
                sink.alarm("forge", self._rest.wire.forge, "audit-failing", f"cannot search for stranded jobs: {error}")
            except errors.RunnerdError as error:
                log.info("the search for stranded jobs failed: %s", error)

    async def search(self, sink: base.Sink) -> None:
        """Search once.  Raises :class:`errors.ForgeError`, after having used what it learned."""
        waiting: dict[model.Queue, dict[str, _Waiting]] = {listener.queue: {} for listener in self._listeners()}
        read: set[tuple[str, str]] = set()
        complete: set[str] = set()
        problem: errors.ForgeError | None = None
        try:
            problem = await self._known_runs(sink, waiting, read)
            problem = await self._seen_repositories(waiting, read, complete) or problem
        except ShareUsedUp:
            log.info("%s: the audit has used up its share of the quota and continues later", self._rest.wire.forge)
        for listener in self._listeners():
            await self._count(listener, sink, waiting.get(listener.queue, {}), complete)
        if problem is not None:
            raise problem

    async def _known_runs(
        self, sink: base.Sink, waiting: dict[model.Queue, dict[str, _Waiting]], read: set[tuple[str, str]]
    ) -> errors.ForgeError | None:
        """Ask the runs of jobs that are recorded as waiting for long; return the last problem."""
        problem: errors.ForgeError | None = None
        old: dict[tuple[str, str], list[tuple[Listener, model.Job]]] = {}
        now = self._rest.wire.server_now()
        for listener in self._listeners():
            for job in sink.waiting_jobs(listener.queue):
                if now - job.queued_at >= STRANDED_AFTER_S:
                    old.setdefault((job.repo, job.run), []).append((listener, job))
        for (repo, run), members in old.items():
            try:
                entries = await self._jobs(repo, run, waiting, read)
            except errors.ForgeThrottled as error:
                return error
            except errors.ForgeNotFound:
                entries = []
            except errors.ForgeError as error:
                problem = error
                continue
            for listener, job in members:
                entry = match(job, entries)
                update = None if entry is None else update_of(job.queue, repo, run, entry, name=job.name)
                if update is not None and update.event is not base.JobEvent.QUEUED:
                    await listener.conclude(update)
        return problem

    async def _seen_repositories(
        self,
        waiting: dict[model.Queue, dict[str, _Waiting]],
        read: set[tuple[str, str]],
        complete: set[str],
    ) -> errors.ForgeError | None:
        """Search the repositories in turn, from where the last pass had to stop; return the last problem."""
        problem: errors.ForgeError | None = None
        if not self._round_left:
            known: dict[str, None] = dict.fromkeys(self._repositories)
            for listener in self._listeners():
                known.update(listener.repositories)
            self._round_left = list(known)
        while self._round_left:
            repo = self._round_left[0]
            try:
                for status in ACTIVE:
                    self._spend()
                    for run in await self._runs.active(repo, status, spare=True):
                        if (repo, str(run.get("id"))) not in read:
                            await self._jobs(repo, str(run.get("id")), waiting, read)
            except ShareUsedUp:
                # A repository with more runs than the share has requests must not hold up the others for ever.
                self._round_left.append(self._round_left.pop(0))
                raise
            except errors.ForgeThrottled as error:
                return error
            except errors.ForgeNotFound as error:
                if repo in self._repositories:
                    problem = error
                else:
                    # Deleted or renamed since its jobs were seen.
                    log.info("%s; it is not audited any more", error)
                    for listener in self._listeners():
                        listener.repositories.pop(repo, None)
            except errors.ForgeError as error:
                # One repository that cannot be read must not hide the others.
                problem = error
            else:
                complete.add(repo)
            self._round_left.pop(0)
        return problem

    async def _jobs(
        self,
        repo: str,
        run: str,
        waiting: dict[model.Queue, dict[str, _Waiting]],
        read: set[tuple[str, str]],
    ) -> list[WorkflowJob]:
        self._spend()
        entries = await self._runs.jobs(repo, run, conditional=True, spare=True)
        read.add((repo, run))
        now = self._rest.wire.server_now()
        for entry in entries:
            since = fields.timestamp(entry.get("created_at"))
            if entry.get("status") != "queued" or not since or now - since < STRANDED_AFTER_S:
                continue
            for listener in self._listeners():
                if fits(labels_of(entry), listener.labels):
                    id = str(entry.get("id"))
                    waiting[listener.queue][id] = _Waiting(
                        id, repo, run, str(entry.get("name") or ""), since, str(entry.get("html_url") or "")
                    )
                    break
        return entries

    async def _count(
        self, listener: Listener, sink: base.Sink, waiting: dict[str, _Waiting], complete: set[str]
    ) -> None:
        """Count the jobs that the queue's own demand does not cover, or raise an alarm if they had their instance."""
        counted = listener.stranded.counted
        listener.stranded.forget([id for id, repo in counted.items() if repo in complete and id not in waiting])
        covered = listener.covered()
        forge = listener.queue.forge
        # Jobs that the queue has announced are the ones it covers.
        order = sorted(
            waiting.values(),
            key=lambda job: (listener.announced(model.job_key(forge, job.repo, job.run, job.name)), job.since),
        )
        for job in order[: max(0, len(order) - covered)]:
            if job.id in counted:
                continue
            if await listener.count_stranded(job.id, job.repo):
                log.warning("%s: %s of %s waits unannounced; it gets one instance", listener.queue, job.name, job.repo)
                continue
            sink.alarm(
                "job",
                str(model.job_key(forge, job.repo, job.run, job.name)),
                "stranded-job",
                f'"{job.name}" of run {job.run} of {job.repo} has waited since before the last search, GitHub '
                f"announced it to no listener, and the instance started for it did not get it; cancel the run and "
                f"re-run it ({job.url})",
            )

    def _spend(self) -> None:
        if self._allowance.left <= 0:
            raise ShareUsedUp
        self._allowance.spend()
