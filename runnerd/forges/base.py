"""The contract between the controller and a forge.

A forge client turns a forge's protocol into four things: the demand of each queue, facts about jobs, the registration
of one runner, and its removal.  It keeps its own connections, pace and retries; it owns no state that must survive a
crash except the cursor that it hands to its :class:`Sink` together with what it learned.  It never decides how many
instances there should be.

Two rules shape every client.  *Persist, then acknowledge*: a message is answered only after :meth:`Sink.record` has
returned.  *Never guess*: demand that is old or unsure is ``known=False``, a register call with a lost answer raises
with ``maybe_created=True``, a removal says ``REMOVED`` only when the forge did.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from provisioners.base import Finding
from runnerd import model


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """One queue with what its forge must know of the pool."""

    queue: model.Queue
    #: What a job must ask for; complete (``self-hosted`` is in it only when the operator wrote it).
    labels: tuple[str, ...]
    #: GitHub runner group.
    runner_group: str = "Default"
    #: Repository globs that may use the pool; empty for all.
    repos: tuple[str, ...] = ()
    #: GitLab: serve jobs without tags; only protected refs.
    untagged: bool = False
    protected_only: bool = False
    #: Whether public repositories and pull requests from forks may use the pool.
    public: bool = False
    forks: bool = False
    #: Seconds a job may take; the forge's own time limit is set from it where there is one.
    max_job: float = 12 * 3600.0


class JobEvent(enum.StrEnum):
    """What a forge said about a job."""

    #: It waits, in this queue.
    QUEUED = "queued"
    #: A runner has it.
    STARTED = "started"
    #: It ended.
    COMPLETED = "completed"
    #: The forge took an assignment back without the job having run; it is still our demand.
    LAPSED = "lapsed"


@dataclass(frozen=True, slots=True)
class JobUpdate:
    """One fact about one job, as told by the forge; may come late, twice or out of order."""

    event: JobEvent
    queue: model.Queue
    repo: str
    run: str
    name: str
    #: The forge's id for this assignment of it.
    alias: str = ""
    labels: tuple[str, ...] = ()
    runner_name: str = ""
    #: ``success``, ``failure``, ``cancelled``, ``timed_out``, ``skipped``; lower case.
    conclusion: str = ""
    #: When it happened by the forge's clock; 0 when not told.
    at: float = 0.0
    url: str = ""

    @property
    def key(self) -> model.JobKey:
        return model.job_key(self.queue.forge, self.repo, self.run, self.name)


class Sink(Protocol):
    """What a forge client reports into; the controller implements it."""

    async def record(
        self, queue: model.Queue, updates: Sequence[JobUpdate], cursor: Mapping[str, Any] | None = None
    ) -> None:
        """Make the facts and the queue's new cursor durable, in one commit; then wake the controller.

        Never raises for what the facts say (a poison message must not block its queue); raises
        :class:`errors.StoreError` when the state cannot be written, and then nothing must be acknowledged.
        """
        ...

    def cursor(self, queue: model.Queue) -> Mapping[str, Any]:
        """The cursor last recorded for the queue; empty at first."""
        ...

    async def save_cursor(self, queue: model.Queue, cursor: Mapping[str, Any]) -> None:
        """Make a cursor durable by itself."""
        ...

    def wake(self) -> None:
        """Something may have changed: reconcile soon."""
        ...

    def capacity(self, queue: model.Queue) -> int:
        """The total to announce for the queue, busy ones included; at least 1."""
        ...

    def waiting_jobs(self, queue: model.Queue) -> Sequence[model.Job]:
        """Jobs of the queue that the forge announced and no runner has taken, as recorded."""
        ...

    def alarm(self, subject: str, id: str, reason: str, detail: str) -> None:
        """Something a person should know; shown in status, log, metrics and events.  Repeats are folded."""
        ...

    def clear(self, subject: str, id: str, reason: str) -> None:
        """That alarm is over."""
        ...


@dataclass(frozen=True, slots=True)
class RunnerConfig:
    """What the instance needs to start its runner.  ``secret`` never appears in a repr."""

    #: ``github`` or ``gitlab``: selects the runner command.
    kind: str
    #: The forge's id of the runner.
    forge_id: str
    #: Environment of the runner process, secrets included (JIT configuration, runner token).
    environment: Mapping[str, str] = field(repr=False)
    #: Arguments after the operator's runner command.
    arguments: tuple[str, ...] = ()


class Removal(enum.StrEnum):
    """What became of the wish to remove a runner."""

    #: The forge does not have it any more: no job can land.
    REMOVED = "removed"
    #: It runs a job.
    BUSY = "busy"
    #: On its way; ask again.
    PENDING = "pending"


@dataclass(frozen=True, slots=True)
class RunnerView:
    """A runner as the forge lists it."""

    forge_id: str
    name: str
    online: bool
    #: None when the forge does not tell.
    busy: bool | None


@dataclass(frozen=True, slots=True)
class RunnerListing:
    """The runners of a queue's scope; absence counts only when ``complete``."""

    views: tuple[RunnerView, ...]
    complete: bool


@dataclass(frozen=True, slots=True)
class Health:
    """How a queue's forge does."""

    ok: bool = True
    #: Plain words; empty when ok.
    problem: str = ""
    since: float = 0.0
    #: No registration should be tried before then.
    register_after: float = 0.0


class RetryOutcome(enum.StrEnum):
    """What became of the wish to run an interrupted job again."""

    #: The forge runs it again.
    RETRIED = "retried"
    #: Not yet: the run has not ended.
    LATER = "later"
    #: It cannot be run again.
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class WebhookAnswer:
    """What to answer a webhook with."""

    status: int
    message: str


@runtime_checkable
class Forge(Protocol):
    """A client of one configured forge."""

    @property
    def name(self) -> str: ...

    def scopes(self) -> Sequence[str]:
        """The scopes that the configuration names; each makes a queue with every pool that serves this forge."""
        ...

    async def watch(self, specs: Sequence[QueueSpec], sink: Sink) -> None:
        """Follow the queues until cancelled.  Never raises for the forge's sake; degrades and says so.

        Called again with other specs after a reload: the old call is cancelled first, unchanged queues must
        resume from their cursor without losing what was not acknowledged.
        """
        ...

    async def close(self) -> None:
        """Say good-bye to the forge (end sessions) within some seconds; runners and sets stay."""
        ...

    def demand(self, queue: model.Queue) -> model.Demand: ...

    def headroom(self, queue: model.Queue) -> int | None:
        """How many more runners the forge would register now; None for no known limit."""
        ...

    def health(self, queue: model.Queue) -> Health: ...

    def server_date(self) -> tuple[float, float] | None:
        """The forge's clock and our steady time when it was read: the second witness against a jumping clock."""
        ...

    async def register(self, name: str, queue: model.Queue, *, note: str = "") -> RunnerConfig:
        """Create the runner ``name``.  Sends one request for it and never repeats that.

        Raises :class:`errors.ForgeError`; with ``maybe_created`` the name must be removed before another is tried.
        """
        ...

    async def find(self, name: str, queue: model.Queue) -> RunnerView | None:
        """The runner of that name, if the forge has it."""
        ...

    async def deregister(self, registration: model.Registration) -> Removal:
        """Remove a runner by id, or by name where the id is unknown; idempotent, absent is REMOVED.

        This is the busy test: BUSY means a job runs and nothing was removed.
        """
        ...

    async def list_runners(self, queue: model.Queue) -> RunnerListing:
        """The runners of the queue's scope that may be ours."""
        ...

    async def job_states(self, jobs: Sequence[model.Job]) -> Sequence[JobUpdate]:
        """Ask the forge for the truth about jobs that look stuck; what it cannot tell is left out."""
        ...

    async def retry(self, job: model.Job, *, whole_run: bool = False) -> RetryOutcome:
        """Run an interrupted job again, or all failed jobs of its run."""
        ...

    async def webhook(self, headers: Mapping[str, str], body: bytes) -> WebhookAnswer:
        """Check and take one delivery; header names are lower case.  Only wakes, never decides."""
        ...

    async def check(self) -> list[Finding]:
        """Try every step of the protocol that costs nothing."""
        ...
