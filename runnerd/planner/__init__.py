"""The planner: a pure function from a snapshot of everything that is known to the actions that it calls for.

No I/O, no clock, no randomness; the same snapshot always gives the same plan.  The plan is level-triggered: it is
derived afresh from what is, never from what just happened, so a lost event costs one interval and a repeated action
does nothing.  The planner says *what* and *why*; the control loop carries it out and answers failures.

Two rules decide most cases.  Supply is counted, not paired: a waiting job wants one more rising instance of its pool,
whichever instance will run it.  And nothing is taken away on a guess: demand that is unknown or stale never shrinks a
fleet, and an instance that may have a job is only ever drained, which lets both observers speak first.
"""

from __future__ import annotations

from types import MappingProxyType

from runnerd import model
from runnerd.model import Instance
from runnerd.planner import fair, fleet
from runnerd.planner.actions import (
    Action,
    Close,
    Delete,
    Deregister,
    Drain,
    Drop,
    Launch,
    Plan,
    Register,
    Release,
    Request,
    Resolve,
)
from runnerd.planner.observation import ABSENCES, SILENCE_S, SLACK_S, Observation
from runnerd.planner.snapshot import Budget, PoolView, QueueView, Snapshot, TeamView

__all__ = [
    "ABSENCES",
    "SILENCE_S",
    "SLACK_S",
    "Action",
    "Budget",
    "Close",
    "Delete",
    "Deregister",
    "Drain",
    "Drop",
    "Launch",
    "Observation",
    "Plan",
    "PoolView",
    "QueueView",
    "Register",
    "Release",
    "Request",
    "Resolve",
    "Snapshot",
    "TeamView",
    "plan",
]


def plan(snapshot: Snapshot, now: float) -> Plan:
    """Derive the actions that the snapshot calls for."""
    members: dict[str, list[Instance]] = {pool.name: [] for pool in snapshot.pools}
    for instance in snapshot.instances.values():
        if instance.state not in model.CLOSED:
            members.setdefault(instance.pool, []).append(instance)
    room = fair.Room(snapshot, members)
    actions: list[Action] = []
    notes: dict[str, tuple[str, ...]] = {}
    wants: list[fair.Want] = []
    for pool in snapshot.pools:
        own = fleet.Fleet(pool, members[pool.name], snapshot, now)
        actions += own.settle()
        wants.append(own.want())
        notes[pool.name] = ()
    for pool_name, rest in members.items():
        if pool_name not in notes:  # its pool left the configuration and the snapshot does not describe it
            ghost = PoolView(pool_name, retired=True)
            actions += fleet.Fleet(ghost, rest, snapshot, now).settle()
    handed_out, reasons = fair.launches(wants, room, snapshot.burst)
    actions += handed_out
    notes.update(reasons)
    actions += _leftover_registrations(snapshot)
    return Plan(tuple(actions), MappingProxyType(notes))


def _leftover_registrations(snapshot: Snapshot) -> list[Action]:
    """Return the removals of registrations that outlived their instances, until the forge says that they are gone."""
    actions: list[Action] = []
    for registration in snapshot.registrations:
        if registration.state is model.RegistrationState.GONE:
            continue
        owner = snapshot.instances.get(registration.instance)
        closed = owner is None or owner.state in model.CLOSED
        if closed or registration.state is model.RegistrationState.REMOVING:
            actions.append(Deregister(registration.id))
    return actions
