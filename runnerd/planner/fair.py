"""Fair turns when not all that is wanted is allowed: limits are counted down, and repositories take turns."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

from runnerd.model import Instance
from runnerd.planner import limit_messages
from runnerd.planner.actions import Action, Launch
from runnerd.planner.snapshot import Budget, PoolView, Snapshot


@dataclass(slots=True)
class Want:
    """The instances that a pool wants more, and the repositories whose turn they are."""

    pool: PoolView
    count: int
    #: Repository -> waiting jobs that no rising instance covers yet.
    repos: dict[str, int]
    #: Repository -> live instances bought for it.
    holds: dict[str, int]
    held_back: tuple[str, ...]


class Room:
    """The room that limits leave, counted down while launches are handed out."""

    def __init__(self, snapshot: Snapshot, members: Mapping[str, list[Instance]]) -> None:
        live = sum(map(len, members.values()))
        gpus = sum(instance.gpus for fleet in members.values() for instance in fleet)
        self._instances = _left(snapshot.max_instances, live)
        self._gpus = _left(snapshot.max_gpus, gpus)
        self._max_instances = snapshot.max_instances
        self._max_gpus = snapshot.max_gpus
        self._budget = snapshot.budget
        self._dollars = _dollars(snapshot.budget)
        self._pools: dict[str, tuple[int | None, int | None]] = {}
        self._pool_dollars: dict[str, float | None] = {}
        for pool in snapshot.pools:
            fleet = members[pool.name]
            self._pools[pool.name] = (
                _left(pool.max_instances, len(fleet)),
                _left(pool.max_gpus, sum(instance.gpus for instance in fleet)),
            )
            self._pool_dollars[pool.name] = _dollars(pool.budget)
        self._team_of = snapshot.team_of
        self._teams = dict(snapshot.teams)
        self._team_counts: dict[str, tuple[int, int]] = {}
        if self._teams:
            for fleet in members.values():
                for instance in fleet:
                    self._count_team(instance.repo, instance.gpus)

    def _count_team(self, repo: str, gpus: int) -> None:
        team = self._team_of.get(repo)
        if team is not None:
            held, held_gpus = self._team_counts.get(team, (0, 0))
            self._team_counts[team] = (held + 1, held_gpus + gpus)

    def team_refusal(self, repo: str, pool: PoolView) -> str:
        """Return why the repository's team may not have one more instance; empty when it may."""
        name = self._team_of.get(repo)
        if name is None:
            return ""
        team = self._teams[name]
        held, held_gpus = self._team_counts.get(name, (0, 0))
        if team.max_instances is not None and held >= team.max_instances:
            return limit_messages.instances(f"team {name}", team.max_instances)
        if team.max_gpus is not None and held_gpus + pool.gpus > team.max_gpus:
            return limit_messages.gpus(f"team {name}", team.max_gpus)
        return pool.team_refusals.get(name, "")

    def refusal(self, pool: PoolView) -> str:
        """Return why one more instance of the pool is not allowed; empty when it is."""
        title = f"pool {pool.name}"
        count, gpus = self._pools[pool.name]
        if pool.max_instances is not None and count is not None and count < 1:
            return limit_messages.instances(title, pool.max_instances)
        if pool.max_gpus is not None and gpus is not None and gpus < pool.gpus:
            return limit_messages.gpus(title, pool.max_gpus)
        if self._max_instances is not None and self._instances is not None and self._instances < 1:
            return limit_messages.instances(limit_messages.ALL, self._max_instances)
        if self._max_gpus is not None and self._gpus is not None and self._gpus < pool.gpus:
            return limit_messages.gpus(limit_messages.ALL, self._max_gpus)
        left = self._pool_dollars[pool.name]
        if pool.budget is not None and left is not None and left < pool.commitment:
            return limit_messages.dollars(title, pool.budget, left=left, more=pool.commitment)
        if self._budget is not None and self._dollars is not None and self._dollars < pool.commitment:
            return limit_messages.dollars(limit_messages.ALL, self._budget, left=self._dollars, more=pool.commitment)
        return ""

    def take(self, pool: PoolView, repo: str) -> None:
        """Count one launch."""
        self._count_team(repo, pool.gpus)
        count, gpus = self._pools[pool.name]
        self._pools[pool.name] = (_less(count, 1), _less(gpus, pool.gpus))
        self._instances = _less(self._instances, 1)
        self._gpus = _less(self._gpus, pool.gpus)
        own = self._pool_dollars[pool.name]
        if own is not None:
            self._pool_dollars[pool.name] = own - pool.commitment
        if self._dollars is not None:
            self._dollars -= pool.commitment


def _dollars(budget: Budget | None) -> float | None:
    return None if budget is None else budget.left


def _left(limit: int | None, used: int) -> int | None:
    return None if limit is None else limit - used


def _less(left: int | None, by: int) -> int | None:
    return None if left is None else left - by


def launches(wants: list[Want], room: Room, burst: int) -> tuple[list[Action], dict[str, tuple[str, ...]]]:
    """Hand out launches one at a time to the repository that holds the fewest instances.

    That is max-min fairness: one 200-job matrix cannot starve the rest, and it gets what no other repository wants.
    """
    holds: dict[str, int] = {}
    for want in wants:
        for repo, count in want.holds.items():
            holds[repo] = holds.get(repo, 0) + count
    notes = {want.pool.name: list(want.held_back) for want in wants}
    # Ties go to the pool that is written first, then by name: deterministic.
    heap = [
        (holds.get(repo, 0), order, repo) for order, want in enumerate(wants) for repo in want.repos if want.count > 0
    ]
    heapq.heapify(heap)
    launches: list[Action] = []
    while heap and len(launches) < burst:
        held, order, repo = heapq.heappop(heap)
        want = wants[order]
        if want.count <= 0 or want.repos[repo] <= 0:
            continue
        if held != holds.get(repo, 0):  # its standing changed through another pool
            heapq.heappush(heap, (holds.get(repo, 0), order, repo))
            continue
        refusal = room.refusal(want.pool)
        if refusal:
            notes[want.pool.name].append(refusal)
            want.count = 0
            continue
        refusal = room.team_refusal(repo, want.pool)
        if refusal:
            notes[want.pool.name].append(refusal)
            want.repos[repo] = 0
            continue
        room.take(want.pool, repo)
        launches.append(Launch(want.pool.name, repo))
        want.count -= 1
        want.repos[repo] -= 1
        holds[repo] = holds.get(repo, 0) + 1
        heapq.heappush(heap, (holds[repo], order, repo))
    return launches, {pool: tuple(reasons) for pool, reasons in notes.items()}
