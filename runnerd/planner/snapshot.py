"""The snapshot that the planner sees: the facts of one moment, gathered by the control loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from runnerd import model
from runnerd.model import Instance, Queue
from runnerd.planner.observation import Observation


@dataclass(frozen=True, slots=True)
class Budget:
    """Dollars of one window of time."""

    left: float
    limit: float
    #: When the dollars of the window count: ``today``, ``in a later month``.
    span: str


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
    #: Some offer can be tried now; otherwise why not, for people.
    open_offers: bool = True
    closed_because: str = ""
    #: Dollars that one more instance commits at most within the tightest window, by the best open offer.
    commitment: float = 0.0
    #: This pool's own budget; None for no limit.
    budget: Budget | None = None
    #: Team name -> why, for people, when its budget cannot pay one more instance by the best open offer.
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
    observations: Mapping[model.InstanceId, Observation] = field(default_factory=lambda: MappingProxyType({}))
    registrations: Iterable[model.Registration] = ()
    #: Limits over all pools; None for none.
    max_instances: int | None = None
    max_gpus: int | None = None
    budget: Budget | None = None
    #: Team name -> ceilings, and repository -> team name for repositories that belong to one.
    teams: Mapping[str, TeamView] = field(default_factory=lambda: MappingProxyType({}))
    team_of: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    #: When this daemon began to listen: silence counts from then at the earliest.
    started: float = float("inf")
    #: Wall and steady clock disagree: nothing is ended for its age.
    hold: bool = False
    #: Launches in one pass at most.
    burst: int = 1000
