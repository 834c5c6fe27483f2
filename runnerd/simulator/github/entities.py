"""The things that only GitHub has: runs, scale sets, sessions, messages, runner groups, deliveries, checks."""

from __future__ import annotations

import dataclasses
from typing import Any

from runnerd.simulator import world


@dataclasses.dataclass(slots=True)
class GithubJob(world.Job):
    """A job with what the Actions service knows about it."""

    #: the job id of the messages: a GUID, new after each lapse
    guid: str = ""
    #: positive where jobs must be acquired, else 0
    request_id: int = 0
    #: the scale set that it is matched to
    set_id: int | None = None
    #: "unmatched", "waiting", "stranded", "offered", "assigned", "handed", "running" or "done"
    stage: str = "unmatched"
    lapsed: int = 0
    assigned_at: float | None = None
    handed_at: float | None = None
    cancelling: bool = False
    #: value of the job's GITHUB_TOKEN while it runs
    token: str = ""
    timer: world.Timer | None = None
    queue_timer: world.Timer | None = None


@dataclasses.dataclass(slots=True)
class GithubRunner(world.Runner):
    """A registration; it is connected while `session` is set."""

    group_id: int = 1
    set_id: int | None = None
    ephemeral: bool = True
    work_folder: str = "_work"
    secret: str = ""
    client_id: str = ""
    version: str | None = None
    #: id of the runner's session while it is connected
    session: str | None = None
    last_seen: float = 0.0
    #: True = driven in process: its lease never lapses by itself
    attached: bool = False
    lease_until: float = 0.0
    removal: world.Timer | None = None
    #: its scale set was deleted under it
    orphaned: bool = False


@dataclasses.dataclass(slots=True)
class Run:
    """A workflow run with its attempts."""

    id: int
    repo: str
    number: int
    name: str
    event: str
    branch: str
    sha: str
    pull_number: int | None
    created_at: float
    updated_at: float
    attempt: int = 1
    started_at: float = 0.0
    #: job ids of each attempt, oldest attempt first
    attempts: list[list[int]] = dataclasses.field(default_factory=list)
    status: str = "queued"
    conclusion: str | None = None
    #: jobs of the attempt not yet completed, and those that have begun
    open: int = 0
    begun: int = 0
    #: False = re-runs are refused ("cannot be retried")
    retryable: bool = True


@dataclasses.dataclass(slots=True)
class Group:
    """A runner group of an organisation (or of a repository or enterprise, where only Default exists)."""

    id: int
    scope: str
    name: str
    default: bool = False
    allows_public: bool = False
    #: "all" or "selected"
    visibility: str = "all"
    repositories: set[str] = dataclasses.field(default_factory=set)


@dataclasses.dataclass(slots=True)
class Message:
    """A message of a scale set's queue; once made it never changes."""

    id: int
    body: str
    statistics: dict[str, int]


@dataclasses.dataclass(slots=True)
class ScaleSet:
    """A runner scale set with its jobs by stage (insertion order is age) and its queue."""

    id: int
    scope: str
    name: str
    group_id: int
    labels: list[str]
    created_at: float
    disable_update: bool = False
    #: total announced by the last poll; None without a listener
    capacity: int | None = None
    #: True when the last poll did not announce a capacity, which asks for the acquire flow
    uncounted: bool = False
    waiting: dict[int, None] = dataclasses.field(default_factory=dict)
    stranded: dict[int, None] = dataclasses.field(default_factory=dict)
    offered: dict[int, None] = dataclasses.field(default_factory=dict)
    assigned: dict[int, None] = dataclasses.field(default_factory=dict)
    #: handed to a runner or running
    running: dict[int, None] = dataclasses.field(default_factory=dict)
    #: online and without a job, oldest first
    idle: dict[int, None] = dataclasses.field(default_factory=dict)
    runners: set[int] = dataclasses.field(default_factory=set)
    busy: int = 0
    pending: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    messages: list[Message] = dataclasses.field(default_factory=list)
    last_message: int = 0
    session: Session | None = None

    @property
    def queue_key(self) -> tuple[str, int]:
        return ("github-queue", self.id)


@dataclasses.dataclass(slots=True)
class Session:
    """A message session of a scale set."""

    id: str
    set_id: int
    owner: str
    last_seen: float
    #: polls in flight; a session that is being polled is not idle
    polling: int = 0
    #: kept alive by another listener until then
    held_until: float = 0.0


@dataclasses.dataclass(slots=True)
class Delivery:
    """One attempt to deliver a webhook."""

    id: int
    guid: str
    hook_id: int
    event: str
    action: str | None
    repository_id: int | None
    headers: dict[str, str]
    body: bytes
    delivered_at: float
    redelivery: bool = False
    status: str = "pending"
    status_code: int = 0
    duration: float = 0.0


@dataclasses.dataclass(slots=True)
class CheckRun:
    """A check run made by an App or a job."""

    id: int
    repo: str
    name: str
    head_sha: str
    status: str
    conclusion: str | None
    started_at: str | None
    completed_at: str | None
    output: dict[str, Any]
    details_url: str | None = None
    external_id: str = ""


@dataclasses.dataclass(slots=True)
class CommitStatus:
    """A commit status."""

    id: int
    repo: str
    sha: str
    state: str
    context: str
    description: str | None
    target_url: str | None
    created_at: float
