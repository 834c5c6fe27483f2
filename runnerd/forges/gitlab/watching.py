"""Following the queues of one forge: find projects, ask them for jobs, tell the sink what changed.

One project that fails slows down alone.  Nothing is taken over in memory before the sink has made it durable, and a
job's state is changed only by what GitLab says about that job, never by its absence from a list.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

from runnerd import config, errors, model
from runnerd.forges import base
from runnerd.forges.gitlab import discovery, heartbeat, jobs, jobtable, matching, pace, polling, rest, webhooks
from runnerd.kit import clock as clocks
from runnerd.kit import tasks

log = logging.getLogger(__name__)

#: Seconds between two listings of a scope's projects, for each page that the list has: one request a minute.
DISCOVER_EVERY = 60.0
#: Seconds that two listings are apart at least, however often something new is heard of.
DISCOVER_GAP = 30.0
#: Pauses after a failed listing, seconds.
DISCOVER_AGAIN = (5.0, 10.0, 20.0, 40.0, 60.0)
#: Requests under way at once for polling.
WIDTH = 8
#: The age at which our word about demand counts as unknown, at least, seconds.
STALE = 120.0
#: How long the last word of a failing project is counted, seconds; then its jobs are left out and the alarm stays.
FORGET = 900.0
#: So many missing jobs of one pipeline are asked for with one list.
TOGETHER = 3
#: Ended jobs that are remembered, so that their end is not told twice.
REMEMBERED = 10_000
#: Failures in a row before a person is told of one project.
ALARM_AFTER = 3


class Watch:
    """One call of ``watch``: its queues, its sink, and all that is known of their jobs."""

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
        self._runner_name = runner_name
        self._ledger = jobtable.Ledger()
        self._schedule = polling.Schedule(poll=settings.poll, idle_poll=settings.idle_poll, rng=rng)
        self._stale = max(STALE, 3 * settings.idle_poll)
        self._wake = asyncio.Event()
        self._rediscover = asyncio.Event()
        self._room = asyncio.Semaphore(WIDTH)
        self._seeded: set[str] = set()
        self._ready: set[str] = set()
        self._answered: dict[str, float] = {}
        #: What is wrong, by scope, ``""`` for the forge as a whole: since when, and in words.
        self._trouble: dict[str, tuple[float, str]] = {}
        self._alarmed: set[int] = set()
        #: Jobs whose end was told, the latest ones.
        self._ended: collections.OrderedDict[int, None] = collections.OrderedDict()

    # -- what others ask -------------------------------------------------------------------------------------------

    def demand(self, queue: model.Queue) -> model.Demand:
        """The queue's demand by GitLab's last word; unknown until every project was asked once."""
        if queue not in self._specs or not self._complete(queue.scope):
            return model.Demand()
        now = self._clock.now()
        latest = self._answered.get(queue.scope, 0.0)
        as_of, repos = latest, {}
        waiting = self._ledger.waiting(queue)
        for slot in self._schedule.slots() if waiting else ():
            count = waiting.get(slot.project.path, 0)
            if not count or slot.project.scope != queue.scope:
                continue
            if slot.failures and now - slot.polled_at > FORGET and latest - slot.polled_at > FORGET:
                continue
            repos[slot.project.path] = count
            if not slot.failures:
                as_of = min(as_of, slot.polled_at)
        return model.Demand(
            waiting=sum(repos.values()),
            running=self._ledger.running(queue),
            as_of=as_of,
            known=now - as_of <= self._stale,
            repos=MappingProxyType(repos),
        )

    def _complete(self, scope: str) -> bool:
        """Whether each project of the scope was asked at least once since this watch began."""
        if scope not in self._ready and self._directory.known(scope) and scope in self._seeded:
            slots = [slot for slot in self._schedule.slots() if slot.project.scope == scope]
            if all(slot.asked for slot in slots) and (not slots or scope in self._answered):
                self._ready.add(scope)
        return scope in self._ready

    def trouble(self, scope: str) -> tuple[float, str]:
        """Since when the forge or the scope is in trouble, and which; zero and empty when all is well."""
        return self._trouble.get("") or self._trouble.get(scope) or (0.0, "")

    def hint(self, hint: webhooks.JobHint) -> str:
        """Take what a genuine delivery says.  Returns what is done about it in plain words."""
        if self._directory.project(hint.project) is None:
            if not self._directory.covers(hint.repo):
                return "not a watched project"
            self._rediscover.set()
            return "a new project: the list is read again"
        followed = self._ledger.get(hint.job) is not None or (hint.runner and self._ours(hint.runner))
        if not followed and hint.status not in jobs.WAITING:
            return "not a job of ours"
        tags = hint.tags
        if not followed and tags is not None and not self._wanted(tags):
            return "no pool has these tags"
        self._schedule.hint(hint.project, hint.job, self._clock.now())
        self._wake.set()
        return "noted"

    async def tell(self, queue: model.Queue, views: Sequence[jobs.JobView]) -> None:
        """Take the jobs that a runner of ours had, as its own list shows them, if no poll has seen their end.

        Raises :class:`errors.StoreError`.
        """
        for view in views:
            if queue not in self._specs or view.status not in jobs.FINAL or not view.repo or view.id in self._ended:
                continue
            followed = self._ledger.get(view.id)
            change = jobtable.step(followed, view, queue, view.repo)
            if change is None:
                began = dataclasses.replace(view, status="running")
                first = jobtable.step(None, began, queue, view.repo)
                assert first is not None
                await self._record([(first, began)], view.repo)
                change = jobtable.step(self._ledger.get(view.id), view, queue, view.repo)
            if change is not None:
                await self._record([(change, view)], view.repo)

    def _wanted(self, tags: tuple[str, ...]) -> bool:
        return any(matching.tags_fit(spec, tags) for spec in self._specs.values())

    # -- the loops -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow until cancelled."""
        for queue in self._specs:
            for job in jobtable.restore(self._sink.cursor(queue), queue):
                self._ledger.put(job)
        group = tasks.Group(f"gitlab {self._rest.name}")
        try:
            group.spawn("discovery", self._discover())
            for spec in self._specs.values():
                group.spawn(f"heartbeat {spec.queue}", self._beat(spec))
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
            await self._rest.pace.turn(pace.Urgency.BACKGROUND)
            slot = self._schedule.take(self._clock.now())
            if slot is None:
                self._rest.pace.refund()
                self._room.release()
                continue
            group.spawn(f"project {slot.project.path}", self._work(slot))

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
                    self._well(path, "discovery")
                    self._well("", "credential", "unreachable")
                except (errors.ForgeError, errors.StoreError) as error:
                    failures[path] += 1
                    due[path] = now + pace.backoff(DISCOVER_AGAIN, failures[path], self._rng)
                    if isinstance(error, errors.ForgeAuthFailed):
                        self._ail("", "credential", str(error))
                    else:
                        self._ail(path, "discovery", str(error))
                except Exception as error:
                    log.exception("%s: listing %s failed", self._rest.name, path)
                    due[path] = now + DISCOVER_AGAIN[-1]
                    self._ail(path, "discovery", f"{type(error).__name__}: {error}")
            wait = min(due.values(), default=DISCOVER_EVERY) - self._clock.now()
            if await clocks.sleep_or_wake(self._clock, wait, self._rediscover):
                await self._clock.sleep(DISCOVER_GAP if any(self._ready) else 1.0)
                self._rediscover.clear()
                due = {path: min(when, self._clock.now()) for path, when in due.items()}

    def _discover_again(self, path: str) -> float:
        count = len(self._directory.projects(path))
        if not count:
            # Probably being set up: somebody waits to see the first project.
            return self._settings.poll
        return max(DISCOVER_EVERY, self._settings.idle_poll) * (1 + count // 100)

    async def _take_projects(self, path: str) -> None:
        """Put the scope's projects into the round, and what was known of their jobs before a restart."""
        if path not in self._seeded:
            self._seed(path)
            self._seeded.add(path)
        everything = [
            project for scope in self._scopes for project in self._directory.projects(scope) if scope in self._seeded
        ]
        for id_ in self._schedule.set_projects(everything, self._clock.now()):
            await self._leave(id_)
        if not self._directory.projects(path):
            self._answered[path] = self._clock.now()
        self._wake.set()

    def _seed(self, path: str) -> None:
        projects = {project.path: project for project in self._directory.projects(path)}
        for queue in self._specs:
            for job in self._sink.waiting_jobs(queue) if queue.scope == path else ():
                project = projects.get(job.repo)
                alias = next((alias for alias in reversed(job.aliases) if alias.isdigit()), "")
                if project is not None and alias and self._ledger.get(int(alias)) is None:
                    self._ledger.put(
                        jobtable.Followed(int(alias), project.id, job.repo, queue, run=job.run, name=job.name)
                    )

    async def _leave(self, project: int) -> None:
        """The project is no longer served: its waiting jobs are nobody's, its running ones are the agents' to tell."""
        gone = []
        for job in self._ledger.of(project):
            event = None if job.running else base.JobEvent.COMPLETED
            gone.append((jobtable.Change(job.id, job.queue, job, None, event), None))
        await self._record(gone, "")

    async def _beat(self, spec: base.QueueSpec) -> None:
        failures = 0
        while True:
            problem, delay = "", heartbeat.EVERY * self._rng.uniform(0.9, 1.0)
            try:
                problem = await self._heartbeats.beat(spec)
                failures = 0
                if problem:
                    delay = heartbeat.AGAIN[-1]
            except errors.ForgeError as error:
                failures += 1
                delay = pace.backoff(heartbeat.AGAIN, failures, self._rng)
                passing = isinstance(error, errors.ForgeUnavailable | errors.ForgeThrottled)
                problem = "" if passing and failures < ALARM_AFTER else str(error)
            except Exception as error:
                log.exception("%s: the heartbeat of %s failed", self._rest.name, spec.queue)
                problem, delay = f"{type(error).__name__}: {error}", heartbeat.AGAIN[-1]
            if problem:
                self._sink.alarm("queue", str(spec.queue), heartbeat.REASON, problem)
            elif not failures:
                self._sink.clear("queue", str(spec.queue), heartbeat.REASON)
            await self._clock.sleep(delay)

    # -- one project -----------------------------------------------------------------------------------------------

    async def _work(self, slot: polling.Slot) -> None:
        try:
            hints = sorted(slot.hints)
            slot.hints.clear()
            now = self._clock.now()
            if hints and len(hints) <= polling.MOST_HINTS and slot.due > now:
                slot.due = min(slot.due, now + self._schedule.interval(slot, now))
                await self._look(slot.project, hints)
                self._schedule.looked(slot)
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
            self._ail("", "credential", str(error))
            return
        if isinstance(error, errors.StoreError):
            # The controller tells people about the store; here it only means that the jobs are told again.
            return
        recently = self._clock.now() - max(self._answered.values(), default=0.0) < self._stale
        if not recently and isinstance(error, errors.ForgeUnavailable | errors.ForgeThrottled):
            self._ail("", "unreachable", str(error))
        elif slot.failures >= ALARM_AFTER:
            self._alarmed.add(slot.project.id)
            name = f"{self._rest.name}/{slot.project.path}"
            self._sink.alarm("forge", name, "project", f"its jobs are not seen: {error}")

    def _ail(self, scope: str, reason: str, words: str) -> None:
        since = self._trouble.get(scope, (self._clock.now(), ""))[0]
        self._trouble[scope] = (since, words)
        self._sink.alarm("forge", f"{self._rest.name}/{scope}" if scope else self._rest.name, reason, words)

    def _well(self, scope: str, *reasons: str) -> None:
        if self._trouble.pop(scope, None) is not None:
            for reason in reasons:
                self._sink.clear("forge", f"{self._rest.name}/{scope}" if scope else self._rest.name, reason)

    async def _poll(self, slot: polling.Slot) -> None:
        """Ask for the waiting and the running jobs of a project, and for those followed that are neither."""
        project, asked, pages = slot.project, self._clock.now(), 0
        listed: set[int] = set()
        async for page in self._rest.pages(
            "/projects/{id}/jobs",
            what=f"list the waiting jobs of {project.path}",
            path={"id": project.id},
            query=(("scope[]", "pending"), ("scope[]", "running"), *rest.KEYSET),
            urgency=pace.Urgency.BACKGROUND,
            prepaid=True,
        ):
            pages += 1
            views = self._read(page, project)
            listed |= {view.id for view in views}
            # Page by page: the first hundred jobs of a burst need not wait for the last.
            await self._record(await self._changes(project, views), project.path)
        missing = [job for job in self._ledger.of(project.id) if job.id not in listed]
        await self._record(await self._missing(project, missing), project.path)
        self._schedule.answered(slot, asked, busy=bool(self._ledger.of(project.id)), pages=pages)
        self._answered[project.scope] = max(self._answered.get(project.scope, 0.0), asked)
        if project.scope not in self._ready and self._complete(project.scope):
            # Demand has just become known, which is news even when nothing waits.
            self._sink.wake()
        self._well("", "credential", "unreachable")
        if project.id in self._alarmed:
            self._alarmed.discard(project.id)
            self._sink.clear("forge", f"{self._rest.name}/{project.path}", "project")

    def _read(self, rows: Iterable[Mapping[str, object]], project: discovery.Project) -> list[jobs.JobView]:
        views = []
        for row in rows:
            try:
                views.append(jobs.read(row, project.id))
            except ValueError as error:
                log.warning("%s: %s: skipped: %s", self._rest.name, project.path, error)
        return views

    async def _look(self, project: discovery.Project, ids: Iterable[int]) -> None:
        """Ask for single jobs."""
        changes = []
        for index, id_ in enumerate(ids):
            changes += await self._one(project, id_, prepaid=index == 0)
        await self._record(changes, project.path)

    async def _one(
        self, project: discovery.Project, id: int, *, prepaid: bool = False
    ) -> list[tuple[jobtable.Change, jobs.JobView | None]]:
        try:
            row = await self._rest.get(
                "/projects/{id}/jobs/{job}",
                what=f"look at job {id} of {project.path}",
                path={"id": project.id, "job": id},
                urgency=pace.Urgency.BACKGROUND,
                prepaid=prepaid,
            )
        except errors.ForgeNotFound:
            followed = self._ledger.get(id)
            return [] if followed is None else [(jobtable.missed(followed), None)]
        return await self._changes(project, self._read([row], project))

    async def _missing(
        self, project: discovery.Project, missing: Sequence[jobtable.Followed]
    ) -> list[tuple[jobtable.Change, jobs.JobView | None]]:
        """Ask for followed jobs that neither wait nor run, those of one pipeline together."""
        runs: dict[str, list[jobtable.Followed]] = collections.defaultdict(list)
        for job in missing:
            runs[job.run].append(job)
        changes: list[tuple[jobtable.Change, jobs.JobView | None]] = []
        for run, group in runs.items():
            left = {job.id for job in group}
            if run and len(group) >= TOGETHER:
                rows = await self._rest.rows(
                    "/projects/{id}/pipelines/{pipeline}/jobs",
                    what=f"list the jobs of pipeline {run} of {project.path}",
                    path={"id": project.id, "pipeline": run},
                    query=(("include_retried", "true"), ("per_page", "100")),
                    urgency=pace.Urgency.BACKGROUND,
                )
                views = [view for view in self._read(rows, project) if view.id in left]
                changes += await self._changes(project, views)
                left -= {view.id for view in views}
            for id_ in sorted(left):
                changes += await self._one(project, id_)
        return changes

    async def _changes(
        self, project: discovery.Project, views: Iterable[jobs.JobView]
    ) -> list[tuple[jobtable.Change, jobs.JobView | None]]:
        changes: list[tuple[jobtable.Change, jobs.JobView | None]] = []
        for view in views:
            old = self._ledger.get(view.id)
            queue = None if old is not None else await self._queue_for(project, view)
            change = jobtable.step(old, view, queue, project.path)
            if change is not None:
                changes.append((change, view))
        return changes

    async def _queue_for(self, project: discovery.Project, view: jobs.JobView) -> model.Queue | None:
        """The queue that a job belongs to which was not seen before."""
        if view.status in jobs.RUNNING:
            # Taken between two looks.  Without tags anybody's runner may have been meant, so only ours counts.
            if not view.tags and not self._ours(view.runner):
                return None
        elif view.status not in jobs.WAITING:
            return None
        specs = [spec for spec in self._specs.values() if spec.queue.scope == project.scope]
        fitting = matching.candidates(specs, view, project.path, public=project.public)
        protection = None
        if any(spec.protected_only for spec in fitting):
            protection = await self._protection(project)
        spec = matching.choose(fitting, view, protection)
        return spec.queue if spec is not None else None

    async def _protection(self, project: discovery.Project) -> matching.Protection:
        name = f"{self._rest.name}/{project.path}"
        try:
            found = await self._directory.protection(project)
        except (errors.ForgeForbidden, errors.ForgeNotFound) as error:
            # The other pools go on; jobs for protected refs wait, and a person is told why.
            self._sink.alarm("forge", name, "protection", f"which refs are protected is not seen: {error}")
            return matching.Protection()
        self._sink.clear("forge", name, "protection")
        return found

    async def _record(self, changes: Sequence[tuple[jobtable.Change, jobs.JobView | None]], repo: str) -> None:
        """Make changes durable queue by queue, and only then believe them.  Raises :class:`errors.StoreError`."""
        queues = sorted({change.queue for change, _ in changes})
        for queue in queues:
            mine = [(change, view) for change, view in changes if change.queue == queue]
            updates = []
            for change, view in mine:
                update = self._update(change, view, repo)
                if update is not None:
                    updates.append(update)
            taken = [change for change, _ in mine]
            cursor = self._ledger.cursor(queue, taken)
            if updates or cursor != self._ledger.cursor(queue):
                await self._sink.record(queue, updates, cursor)
            self._ledger.commit(taken)
            for change in taken:
                if change.event is base.JobEvent.COMPLETED:
                    self._ended[change.id] = None
                    if len(self._ended) > REMEMBERED:
                        self._ended.popitem(last=False)

    def _update(self, change: jobtable.Change, view: jobs.JobView | None, repo: str) -> base.JobUpdate | None:
        if change.event is None:
            return None
        if view is not None:
            told = jobs.update(change.event, view, change.queue, repo, server_now=self._server_now())
            return told if not told.runner_name else named(told, self._runner_name(view))
        old = change.old
        if old is None or not old.run:
            return None
        return base.JobUpdate(
            event=change.event,
            queue=change.queue,
            repo=old.repo,
            run=old.run,
            name=old.name,
            alias=str(old.id),
            # It was deleted with its project or its pipeline: nobody will run it.
            conclusion="cancelled",
        )

    def _server_now(self) -> float:
        date = self._rest.server_date
        return self._clock.now() if date is None else date[0] + self._clock.now() - date[1]


def named(update: base.JobUpdate, name: str) -> base.JobUpdate:
    """The same fact under the name that we know the runner by."""
    return dataclasses.replace(update, runner_name=name)
