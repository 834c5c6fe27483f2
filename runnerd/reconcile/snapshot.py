"""Snapshot of what a plan depends on, and the capacity that is announced to each queue."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from provisioners import base
from runnerd import config, model, planner
from runnerd.config import schedule
from runnerd.jobs import updates
from runnerd.lifecycle import registration
from runnerd.model import Queue
from runnerd.offers import admission, blocklist, ranking, selection
from runnerd.runtime import shared

#: Announced as free where no limit holds.
UNLIMITED = 10_000


class Snapshots:
    """Takes snapshots of the shared state for the planner."""

    def __init__(
        self,
        runtime: shared.Runtime,
        *,
        admission: admission.Admission,
        blocklist: blocklist.Blocklist,
        selection: selection.Selection,
        registrar: registration.Registrar,
        job_updates: updates.JobUpdates,
        due: Callable[[float], None],
    ) -> None:
        self._runtime = runtime
        self._admission = admission
        self._blocklist = blocklist
        self._selection = selection
        self._registrar = registrar
        self._job_updates = job_updates
        #: Called with each time at which a pass may come to another plan.
        self._due = due
        #: The daemon listens since then; a shift of the clock moves it.
        self.started_at = runtime.clock.now()

    def take(self) -> planner.Snapshot:
        """Return everything that a plan depends on, as it is known now."""
        settings = self._runtime.config
        ranks = {pool.name: self._selection.rank(pool) for pool in settings.pools.values()}
        pools = [self._pool_view(pool, ranks[pool.name]) for pool in settings.pools.values()]
        named = set(settings.pools)
        ghosts = {row.pool for row in self._runtime.rows.instances.values()} - named
        pools += [planner.PoolView(name, retired=True) for name in sorted(ghosts)]
        cheapest = self._cheapest(ranks)
        left = self._admission.left("all", "", *cheapest) if cheapest else None
        teams, team_of = self._teams()
        return planner.Snapshot(
            pools=tuple(pools),
            instances=self._runtime.rows.instances,
            observations=self._runtime.observations,
            registrations=list(self._runtime.rows.registrations.values()),
            max_instances=settings.limits.instances,
            max_gpus=settings.limits.gpus,
            budget=left[0] if left else None,
            teams=teams,
            team_of=team_of,
            started=self.started_at,
            hold=self._runtime.hold,
        )

    def _cheapest(self, ranks: Mapping[str, list[ranking.Ranked]]) -> tuple[base.Offer, float] | None:
        """Return the cheapest open offer with its instance's lifetime: what is left of the budget is measured by it."""
        found: tuple[base.Offer, float] | None = None
        for pool in self._runtime.config.pools.values():
            for one in ranks[pool.name]:
                if one.open and (found is None or one.offer.price < found[0].price):
                    found = (one.offer, pool.lifetime)
        return found

    def _teams(self) -> tuple[dict[str, planner.TeamView], dict[str, str]]:
        settings = self._runtime.config
        if not settings.teams:
            return {}, {}
        views = {
            team.name: planner.TeamView(team.limits.instances, team.limits.gpus) for team in settings.teams.values()
        }
        repos = {row.repo for row in self._runtime.rows.instances.values()}
        for spec in self._runtime.specs:
            repos.update(self._forge_demand(spec.queue).repos)
        team_of = {repo: team for repo in repos if (team := self._admission.team(repo))}
        return views, team_of

    def _forge_demand(self, queue: Queue) -> model.Demand:
        forge = self._runtime.forges.get(queue.forge)
        return model.Demand() if forge is None else forge.demand(queue)

    def _pool_view(self, pool: config.Pool, ranked: list[ranking.Ranked]) -> planner.PoolView:
        best = next((one for one in ranked if one.open), None)
        later = [one.until for one in ranked if one.until > 0]
        if best is None and later:
            self._due(min(later))
        cooling = self._blocklist.cooling(pool.name)
        resting = cooling.until > self._runtime.clock.now()
        if resting:
            self._due(cooling.until)
        lifetime = pool.lifetime
        left = self._admission.left("pool", pool.name, best.offer, lifetime) if best else None
        whole = self._admission.left("all", "", best.offer, lifetime) if best else None
        wall = self._runtime.clock.wall()
        return planner.PoolView(
            name=pool.name,
            queues=tuple(self._queue_view(queue) for queue in self._runtime.queues(pool.name)),
            warm=schedule.target(pool.warm, wall),
            max_instances=pool.limits.instances,
            max_gpus=pool.limits.gpus,
            gpus=pool.gpu_count,
            idle=pool.idle,
            max_idle_age=pool.max_idle_age,
            max_job=pool.max_job,
            boot=pool.boot,
            drained=self._runtime.durable.drained(pool.name),
            on_demand_only=self._selection.on_demand_only(pool),
            open_offers=best is not None and not resting,
            closed_because=cooling.detail if resting else "" if best else self._selection.why_none(pool, ranked),
            commitment=whole[1] if whole else (left[1] if left else 0.0),
            budget=left[0] if left else None,
            team_refusals=self._admission.team_refusals(best.offer, lifetime) if best else {},
        )

    def _queue_view(self, queue: Queue) -> planner.QueueView:
        forge = self._runtime.forges.get(queue.forge)
        if forge is None:
            return planner.QueueView(queue, model.Demand(), healthy=False, problem="its forge is not configured")
        demand = forge.demand(queue)
        health = forge.health(queue)
        backoff = self._registrar.backoff(queue)
        register_after = max(health.register_after, backoff.until)
        if register_after > self._runtime.clock.now():
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
            pickups=self._job_updates.pickups(queue, demand.as_of),
        )


def capacity(snapshot: planner.Snapshot) -> dict[Queue, int]:
    """Return the capacity to announce to each queue: its own instances plus the free part, never 0."""
    bound: dict[Queue, int] = {}
    members: dict[str, int] = {}
    for row in snapshot.instances.values():
        if row.state in model.CLOSED or row.queue is None:
            continue
        bound[row.queue] = bound.get(row.queue, 0) + 1
        members[row.pool] = members.get(row.pool, 0) + 1
    free_all = None if snapshot.max_instances is None else snapshot.max_instances - sum(members.values())
    announced: dict[Queue, int] = {}
    for pool in snapshot.pools:
        free = free_all
        if pool.max_instances is not None:
            own = pool.max_instances - members.get(pool.name, 0)
            free = own if free is None else min(free, own)
        for view in pool.queues:
            held = bound.get(view.queue, 0)
            if pool.drained:
                announced[view.queue] = max(1, held)
            else:
                announced[view.queue] = max(1, held + max(0, free if free is not None else UNLIMITED))
    return announced
