"""Demand without scale sets: polling the runs of each repository for jobs that wait.

GitHub has no listing of an organisation's jobs, so repositories are named in the configuration or seen in webhooks.
Requests are conditional, so what did not change costs no quota.  A job is not dropped because one answer lacks it:
listings lag (terraform-aws-github-runner #2459), so its run is asked once it has left the lists of active runs.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

from runnerd import config, errors, model
from runnerd.forges import base
from runnerd.forges.github import backoff as delays
from runnerd.forges.github.rest.runs import Runs, fits, labels_of, update_of
from runnerd.kit import clock as clocks

log = logging.getLogger(__name__)

#: Statuses of runs that may hold a job that waits for a runner.
ACTIVE = ("queued", "in_progress", "waiting", "pending")
#: Seconds after a webhook at which its repository is polled: at once, and when the answer has settled.
HINTED_S = (0.0, 5.0)
#: Repositories polled at one time.
WIDTH = 8
#: A job that was missing from its run so often is dropped.
STRIKES = 2
#: Age in seconds at which the answer of a repository is too old, or three polls if that is longer.
STALE_S = 300.0
#: Most repositories that are followed.
REPOSITORIES_FOLLOWED = 500


@dataclass(slots=True)
class _Seen:
    """A job as GitHub showed it last."""

    queue: model.Queue
    run: str
    event: base.JobEvent
    #: Answers of its run in a row without it.
    missing: int = 0


@dataclass(slots=True)
class _Repository:
    """One repository in the round."""

    name: str
    due: float
    backoff: delays.Backoff
    #: When it answered last; 0 for never.
    answered_at: float = 0.0
    #: A message for people; empty while it answers.
    problem: str = ""
    problem_since: float = 0.0


class Poller:
    """Follows the jobs of some repositories."""

    def __init__(
        self,
        runs: Runs,
        *,
        clock: clocks.Clock,
        rng: random.Random,
        interval: float,
        repositories: Sequence[str],
    ) -> None:
        self._runs = runs
        self._clock = clock
        self._rng = rng
        self._interval = interval
        self._specs: Sequence[base.QueueSpec] = ()
        self._repositories: dict[str, _Repository] = {}
        self._jobs: dict[str, dict[str, _Seen]] = {}
        self._wake = asyncio.Event()
        self._hints: dict[str, list[float]] = {}
        self._cache: dict[model.Queue, model.Demand] = {}
        for name in repositories:
            self.follow(name)

    def follow(self, repo: str) -> None:
        """Poll this repository from now on."""
        if repo not in self._repositories and len(self._repositories) < REPOSITORIES_FOLLOWED:
            backoff = delays.Backoff(delays.LOOP, self._rng)
            self._repositories[repo] = _Repository(repo, self._clock.now(), backoff)
            self._wake.set()

    def hint(self, repo: str) -> None:
        """Poll a repository soon, since something happened there."""
        self.follow(repo)
        now = self._clock.now()
        self._hints[repo] = [now + delay for delay in HINTED_S]
        self._wake.set()

    def demand(self, queue: model.Queue) -> model.Demand:
        """Return the queue's demand in all repositories; known only when each has answered lately."""
        cached = self._cache.get(queue)
        if cached is None:
            waiting: dict[str, int] = {}
            running = 0
            for repo, jobs in self._jobs.items():
                for job in jobs.values():
                    if job.queue != queue:
                        continue
                    if job.event is base.JobEvent.QUEUED:
                        waiting[repo] = waiting.get(repo, 0) + 1
                    elif job.event is base.JobEvent.STARTED:
                        running += 1
            as_of = min((repo.answered_at for repo in self._repositories.values()), default=0.0)
            cached = self._cache[queue] = model.Demand(
                sum(waiting.values()), running, as_of, known=True, repos=MappingProxyType(waiting)
            )
        age = self._clock.now() - cached.as_of
        known = cached.as_of > 0 and age < max(STALE_S, 3 * self._interval)
        if known == cached.known:
            return cached
        return model.Demand(cached.waiting, cached.running, cached.as_of, known, cached.repos)

    def health(self) -> base.Health:
        """Return the health of the first repository that fails."""
        if not self._repositories:
            return base.Health(
                False,
                "no repository is named: in rest mode list them under repos (GitHub has no listing of an "
                "organisation's jobs), or set up the webhook",
            )
        for repo in self._repositories.values():
            if repo.problem:
                return base.Health(False, repo.problem, repo.problem_since)
        return base.Health()

    async def run(self, specs: Sequence[base.QueueSpec], sink: base.Sink) -> None:
        """Poll until cancelled."""
        self._specs = specs
        served = {spec.queue for spec in specs}
        for jobs in self._jobs.values():
            for id in [id for id, job in jobs.items() if job.queue not in served]:
                del jobs[id]
        self._cache.clear()
        for spec in specs:
            for job in sink.waiting_jobs(spec.queue):
                self.follow(job.repo)
        slots = asyncio.Semaphore(WIDTH)
        while True:
            now = self._clock.now()
            due = [repo for repo in self._repositories.values() if self._due(repo) <= now]
            await asyncio.gather(*(self._poll(repo, sink, slots) for repo in due))
            times = [self._due(repo) for repo in self._repositories.values()]
            wait = min(times, default=now + self._interval) - self._clock.now()
            await clocks.sleep_or_wake(self._clock, max(0.0, wait), self._wake)

    def _due(self, repo: _Repository) -> float:
        return min([repo.due, *self._hints.get(repo.name, [])])

    async def _poll(self, repo: _Repository, sink: base.Sink, slots: asyncio.Semaphore) -> None:
        async with slots:
            now = self._clock.now()
            hints = [at for at in self._hints.pop(repo.name, []) if at > now]
            if hints:
                self._hints[repo.name] = hints
            try:
                await self._ask(repo.name, sink)
            except errors.ForgeThrottled as error:
                # One refusal concerns every repository: the limits make them all wait.
                wait = max(error.retry_after, self._interval)
                self._failed(repo, sink, error)
            except errors.RunnerdError as error:
                self._failed(repo, sink, error)
                wait = max(self._interval, repo.backoff.next())
            except Exception as error:
                log.exception("polling %s failed unexpectedly", repo.name)
                self._failed(repo, sink, error)
                wait = max(self._interval, repo.backoff.next())
            else:
                repo.backoff.reset()
                repo.answered_at = self._clock.now()
                if repo.problem:
                    repo.problem = ""
                    sink.clear("repository", repo.name, "forge-failing")
                wait = delays.spread(self._interval, self._rng)
            self._cache.clear()
            repo.due = self._clock.now() + wait

    def _failed(self, repo: _Repository, sink: base.Sink, error: Exception) -> None:
        if not repo.problem:
            repo.problem_since = self._clock.now()
            log.warning("%s", error)
        repo.problem = str(error) or type(error).__name__
        lasting = isinstance(error, errors.ForgeForbidden | errors.ForgeAuthFailed | errors.ForgeNotFound)
        if lasting or self._clock.now() - repo.problem_since >= STALE_S:
            sink.alarm("repository", repo.name, "forge-failing", repo.problem)

    async def _ask(self, repo: str, sink: base.Sink) -> None:
        known = self._jobs.setdefault(repo, {})
        runs: dict[str, None] = {}
        for status in ACTIVE:
            for active in await self._runs.active(repo, status, spare=True):
                runs[str(active.get("id"))] = None
        # Runs that left the lists may have ended, or the lists lag; only they themselves can tell.
        runs.update(dict.fromkeys(job.run for job in known.values()))
        updates: dict[model.Queue, list[base.JobUpdate]] = {}
        changes: dict[str, _Seen | None] = {}
        for run in runs:
            try:
                entries = await self._runs.jobs(repo, run, conditional=True, spare=True)
            except errors.ForgeNotFound:
                entries = []
            present = set()
            for entry in entries:
                id = str(entry.get("id"))
                present.add(id)
                seen = known.get(id)
                queue = seen.queue if seen is not None else self._queue_for(repo, labels_of(entry))
                update = update_of(queue, repo, run, entry, alias=id) if queue is not None else None
                if queue is None or update is None:
                    continue
                over = update.event is base.JobEvent.COMPLETED
                if seen is None and over:
                    # It had ended before we saw it; nothing waits for it.
                    continue
                if seen is None or seen.event is not update.event:
                    updates.setdefault(queue, []).append(update)
                changes[id] = None if over else _Seen(queue, run, update.event)
            for id, job in known.items():
                if job.run == run and id not in present:
                    missing = job.missing + 1
                    changes[id] = None if missing >= STRIKES else _Seen(job.queue, run, job.event, missing)
        # Recorded before it is taken over: when the state cannot be written, the next poll repeats it.
        for queue, facts in updates.items():
            await sink.record(queue, facts)
        for id, change in changes.items():
            if change is None:
                known.pop(id, None)
            else:
                known[id] = change
        self._cache.clear()
        if updates:
            sink.wake()

    def _queue_for(self, repo: str, labels: Sequence[str]) -> model.Queue | None:
        """Return the first queue in file order whose pool fits the job and may serve the repository."""
        for spec in self._specs:
            if fits(labels, spec.labels) and (not spec.repos or config.matches(repo, spec.repos)):
                return spec.queue
        return None


def listed(settings: config.GitHubForge, repository: str | None) -> list[str]:
    """Return the repositories that the configuration names; globs are left out, since no listing can expand them."""
    names = [repository] if repository else []
    return names + [name for name in settings.repos if not set(name) & set("*?[") and name not in names]
