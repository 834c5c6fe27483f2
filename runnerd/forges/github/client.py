"""GitHub as a :class:`runnerd.forges.base.Forge`: the parts put together, without rules of its own."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping, Sequence

from provisioners.base import Finding
from runnerd import config, errors, model
from runnerd.forges import base
from runnerd.forges.github import auth, check, scope
from runnerd.forges.github.registration import RegistrationLimits, RestRunners, Runners, SetRunners
from runnerd.forges.github.rest import polling
from runnerd.forges.github.rest.assignment_timeouts import AssignmentTimeouts
from runnerd.forges.github.rest.audit import Audit
from runnerd.forges.github.rest.rest import Rest
from runnerd.forges.github.rest.runs import Runs, fits
from runnerd.forges.github.scalesets import sets
from runnerd.forges.github.scalesets.listener import Listener
from runnerd.forges.github.scalesets.service import Service
from runnerd.forges.github.webhooks import Webhooks
from runnerd.forges.github.wire import OnRequest, Wire
from runnerd.kit import clock as clocks
from runnerd.kit import http, tasks

log = logging.getLogger(__name__)

#: Seconds for ending all sessions on shutdown.
CLOSE_S = 30.0


class GitHub:
    """A client of one organisation, repository or enterprise.

    ``owner`` is the name under which sessions are opened, for people who read GitHub's logs.
    """

    def __init__(
        self,
        name: str,
        settings: config.GitHubForge,
        *,
        clock: clocks.Clock,
        transport: http.Transport,
        rng: random.Random,
        on_request: OnRequest | None = None,
        owner: str = "runnerd",
    ) -> None:
        self._name = name
        self._settings = settings
        self._clock = clock
        self._rng = rng
        self._owner = owner
        self._scope = scope.parse(settings.url)
        self._wire = Wire(name, clock=clock, transport=transport, on_request=on_request)
        credential: auth.Credential
        if settings.app is not None:
            credential = auth.App(self._wire, self._scope, settings.app)
        elif settings.token is not None:
            credential = auth.PersonalToken(settings.token)
        else:
            raise errors.SecretMissing(f"forge {name} has neither app nor token")
        self._rest = Rest(self._wire, self._scope, credential, rng=rng)
        self._service = Service(self._wire, self._rest, rng=rng)
        self._runs = Runs(self._rest)
        self._limits = RegistrationLimits(clock, rng)
        self._rest_runners = RestRunners(self._rest)
        self._uses_sets = settings.mode is config.Mode.SCALE_SET
        self._runners: Runners = SetRunners(self._service, self._listener) if self._uses_sets else self._rest_runners
        self._specs: dict[model.Queue, base.QueueSpec] = {}
        self._listeners: dict[model.Queue, Listener] = {}
        self._sink: base.Sink | None = None
        #: Sessions being ended, of queues that a reload took away.
        self._leaving = tasks.Group(f"github/{name}")
        self._timeouts = AssignmentTimeouts(self._runs, clock=clock)
        repositories = polling.listed(settings, self._scope.repository)
        self._poller = polling.Poller(
            self._runs, clock=clock, rng=rng, interval=settings.poll, repositories=repositories
        )
        self._audit = Audit(
            self._rest,
            self._runs,
            clock=clock,
            rng=rng,
            interval=settings.audit.interval,
            share=settings.audit.share,
            repositories=repositories,
            listeners=lambda: list(self._listeners.values()),
        )
        self._webhooks = Webhooks(name, settings.webhook_secret, on_job=self._hint)

    @property
    def name(self) -> str:
        return self._name

    def scopes(self) -> Sequence[str]:
        return (self._scope.name,)

    def server_date(self) -> tuple[float, float] | None:
        return self._wire.server_date()

    def rate_limit(self) -> tuple[int | None, int]:
        """Return the requests left in this hour (None when not reported) and the hourly quota, for metrics."""
        return self._rest.limits.remaining, self._rest.limits.limit

    # -- following the queues --------------------------------------------------------------------------------------

    async def watch(self, specs: Sequence[base.QueueSpec], sink: base.Sink) -> None:
        self._sink = sink
        self._specs = {spec.queue: spec for spec in specs}
        group = tasks.Group(f"github/{self._name}")
        try:
            if self._uses_sets:
                for listener in self._arrange(specs, sink):
                    group.spawn(f"listen {listener.queue}", listener.run())
                group.spawn("assignment timeouts", self._timeouts.run())
                group.spawn("audit", self._audit.run(sink))
            else:
                group.spawn("poll", self._poller.run(specs, sink))
            await asyncio.get_running_loop().create_future()
        finally:
            await group.close()

    def _arrange(self, specs: Sequence[base.QueueSpec], sink: base.Sink) -> Sequence[Listener]:
        """Return one listener per queue; the session of one that is not needed any more is ended."""
        former = {spec.queue.pool: str(sink.cursor(spec.queue).get("name") or "") for spec in specs}
        names = sets.names(specs, former)
        kept: dict[model.Queue, Listener] = {}
        for spec in specs:
            queue, name = spec.queue, names[spec.queue.pool]
            listener = self._listeners.pop(queue, None)
            if listener is not None and (listener.name, listener.spec.runner_group) != (name, spec.runner_group):
                self._leaving.spawn(f"leave {listener.name}", self._leave(listener, remember=False))
                listener = None
            if listener is None:
                listener = Listener(
                    spec,
                    name,
                    self._service,
                    clock=self._clock,
                    rng=self._rng,
                    acquire=self._settings.acquire,
                    hosted=self._scope.hosted,
                    web=self._scope.web,
                    owner=self._owner,
                    on_timeout=self._timeouts.note,
                )
            listener.attach(spec, sink)
            kept[queue] = listener
        for listener in self._listeners.values():
            self._leaving.spawn(f"leave {listener.name}", self._leave(listener, remember=False))
        self._listeners = kept
        return list(kept.values())

    @staticmethod
    async def _leave(listener: Listener, *, remember: bool = True) -> None:
        try:
            await listener.end(remember=remember)
        except errors.RunnerdError as error:
            log.warning("%s: the session was not ended and expires by itself: %s", listener.queue, error)

    async def close(self) -> None:
        listeners = list(self._listeners.values())
        if listeners:
            try:
                async with asyncio.timeout(CLOSE_S):
                    await asyncio.gather(*(self._leave(listener) for listener in listeners))
            except TimeoutError:
                log.warning("%s: not every session was ended in time; the rest expire by themselves", self._name)
        await self._leaving.close(grace=CLOSE_S / 6)
        await self._wire.close()

    # -- what is known ---------------------------------------------------------------------------------------------

    def demand(self, queue: model.Queue) -> model.Demand:
        if self._uses_sets:
            listener = self._listeners.get(queue)
            return model.Demand() if listener is None else listener.demand()
        return self._poller.demand(queue) if queue in self._specs else model.Demand()

    def headroom(self, queue: model.Queue) -> int | None:
        listener = self._listeners.get(queue)
        registered = listener.registered_runners if listener is not None else 0
        return self._limits.headroom(queue, registered)

    def health(self, queue: model.Queue) -> base.Health:
        listener = self._listeners.get(queue)
        if listener is not None:
            health = listener.health()
        else:
            health = base.Health() if self._uses_sets else self._poller.health()
        return base.Health(health.ok, health.problem, health.since, self._limits.not_before(queue))

    # -- runners ---------------------------------------------------------------------------------------------------

    def _listener(self, queue: model.Queue) -> Listener:
        try:
            return self._listeners[queue]
        except KeyError:
            raise errors.ForgeUnavailable(f"{self._name}: the queue {queue} is not watched yet") from None

    async def register(self, name: str, queue: model.Queue, *, note: str = "") -> base.RunnerConfig:
        spec = self._specs.get(queue)
        if spec is None:
            raise errors.ForgeUnavailable(f"{self._name}: the queue {queue} is not watched yet")
        began = self._limits.begin(queue, self._name)
        try:
            runner = await self._runners.register(name, spec)
        except errors.RunnerdError as error:
            self._limits.ended(queue, began, error)
            raise
        except BaseException:
            self._limits.ended(queue, began, errors.ForgeConflict("interrupted"))
            raise
        self._limits.ended(queue, began, None)
        if (listener := self._listeners.get(queue)) is not None:
            listener.stranded.runner_registered()
        return runner

    async def find(self, name: str, queue: model.Queue) -> base.RunnerView | None:
        return await self._runners.find(name)

    async def deregister(self, registration: model.Registration) -> base.Removal:
        id = registration.forge_id
        if not id:
            view = await self._runners.find(registration.runner_name)
            if view is None:
                return base.Removal.REMOVED
            id = view.forge_id
        return await self._runners.remove(id)

    async def list_runners(self, queue: model.Queue) -> base.RunnerListing:
        return await self._runners.listing()

    # -- jobs ------------------------------------------------------------------------------------------------------

    async def job_states(self, jobs: Sequence[model.Job]) -> Sequence[base.JobUpdate]:
        return await self._runs.states(jobs)

    async def retry(self, job: model.Job, *, whole_run: bool = False) -> base.RetryOutcome:
        return await self._runs.retry(job, whole_run=whole_run)

    # -- webhooks and check ----------------------------------------------------------------------------------------

    async def webhook(self, headers: Mapping[str, str], body: bytes) -> base.WebhookAnswer:
        return self._webhooks.take(headers, body)

    def _hint(self, repo: str, labels: tuple[str, ...], action: str) -> bool:
        """Poll soon, since a job changed; return False when no pool of ours has such labels."""
        specs = [spec for spec in self._specs.values() if fits(labels, spec.labels)]
        if not any(not spec.repos or config.matches(repo, spec.repos) for spec in specs):
            return False
        if not self._uses_sets:
            self._poller.hint(repo)
        for spec in specs:
            if (listener := self._listeners.get(spec.queue)) is not None:
                listener.note_repository(repo)
        if self._sink is not None:
            self._sink.wake()
        return True

    async def check(self, specs: Sequence[base.QueueSpec] = ()) -> list[Finding]:
        """Try the protocol; ``specs`` are the queues to check while none is watched."""
        checked = list(specs or self._specs.values())
        return await check.Check(self._settings, self._rest, self._service, self._rest_runners, checked).run()
