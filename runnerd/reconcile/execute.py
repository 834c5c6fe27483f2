"""Execution of plans: actions as background tasks, at most one of a kind at a time for each subject.

An action that fails changes nothing: the next pass derives it again, at a pace that slows while it keeps failing.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

from runnerd import planner
from runnerd.kit import tasks
from runnerd.lifecycle import provisioning, registration, termination, unknown_creates
from runnerd.model import Instance, InstanceId, InstanceState, Reason
from runnerd.offers import selection
from runnerd.runtime import shared

#: Seconds before an action on the same subject is tried again, by how often it was tried already.
PACE_S = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0)


class Executor:
    """Starts actions and paces their repetition."""

    def __init__(
        self,
        runtime: shared.Runtime,
        actions: tasks.Group,
        *,
        selection: selection.Selection,
        launcher: provisioning.Launcher,
        unknown_creates: unknown_creates.UnknownCreates,
        registrar: registration.Registrar,
        reaper: termination.Reaper,
        due: Callable[[float], None],
    ) -> None:
        self._runtime = runtime
        self._actions = actions
        self._selection = selection
        self._launcher = launcher
        self._unknown_creates = unknown_creates
        self._registrar = registrar
        self._reaper = reaper
        #: Called with each time at which an action may be tried again.
        self._due = due
        self._running: set[tuple[str, str]] = set()
        self._tried: dict[tuple[str, str], tuple[int, float]] = {}

    async def act(self, plan: planner.Plan) -> None:
        """Start the actions of a plan, and what is due beside it."""
        self._renew_lost_grants()
        self._resolve_lost_requests()
        self._recheck_completed()
        launches = [action for action in plan.actions if isinstance(action, planner.Launch)]
        for action in plan.actions:
            if not isinstance(action, planner.Launch):
                self._start(action)
        if launches:
            await self._launch(launches)

    async def _launch(self, launches: list[planner.Launch]) -> None:
        """Plan a burst of instances in one commit, then request each by itself."""
        now = self._runtime.clock.now()
        new = [
            Instance(
                id=InstanceId(self._runtime.name_prefix(action.pool) + self._runtime.fresh_name()),
                pool=action.pool,
                state=InstanceState.PLANNED,
                created_at=now,
                since=now,
                repo=action.repo,
                gpus=self._runtime.config.pools[action.pool].gpu_count,
            )
            for action in launches
        ]
        await self._runtime.rows.plan(new)
        for row in new:
            self._start(planner.Request(row.id))

    def _start(self, action: planner.Action) -> None:
        found = self._work(action)
        if found is not None:
            kind, subject, work, paced = found
            self._begin(kind, subject, work, paced=paced)

    def _begin(self, kind: str, subject: str, work: Callable[[], Coroutine[Any, Any, Any]], *, paced: bool) -> None:
        """Run work on a subject in the background, one of a kind at a time; paced work waits between tries."""
        key = (kind, subject)
        now = self._runtime.clock.now()
        if key in self._running:
            return
        tries, after = self._tried.get(key, (0, 0.0))
        if now < after:
            self._due(after)
            return
        if paced:
            self._slow_down(key, tries)
        self._running.add(key)
        task = self._actions.spawn(f"{kind} {subject}", work())
        task.add_done_callback(lambda done: self._finished(key, done))

    def _slow_down(self, key: tuple[str, str], tries: int) -> None:
        """Delay the next try on a subject, the longer the more there were."""
        self._tried[key] = (tries + 1, self._runtime.clock.now() + PACE_S[min(tries + 1, len(PACE_S) - 1)])

    def _finished(self, key: tuple[str, str], task: asyncio.Task[Any]) -> None:
        self._running.discard(key)
        kind, subject = key
        rows = self._runtime.rows
        known = subject in rows.registrations if kind == "deregister" else InstanceId(subject) in rows.instances
        if not known:
            self._tried.pop(key, None)
        elif not task.cancelled() and task.exception() is not None:
            self._slow_down(key, self._tried.get(key, (0, 0.0))[0])

    def _work(self, action: planner.Action) -> tuple[str, str, Callable[[], Coroutine[Any, Any, Any]], bool] | None:
        match action:
            case planner.Request(id):
                row, pool = self._runtime.rows.instances.get(id), None
                if row is not None:
                    pool = self._runtime.config.pools.get(row.pool)
                if row is not None and pool is not None and self._selection.spill_at(row, pool) > row.created_at:
                    self._due(self._selection.spill_at(row, pool))
                return "request", id, lambda: self._launcher.request(id), False
            case planner.Drop(id, reason):
                return "drop", id, lambda: self._drop(id, reason), False
            case planner.Resolve(id, wanted):
                return "resolve", id, lambda: self._unknown_creates.resolve(id, wanted=wanted), True
            case planner.Register(id, queue):
                return "register", id, lambda: self._registrar.register(id, queue), False
            case planner.Drain(id, reason, detail):
                return "drain", id, lambda: self._reaper.drain(id, reason, detail), False
            case planner.Release(id, forced):
                return "release", id, lambda: self._reaper.release(id, forced=forced), True
            case planner.Delete(id):
                return "delete", id, lambda: self._reaper.delete(id), True
            case planner.Close(id, reason):
                return "close", id, lambda: self._reaper.close(id, reason), False
            case planner.Deregister(id):
                return "deregister", id, lambda: self._registrar.remove(id), True
        return None

    async def _drop(self, id: InstanceId, reason: Reason) -> None:
        await self._runtime.rows.step(id, InstanceState.FAILED, expect={InstanceState.PLANNED}, reason=reason)

    def _resolve_lost_requests(self) -> None:
        """Resolve requests that no task of this process waits for: their answer could not be written."""
        for id, row in self._runtime.rows.instances.items():
            if row.state is InstanceState.REQUESTING and not self._running & {("request", id), ("resolve", id)}:
                self._begin("lost", id, functools.partial(self._unknown_creates.lost, id), paced=True)

    def _renew_lost_grants(self) -> None:
        """Renew registrations whose agents wait for a configuration that this process has not got."""
        for id in self._registrar.lost_grants():
            self._begin("renew", id, functools.partial(self._registrar.renew, id), paced=True)

    def _recheck_completed(self) -> None:
        """Ask again about instances whose job is completed at the forge and whose termination check found them busy."""
        for id, conclusion in self._reaper.completed_but_busy():
            self._start(planner.Drain(id, Reason.JOB_DONE, conclusion))
