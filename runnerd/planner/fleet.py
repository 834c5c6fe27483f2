"""One pool's live instances: what each one's state and observations call for, and how many more are wanted."""

from __future__ import annotations

from provisioners.base import InstanceStatus, Market
from runnerd import model
from runnerd.kit import display
from runnerd.model import Instance, InstanceState, Queue, Reason
from runnerd.planner.actions import (
    Action,
    Close,
    Delete,
    Drain,
    Drop,
    Register,
    Release,
    Request,
    Resolve,
)
from runnerd.planner.fair import Want
from runnerd.planner.observation import SILENCE_S, SLACK_S
from runnerd.planner.snapshot import PoolView, Snapshot


class Fleet:
    """The live instances of one pool."""

    def __init__(self, pool: PoolView, members: list[Instance], snapshot: Snapshot, now: float) -> None:
        self._pool = pool
        self._members = members
        self._observations = snapshot.observations
        self._hold = snapshot.hold
        self._started = snapshot.started
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
                if instance.queue is not None and not self._silent(instance):
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
            )
        ) + sum(not self._silent(instance) for instance in by_state[InstanceState.READY])
        # A drained pool registers nothing, so nothing that rises there is of use.
        self._target = 0 if pool.drained or pool.retired else sum(self._open.values()) + pool.warm
        self._demand_known = all(view.demand.known for view in pool.queues)

    # -- per instance ------------------------------------------------------------------------------------------

    def settle(self) -> list[Action]:
        """Return the actions that each instance's own state and observations call for."""
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
        seen = self._observations.get(instance.id)
        if seen is not None and seen.absent:
            return Close(instance.id, instance.reason or Reason.VANISHED)
        return None

    def _forced(self, instance: Instance) -> bool:
        """Return True when a draining instance is ended regardless of the observations."""
        if instance.reason in (Reason.MAX_JOB, Reason.OPERATOR):
            return True
        if self._dead(instance):
            return True
        return not self._hold and self._now > instance.deadline > 0

    def _silent(self, instance: Instance) -> bool:
        """Return True when its agent has not spoken for long: it is not counted on, even if its provider has it."""
        seen = self._observations.get(instance.id)
        if seen is None or seen.asking:
            return False
        return self._now - max(seen.agent_at, min(self._started, self._now), instance.since) > SILENCE_S

    def _dead(self, instance: Instance) -> bool:
        """Return True when the agent is silent and the provider itself says that the machine does not run."""
        seen = self._observations.get(instance.id)
        if seen is None or seen.fresh(self._now):
            return False
        return seen.cloud in (InstanceStatus.STOPPED, InstanceStatus.FAILED) or seen.healthy is False

    def _past(self, instance: Instance) -> Drain | None:
        """Return the drain of a machine that is dead or whose time is over."""
        seen = self._observations.get(instance.id)
        if seen is not None and seen.cloud is InstanceStatus.FAILED and not seen.fresh(self._now):
            message = seen.failure.message if seen.failure else "the provider gave no reason"
            return Drain(instance.id, Reason.LAUNCH_FAILED, message)
        if self._dead(instance):
            return Drain(
                instance.id, Reason.DEAD, "no heartbeat, and the provider reports the machine stopped or unhealthy"
            )
        if not self._hold and not self._held(instance) and self._now > instance.deadline > 0:
            return Drain(instance.id, Reason.AGE, "its deadline has passed")
        return None

    def _overdue(self, instance: Instance) -> Action | None:
        if self._dead(instance):
            return self._past(instance)
        if self._hold or self._held(instance):
            return None
        limit = instance.busy_at + self._pool.max_job + SLACK_S
        if self._pool.retired:
            limit = instance.deadline
        if instance.busy_at > 0 and 0 < limit < self._now:
            return Drain(instance.id, Reason.MAX_JOB, f"its job exceeded max_job ({display.span(self._pool.max_job)})")
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
            detail = f"no report from its agent within {display.span(self._pool.boot)}"
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
                # It was supply until now, unless it had fallen silent.
                spare -= instance.state is InstanceState.READY and not self._silent(instance)
            elif self._now - instance.since > pool.idle and not self._hold and not self._held(instance):
                idle.append(instance)
        for instance in idle if self._demand_known else ():
            if instance.state is InstanceState.REGISTERED:
                if self._queue_wants(instance) and not self._silent(instance):
                    continue
            elif spare <= 0:
                continue
            else:
                spare -= 1
            actions.append(Drain(instance.id, Reason.IDLE))
        return actions

    def _outlived(self, instance: Instance) -> Drain | None:
        """Return the drain of a waiting instance that should get no job any more."""
        if self._hold or self._held(instance):
            return None
        if self._pool.retired:
            return Drain(instance.id, Reason.RETIRED)
        if instance.state is InstanceState.READY and self._silent(instance):
            return Drain(instance.id, Reason.DEAD, "the agent stopped reporting before a runner was assigned")
        if self._now - instance.created_at > self._pool.max_idle_age or not self._time_for_a_job(instance):
            return Drain(instance.id, Reason.AGE)
        return None

    def _time_for_a_job(self, instance: Instance) -> bool:
        """Return True when the whole of ``max_job`` fits before the deadline, so that it may still serve a job."""
        if instance.state is InstanceState.REGISTERED or instance.deadline <= 0:
            return True
        return self._now + self._pool.max_job <= instance.deadline

    def _queue_wants(self, instance: Instance) -> bool:
        return any(view.queue == instance.queue and view.demand.waiting > view.pickups for view in self._pool.queues)

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
        seen = self._observations.get(instance.id)
        return seen is not None and seen.asking

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

    def want(self) -> Want:
        """Return how many more instances the pool wants, before limits."""
        pool = self._pool
        holds: dict[str, int] = {}
        for instance in self._members:
            if instance.repo:
                holds[instance.repo] = holds.get(instance.repo, 0) + 1
        short = self._target - self._unbound
        if pool.drained or pool.retired:
            return Want(pool, 0, {}, holds, ("drained by an operator",) if pool.drained else ())
        held_back: list[str] = []
        allowed = 0
        repos: dict[str, int] = {}
        for view in pool.queues:
            wanted = self._open[view.queue]
            if not wanted:
                continue
            if not view.healthy or view.register_after > self._now:
                held_back.append(f"{view.queue}: {view.problem or 'the forge accepts no new runners now'}")
                continue
            if not view.demand.known:
                held_back.append(f"{view.queue}: demand unknown: no recent report from the forge")
                continue
            if view.headroom is not None and view.headroom < wanted:
                held_back.append(f"{view.queue}: {_room(view.headroom)}")
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
            # What rises already has taken a turn; the rest of the turns are open.
            rising = [one for one in self._members if one.state in model.RISING]
            for instance in rising:
                if repos.get(instance.repo, 0) > 0:
                    repos[instance.repo] -= 1
            open_turns = sum(repos.values())
            if open_turns < count:
                repos[""] = repos.get("", 0) + count - open_turns
        return Want(pool, count, repos, holds, tuple(held_back))


def _room(headroom: int) -> str:
    """Return what a forge's runner limit leaves, which is less than its queue wants."""
    if headroom <= 0:
        return "the forge has no room for more runners"
    return f"the forge has room for only {display.count(headroom, 'more runner')}"
