"""The vocabulary: what exists, which states it can be in, and which way it may go.

Facts are frozen dataclasses; the life cycles are tables beside their enums, and :func:`check_transition` is the only
judge.  Nothing here does I/O, reads a clock or decides anything.

Units: times are unix seconds (``float``), durations seconds, money US dollars.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NewType

from runnerd import errors

InstanceId = NewType("InstanceId", str)
AttemptKey = NewType("AttemptKey", str)
RegistrationId = NewType("RegistrationId", str)
JobKey = NewType("JobKey", str)


# -- queues and demand ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, order=True)
class Queue:
    """A queue of jobs: one pool as one scope of one forge sees it.

    Demand, scale set, session and registration belong to a queue; capacity belongs to a pool.
    """

    #: The name the operator gave the forge.
    forge: str
    #: What the forge calls the owner of the runners: ``acme``, ``acme/ml``, ``enterprises/x``, a group's full path.
    scope: str
    pool: str

    def __str__(self) -> str:
        return f"{self.forge}:{self.scope}:{self.pool}"

    @classmethod
    def parse(cls, text: str) -> Queue:
        """Return the queue of that text, as ``str`` writes it."""
        forge, scope, pool = text.split(":")
        return cls(forge, scope, pool)


@dataclass(frozen=True, slots=True)
class Demand:
    """The work that a queue holds, as its forge last reported it.  Unknown demand never shrinks a fleet."""

    #: Jobs that wait for a runner, including those whose assignment timed out and whose run still wants them.
    waiting: int = 0
    #: Jobs that run on runners of this queue.
    running: int = 0
    #: When the forge said so.
    as_of: float = 0.0
    #: False until the forge has answered, and again when its word is too old to act on.
    known: bool = False
    #: Waiting jobs by repository where the forge tells; the rest of ``waiting`` counts under ``""``.
    repos: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))


# -- jobs ----------------------------------------------------------------------------------------------------------


class JobState(enum.StrEnum):
    """The state of a job, as far as its forge reported it."""

    #: The forge holds it; no runner has it.
    QUEUED = "queued"
    #: A runner works on it.
    RUNNING = "running"
    #: It ended, with a conclusion.
    COMPLETED = "completed"


@dataclass(frozen=True, slots=True)
class Job:
    """One CI job.  Keyed by forge, repository, run and name: forge ids change when an assignment times out."""

    key: JobKey
    queue: Queue
    #: ``owner/name`` or the full project path.
    repo: str
    #: The workflow run or pipeline.
    run: str
    name: str
    labels: tuple[str, ...] = ()
    #: Every id the forge has used for it, newest last.
    aliases: tuple[str, ...] = ()
    state: JobState = JobState.QUEUED
    #: ``success``, ``failure``, ``cancelled``, ... in lower case; empty until completed.
    conclusion: str = ""
    #: The instance whose runner took it.
    instance: InstanceId | None = None
    runner_name: str = ""
    queued_at: float = 0.0
    started_at: float = 0.0
    finished_at: float = 0.0
    #: Where a person can read it.
    url: str = ""
    #: How often an assignment of it timed out at the forge.
    lapses: int = 0


def job_key(forge: str, repo: str, run: str, name: str) -> JobKey:
    """Return the name under which runnerd knows a job, whichever ids the forge gives it."""
    return JobKey("|".join((forge, repo, run, name)))


# -- instances -----------------------------------------------------------------------------------------------------


class InstanceState(enum.StrEnum):
    """The life of an instance."""

    #: Decided; nothing was sent anywhere.  Dropped on restart.
    PLANNED = "planned"
    #: An attempt is committed and its create call is under way.
    REQUESTING = "requesting"
    #: The create call ended without a clear answer; nothing else is tried until it is resolved.
    UNKNOWN = "unknown"
    #: The provider has it; its agent has not reported in.
    BOOTING = "booting"
    #: Its agent proved the hardware and waits for a runner registration.
    READY = "ready"
    #: A runner name is committed and the forge is being asked.
    REGISTERING = "registering"
    #: Its runner may take a job at any moment.
    REGISTERED = "registered"
    #: Its runner has a job.
    BUSY = "busy"
    #: It must take no further job; the registration is being removed.
    DRAINING = "draining"
    #: Both observers deny a job; the provider is asked to delete it until it is gone.
    ENDING = "ending"
    #: Confirmed absent.
    GONE = "gone"
    #: Ended before any provider had it.
    FAILED = "failed"


_S = InstanceState

#: Every legal edge of an instance's life.
INSTANCE_TRANSITIONS: Mapping[InstanceState, frozenset[InstanceState]] = MappingProxyType(
    {
        _S.PLANNED: frozenset({_S.REQUESTING, _S.FAILED}),
        # Back to planned: a definite refusal, the next offer is tried.
        _S.REQUESTING: frozenset({_S.BOOTING, _S.UNKNOWN, _S.PLANNED, _S.FAILED}),
        # Requesting again is the replay of the same attempt, byte for byte.
        _S.UNKNOWN: frozenset({_S.BOOTING, _S.REQUESTING, _S.PLANNED, _S.FAILED}),
        # Straight to registered or busy: adopted after the database was lost, then an observer reported how far it is.
        _S.BOOTING: frozenset({_S.READY, _S.REGISTERED, _S.BUSY, _S.DRAINING, _S.ENDING, _S.GONE}),
        _S.READY: frozenset({_S.REGISTERING, _S.DRAINING, _S.ENDING, _S.GONE}),
        # Back to ready: the forge refused; the instance waits and is not bought again.
        _S.REGISTERING: frozenset({_S.REGISTERED, _S.READY, _S.BUSY, _S.DRAINING, _S.ENDING, _S.GONE}),
        # Back to registering: the runner never started and asks again under a new name.
        _S.REGISTERED: frozenset({_S.BUSY, _S.REGISTERING, _S.DRAINING, _S.ENDING, _S.GONE}),
        _S.BUSY: frozenset({_S.DRAINING, _S.ENDING, _S.GONE}),
        # Back to busy: an observer says that a job slipped in.
        _S.DRAINING: frozenset({_S.BUSY, _S.ENDING, _S.GONE}),
        _S.ENDING: frozenset({_S.GONE}),
        _S.GONE: frozenset(),
        _S.FAILED: frozenset(),
    }
)

#: States in which the row is history.
CLOSED = frozenset({_S.GONE, _S.FAILED})
#: States in which a provider has or may have the instance, so that it may cost money.
MAY_COST = frozenset(_S) - CLOSED - {_S.PLANNED}
#: States on the way to a first job: they count as supply for waiting jobs.
RISING = frozenset({_S.PLANNED, _S.REQUESTING, _S.UNKNOWN, _S.BOOTING, _S.READY, _S.REGISTERING, _S.REGISTERED})


class Reason(enum.StrEnum):
    """The reason for which an instance left the path to its job, or ended."""

    #: It did neither.
    NONE = ""
    #: Its job ended.
    JOB_DONE = "job-done"
    #: No job came for the pool's idle time.
    IDLE = "idle"
    #: Older than the pool's age limit while idle.
    AGE = "age"
    #: Demand went away before it was used.
    SURPLUS = "surplus"
    #: Its agent did not report within the boot time.
    BOOT_TIMEOUT = "boot-timeout"
    #: Its hardware is not what was bought.
    GATE_FAILED = "gate-failed"
    #: The forge would not register its runner.
    REGISTER_FAILED = "register-failed"
    #: Its job ran into the pool's max_job.
    MAX_JOB = "max-job"
    #: The cloud preempted it.
    PREEMPTED = "preempted"
    #: It ended by itself or was ended outside runnerd.
    VANISHED = "vanished"
    #: The agent fell silent and the provider says the machine is dead.
    DEAD = "dead"
    #: The runner exited without a job.
    RUNNER_EXITED = "runner-exited"
    #: An operator ordered it.
    OPERATOR = "operator"
    #: Found by its tags, without a row and without work.
    ORPHAN = "orphan"
    #: Its pool or provider left the configuration.
    RETIRED = "retired"
    #: Planned, and no longer wanted when its turn came.
    NOT_WANTED = "not-wanted"
    #: No offer is left to try.
    NO_OFFER = "no-offer"
    #: The daemon restarted before it was sent.
    RESTART = "restart"
    #: An offer refused and the next one is tried.
    REFUSED = "refused"
    #: Its launch was accepted by the provider and failed later.
    LAUNCH_FAILED = "launch-failed"


@dataclass(frozen=True, slots=True)
class Instance:
    """One machine that runnerd wants, has or had.  Its id is its name everywhere: cloud, forge, logs."""

    id: InstanceId
    pool: str
    state: InstanceState
    created_at: float
    #: When it entered ``state``.
    since: float
    reason: Reason = Reason.NONE
    #: The queue its runner registered for; None while it may still serve any queue of the pool.
    queue: Queue | None = None
    #: The attempt that yielded it, or is under way.
    attempt: AttemptKey | None = None
    provider: str = ""
    #: ``provider/account/region/zone/type/market``, see :class:`provisioners.base.Offer`.
    offer: str = ""
    region: str = ""
    zone: str = ""
    machine_type: str = ""
    market: str = ""
    gpus: int = 0
    cpus: int = 0
    #: The image that it boots from, as far as its offer says; empty where not known.
    image: str = ""
    #: The provider's own handle, empty until it answered.
    ref: str = ""
    #: Dollars per hour, fixed at launch.
    price: float = 0.0
    #: Where that price came from and of which day, for people.
    price_source: str = ""
    #: When it starts to cost money, and when it was gone.
    running_at: float = 0.0
    ready_at: float = 0.0
    registered_at: float = 0.0
    busy_at: float = 0.0
    job_ended_at: float = 0.0
    gone_at: float = 0.0
    #: The provider or the instance itself ends it then, even if the daemon never comes back.
    deadline: float = 0.0
    #: A person keeps it until then.
    hold_until: float = 0.0
    #: The repository that it was bought for: fairness and cost tags, not a promise who runs on it.
    repo: str = ""
    job: JobKey | None = None
    #: Identifies the boot that the credential was exchanged in; another nonce is refused.
    agent_nonce: str = ""
    #: True once the agent has said that a job started: the credential never registers again.
    job_started: bool = False
    #: Found by its tags after the database was lost.
    adopted: bool = False
    #: The last thing that went wrong, for people.
    detail: str = ""
    #: Who ended it, as its provider proves (a :class:`provisioners.base.EndKind` value); empty while it lives.
    end: str = ""
    #: The provider's own message for that.
    end_detail: str = ""

    @property
    def live(self) -> bool:
        return self.state not in CLOSED


class ConsoleKind(enum.StrEnum):
    """The origin of a kept text of an instance."""

    #: What its console printed, from the provider.
    CONSOLE = "console"
    #: The diagnostics of its agent.
    AGENT = "agent"


@dataclass(frozen=True, slots=True)
class Console:
    """A text that an instance printed, kept when it ends; for each instance the newest of each kind."""

    instance: InstanceId
    kind: ConsoleKind
    #: When it was taken.
    at: float
    #: Without known secrets, and only the end of what is long.
    text: str
    #: Why there is no text; empty when there is.
    problem: str = ""

    @property
    def key(self) -> str:
        """Its name in the state."""
        return f"{self.instance}/{self.kind.value}"


class AttemptState(enum.StrEnum):
    """One create call's outcome."""

    #: Committed; the call may have been sent.
    REQUESTING = "requesting"
    #: No clear answer.
    UNKNOWN = "unknown"
    #: It yielded an instance.
    CREATED = "created"
    #: It certainly did not.
    FAILED = "failed"


ATTEMPT_TRANSITIONS: Mapping[AttemptState, frozenset[AttemptState]] = MappingProxyType(
    {
        AttemptState.REQUESTING: frozenset({AttemptState.UNKNOWN, AttemptState.CREATED, AttemptState.FAILED}),
        AttemptState.UNKNOWN: frozenset({AttemptState.REQUESTING, AttemptState.CREATED, AttemptState.FAILED}),
        AttemptState.CREATED: frozenset(),
        AttemptState.FAILED: frozenset(),
    }
)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to get an instance from one offer.  One attempt yields at most one instance."""

    key: AttemptKey
    instance: InstanceId
    state: AttemptState
    provider: str
    offer: str
    #: The complete request as JSON with secrets left as placeholders, so that a replay is byte-identical.
    sealed: str
    created_at: float
    since: float
    #: When the call was last sent; the provider's windows count from here.
    sent_at: float = 0.0
    #: How often the call was sent.
    sends: int = 0
    price: float = 0.0
    #: A :class:`provisioners.base.Kind` and the provider's own code and message.
    failure: str = ""
    code: str = ""
    detail: str = ""


# -- registrations -------------------------------------------------------------------------------------------------


class RegistrationState(enum.StrEnum):
    """The life of a runner's record at the forge.  It may outlive its instance."""

    #: The name is committed; the forge may have been asked.
    REGISTERING = "registering"
    #: The forge's answer was lost; the name must be removed before anything else.
    UNCLEAR = "unclear"
    #: The forge has it.
    REGISTERED = "registered"
    #: It must go; retried until the forge says gone.
    REMOVING = "removing"
    #: The forge does not have it.
    GONE = "gone"


REGISTRATION_TRANSITIONS: Mapping[RegistrationState, frozenset[RegistrationState]] = MappingProxyType(
    {
        RegistrationState.REGISTERING: frozenset(
            {
                RegistrationState.REGISTERED,
                RegistrationState.UNCLEAR,
                RegistrationState.REMOVING,
                RegistrationState.GONE,
            }
        ),
        RegistrationState.UNCLEAR: frozenset({RegistrationState.REMOVING, RegistrationState.GONE}),
        RegistrationState.REGISTERED: frozenset({RegistrationState.REMOVING, RegistrationState.GONE}),
        RegistrationState.REMOVING: frozenset({RegistrationState.GONE}),
        RegistrationState.GONE: frozenset(),
    }
)


@dataclass(frozen=True, slots=True)
class Registration:
    """A runner's record at a forge."""

    id: RegistrationId
    instance: InstanceId
    queue: Queue
    #: Unique for ever; the first is the instance's id, later ones carry a suffix.
    runner_name: str
    state: RegistrationState
    created_at: float
    since: float
    #: The forge's id, empty while unknown.
    forge_id: str = ""
    detail: str = ""


# -- life cycle ----------------------------------------------------------------------------------------------------

_TABLES: Mapping[type[enum.StrEnum], Mapping[enum.StrEnum, frozenset[enum.StrEnum]]] = {
    InstanceState: INSTANCE_TRANSITIONS,  # type: ignore[dict-item]  # each table is keyed by its own enum
    AttemptState: ATTEMPT_TRANSITIONS,  # type: ignore[dict-item]
    RegistrationState: REGISTRATION_TRANSITIONS,  # type: ignore[dict-item]
}


def check_transition(subject: str, old: enum.StrEnum, new: enum.StrEnum) -> None:
    """Raise :class:`errors.IllegalTransition` unless the table of that life cycle has the edge."""
    if new not in _TABLES[type(old)][old]:
        raise errors.IllegalTransition(f"{subject}: {old.value} -> {new.value} is not a legal step")


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the audit trail: the timeline, ``events`` and ``explain`` read it."""

    at: float
    #: ``instance``, ``attempt``, ``registration``, ``job``, ``queue``, ``pool``, ``provider``, ``forge``, ``daemon``.
    subject: str
    #: The subject's id.
    id: str
    #: What happened, in one word: a state's value, or ``alarm``, ``refused``, ``woken``, ...
    what: str
    #: Why, in one word.
    reason: str = ""
    #: For people; never a secret.
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Block:
    """An offer pattern that is not tried until a time.  Persisted, so a restart does not forget."""

    #: ``provider/account/region/zone/type/market`` with ``*`` for any.
    pattern: str
    #: A :class:`provisioners.base.Kind` value, or ``boot``, ``gate``, ``register`` for failures on our side.
    reason: str
    until: float
    since: float
    detail: str = ""
