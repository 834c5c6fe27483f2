"""Following the queues of one forge: the loops that list projects, poll them in turn, and keep heartbeats.

One project that fails slows down alone.  What is asked of a project is in :mod:`.project_jobs`, when in
:mod:`.polling`, and what becomes of the answers in :mod:`.recording`.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import random
from collections.abc import Callable, Sequence
from types import MappingProxyType

from runnerd import config, errors, model
from runnerd.forges import base
from runnerd.forges.gitlab import discovery, heartbeat, jobs, jobtable, matching, polling, rate_limits, rest, webhooks
from runnerd.forges.gitlab.health import WHOLE_FORGE, ForgeHealth
from runnerd.forges.gitlab.project_jobs import ProjectJobs
from runnerd.forges.gitlab.recording import Recorder
from runnerd.kit import clock as clocks
from runnerd.kit import tasks

log = logging.getLogger(__name__)

#: Seconds between two listings of a scope's projects, for each page that the list has: one request a minute.
DISCOVER_EVERY_S = 60.0
#: Seconds that two listings are apart at least, however often a webhook names a new project.
DISCOVER_GAP_S = 30.0
#: Seconds until a failed listing is repeated, by failures in a row.
DISCOVER_AGAIN_S = (5.0, 10.0, 20.0, 40.0, 60.0)
#: Requests under way at once for polling.
WIDTH = 8
#: Age of the last answer from which demand counts as unknown, at least; seconds.
STALE_S = 120.0
#: Seconds for which the jobs of a failing project still count; after that they are left out and the alarm stays.
FORGET_S = 900.0
#: Failures in a row from which one project raises an alarm.
ALARM_AFTER = 3


class Watch:
    """One call of ``watch``: its queues, its sink, and what is known of their jobs."""

    def __init__(
        self,
        client: rest.Rest,
        directory: discovery.Directory,
        heartbeats: heartbeat.Heartbeats,
        settings: config.GitLabForge,
        *,
        clock: clocks.Clock,
        rng: random.Random,
        specs: Sequence[base.QueueSpec],
        sink: base.Sink,
        ours: Callable[[int], bool],
        runner_name: Callable[[jobs.JobView], str],
    ) -> None:
        """``ours`` tells if a runner, by id, was created by this process."""
        self._rest = client
        self._directory = directory
        self._heartbeats = heartbeats
        self._clock = clock
        self._rng = rng
        self._specs = {spec.queue: spec for spec in specs}
        self._scopes = sorted({spec.queue.scope for spec in specs})
        self._sink = sink
        self._settings = settings
        self._ours = ours
        self._table = jobtable.JobTable()
        self._recorder = Recorder(self._table, sink, server_now=client.server_now, runner_name=runner_name)
        self._projects = ProjectJobs(client, directory, self._table, specs=specs, sink=sink, ours=ours)
        self._schedule = polling.Schedule(poll=settings.poll, idle_poll=settings.idle_poll, rng=rng)
        self._health = ForgeHealth(client.name, sink, clock=clock)
        self._stale = max(STALE_S, 3 * settings.idle_poll)
        self._wake = asyncio.Event()
        self._rediscover = asyncio.Event()
        self._room = asyncio.Semaphore(WIDTH)
        #: Scopes whose recorded waiting jobs were taken over.
        self._seeded: set[str] = set()
        #: Scopes all of whose projects were asked once.
        self._complete: set[str] = set()
        #: When a project of the scope answered last, by scope; our steady time.
        self._answered: dict[str, float] = {}
        #: Projects for which an alarm is raised.
        self._alarmed: set[int] = set()

    # -- what others ask -------------------------------------------------------------------------------------------

    def demand(self, queue: model.Queue) -> model.Demand:
        """Return the queue's demand as GitLab answered last; unknown until every project was asked once."""
        if queue not in self._specs or not self._asked_all(queue.scope):
            return model.Demand()
        now = self._clock.now()
        latest = self._answered.get(queue.scope, 0.0)
        as_of, repos = latest, {}
        waiting = self._table.waiting(queue)
        for slot in self._schedule.slots() if waiting else ():
            count = waiting.get(slot.project.path, 0)
            if not count or slot.project.scope != queue.scope:
                continue
            if slot.failures and now - slot.polled_at > FORGET_S and latest - slot.polled_at > FORGET_S:
                continue
            repos[slot.project.path] = count
            if not slot.failures:
                as_of = min(as_of, slot.polled_at)
        return model.Demand(
            waiting=sum(repos.values()),
            running=self._table.running(queue),
            as_of=as_of,
            known=now - as_of <= self._stale,
            repos=MappingProxyType(repos),
        )

    def _asked_all(self, scope: str) -> bool:
        """Return True once each project of the scope was asked since this watch began."""
        if scope not in self._complete and self._directory.known(scope) and scope in self._seeded:
            slots = [slot for slot in self._schedule.slots() if slot.project.scope == scope]
            if all(slot.asked for slot in slots) and (not slots or scope in self._answered):
                self._complete.add(scope)
        return scope in self._complete

    def problem(self, scope: str) -> tuple[float, str]:
        """Return since when the forge or the scope fails, and the message; 0 and empty when all is well."""
        return self._health.problem(scope)

    def hint(self, hint: webhooks.JobHint) -> str:
        """Take the job that a genuine delivery names; return what is done about it, for the answer."""
        if self._directory.project(hint.project) is None:
            if not self._directory.covers(hint.repo):
                return "not a watched project"
            self._rediscover.set()
            return "a new project: the list is read again"
        followed = self._table.get(hint.job) is not None or (hint.runner and self._ours(hint.runner))
        if not followed and hint.status not in jobs.WAITING:
            return "not a job of ours"
        tags = hint.tags
        if not followed and tags is not None and not self._wanted(tags):
            return "no pool has these tags"
        self._schedule.hint(hint.project, hint.job, self._clock.now())
        self._wake.set()
        return "noted"

    def _wanted(self, tags: tuple[str, ...]) -> bool:
        return any(matching.tags_fit(spec, tags) for spec in self._specs.values())

    async def record_history(self, queue: model.Queue, views: Sequence[jobs.JobView]) -> None:
        """Record the ended jobs that a removed runner had, as its own list shows them.

        Raises :class:`errors.StoreError`.
        """
        if queue in self._specs:
            await self._recorder.record_history(queue, views)

    # -- the loops -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow until cancelled."""
        for queue in self._specs:
            for job in jobtable.restore(self._sink.cursor(queue), queue):
                self._table.put(job)
        group = tasks.Group(f"gitlab {self._rest.name}")
        try:
            group.spawn("discovery", self._discover())
            for spec in self._specs.values():
                group.spawn(f"heartbeat {spec.queue}", self._heartbeats.keep(spec, self._sink))
            await self._dispatch(group)
        finally:
            await group.close()

    async def _dispatch(self, group: tasks.Group) -> None:
        while True:
            wait = self._schedule.wait(self._clock.now())
            if wait > 0:
                await clocks.sleep_or_wake(self._clock, wait, self._wake)
                continue
            # The turn before the choice: what is most urgent is known only when something may be sent.
            await self._room.acquire()
            await self._rest.pace.turn(rate_limits.Urgency.BACKGROUND)
            slot = self._schedule.take(self._clock.now())
            if slot is None:
                self._rest.pace.refund()
                self._room.release()
                continue
            group.spawn(f"project {slot.project.path}", self._serve(slot))

    # -- finding projects ------------------------------------------------------------------------------------------

    async def _discover(self) -> None:
        due = dict.fromkeys(self._scopes, 0.0)
        failures: collections.Counter[str] = collections.Counter()
        retired: set[str] = set()
        while True:
            for path in self._scopes:
                now = self._clock.now()
                if due[path] > now:
                    continue
                scope = self._directory.scope(path)
                try:
                    await self._directory.refresh(scope)
                    await self._take_projects(path)
                    if path not in retired:
                        await self._heartbeats.retire(set(self._specs), scope)
                        retired.add(path)
                    failures[path] = 0
                    due[path] = now + self._discover_again(path) * self._rng.uniform(0.9, 1.0)
                    self._health.recovered(path, "discovery")
                    self._health.recovered(WHOLE_FORGE, "credential", "unreachable")
                except (errors.ForgeError, errors.StoreError) as error:
                    failures[path] += 1
                    due[path] = now + rate_limits.backoff(DISCOVER_AGAIN_S, failures[path], self._rng)
                    if isinstance(error, errors.ForgeAuthFailed):
                        self._health.failed(WHOLE_FORGE, "credential", str(error))
                    else:
                        self._health.failed(path, "discovery", str(error))
                except Exception as error:
                    log.exception("%s: listing %s failed", self._rest.name, path)
                    due[path] = now + DISCOVER_AGAIN_S[-1]
                    self._health.failed(path, "discovery", f"{type(error).__name__}: {error}")
            wait = min(due.values(), default=DISCOVER_EVERY_S) - self._clock.now()
            if await clocks.sleep_or_wake(self._clock, wait, self._rediscover):
                await self._clock.sleep(DISCOVER_GAP_S if any(self._complete) else 1.0)
                self._rediscover.clear()
                due = {path: min(when, self._clock.now()) for path, when in due.items()}

    def _discover_again(self, path: str) -> float:
        """Return the seconds until the scope's projects are listed again."""
        count = len(self._directory.projects(path))
        if not count:
            # Probably being set up: a person waits to see the first project.
            return self._settings.poll
        return max(DISCOVER_EVERY_S, self._settings.idle_poll) * (1 + count // 100)

    async def _take_projects(self, path: str) -> None:
        """Put the scope's projects into the schedule, and what was known of their jobs before a restart."""
        if path not in self._seeded:
            self._seed(path)
            self._seeded.add(path)
        projects = [
            project for scope in self._scopes for project in self._directory.projects(scope) if scope in self._seeded
        ]
        for id_ in self._schedule.set_projects(projects, self._clock.now()):
            await self._leave(id_)
        if not self._directory.projects(path):
            self._answered[path] = self._clock.now()
        self._wake.set()

    def _seed(self, path: str) -> None:
        """Follow the jobs that are recorded as waiting in the scope."""
        projects = {project.path: project for project in self._directory.projects(path)}
        for queue in self._specs:
            for job in self._sink.waiting_jobs(queue) if queue.scope == path else ():
                project = projects.get(job.repo)
                alias = jobs.latest_id(job)
                if project is not None and alias and self._table.get(alias) is None:
                    self._table.put(jobtable.Followed(alias, project.id, job.repo, queue, run=job.run, name=job.name))

    async def _leave(self, project: int) -> None:
        """Drop a project that is no longer served: its waiting jobs end; of the running ones the agents report."""
        gone = []
        for job in self._table.of(project):
            event = None if job.running else base.JobEvent.COMPLETED
            gone.append(jobtable.Change(job.id, job.queue, job, None, event))
        await self._recorder.record(gone, "")

    # -- one project -----------------------------------------------------------------------------------------------

    async def _serve(self, slot: polling.Slot) -> None:
        """Ask one project, or only for its hinted jobs where that is cheaper and its turn is not due."""
        try:
            hints = sorted(slot.hints)
            slot.hints.clear()
            now = self._clock.now()
            if hints and len(hints) <= polling.MOST_HINTS and slot.due > now:
                slot.due = min(slot.due, now + self._schedule.interval(slot, now))
                await self._recorder.record(await self._projects.single(slot.project, hints), slot.project.path)
                self._schedule.answered_hints(slot)
            else:
                await self._poll(slot)
        except (errors.ForgeError, errors.StoreError) as error:
            self._schedule.failed(slot, self._clock.now())
            self._failed(slot, error)
        except Exception as error:
            log.exception("%s: asking %s failed", self._rest.name, slot.project.path)
            self._schedule.failed(slot, self._clock.now())
            self._failed(slot, error)
        finally:
            self._room.release()
            self._wake.set()

    def _failed(self, slot: polling.Slot, error: Exception) -> None:
        if isinstance(error, errors.ForgeAuthFailed):
            self._health.failed(WHOLE_FORGE, "credential", str(error))
            return
        if isinstance(error, errors.StoreError):
            # The store raises an alarm of its own; here it only means that the jobs are recorded again.
            return
        recently = self._clock.now() - max(self._answered.values(), default=0.0) < self._stale
        if not recently and isinstance(error, errors.ForgeUnavailable | errors.ForgeThrottled):
            self._health.failed(WHOLE_FORGE, "unreachable", str(error))
        elif slot.failures >= ALARM_AFTER:
            self._alarmed.add(slot.project.id)
            subject = f"{self._rest.name}/{slot.project.path}"
            self._sink.alarm("forge", subject, "project", f"its jobs cannot be read: {error}")

    async def _poll(self, slot: polling.Slot) -> None:
        """Ask for the waiting and the running jobs of a project, and for those followed that are neither."""
        project, asked, pages = slot.project, self._clock.now(), 0
        listed: set[int] = set()
        async for views in self._projects.listed(project):
            pages += 1
            listed |= {view.id for view in views}
            # Page by page: the first hundred jobs of a burst need not wait for the last.
            await self._recorder.record(await self._projects.changes(project, views), project.path)
        await self._recorder.record(await self._projects.missing(project, listed), project.path)
        self._schedule.answered(slot, asked, busy=bool(self._table.of(project.id)), pages=pages)
        self._answered[project.scope] = max(self._answered.get(project.scope, 0.0), asked)
        if project.scope not in self._complete and self._asked_all(project.scope):
            # Demand has just become known, which is news even when nothing waits.
            self._sink.wake()
        self._health.recovered(WHOLE_FORGE, "credential", "unreachable")
        if project.id in self._alarmed:
            self._alarmed.discard(project.id)
            self._sink.clear("forge", f"{self._rest.name}/{project.path}", "project")
