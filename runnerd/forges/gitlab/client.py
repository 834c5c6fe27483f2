"""The GitLab forge: the parts of this package behind the contract of :mod:`runnerd.forges.base`.

It decides nothing about instances.  Its state in memory (paused runners, shared tokens, followed jobs) is derived again
from GitLab and the cursors after a restart.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import logging
import random
from collections.abc import Callable, Mapping, Sequence

from provisioners.base import Finding
from runnerd import config, errors, model
from runnerd.forges import base
from runnerd.forges.gitlab import (
    check,
    discovery,
    heartbeat,
    jobs,
    rate_limits,
    rest,
    retry,
    runners,
    shared_records,
    watching,
    webhooks,
)
from runnerd.kit import clock as clocks
from runnerd.kit import http

log = logging.getLogger(__name__)

#: Backoff of registrations, by refusals in a row; seconds.  Long, since a refusal does not pass soon.
REFUSED_S = (15.0, 30.0, 60.0, 120.0, 300.0, 600.0)
#: Backoff of registrations, by failures in a row to get an answer; seconds.
UNANSWERED_S = (2.0, 5.0, 10.0, 20.0, 40.0, 60.0)
#: The part of ``runner_cap`` above which ``auto`` shares one record per queue.
NEAR_CAP = 0.8


class GitLab:
    """A client of one GitLab.  Implements :class:`runnerd.forges.base.Forge`."""

    def __init__(
        self,
        name: str,
        settings: config.GitLabForge,
        *,
        clock: clocks.Clock,
        transport: http.Transport,
        rng: random.Random,
        on_request: Callable[[str, int], None] | None = None,
        controller: str = "",
        windows: runners.Windows | None = None,
    ) -> None:
        """``controller`` marks our permanent records; it is needed where two daemons may share a group."""
        self._name = name
        self._settings = settings
        self._clock = clock
        self._rng = rng
        self._transport = transport
        windows = windows or runners.Windows()
        self._rest = rest.Rest(
            name,
            settings.url,
            settings.token.reveal,
            clock=clock,
            transport=transport,
            rng=rng,
            per_minute=settings.requests_per_minute,
            on_request=on_request,
        )
        self._directory = discovery.Directory(
            self._rest, groups=settings.groups, projects=settings.projects, clock=clock
        )
        self._runners = runners.Runners(
            self._rest, self._directory, clock=clock, windows=windows, controller=controller
        )
        self._flavours = shared_records.Flavours(
            self._rest, self._runners, self._directory, clock=clock, windows=windows, controller=controller
        )
        self._heartbeats = heartbeat.Heartbeats(
            self._rest, self._runners, self._directory, clock=clock, rng=rng, controller=controller
        )
        self._retries = retry.Retries(self._rest)
        self._deliveries = webhooks.Deliveries(
            token=settings.webhook_token.reveal if settings.webhook_token else None,
            signing=settings.signing_token.reveal if settings.signing_token else None,
            clock=clock,
        )
        self._runners.on_history = self._record_history
        self._watch: watching.Watch | None = None
        self._specs: dict[model.Queue, base.QueueSpec] = {}
        self._shared: dict[model.Queue, asyncio.Lock] = collections.defaultdict(asyncio.Lock)
        #: Refusals of registrations in a row, by scope.
        self._refusals: collections.Counter[str] = collections.Counter()
        #: The time before which none is sent, and the reason, by scope.
        self._register_after: dict[str, tuple[float, str]] = {}
        #: Runner names by the system_id that the runner uses with a shared record.
        self._managers: dict[str, str] = {}

    @property
    def name(self) -> str:
        return self._name

    def scopes(self) -> Sequence[str]:
        return tuple(scope.path for scope in self._directory.scopes)

    async def watch(self, specs: Sequence[base.QueueSpec], sink: base.Sink) -> None:
        self._specs = {spec.queue: spec for spec in specs}
        watch = watching.Watch(
            self._rest,
            self._directory,
            self._heartbeats,
            self._settings,
            clock=self._clock,
            rng=self._rng,
            specs=specs,
            sink=sink,
            ours=self._runners.ours.__contains__,
            runner_name=self._runner_name,
        )
        self._watch = watch
        try:
            await watch.run()
        finally:
            if self._watch is watch:
                self._watch = None

    async def close(self) -> None:
        await self._transport.close()

    # -- demand ----------------------------------------------------------------------------------------------------

    def demand(self, queue: model.Queue) -> model.Demand:
        return self._watch.demand(queue) if self._watch is not None else model.Demand()

    def headroom(self, queue: model.Queue) -> int | None:
        count = self._runners.count(queue.scope)
        if count is None or self._flavours.holds(queue):
            return None
        left = max(0, self._settings.runner_cap - count)
        if self._settings.registration is config.RunnerRecords.INSTANCE:
            return left
        # One free place is enough for a record that any number of instances shares.
        return None if left else 0

    def health(self, queue: model.Queue) -> base.Health:
        since, problem = self._watch.problem(queue.scope) if self._watch is not None else (0.0, "")
        after, refusal = self._register_after.get(queue.scope, (0.0, ""))
        if not problem and after > self._clock.now():
            problem = refusal
        return base.Health(ok=not problem, problem=problem, since=since, register_after=after)

    def server_date(self) -> tuple[float, float] | None:
        return self._rest.server_date

    def _runner_name(self, view: jobs.JobView) -> str:
        return self._managers.get(view.system_id, view.runner_name)

    # -- runners ---------------------------------------------------------------------------------------------------

    async def register(self, name: str, queue: model.Queue, *, note: str = "") -> base.RunnerConfig:
        spec = self._specs.get(queue)
        if spec is None:
            raise errors.ForgeError(f"{self._name}: the queue {queue} is not watched")
        after, reason = self._register_after.get(queue.scope, (0.0, ""))
        wait = after - self._clock.now()
        if wait > 0:
            raise errors.ForgeThrottled(f"{reason} Registration backs off for {wait:.0f} s.", retry_after=wait)
        try:
            if await self._shares(queue):
                forge_id, token = await self._share(spec, note)
                self._managers[runners.system_id(name)] = name
            else:
                forge_id, token = await self._runners.create(spec, description=name, note=self._runners.note(note))
        except errors.ForgeError as error:
            self._refused(queue.scope, error)
            raise
        self._refusals.pop(queue.scope, None)
        self._register_after.pop(queue.scope, None)
        environment = {"CI_SERVER_URL": self._settings.url, "CI_SERVER_TOKEN": token, "RUNNER_NAME": name}
        if forge_id.startswith(shared_records.PREFIX):
            environment[shared_records.SYSTEM_ID] = runners.system_id(name)
        return base.RunnerConfig(
            kind="gitlab",
            forge_id=forge_id,
            environment=environment,
            # The agent ends a runner that waits for too long; this only ends one that was forgotten.  0 means no end.
            arguments=("--max-builds", "1", "--wait-timeout", str(max(1, int(spec.max_job)))),
        )

    async def _shares(self, queue: model.Queue) -> bool:
        mode = self._settings.registration
        if mode is not config.RunnerRecords.AUTO:
            return mode is config.RunnerRecords.FLAVOUR
        count = self._runners.count(queue.scope)
        if count is None:
            try:
                count = len(await self._runners.rows(self._directory.scope(queue.scope)))
            except errors.ForgeError as error:
                error.maybe_created = False
                raise
        return count >= NEAR_CAP * self._settings.runner_cap

    async def _share(self, spec: base.QueueSpec, note: str) -> tuple[str, str]:
        async with self._shared[spec.queue]:
            try:
                return await self._flavours.token(spec, note)
            except errors.ForgeError as error:
                # No record carries the instance's name; a shared one left over is removed by the next call.
                error.maybe_created = False
                raise

    def _refused(self, scope: str, error: errors.ForgeError) -> None:
        """Back off from registrations in the scope, so that no instance is bought for a forge that accepts none."""
        if self._register_after.get(scope, (0.0, ""))[0] > self._clock.now():
            # Of a burst that was under way together, only the first counts.
            return
        self._refusals[scope] += 1
        if isinstance(error, errors.ForgeThrottled):
            pause = error.retry_after
        else:
            passing = isinstance(error, errors.ForgeUnavailable)
            pause = rate_limits.backoff(UNANSWERED_S if passing else REFUSED_S, self._refusals[scope], self._rng)
        self._register_after[scope] = (self._clock.now() + pause, str(error))

    async def _record_history(self, queue: model.Queue, views: Sequence[jobs.JobView]) -> None:
        if self._watch is None:
            return
        try:
            await self._watch.record_history(queue, views)
        except errors.StoreError as error:
            # A job that cannot be recorded must not hold up the removal of its runner.
            log.warning("%s: the jobs of a removed runner were not recorded: %s", self._name, error)

    async def find(self, name: str, queue: model.Queue) -> base.RunnerView | None:
        rows = await self._runners.named(name, self._directory.scope(queue.scope))
        return _view(rows[0]) if rows else None

    async def deregister(self, registration: model.Registration) -> base.Removal:
        if registration.forge_id.startswith(shared_records.PREFIX):
            outcome = await self._flavours.remove(registration)
            if outcome is base.Removal.REMOVED:
                self._managers.pop(runners.system_id(registration.runner_name), None)
            return outcome
        return await self._runners.remove(registration)

    async def list_runners(self, queue: model.Queue) -> base.RunnerListing:
        try:
            rows = await self._runners.rows(self._directory.scope(queue.scope))
        except errors.ForgeError as error:
            log.warning("%s", error)
            return base.RunnerListing((), complete=False)
        # Instances that share a record have none under their own name: their absence means nothing.
        shared = any(row.get("description") == self._flavours.description(queue) for row in rows)
        views = [_view(row) for row in rows if not str(row.get("description")).startswith(runners.MARK)]
        return base.RunnerListing(tuple(views), complete=not shared)

    # -- jobs ------------------------------------------------------------------------------------------------------

    async def job_states(self, jobs_: Sequence[model.Job]) -> Sequence[base.JobUpdate]:
        updates = []
        for job in jobs_:
            alias = jobs.latest_id(job)
            if not alias:
                continue
            try:
                row = await self._rest.get(
                    "/projects/{id}/jobs/{job}",
                    what=f"read job {alias} of {job.repo}",
                    path={"id": job.repo, "job": alias},
                )
                view = jobs.read(row, 0)
            except (errors.ForgeError, ValueError) as error:
                log.warning("%s", error)
                continue
            event = _event(view)
            if event is not None:
                update = jobs.update(event, view, job.queue, job.repo, server_now=self._rest.server_now())
                if update.runner_name:
                    update = dataclasses.replace(update, runner_name=self._runner_name(view))
                updates.append(update)
        return updates

    async def retry(self, job: model.Job, *, whole_run: bool = False) -> base.RetryOutcome:
        return await self._retries.retry(job, whole_run=whole_run)

    # -- webhooks and check ----------------------------------------------------------------------------------------

    async def webhook(self, headers: Mapping[str, str], body: bytes) -> base.WebhookAnswer:
        try:
            hint = self._deliveries.take(headers, body)
        except errors.Refused as error:
            return base.WebhookAnswer(error.status, str(error))
        except errors.SecretMissing as error:
            log.error("%s: webhooks cannot be checked: %s", self._name, error)
            return base.WebhookAnswer(503, "the webhook's secret cannot be read")
        if hint is None:
            return base.WebhookAnswer(200, "nothing to do")
        if self._watch is None:
            return base.WebhookAnswer(200, "not watching yet; the first round notices it")
        return base.WebhookAnswer(200, self._watch.hint(hint))

    async def check(self) -> list[Finding]:
        return await check.Check(self._rest, self._directory, self._runners, self._settings, clock=self._clock).run()


def _view(row: runners.RunnerRow) -> base.RunnerView:
    online = row.get("status") == "online" or row.get("online") is True
    return base.RunnerView(str(row.get("id")), str(row.get("description")), online=online, busy=None)


def _event(view: jobs.JobView) -> base.JobEvent | None:
    if view.status in jobs.WAITING:
        return base.JobEvent.QUEUED
    if view.status in jobs.RUNNING:
        return base.JobEvent.STARTED
    return base.JobEvent.COMPLETED if view.status in jobs.FINAL else None
