"""Runners of GitHub: register, find, remove, list; by scale set or by REST.

A registration is requested once.  After a refusal the next one waits, longer each time, so that a forge that registers
nothing does not cost one rented instance after another.  Removal is the busy test: GitHub refuses to remove a runner
that has a job, and that refusal is the only atomic answer there is.
"""

from __future__ import annotations

import collections
import random
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from runnerd import errors, model
from runnerd.forges import base
from runnerd.forges.github import backoff as delays
from runnerd.forges.github import failures
from runnerd.forges.github.rest.rest import Rest
from runnerd.forges.github.scalesets.listener import Listener
from runnerd.forges.github.scalesets.service import SET_GONE, Service, values
from runnerd.forges.github.scope import Kind
from runnerd.kit import clock as clocks
from runnerd.kit import http

#: Registrations per window (in seconds) and scope, and runners per group (docs.github.com, "Actions limits").
PER_WINDOW = 1500
WINDOW_S = 300.0
PER_GROUP = 10_000
#: The variable from which the runner reads its configuration; an argument would show in process lists (actions/runner).
VARIABLE = "ACTIONS_RUNNER_INPUT_JITCONFIG"


class RegistrationLimits:
    """The registrations that GitHub would accept now: its limits, and the backoff after refusals."""

    def __init__(self, clock: clocks.Clock, rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng
        self._sent: collections.deque[float] = collections.deque()
        self._backoffs: dict[model.Queue, delays.Backoff] = {}
        self._not_before: dict[model.Queue, float] = {}
        self._under_way: collections.Counter[model.Queue] = collections.Counter()

    def not_before(self, queue: model.Queue) -> float:
        """Return the time before which no registration should be sent; 0 when none was refused."""
        return self._not_before.get(queue, 0.0)

    def headroom(self, queue: model.Queue, registered: int = 0) -> int:
        """Return how many more would be accepted; one at a time after a refusal, until one works.

        ``registered`` is the number of runners in the queue's group.
        """
        now = self._clock.now()
        if now < self.not_before(queue):
            return 0
        left = max(0, min(PER_WINDOW - self._recent(now), PER_GROUP - registered))
        if queue in self._backoffs:
            return min(left, max(0, 1 - self._under_way[queue]))
        return left

    def begin(self, queue: model.Queue, forge: str) -> float:
        """Count a request that is about to be sent; return the time, for :meth:`ended`.

        Raises :class:`errors.ForgeThrottled` when none should be sent.
        """
        now = self._clock.now()
        if self.headroom(queue) <= 0:
            wait = max(self.not_before(queue) - now, 1.0)
            if self._recent(now) >= PER_WINDOW:
                wait = max(wait, self._sent[0] + WINDOW_S - now)
            raise errors.ForgeThrottled(
                f"{forge}: registration backs off for {wait:.0f} s: GitHub refused the last one, or its limit of "
                f"{PER_WINDOW} registrations in five minutes is near",
                status=0,
                retry_after=wait,
            )
        self._sent.append(now)
        self._under_way[queue] += 1
        return now

    def ended(self, queue: model.Queue, began: float, error: errors.RunnerdError | None) -> None:
        """Learn the outcome of a request; ``error`` is None when a runner was registered."""
        self._under_way[queue] -= 1
        if error is None:
            self._backoffs.pop(queue, None)
            self._not_before.pop(queue, None)
            return
        now = self._clock.now()
        if isinstance(error, errors.ForgeConflict):
            # The name is taken; that says nothing about the next.
            return
        if isinstance(error, errors.ForgeThrottled):
            self._not_before[queue] = max(self.not_before(queue), now + error.retry_after)
        if began < self.not_before(queue) and queue in self._backoffs:
            # Sent with others before the refusal was known: one burst is one refusal.
            return
        backoff = self._backoffs.setdefault(
            queue, delays.Backoff(delays.REFUSED, self._rng, longest=delays.REFUSED[-1])
        )
        self._not_before[queue] = max(self.not_before(queue), now + backoff.next())

    def _recent(self, now: float) -> int:
        while self._sent and self._sent[0] <= now - WINDOW_S:
            self._sent.popleft()
        return len(self._sent)


class Runners(Protocol):
    """The runners of a scope.  Every method raises :class:`errors.ForgeError`."""

    async def register(self, name: str, spec: base.QueueSpec) -> base.RunnerConfig:
        """Register a runner, with one request."""
        ...

    async def find(self, name: str) -> base.RunnerView | None:
        """Return the runner of that name; None when there is none."""
        ...

    async def remove(self, id: str) -> base.Removal:
        """Remove a runner unless it has a job."""
        ...

    async def listing(self) -> base.RunnerListing:
        """Return all runners of the scope."""
        ...


def runner_config(forge: str, what: str, response: http.Response, *, field: str) -> base.RunnerConfig:
    """Return the JIT configuration of an answer, from its key ``field``.

    An answer that cannot be read leaves a runner behind: raises :class:`errors.ForgeUnavailable` with
    ``maybe_created``.
    """
    body = failures.decode(forge, what, response)
    runner, encoded = body.get("runner"), body.get(field)
    if not isinstance(runner, dict) or not runner.get("id") or not isinstance(encoded, str) or not encoded:
        raise errors.ForgeUnavailable(
            f"{forge}: could not {what}: the answer holds no runner or no configuration",
            status=response.status,
            maybe_created=True,
        )
    return base.RunnerConfig(kind="github", forge_id=str(runner["id"]), environment={VARIABLE: encoded})


def name_taken(error: errors.ForgeError) -> errors.ForgeConflict:
    """Return the error for a name that is taken: our names are never reused, so the runner is ours."""
    return errors.ForgeConflict(
        f"{error}; a runner of that name exists: remove it by its name, then use another",
        status=error.status,
        maybe_created=True,
    )


class SetRunners:
    """Runners of scale sets, through the Actions service."""

    def __init__(self, service: Service, listener: Callable[[model.Queue], Listener]) -> None:
        self._service = service
        self._listener = listener

    async def register(self, name: str, spec: base.QueueSpec) -> base.RunnerConfig:
        listener = self._listener(spec.queue)
        try:
            set_id = await listener.find_set()
            # Connected here, so that what follows is one request.
            await self._service.connector.get()
        except errors.ForgeError as error:
            # No runner was requested yet; the error may speak of other requests.
            error.maybe_created = False
            raise
        what = f'register the runner "{name}"'
        response = await self._service.jit(set_id, name)
        if response.status in (200, 201):
            return runner_config(self._service.wire.forge, what, response, field="encodedJITConfig")
        refused = self._service.refusal(what, response)
        if response.status == 409 or failures.says(response, "AgentExists"):
            raise name_taken(refused)
        if response.status == 404 or failures.says(response, SET_GONE):
            listener.set_vanished()
            raise errors.ForgeUnavailable(
                f"{refused}; the scale set is gone; runnerd creates it again", status=response.status
            )
        raise refused

    async def find(self, name: str) -> base.RunnerView | None:
        for view in self._views(await self._service.agents(name)):
            if view.name == name:
                return view
        return None

    async def remove(self, id: str) -> base.Removal:
        response = await self._service.remove_agent(id)
        if response.status in (200, 204, 404):
            return base.Removal.REMOVED
        if failures.says(response, "JobStillRunning"):
            return base.Removal.BUSY
        raise self._service.refusal(f"remove runner {id}", response)

    async def listing(self) -> base.RunnerListing:
        body = await self._service.agents()
        count = body.get("count")
        complete = isinstance(count, int) and count == len(values(body))
        return base.RunnerListing(tuple(self._views(body)), complete=complete)

    @staticmethod
    def _views(body: dict[str, Any]) -> Iterable[base.RunnerView]:
        for agent in values(body):
            if agent.get("id") and agent.get("name"):
                busy = agent.get("busy")
                yield base.RunnerView(
                    str(agent["id"]),
                    str(agent["name"]),
                    online=str(agent.get("status", "")).lower() == "online",
                    busy=busy if isinstance(busy, bool) else None,
                )


class RestRunners:
    """Runners without scale sets, through REST."""

    def __init__(self, rest: Rest) -> None:
        self._rest = rest
        self._groups: dict[str, int] = {}

    @property
    def _remedy(self) -> str:
        return f"it needs {self._rest.scope.permission(app=self._rest.credential.app)}"

    async def group(self, name: str) -> int:
        """Return the id of a runner group; a repository has only the default.  Raises :class:`errors.ForgeError`."""
        if self._rest.scope.kind is Kind.REPOSITORY:
            return 1
        if name not in self._groups:
            groups, _ = await self._rest.pages(
                "/{scope}/actions/runner-groups", "runner_groups", "list the runner groups", remedy=self._remedy
            )
            for group in groups:
                if isinstance(group.get("id"), int):
                    self._groups[str(group.get("name"))] = group["id"]
                    if group.get("default"):
                        self._groups.setdefault("Default", group["id"])
        if name not in self._groups:
            raise errors.ForgeNotFound(
                f'{self._rest.wire.forge}: there is no runner group "{name}" for {self._rest.scope.name}; create it in '
                "the settings under Actions, Runner groups, or name another",
                status=404,
            )
        return self._groups[name]

    async def register(self, name: str, spec: base.QueueSpec) -> base.RunnerConfig:
        what = f'register the runner "{name}"'
        try:
            group = await self.group(spec.runner_group)
            await self._rest.credential.token()
        except errors.ForgeError as error:
            error.maybe_created = False
            raise
        try:
            response = await self._rest.call(
                "POST",
                "/{scope}/actions/runners/generate-jitconfig",
                what,
                body={
                    "name": name,
                    "runner_group_id": group,
                    # GitHub adds none by itself, not even self-hosted (GARM PR #163).
                    "labels": list(spec.labels),
                    "work_folder": "_work",
                },
                accept=(200, 201),
                patience=0.0,
                remedy=self._remedy,
            )
        except errors.ForgeNotFound:
            self._groups.clear()
            raise
        except errors.ForgeError as error:
            if error.status == 409 or (error.status == 422 and "already exists" in str(error).lower()):
                raise name_taken(error) from error
            raise
        return runner_config(self._rest.wire.forge, what, response, field="encoded_jit_config")

    async def find(self, name: str) -> base.RunnerView | None:
        runners, _ = await self._rest.pages(
            "/{scope}/actions/runners",
            "runners",
            f'find the runner "{name}"',
            query={"name": name},
            remedy=self._remedy,
        )
        return next((view for view in map(self._view, runners) if view is not None and view.name == name), None)

    async def remove(self, id: str) -> base.Removal:
        try:
            await self._rest.call(
                "DELETE",
                "/{scope}/actions/runners/{id}",
                f"remove runner {id}",
                path={"id": id},
                accept=(204, 200),
                remedy=self._remedy,
            )
        except errors.ForgeNotFound:
            return base.Removal.REMOVED
        except errors.ForgeError as error:
            if error.status == 422:
                return base.Removal.BUSY
            raise
        return base.Removal.REMOVED

    async def listing(self) -> base.RunnerListing:
        runners, complete = await self._rest.pages(
            "/{scope}/actions/runners", "runners", "list the runners", remedy=self._remedy
        )
        views = [view for view in map(self._view, runners) if view is not None]
        return base.RunnerListing(tuple(views), complete)

    @staticmethod
    def _view(runner: dict[str, Any]) -> base.RunnerView | None:
        if not runner.get("id") or not runner.get("name"):
            return None
        busy = runner.get("busy")
        return base.RunnerView(
            str(runner["id"]),
            str(runner["name"]),
            online=runner.get("status") == "online",
            busy=busy if isinstance(busy, bool) else None,
        )
