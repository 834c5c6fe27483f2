"""What should happen now, given everything that is known: a pure function from a snapshot to actions.

No I/O, no clock, no randomness; the same snapshot always gives the same plan.  The plan is level-triggered: it is
derived afresh from what is, never from what just happened, so a lost event costs one interval and a repeated action
does nothing.  The planner says *what* and *why*; who does it, and how a failure is answered, is the controller's.

Two rules decide most cases.  Supply is counted, not paired: a waiting job wants one more rising instance of its pool,
whichever instance will run it.  And nothing is taken away on a guess: demand that is unknown or stale never shrinks a
fleet, and an instance that may have a job is only ever drained, which lets both witnesses speak first.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from provisioners.base import InstanceStatus, Market
from runnerd import model
from runnerd.model import Instance, InstanceState, Queue, Reason

#: Seconds without a heartbeat after which an agent counts as silent.
SILENCE = 90.0
#: Seconds that a listing must show an instance absent, on two listings, before it counts as gone.
ABSENCES = 2
#: Seconds added to a deadline of ours before it is enforced against a job, for clocks and the runner's own clean-up.
SLACK = 300.0


# -- what the planner sees -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Evidence:
    """What the witnesses last said about one instance; kept in memory and gathered again after a restart."""

    #: Steady time of the agent's last word; 0 when it has not spoken to this process.
    agent_at: float = 0.0
    #: The agent sees a runner process with a job.
    worker: bool = False
    #: The agent has a registration request open.
    asking: bool = False
    #: What the provider last said, and when; None before the first listing.
    cloud: InstanceStatus | None = None
    cloud_at: float = 0.0
    #: How many complete listings in a row did not have it.
    absences: int = 0
    #: The provider's own health probe; None for no verdict.
    healthy: bool | None = None

    def fresh(self, now: float) -> bool:
        """True while the agent's last word is young enough to act on."""
        return self.agent_at > 0 and now - self.agent_at < SILENCE


@dataclass(frozen=True, slots=True)
class QueueView:
    """One queue with what its forge says."""

    queue: Queue
    demand: model.Demand
    #: More runners the forge would register; None for no known limit.
    headroom: int | None = None
    healthy: bool = True
    #: No registration before then.
    register_after: float = 0.0
    problem: str = ""
    #: Jobs that our agents saw starting after the demand was read: it still counts them as waiting.
    pickups: int = 0


@dataclass(frozen=True, slots=True)
class PoolView:
    """One pool with its rules as they hold now."""

    name: str
    queues: tuple[QueueView, ...] = ()
    warm: int = 0
    #: At most that many live instances; None for no limit of its own.
    max_instances: int | None = None
    max_gpus: int | None = None
    #: GPUs of one instance.
    gpus: int = 0
    idle: float = 600.0
    max_idle_age: float = 86400.0
    max_job: float = 43200.0
    boot: float = 600.0
    #: A person drains it: nothing new is bought.
    drained: bool = False
    #: It left the configuration.
    retired: bool = False
    #: An interrupted job is being run again: no spot instance may take it.
    on_demand_only: bool = False
    #: Some offer can be tried now; otherwise why not, in plain words.
    open_offers: bool = True
    closed_because: str = ""
    #: Dollars that one more instance commits at most within the tightest window, by the best open offer.
    commitment: float = 0.0
    #: Dollars left for this pool's own budget; None for no limit.
    dollars: float | None = None
    #: Team name -> plain words when its budget cannot pay one more instance by the best open offer.
    team_refusals: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class TeamView:
    """The ceilings of some repositories together."""

    max_instances: int | None = None
    max_gpus: int | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a plan depends on."""

    pools: tuple[PoolView, ...]
    instances: Mapping[model.InstanceId, Instance]
    evidence: Mapping[model.InstanceId, Evidence] = field(default_factory=lambda: MappingProxyType({}))
    registrations: Iterable[model.Registration] = ()
    #: Limits over all pools; None for none.
    max_instances: int | None = None
    max_gpus: int | None = None
    dollars: float | None = None
    #: Team name -> ceilings, and repository -> team name for repositories that belong to one.
    teams: Mapping[str, TeamView] = field(default_factory=lambda: MappingProxyType({}))
    team_of: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    #: Wall and steady clock disagree: nothing is ended for its age.
    hold: bool = False
    #: Launches in one pass at most.
    burst: int = 1000


# -- what the planner says -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Launch:
    """Plan one more instance of a pool, bought for a repository's turn."""

    pool: str
    repo: str


@dataclass(frozen=True, slots=True)
class Drop:
    """Forget a planned instance that nobody wants any more."""

    instance: model.InstanceId
    reason: Reason


@dataclass(frozen=True, slots=True)
class Request:
    """Try offers for a planned instance."""

    instance: model.InstanceId


@dataclass(frozen=True, slots=True)
class Resolve:
    """Find out what became of an unclear create call."""

    instance: model.InstanceId
    #: False when nobody wants it any more: it is not sent again.
    wanted: bool


@dataclass(frozen=True, slots=True)
class Register:
    """Give a ready instance a runner for a queue."""

    instance: model.InstanceId
    queue: Queue


@dataclass(frozen=True, slots=True)
class Drain:
    """Let the instance take no further job, then end it through the gate."""

    instance: model.InstanceId
    reason: Reason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Release:
    """Ask the forge to remove a draining instance's runner, and end it when both witnesses deny a job."""

    instance: model.InstanceId
    #: End it whatever the witnesses say: deadline, dead machine, a person's order.
    forced: bool = False


@dataclass(frozen=True, slots=True)
class Delete:
    """Ask the provider to delete an ending instance, until it is gone."""

    instance: model.InstanceId


@dataclass(frozen=True, slots=True)
class Close:
    """The instance is confirmed absent."""

    instance: model.InstanceId
    reason: Reason


@dataclass(frozen=True, slots=True)
class Deregister:
    """Remove a registration that no instance needs any more."""

    registration: model.RegistrationId


Action: TypeAlias = (
    Launch | Drop | Request | Resolve | Register | Drain | Release | Delete | Close | Deregister
)


@dataclass(frozen=True, slots=True)
class Plan:
    """Actions in the order to start them, and why what is wanted is not being done."""

    actions: tuple[Action, ...]
    #: Pool -> plain words on what holds it back; what ``explain`` shows.
    notes: Mapping[str, tuple[str, ...]]


# -- the plan ------------------------------------------------------------------------------------------------------


def plan(snapshot: Snapshot, now: float) -> Plan:
    """Derive the actions that the snapshot calls for."""
    members: dict[str, list[Instance]] = {pool.name: [] for pool in snapshot.pools}
    for instance in snapshot.instances.values():
        if instance.state not in model.CLOSED:
            members.setdefault(instance.pool, []).append(instance)
    room = _Room(snapshot, members)
    actions: list[Action] = []
    notes: dict[str, tuple[str, ...]] = {}
    wants: list[_Want] = []
    for pool in snapshot.pools:
        fleet = _Fleet(pool, members[pool.name], snapshot, now)
        actions += fleet.settle()
        wants.append(fleet.want())
        notes[pool.name] = ()
    for pool_name, rest in members.items():
        if pool_name not in notes:  # its pool left the configuration and nobody described it
            ghost = PoolView(pool_name, retired=True)
            actions += _Fleet(ghost, rest, snapshot, now).settle()
    launches, reasons = _launch(wants, room, snapshot.burst)
    actions += launches
    notes.update(reasons)
    actions += _leftover_registrations(snapshot)
    return Plan(tuple(actions), MappingProxyType(notes))


@dataclass(slots=True)
class _Want:
    """How many more instances a pool wants, and whose turn they are."""

    pool: PoolView
    count: int
    #: Repository -> waiting jobs that no rising instance covers yet.
    repos: dict[str, int]
    #: Repository -> live instances bought for it.
    holds: dict[str, int]
    held_back: tuple[str, ...]


class _Room:
    """What the limits still allow, counted down while launches are handed out."""

    def __init__(self, snapshot: Snapshot, members: Mapping[str, list[Instance]]) -> None:
        live = sum(map(len, members.values()))
        gpus = sum(instance.gpus for fleet in members.values() for instance in fleet)
        self._instances = _left(snapshot.max_instances, live)
        self._gpus = _left(snapshot.max_gpus, gpus)
        self._dollars = snapshot.dollars
        self._pools: dict[str, tuple[int | None, int | None]] = {}
        self._pool_dollars: dict[str, float | None] = {}
        for pool in snapshot.pools:
            fleet = members[pool.name]
            self._pools[pool.name] = (
                _left(pool.max_instances, len(fleet)),
                _left(pool.max_gpus, sum(instance.gpus for instance in fleet)),
            )
            self._pool_dollars[pool.name] = pool.dollars
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
        """Why the repository's team may not have one more instance; empty when it may."""
        name = self._team_of.get(repo)
        if name is None:
            return ""
        team = self._teams[name]
        held, held_gpus = self._team_counts.get(name, (0, 0))
        if team.max_instances is not None and held >= team.max_instances:
            return f"team {name} is at its limit of {team.max_instances} instances"
        if team.max_gpus is not None and held_gpus + pool.gpus > team.max_gpus:
            return f"team {name} is at its limit of {team.max_gpus} GPUs"
        return pool.team_refusals.get(name, "")

    def refusal(self, pool: PoolView) -> str:
        """Why one more instance of the pool is not allowed; empty when it is."""
        count, gpus = self._pools[pool.name]
        if count is not None and count < 1:
            return f"pool {pool.name} is at its limit of {pool.max_instances} instances"
        if gpus is not None and gpus < pool.gpus:
            return f"pool {pool.name} is at its limit of {pool.max_gpus} GPUs"
        if self._instances is not None and self._instances < 1:
            return "the limit of instances over all pools is reached"
        if self._gpus is not None and self._gpus < pool.gpus:
            return "the limit of GPUs over all pools is reached"
        own = self._pool_dollars[pool.name]
        if own is not None and own < pool.commitment:
            return (
                f"pool {pool.name}: one more instance may cost ${pool.commitment:.2f}, "
                f"${max(own, 0):.2f} of its budget are not committed"
            )
        if self._dollars is not None and self._dollars < pool.commitment:
            return (
                f"one more instance may cost ${pool.commitment:.2f}, "
                f"${max(self._dollars, 0):.2f} of the budget are not committed"
            )
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


def _left(limit: int | None, used: int) -> int | None:
    return None if limit is None else limit - used


def _less(left: int | None, by: int) -> int | None:
    return None if left is None else left - by


def _launch(
    wants: list[_Want], room: _Room, burst: int
) -> tuple[list[Action], dict[str, tuple[str, ...]]]:
    """Hand out launches one at a time to the repository that holds the fewest instances.

    That is max-min fairness: one 200-job matrix cannot starve the rest, and what nobody else wants it gets.
    """
    holds: dict[str, int] = {}
    for want in wants:
        for repo, count in want.holds.items():
            holds[repo] = holds.get(repo, 0) + count
    notes = {want.pool.name: list(want.held_back) for want in wants}
    # Ties go to the pool that is written first, then by name: deterministic.
    heap = [
        (holds.get(repo, 0), order, repo)
        for order, want in enumerate(wants)
        for repo in want.repos
        if want.count > 0
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


def _leftover_registrations(snapshot: Snapshot) -> list[Action]:
    """Registrations outlive their instances: each is removed until the forge says that it is gone."""
    actions: list[Action] = []
    for registration in snapshot.registrations:
        if registration.state is model.RegistrationState.GONE:
            continue
        owner = snapshot.instances.get(registration.instance)
        closed = owner is None or owner.state in model.CLOSED
        if closed or registration.state is model.RegistrationState.REMOVING:
            actions.append(Deregister(registration.id))
    return actions


class _Fleet:
    """The live instances of one pool."""

    def __init__(self, pool: PoolView, members: list[Instance], snapshot: Snapshot, now: float) -> None:
        self._pool = pool
        self._members = members
        self._evidence = snapshot.evidence
        self._hold = snapshot.hold
        self._now = now
        by_state: dict[InstanceState, list[Instance]] = {state: [] for state in InstanceState}
        for instance in members:
            by_state[instance.state].append(instance)
        self._by_state = by_state
        #: Queue -> waiting jobs that no runner of the queue is about to take.
        self._open: dict[Queue, int] = {}
        bound: dict[Queue, int] = {}
        for state in (InstanceState.REGISTERING, InstanceState.REGISTERED):
            for instance in by_state[state]:
                if instance.queue is not None:
                    bound[instance.queue] = bound.get(instance.queue, 0) + 1
        for view in pool.queues:
            waiting = max(0, view.demand.waiting - view.pickups)
            self._open[view.queue] = max(0, waiting - bound.get(view.queue, 0))
        self._unbound = sum(
            len(by_state[state])
            for state in (
                InstanceState.PLANNED,
                InstanceState.REQUESTING,
                InstanceState.UNKNOWN,
                InstanceState.BOOTING,
                InstanceState.READY,
            )
        )
        # A drained pool registers nothing, so nothing that rises there is of use.
        self._target = 0 if pool.drained or pool.retired else sum(self._open.values()) + pool.warm
        self._demand_known = all(view.demand.known for view in pool.queues)

    # -- per instance ------------------------------------------------------------------------------------------

    def settle(self) -> list[Action]:
        """Actions that each instance's own state and evidence call for."""
        actions: list[Action] = []
        spare = self._unbound - self._target
        for instance in self._by_state[InstanceState.ENDING]:
            actions.append(self._gone(instance) or Delete(instance.id))
        for instance in self._by_state[InstanceState.DRAINING]:
            forced = self._forced(instance)
            gone = self._gone(instance)
            if gone:
                actions.append(gone)
            elif forced or not self._held(instance):
                actions.append(Release(instance.id, forced))
        for instance in self._by_state[InstanceState.BUSY]:
            action = self._gone(instance) or self._overdue(instance)
            if action:
                actions.append(action)
        unsent = self._unsent(spare)
        # What is dropped unsent is no longer spare: an idle one must not go for the same surplus.
        spare -= sum(isinstance(action, Drop) for action in unsent)
        leaving = self._idle(spare)
        actions += leaving
        actions += self._registers({action.instance for action in leaving})
        actions += unsent
        for instance in self._by_state[InstanceState.REGISTERING]:
            action = self._gone(instance) or self._past(instance)
            if action:
                actions.append(action)
        for instance in self._by_state[InstanceState.UNKNOWN]:
            actions.append(Resolve(instance.id, wanted=self._unbound <= self._target))
        for instance in self._by_state[InstanceState.BOOTING]:
            action = self._gone(instance) or self._slow(instance)
            if action:
                actions.append(action)
        return actions

    def _gone(self, instance: Instance) -> Close | None:
        evidence = self._evidence.get(instance.id)
        if evidence is None:
            return None
        if evidence.cloud is InstanceStatus.GONE or evidence.absences >= ABSENCES:
            return Close(instance.id, instance.reason or Reason.VANISHED)
        return None

    def _forced(self, instance: Instance) -> bool:
        """Whether a draining instance is ended whatever the witnesses say."""
        if instance.reason in (Reason.MAX_JOB, Reason.OPERATOR):
            return True
        if self._dead(instance):
            return True
        return not self._hold and self._now > instance.deadline > 0

    def _dead(self, instance: Instance) -> bool:
        """The agent is silent and the provider itself says that the machine does not run."""
        evidence = self._evidence.get(instance.id)
        if evidence is None or evidence.fresh(self._now):
            return False
        return evidence.cloud is InstanceStatus.STOPPED or evidence.healthy is False

    def _past(self, instance: Instance) -> Drain | None:
        """The machine is dead, or its time is over."""
        if self._dead(instance):
            return Drain(instance.id, Reason.DEAD, "the agent is silent and the provider says it is dead")
        if not self._hold and not self._held(instance) and self._now > instance.deadline > 0:
            return Drain(instance.id, Reason.AGE, "its deadline has passed")
        return None

    def _overdue(self, instance: Instance) -> Action | None:
        if self._dead(instance):
            return self._past(instance)
        if self._hold or self._held(instance):
            return None
        limit = instance.busy_at + self._pool.max_job + SLACK
        if self._pool.retired:
            limit = instance.deadline
        if 0 < instance.busy_at and 0 < limit < self._now:
            return Drain(instance.id, Reason.MAX_JOB, f"its job ran longer than {self._pool.max_job:.0f} s")
        return None

    def _held(self, instance: Instance) -> bool:
        return instance.hold_until > self._now

    def _slow(self, instance: Instance) -> Action | None:
        over = self._past(instance)
        if over:
            return over
        if self._hold or self._held(instance):
            return None
        if self._now - instance.since > self._pool.boot:
            detail = f"no word from its agent within {self._pool.boot:.0f} s"
            return Drain(instance.id, Reason.BOOT_TIMEOUT, detail)
        return None

    def _idle(self, spare: int) -> list[Drain | Close]:
        """End what waits for work that does not come, oldest first, never more than is spare."""
        actions: list[Drain | Close] = []
        idle: list[Instance] = []
        pool = self._pool
        waiting = self._by_state[InstanceState.READY] + self._by_state[InstanceState.REGISTERED]
        for instance in sorted(waiting, key=lambda one: one.since):
            over = self._gone(instance) or self._past(instance) or self._outlived(instance)
            if over:
                actions.append(over)
                # It was supply until now.
                spare -= instance.state is InstanceState.READY
            elif self._now - instance.since > pool.idle and not self._hold and not self._held(instance):
                idle.append(instance)
        for instance in idle if self._demand_known else ():
            if instance.state is InstanceState.REGISTERED:
                if self._queue_wants(instance):
                    continue
            elif spare <= 0:
                continue
            else:
                spare -= 1
            actions.append(Drain(instance.id, Reason.IDLE))
        return actions

    def _outlived(self, instance: Instance) -> Drain | None:
        """A waiting instance that no job should land on any more."""
        if self._hold or self._held(instance):
            return None
        if self._pool.retired:
            return Drain(instance.id, Reason.RETIRED)
        if self._now - instance.created_at > self._pool.max_idle_age or not self._time_for_a_job(instance):
            return Drain(instance.id, Reason.AGE)
        return None

    def _time_for_a_job(self, instance: Instance) -> bool:
        """An instance serves a job only if the whole of ``max_job`` fits before its deadline."""
        if instance.state is InstanceState.REGISTERED or instance.deadline <= 0:
            return True
        return self._now + self._pool.max_job <= instance.deadline

    def _queue_wants(self, instance: Instance) -> bool:
        return any(
            view.queue == instance.queue and view.demand.waiting > view.pickups for view in self._pool.queues
        )

    def _registers(self, leaving: set[model.InstanceId]) -> list[Action]:
        """Give ready instances to the queues that wait: the one that holds fewest first, then the one with most jobs.

        As with launches, a long queue does not starve a short one.
        """
        if self._pool.drained or self._pool.retired:
            return []
        ready = [
            instance
            for instance in self._by_state[InstanceState.READY]
            if instance.id not in leaving
            and self._time_for_a_job(instance)
            and self._market_fits(instance)
            and self._asks(instance)
        ]
        if not ready:
            return []
        ready.sort(key=lambda one: (one.since, one.id), reverse=True)
        views = {view.queue: view for view in self._pool.queues}
        left = {
            queue: min(count, count if (room := views[queue].headroom) is None else room)
            for queue, count in self._open.items()
            if views[queue].register_after <= self._now
        }
        held = dict.fromkeys(left, 0)
        for state in (InstanceState.REGISTERING, InstanceState.REGISTERED, InstanceState.BUSY):
            for instance in self._by_state[state]:
                if instance.queue in held:
                    held[instance.queue] += 1
        actions: list[Action] = []
        while ready:
            wanting = [queue for queue, count in left.items() if count > 0]
            if not wanting:
                break
            queue = min(wanting, key=lambda one: (held[one], -left[one], str(one)))
            left[queue] -= 1
            held[queue] += 1
            actions.append(Register(ready.pop().id, queue))
        return actions

    def _market_fits(self, instance: Instance) -> bool:
        return not (self._pool.on_demand_only and instance.market == Market.SPOT)

    def _asks(self, instance: Instance) -> bool:
        evidence = self._evidence.get(instance.id)
        return evidence is not None and evidence.asking

    def _unsent(self, spare: int) -> list[Action]:
        """Send what is planned and still wanted, newest dropped first when too many are."""
        actions: list[Action] = []
        planned = sorted(self._by_state[InstanceState.PLANNED], key=lambda one: (one.created_at, one.id))
        keep = len(planned) - max(0, min(len(planned), spare))
        if self._pool.drained or self._pool.retired:
            keep = 0
        for index, instance in enumerate(planned):
            if index < keep:
                actions.append(Request(instance.id))
            else:
                actions.append(Drop(instance.id, Reason.NOT_WANTED))
        return actions

    # -- the pool as a whole -----------------------------------------------------------------------------------

    def want(self) -> _Want:
        """How many more instances the pool wants, before limits."""
        pool = self._pool
        holds: dict[str, int] = {}
        for instance in self._members:
            if instance.repo:
                holds[instance.repo] = holds.get(instance.repo, 0) + 1
        short = self._target - self._unbound
        if pool.drained or pool.retired:
            return _Want(pool, 0, {}, holds, ("drained by an operator",) if pool.drained else ())
        held_back: list[str] = []
        allowed = 0
        repos: dict[str, int] = {}
        for view in pool.queues:
            wanted = self._open[view.queue]
            if not wanted:
                continue
            if not view.healthy or view.register_after > self._now:
                held_back.append(f"{view.queue}: {view.problem or 'the forge registers no runners now'}")
                continue
            if not view.demand.known:
                held_back.append(f"{view.queue}: the forge has not said lately what waits")
                continue
            if view.headroom is not None and view.headroom < wanted:
                held_back.append(f"{view.queue}: the forge takes {view.headroom} more runners")
                wanted = max(0, view.headroom)
            allowed += wanted
            named = 0
            for repo, count in view.demand.repos.items():
                repos[repo] = repos.get(repo, 0) + count
                named += count
            rest = view.demand.waiting - named
            if rest > 0:
                repos[""] = repos.get("", 0) + rest
        if pool.warm:
            allowed += pool.warm
            repos[""] = repos.get("", 0) + pool.warm
        count = max(0, min(short, allowed - self._unbound))
        if count and not pool.open_offers:
            held_back.append(pool.closed_because or "no offer can be tried now")
            count = 0
        if count:
            # What rises already is somebody's turn; the rest of the turns are open.
            rising = [one for one in self._members if one.state in model.RISING]
            for instance in rising:
                if repos.get(instance.repo, 0) > 0:
                    repos[instance.repo] -= 1
            open_turns = sum(repos.values())
            if open_turns < count:
                repos[""] = repos.get("", 0) + count - open_turns
        return _Want(pool, count, repos, holds, tuple(held_back))
