"""Read protocols over the daemon's parts, composed once at its start for the rooms that show them.

Views, metrics, logs and listeners take these and never the daemon itself: a signature shows all that a function may
depend on, and code that shows something cannot change it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from runnerd import config, model, planner, store
from runnerd.bootstrap import agent_archive
from runnerd.forges.base import Forge, QueueSpec, RetryOutcome
from runnerd.kit import clock
from runnerd.lifecycle import agent_sessions
from runnerd.offers import ranking
from runnerd.runtime import alarms, budget, providers, tokens


class Rows(Protocol):
    """The rows in memory: what lives, and jobs that are not over or ended lately."""

    @property
    def instances(self) -> Mapping[model.InstanceId, model.Instance]: ...

    @property
    def registrations(self) -> Mapping[model.RegistrationId, model.Registration]: ...

    @property
    def jobs(self) -> Mapping[model.JobKey, model.Job]: ...

    @property
    def blocks(self) -> Mapping[str, model.Block]: ...


class DurableSettings(Protocol):
    """Settings of operators that survive restarts."""

    def drained(self, pool: str) -> bool: ...


class OpenAlarms(Protocol):
    """Open alarms by subject, id and reason."""

    @property
    def open(self) -> Mapping[tuple[str, str, str], alarms.Alarm]: ...


class State(Protocol):
    """The shared state of the daemon, for reading."""

    @property
    def config(self) -> config.Config: ...

    @property
    def clock(self) -> clock.Clock: ...

    @property
    def rows(self) -> Rows: ...

    @property
    def durable(self) -> DurableSettings: ...

    @property
    def alarms(self) -> OpenAlarms: ...

    @property
    def forges(self) -> Mapping[str, Forge]: ...

    @property
    def providers(self) -> Mapping[str, providers.Provider]: ...

    @property
    def observations(self) -> Mapping[model.InstanceId, planner.Observation]: ...

    @property
    def specs(self) -> Sequence[QueueSpec]: ...

    @property
    def hold(self) -> bool: ...

    def queues(self, pool: str) -> Sequence[model.Queue]: ...


class History(Protocol):
    """The store, for reading: also what is no longer in memory."""

    @property
    def where(self) -> str: ...

    async def instance(self, id: str) -> model.Instance | None: ...

    async def instances(self, *, pool: str | None = None, limit: int = ...) -> list[model.Instance]: ...

    async def job(self, name: str) -> list[model.Job]: ...

    async def jobs(
        self, *, state: model.JobState | None = None, pool: str | None = None, limit: int = ...
    ) -> list[model.Job]: ...

    async def attempts(self, instance_id: str) -> list[model.Attempt]: ...

    async def registrations(self, instance_id: str) -> list[model.Registration]: ...

    async def consoles(self, instance_id: str) -> list[model.Console]: ...

    async def events(
        self, *, subject: str | None = None, id: str | None = None, since: float = ..., limit: int = ...
    ) -> list[model.Event]: ...

    async def trail(
        self,
        *,
        subject: str | None = None,
        id: str | None = None,
        since: float = ...,
        after_rowid: int = ...,
        limit: int = ...,
    ) -> list[tuple[int, model.Event]]: ...

    async def spending(self, *, by: store.By, since: float, until: float, now: float) -> store.Spending: ...

    async def probe(self) -> None:
        """Write nothing of meaning; raises :class:`errors.StoreError` when the state cannot be written."""


class Loop(Protocol):
    """Progress of the control loop."""

    @property
    def passes(self) -> int: ...

    @property
    def failures(self) -> int: ...

    @property
    def last_pass_at(self) -> float: ...

    @property
    def pass_seconds(self) -> float: ...

    @property
    def notes(self) -> Mapping[str, Sequence[str]]:
        """Pool -> what held it back in the last plan."""


class ClockGuard(Protocol):
    """The check of the clocks; its problem is empty while deadlines are not held."""

    @property
    def problem(self) -> str: ...


class Rank(Protocol):
    """The order in which provisioning tries the offers of a pool for its next instance."""

    def __call__(self, pool: config.Pool, *, repo: str = "") -> Sequence[ranking.Ranked]:
        """Return the offers, each open or with why not; with ``repo`` the limits of its team count as well."""


@dataclass(slots=True)
class Progress:
    """Progress of the daemon between start and stop; only the daemon changes it."""

    #: When the start came to its end; 0 before.
    started_at: float = 0.0
    stopping: bool = False
    #: False from a reload that was refused until one that was not.
    reload_ok: bool = True


@dataclass(frozen=True, slots=True)
class ReadModel:
    """All that is shown of a daemon."""

    progress: Progress
    state: State
    history: History
    loop: Loop
    clock_guard: ClockGuard
    rank: Rank
    #: The budget windows of a level (``all``, ``pool``, ``provider``, ``team``) and name, with what each has committed.
    totals: Callable[[str, str], Sequence[tuple[budget.Window, float]]]
    #: Asks the provider what a live instance printed: the text, or why there is none.
    console: Callable[[model.Instance], Awaitable[tuple[str, str]]]
    #: The last output of agents that is in memory.
    diagnostics: Mapping[model.InstanceId, str]


@dataclass(frozen=True, slots=True)
class Hooks:
    """Lists of listeners, to which those who count or log append."""

    #: An instance's row before and after a step.
    on_step: list[Callable[[model.Instance, model.Instance], None]]
    #: An attempt's row before, if it had one, and after.
    on_attempt: list[Callable[[model.Attempt | None, model.Attempt], None]]
    #: The row of a closed instance before and after its provider proved how it ended.
    on_proof: list[Callable[[model.Instance, model.Instance], None]]
    #: A job's row before, if it had one, and after.
    on_job: list[Callable[[model.Job | None, model.Job], None]]
    #: A forge's name and its answer to the request to run a job again.
    on_rerun: list[Callable[[str, RetryOutcome], None]]
    #: Seconds that a pass of the loop took.
    on_pass: list[Callable[[float], None]]


@dataclass(slots=True)
class Served:
    """The parts that the listeners serve.  Listeners open before the start, which fills in each part as it makes it."""

    progress: Progress
    bundle: agent_archive.Bundle
    tokens: tokens.Tokens | None = None
    agents: agent_sessions.AgentSessions | None = None
    forges: Mapping[str, Forge] | None = None
    reading: ReadModel | None = None
