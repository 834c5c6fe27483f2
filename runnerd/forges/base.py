"""The contract between runnerd and a forge.

A forge client turns a forge's protocol into four things: the demand of each queue, facts about jobs, the registration
of one runner, and its removal.  It has its own connections, pace and retries; the only state of its own that survives
a crash is the cursor, which it hands to its :class:`Sink` together with what it learned.  It never decides how many
instances there should be.

Two rules shape every client.  *Persist, then acknowledge*: a message is acknowledged only after :meth:`Sink.record`
has returned.  *Never guess*: demand that is old or uncertain has ``known=False``, a register call without an answer
raises with ``maybe_created=True``, and a removal answers ``REMOVED`` only when the forge did.

Durations are seconds.  Times are steady unix seconds of this host (:class:`runnerd.kit.clock.Clock`), unless the field
says that they are the forge's.  The protocols are described in docs/github.md and docs/gitlab.md.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from provisioners.base import Finding
from runnerd import model

#: The state of one queue that a client needs after a restart: a JSON object whose keys only that client knows.
Cursor = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """One queue with what its forge must know of the pool."""

    queue: model.Queue
    #: The labels (GitHub) or tags (GitLab) that a job must ask for; complete: ``self-hosted`` is in it only when the
    #: operator wrote it.
    labels: tuple[str, ...]
    #: GitHub: the runner group.
    runner_group: str = "Default"
    #: Repository globs that may use the pool; empty for all.
    repos: tuple[str, ...] = ()
    #: GitLab: serve jobs without tags.
    untagged: bool = False
    #: GitLab: serve protected refs only.
    protected_only: bool = False
    #: True when public repositories may use the pool.
    public: bool = False
    #: True when pull requests from forks may use the pool.
    forks: bool = False
    #: Seconds a job may take; the forge's own time limit is set from it where there is one.
    max_job: float = 12 * 3600.0


class JobEvent(enum.StrEnum):
    """The facts that a forge reports about a job.  The values are stored in the events of the state."""

    #: It waits, in this queue.
    QUEUED = "queued"
    #: A runner has it.
    STARTED = "started"
    #: It ended.
    COMPLETED = "completed"
    #: The forge took an assignment back without the job having run; the job is still demand of the queue.
    ASSIGNMENT_TIMEOUT = "lapsed"


@dataclass(frozen=True, slots=True)
class JobUpdate:
    """One fact about one job, as reported by the forge; may come late, twice or out of order."""

    event: JobEvent
    queue: model.Queue
    #: Full name: ``acme/ml``, or the path of a GitLab project.
    repo: str
    #: The forge's id of the workflow run or pipeline.
    run: str
    name: str
    #: The forge's id for this attempt (GitLab) or assignment (GitHub) of the job; empty when not reported.
    alias: str = ""
    labels: tuple[str, ...] = ()
    runner_name: str = ""
    #: ``success``, ``failure``, ``cancelled``, ``timed_out``, ``skipped`` or the forge's own word in lower case; empty
    #: while the job has not ended.
    conclusion: str = ""
    #: Unix seconds by the forge's clock at which it happened; 0 when not reported.
    at: float = 0.0
    #: Page of the job for people; empty when not reported.
    url: str = ""

    @property
    def key(self) -> model.JobKey:
        """The key under which the job is stored; all attempts of a job share it."""
        return model.job_key(self.queue.forge, self.repo, self.run, self.name)


class Sink(Protocol):
    """The receiver of what a forge client reports (:class:`runnerd.jobs.updates.JobUpdates`)."""

    async def record(self, queue: model.Queue, updates: Sequence[JobUpdate], cursor: Cursor | None = None) -> None:
        """Make the facts and the queue's new cursor durable, in one commit; then wake the loop.

        Never raises for what the facts say (a poison message must not block its queue).  Raises
        :class:`errors.StoreError` when the state cannot be written; then nothing must be acknowledged.
        """
        ...

    def cursor(self, queue: model.Queue) -> Cursor:
        """Return the cursor recorded last for the queue; empty at first."""
        ...

    async def save_cursor(self, queue: model.Queue, cursor: Cursor) -> None:
        """Make a cursor durable by itself.  Raises :class:`errors.StoreError`."""
        ...

    def wake(self) -> None:
        """Reconcile soon: something may have changed."""
        ...

    def capacity(self, queue: model.Queue) -> int:
        """Return the number of runners to announce for the queue, busy ones included; at least 1."""
        ...

    def waiting_jobs(self, queue: model.Queue) -> Sequence[model.Job]:
        """Return the recorded jobs of the queue that the forge announced and no runner has taken."""
        ...

    def alarm(self, subject: str, id: str, reason: str, detail: str) -> None:
        """Raise an alarm, shown in status, log, metrics and events.  A repeated one only changes its detail.

        ``subject`` is a kind (``queue``, ``forge``, ``repository``, ``job``), ``id`` names the one,
        ``reason`` is a fixed word for the kind of alarm, ``detail`` a message for people.
        """
        ...

    def clear(self, subject: str, id: str, reason: str) -> None:
        """Clear an alarm; nothing happens when there is none."""
        ...


@dataclass(frozen=True, slots=True)
class RunnerConfig:
    """The configuration with which the instance starts its runner.  Secrets never appear in its repr."""

    #: ``github`` or ``gitlab``: selects the runner command.
    kind: str
    #: The forge's id of the runner.
    forge_id: str
    #: Environment of the runner process, secrets included (JIT configuration, runner token).
    environment: Mapping[str, str] = field(repr=False)
    #: Arguments after the operator's runner command.
    arguments: tuple[str, ...] = ()


class Removal(enum.StrEnum):
    """The outcome of a request to remove a runner."""

    #: The forge does not have it any more: no job can reach it.
    REMOVED = "removed"
    #: It runs a job, and was not removed.
    BUSY = "busy"
    #: Under way; ask again.
    PENDING = "pending"


@dataclass(frozen=True, slots=True)
class RunnerView:
    """A runner as the forge lists it."""

    forge_id: str
    name: str
    online: bool
    #: None when the forge does not report it.
    busy: bool | None


@dataclass(frozen=True, slots=True)
class RunnerListing:
    """The runners of a queue's scope; absence counts only when ``complete``."""

    views: tuple[RunnerView, ...]
    complete: bool


@dataclass(frozen=True, slots=True)
class Health:
    """The health of a queue at its forge."""

    ok: bool = True
    #: A message for people; empty when ok.
    problem: str = ""
    #: When the problem began; 0 when there is none.
    since: float = 0.0
    #: No registration should be tried before then; 0 for no limit.
    register_after: float = 0.0


class RetryOutcome(enum.StrEnum):
    """The outcome of a request to run an interrupted job again."""

    #: The forge runs it again.
    RETRIED = "retried"
    #: Not yet, since the run has not ended; ask again.
    LATER = "later"
    #: It cannot be run again.
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class WebhookAnswer:
    """The answer to one webhook delivery."""

    #: HTTP status.
    status: int
    #: Text of the body.
    message: str


@runtime_checkable
class Forge(Protocol):
    """A client of one configured forge."""

    @property
    def name(self) -> str:
        """The forge's name in the configuration."""
        ...

    def scopes(self) -> Sequence[str]:
        """Return the scopes that the configuration names; each makes a queue with every pool that serves this forge."""
        ...

    async def watch(self, specs: Sequence[QueueSpec], sink: Sink) -> None:
        """Follow the queues until cancelled.  Never raises for the forge's sake: :meth:`health` and alarms report it.

        Called again with other specs after a reload: the old call is cancelled first, and unchanged queues must
        resume from their cursor without losing what was not acknowledged.
        """
        ...

    async def close(self) -> None:
        """End sessions and connections, within 30 seconds; runners and scale sets stay."""
        ...

    def demand(self, queue: model.Queue) -> model.Demand:
        """Return the demand known last; ``known`` is False when it is too old or not complete."""
        ...

    def headroom(self, queue: model.Queue) -> int | None:
        """Return how many more runners the forge would register now; None for no known limit."""
        ...

    def health(self, queue: model.Queue) -> Health:
        """Return the health of a queue."""
        ...

    def server_date(self) -> tuple[float, float] | None:
        """Return the forge's clock and our steady time when it was read; None before the first answer.

        It is the second observation that guards against a host clock that jumps.
        """
        ...

    async def register(self, name: str, queue: model.Queue, *, note: str = "") -> RunnerConfig:
        """Create the runner ``name``.  Sends one request for it and never repeats that.

        ``note`` is shown to people where the forge has a place for it.  Raises :class:`errors.ForgeError`; with
        ``maybe_created`` the name must be removed before another is tried.
        """
        ...

    async def find(self, name: str, queue: model.Queue) -> RunnerView | None:
        """Return the runner of that name; None when the forge has none.  Raises :class:`errors.ForgeError`."""
        ...

    async def deregister(self, registration: model.Registration) -> Removal:
        """Remove a runner by id, or by name where the id is unknown; idempotent, an absent one is REMOVED.

        This is the busy test: BUSY means that a job runs and nothing was removed.  Raises :class:`errors.ForgeError`
        when the forge gives no usable answer; nothing may be concluded then.
        """
        ...

    async def list_runners(self, queue: model.Queue) -> RunnerListing:
        """Return the runners of the queue's scope that may be ours.  Raises :class:`errors.ForgeError`."""
        ...

    async def job_states(self, jobs: Sequence[model.Job]) -> Sequence[JobUpdate]:
        """Ask the forge for the present state of jobs that look stuck; a job without an answer is left out."""
        ...

    async def retry(self, job: model.Job, *, whole_run: bool = False) -> RetryOutcome:
        """Run an interrupted job again, or all failed jobs of its run.

        Raises :class:`errors.ForgeError` when the outcome is unknown or a permission is missing.
        """
        ...

    async def webhook(self, headers: Mapping[str, str], body: bytes) -> WebhookAnswer:
        """Authenticate and take one delivery; header names are lower case.  It only wakes, it never decides."""
        ...

    async def check(self) -> list[Finding]:
        """Try every step of the protocol that changes nothing; return findings for ``runnerd check``."""
        ...
