"""Observe, plan, act: the loop that keeps what is in step with what is wanted.

Anything may wake it (a message, a webhook, an agent, a listing); nothing that wakes it is believed beyond that.  Each
pass gathers a snapshot, asks the pure planner, and starts the actions as background tasks, at most one per subject at
a time.  An action that fails changes nothing: the next pass derives it again, at a pace that slows while it keeps
failing.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from provisioners import base
from runnerd import config, errors, model, planner
from runnerd.config import schedule
from runnerd.jobs import rerun, stuck, updates
from runnerd.kit import tasks
from runnerd.lifecycle import (
    adoption,
    agent_assignment,
    agent_sessions,
    consoles,
    end_reasons,
    inventory,
    orphan_runners,
    provisioning,
    registration,
    termination,
    unknown_creates,
)
from runnerd.model import Instance, InstanceId, InstanceState, Queue, Reason
from runnerd.offers import admission, blocklist, ranking, refresh, selection
from runnerd.reconcile import clock_guard
from runnerd.runtime import shared

log = logging.getLogger(__name__)

#: Seconds before an action on the same subject is tried again, by how often it was tried already.
PACE = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
#: The shortest rest between two passes, and how many times a pass's own duration it rests at least.
REST, REST_FACTOR = 0.005, 3.0


class Controller:
    """The control loop with its rooms."""

    def __init__(
        self,
        runtime: shared.Runtime,
        *,
        bundle: Callable[[], str],
        assign: Callable[[Instance], agent_assignment.Assignment],
        reanchor: Callable[[], None] = lambda: None,
    ) -> None:
        self.runtime = runtime
        self._woken = asyncio.Event()
        runtime.wake = self._woken.set
        # In this order they hear of a step: room is freed before an offer is blocked, and both before the rest.
        self.admission = admission.Admission(runtime)
        self.blocklist = blocklist.Blocklist(runtime)
        self.retrier = rerun.Retrier(runtime)
        self.selection = selection.Selection(runtime, self.admission, rerun_outstanding=self.retrier.outstanding)
        self.job_updates = updates.JobUpdates(runtime)
        self.stuck_jobs = stuck.StuckJobs(runtime, self.job_updates)
        self.agents = agent_sessions.AgentSessions(runtime, assign=assign)
        self.registrar = registration.Registrar(runtime, self.agents)
        self.orphan_runners = orphan_runners.OrphanRunners(runtime)
        self.launcher = provisioning.Launcher(runtime, self.admission, self.selection, bundle=bundle)
        self.unknown_creates = unknown_creates.UnknownCreates(runtime, self.launcher)
        adopter = adoption.Adoption(runtime)
        self.consoles = consoles.Consoles(runtime)
        self.agents.on_diagnostics.append(self.consoles.keep_diagnostics)
        self.end_reasons = end_reasons.EndReasons(runtime)
        self.reaper = termination.Reaper(
            runtime,
            self.registrar,
            self.agents,
            adoption=adopter,
            consoles=self.consoles,
            end_reasons=self.end_reasons,
        )
        self.inventory = inventory.Inventory(runtime, adopter)
        self._started_at = runtime.clock.now()
        self._reanchor = reanchor
        self.guard = clock_guard.Guard(runtime.clock, reanchor=self._take_over_wall_clock)
        self._actions = tasks.Group("act", on_failure=self._action_failed)
        self.refresher = refresh.Refresher(runtime, self._actions)
        self._running: set[tuple[str, str]] = set()
        self._tried: dict[tuple[str, str], tuple[int, float]] = {}
        #: The last plan's words on what holds each pool back.
        self.notes: Mapping[str, tuple[str, ...]] = {}
        #: Passes made, seconds of the last one, failures so far; for metrics and health.
        self.passes = 0
        self.pass_seconds = 0.0
        self.failures = 0
        self.last_pass_at = 0.0
        #: Called after each pass with the seconds that it took.
        self.on_pass: list[Callable[[float], None]] = []
        self._next_due: float | None = None

    # -- the loop ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Reconcile until cancelled."""
        while True:
            started = self.runtime.clock.now()
            try:
                await self.reconcile()
            except errors.StoreError as error:
                self.failures += 1
                self.runtime.alarms.ring("daemon", "store", "state-unwritable", str(error))
            except Exception as error:
                self.failures += 1
                log.exception("reconcile failed")
                self.runtime.alarms.ring("daemon", "reconcile", "reconcile-failed", f"{type(error).__name__}: {error}")
            else:
                await self._probe_store()
                self.runtime.alarms.clear("daemon", "reconcile", "reconcile-failed")
            self.pass_seconds = self.runtime.clock.now() - started
            self.last_pass_at = self.runtime.clock.now()
            for listener in self.on_pass:
                listener(self.pass_seconds)
            await self.runtime.clock.sleep(max(REST, REST_FACTOR * self.pass_seconds))
            await self._until_woken()

    async def _probe_store(self) -> None:
        """A pass may write nothing: only a write that passes says that the state can be written again."""
        if ("daemon", "store", "state-unwritable") in self.runtime.alarms.open:
            try:
                await self.runtime.rows.probe()
            except errors.StoreError:
                return
            self.runtime.alarms.clear("daemon", "store", "state-unwritable")

    async def _until_woken(self) -> None:
        wait = self.runtime.config.reconcile.interval
        if self._next_due is not None:
            wait = max(0.0, min(wait, self._next_due - self.runtime.clock.now()))
        if self._woken.is_set():
            self._woken.clear()
            return
        try:
            async with asyncio.timeout(None) as limit:
                limit.reschedule(asyncio.get_running_loop().time() + wait)
                await self._woken.wait()
        except TimeoutError:
            pass
        self._woken.clear()

    async def reconcile(self) -> None:
        """One pass."""
        self.passes += 1
        self._next_due = None
        self._check_clock()
        self.admission.count()
        self.refresher.refresh()
        snapshot = self.snapshot()
        plan = planner.plan(snapshot, self.runtime.clock.now())
        self.notes = plan.notes
        self._announce(snapshot)
        self._renew_lost_grants()
        self._resolve_lost_requests()
        self._recheck_completed()
        await self._act(plan)

    async def close(self, *, grace: float) -> None:
        """Stop acting; wait up to ``grace`` seconds for calls under way, whose outcome is worth having."""
        await self._actions.close(grace=grace)

    # -- observe -----------------------------------------------------------------------------------------------

    def _check_clock(self) -> None:
        hold = self.guard.check(self.runtime.forges.values())
        if hold:
            self.runtime.alarms.ring("daemon", "clock", "clock", self.guard.problem)
        else:
            self.runtime.alarms.clear("daemon", "clock", "clock")
        self.runtime.hold = hold

    def _take_over_wall_clock(self) -> None:
        """Steady time jumps to the wall clock; every time that ages are counted from jumps with it.

        What was stamped by a wrong clock keeps its age.  After a suspension the ages are too young instead, which ends
        nothing early; the provider's own deadline does not wait.
        """
        before = self.runtime.clock.now()
        self._reanchor()
        drift = self.runtime.clock.now() - before
        self._started_at += drift
        self.runtime.observations.shift(drift)
        # At once, because this very pass plans by these times.
        self.runtime.rows.shift(drift)
        event = model.Event(self.runtime.clock.now(), "daemon", "clock", "shifted", "", f"by {drift:+.0f} s")
        self.runtime.background.spawn("clock", self.runtime.rows.keep(event))

    def snapshot(self) -> planner.Snapshot:
        """Everything a plan depends on, as it is known now."""
        settings = self.runtime.config
        ranks = {pool.name: self.selection.rank(pool) for pool in settings.pools.values()}
        pools = [self._pool_view(pool, ranks[pool.name]) for pool in settings.pools.values()]
        named = set(settings.pools)
        ghosts = {row.pool for row in self.runtime.rows.instances.values()} - named
        pools += [planner.PoolView(name, retired=True) for name in sorted(ghosts)]
        cheapest = self._cheapest(ranks)
        left = self.admission.left("all", "", *cheapest) if cheapest else None
        teams, team_of = self._teams()
        return planner.Snapshot(
            pools=tuple(pools),
            instances=self.runtime.rows.instances,
            observations=self.runtime.observations,
            registrations=list(self.runtime.rows.registrations.values()),
            max_instances=settings.limits.instances,
            max_gpus=settings.limits.gpus,
            budget=left[0] if left else None,
            teams=teams,
            team_of=team_of,
            started=self._started_at,
            hold=self.runtime.hold,
        )

    def _cheapest(self, ranks: Mapping[str, list[ranking.Ranked]]) -> tuple[base.Offer, float] | None:
        """The cheapest open offer with the lifetime that it would have: what is left is told in its measure."""
        found: tuple[base.Offer, float] | None = None
        for pool in self.runtime.config.pools.values():
            for one in ranks[pool.name]:
                if one.open and (found is None or one.offer.price < found[0].price):
                    found = (one.offer, pool.lifetime)
        return found

    def _teams(self) -> tuple[dict[str, planner.TeamView], dict[str, str]]:
        settings = self.runtime.config
        if not settings.teams:
            return {}, {}
        views = {
            team.name: planner.TeamView(team.limits.instances, team.limits.gpus) for team in settings.teams.values()
        }
        repos = {row.repo for row in self.runtime.rows.instances.values()}
        for spec in self.runtime.specs:
            repos.update(self._forge_demand(spec.queue).repos)
        team_of = {repo: team for repo in repos if (team := self.admission.team(repo))}
        return views, team_of

    def _forge_demand(self, queue: Queue) -> model.Demand:
        forge = self.runtime.forges.get(queue.forge)
        return model.Demand() if forge is None else forge.demand(queue)

    def _pool_view(self, pool: config.Pool, ranked: list[ranking.Ranked]) -> planner.PoolView:
        best = next((one for one in ranked if one.open), None)
        later = [one.until for one in ranked if one.until > 0]
        if best is None and later:
            self._due(min(later))
        cooling = self.blocklist.cooling(pool.name)
        resting = cooling.until > self.runtime.clock.now()
        if resting:
            self._due(cooling.until)
        lifetime = pool.lifetime
        left = self.admission.left("pool", pool.name, best.offer, lifetime) if best else None
        whole = self.admission.left("all", "", best.offer, lifetime) if best else None
        wall = self.runtime.clock.wall()
        return planner.PoolView(
            name=pool.name,
            queues=tuple(self._queue_view(queue) for queue in self.runtime.queues(pool.name)),
            warm=schedule.target(pool.warm, wall),
            max_instances=pool.limits.instances,
            max_gpus=pool.limits.gpus,
            gpus=pool.gpu_count,
            idle=pool.idle,
            max_idle_age=pool.max_idle_age,
            max_job=pool.max_job,
            boot=pool.boot,
            drained=self.runtime.durable.drained(pool.name),
            on_demand_only=self.selection.on_demand_only(pool),
            open_offers=best is not None and not resting,
            closed_because=cooling.detail if resting else "" if best else self.selection.why_none(pool, ranked),
            commitment=whole[1] if whole else (left[1] if left else 0.0),
            budget=left[0] if left else None,
            team_refusals=self.admission.team_refusals(best.offer, lifetime) if best else {},
        )

    def _queue_view(self, queue: Queue) -> planner.QueueView:
        forge = self.runtime.forges.get(queue.forge)
        if forge is None:
            return planner.QueueView(queue, model.Demand(), healthy=False, problem="its forge is not configured")
        demand = forge.demand(queue)
        health = forge.health(queue)
        backoff = self.registrar.backoff(queue)
        register_after = max(health.register_after, backoff.until)
        if register_after > self.runtime.clock.now():
            self._due(register_after)
        headroom = forge.headroom(queue)
        if backoff.refusals:
            # One at a time finds out whether the forge registers again.
            headroom = 1 if headroom is None else min(headroom, 1)
        return planner.QueueView(
            queue=queue,
            demand=demand,
            headroom=headroom,
            healthy=health.ok,
            register_after=register_after,
            problem=health.problem or backoff.detail,
            pickups=self.job_updates.pickups(queue, demand.as_of),
        )

    def _due(self, at: float) -> None:
        """A pass is worth making then; what is due already was seen by this one."""
        if at > self.runtime.clock.now() and (self._next_due is None or at < self._next_due):
            self._next_due = at

    def _announce(self, snapshot: planner.Snapshot) -> None:
        """Capacity is told as the total that a queue may hold: its own plus the free part, never 0."""
        bound: dict[Queue, int] = {}
        members: dict[str, int] = {}
        for row in snapshot.instances.values():
            if row.state in model.CLOSED or row.queue is None:
                continue
            bound[row.queue] = bound.get(row.queue, 0) + 1
            members[row.pool] = members.get(row.pool, 0) + 1
        free_all = None if snapshot.max_instances is None else snapshot.max_instances - sum(members.values())
        told: dict[Queue, int] = {}
        for pool in snapshot.pools:
            free = free_all
            if pool.max_instances is not None:
                own = pool.max_instances - members.get(pool.name, 0)
                free = own if free is None else min(free, own)
            for view in pool.queues:
                held = bound.get(view.queue, 0)
                if pool.drained:
                    told[view.queue] = max(1, held)
                else:
                    told[view.queue] = max(1, held + max(0, free if free is not None else 10_000))
        self.job_updates.announce(told)

    # -- act ---------------------------------------------------------------------------------------------------

    async def _act(self, plan: planner.Plan) -> None:
        launches = [action for action in plan.actions if isinstance(action, planner.Launch)]
        for action in plan.actions:
            if not isinstance(action, planner.Launch):
                self._start(action)
        if launches:
            await self._launch(launches)

    async def _launch(self, launches: list[planner.Launch]) -> None:
        """A burst is one commit; then each instance goes its own way."""
        now = self.runtime.clock.now()
        new = [
            Instance(
                id=InstanceId(self.runtime.name_prefix(action.pool) + self.runtime.fresh_name()),
                pool=action.pool,
                state=InstanceState.PLANNED,
                created_at=now,
                since=now,
                repo=action.repo,
                gpus=self.runtime.config.pools[action.pool].gpu_count,
            )
            for action in launches
        ]
        await self.runtime.rows.plan(new)
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
        now = self.runtime.clock.now()
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
        """The next try on this subject waits, the longer the more there were."""
        self._tried[key] = (tries + 1, self.runtime.clock.now() + PACE[min(tries + 1, len(PACE) - 1)])

    def _finished(self, key: tuple[str, str], task: asyncio.Task[Any]) -> None:
        self._running.discard(key)
        kind, subject = key
        rows = self.runtime.rows
        known = subject in rows.registrations if kind == "deregister" else InstanceId(subject) in rows.instances
        if not known:
            self._tried.pop(key, None)
        elif not task.cancelled() and task.exception() is not None:
            self._slow_down(key, self._tried.get(key, (0, 0.0))[0])

    def _action_failed(self, name: str, error: BaseException) -> None:
        """An action that raised did nothing that is not on record; the next pass derives it again, slower."""
        self.failures += 1
        if isinstance(error, errors.StoreError):
            self.runtime.alarms.ring("daemon", "store", "state-unwritable", str(error))
        else:
            self.runtime.alarms.ring("daemon", name, "action-failed", f"{type(error).__name__}: {error}")

    def _work(self, action: planner.Action) -> tuple[str, str, Callable[[], Coroutine[Any, Any, Any]], bool] | None:
        match action:
            case planner.Request(id):
                row, pool = self.runtime.rows.instances.get(id), None
                if row is not None:
                    pool = self.runtime.config.pools.get(row.pool)
                if row is not None and pool is not None and self.selection.spill_at(row, pool) > row.created_at:
                    self._due(self.selection.spill_at(row, pool))
                return "request", id, lambda: self.launcher.request(id), False
            case planner.Drop(id, reason):
                return "drop", id, lambda: self._drop(id, reason), False
            case planner.Resolve(id, wanted):
                return "resolve", id, lambda: self.unknown_creates.resolve(id, wanted=wanted), True
            case planner.Register(id, queue):
                return "register", id, lambda: self.registrar.register(id, queue), False
            case planner.Drain(id, reason, detail):
                return "drain", id, lambda: self.reaper.drain(id, reason, detail), False
            case planner.Release(id, forced):
                return "release", id, lambda: self.reaper.release(id, forced=forced), True
            case planner.Delete(id):
                return "delete", id, lambda: self.reaper.delete(id), True
            case planner.Close(id, reason):
                return "close", id, lambda: self.reaper.close(id, reason), False
            case planner.Deregister(id):
                return "deregister", id, lambda: self.registrar.remove(id), True
        return None

    async def _drop(self, id: InstanceId, reason: Reason) -> None:
        await self.runtime.rows.step(id, InstanceState.FAILED, expect={InstanceState.PLANNED}, reason=reason)

    # -- second looks ------------------------------------------------------------------------------------------

    def _resolve_lost_requests(self) -> None:
        """Requests that no task of this process waits for: their answer came and could not be written."""
        for id, row in self.runtime.rows.instances.items():
            if row.state is InstanceState.REQUESTING and not self._running & {("request", id), ("resolve", id)}:
                self._begin("lost", id, functools.partial(self.unknown_creates.lost, id), paced=True)

    def _renew_lost_grants(self) -> None:
        """Agents that wait for a configuration that this process does not have, or for a name that is unclear."""
        for id in self.registrar.lost_grants():
            self._begin("renew", id, functools.partial(self.registrar.renew, id), paced=True)

    def _recheck_completed(self) -> None:
        """The forge said completed, the gate said busy: ask the gate again from time to time."""
        for id, conclusion in self.reaper.completed_but_busy():
            self._start(planner.Drain(id, Reason.JOB_DONE, conclusion))
