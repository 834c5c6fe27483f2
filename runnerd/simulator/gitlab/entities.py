"""The entities of the simulated GitLab: pipelines, jobs, runner records and their managers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from runnerd.simulator import world

FORGE = "gitlab"
#: Every status of a job.
STATUSES = [
    "canceled",
    "canceling",
    "created",
    "failed",
    "manual",
    "pending",
    "preparing",
    "running",
    "scheduled",
    "skipped",
    "success",
    "waiting_for_callback",
    "waiting_for_resource",
]
FINAL = frozenset({"success", "failed", "canceled", "skipped"})
ACTIVE = frozenset({"pending", "running", "canceling"})
#: The status that both forges share, by GitLab's.
COMMON_STATUS = {"running": "in_progress", "canceling": "in_progress", **dict.fromkeys(FINAL, "completed")}
#: The conclusion that both forges share, by GitLab's status.
CONCLUSION = {"success": "success", "failed": "failure", "canceled": "cancelled", "skipped": "skipped"}


@dataclasses.dataclass(slots=True)
class Pipeline:
    """The jobs of one push or merge request event."""

    id: int
    iid: int
    repo: str
    ref: str
    sha: str
    source: str
    created_at: float
    pull_number: int | None = None
    jobs: list[int] = dataclasses.field(default_factory=list)
    updated_at: float = 0.0


@dataclasses.dataclass(slots=True)
class Build(world.Job):
    """A job with what only GitLab knows of it; `state` is GitLab's word, `status` the common one."""

    state: str = "created"
    project_id: int = 0
    #: CI_JOB_TOKEN of the current assignment; a new one for each
    token: str = ""
    updated_at: float = 0.0
    failure_reason: str | None = None
    exit_code: int | None = None
    system_id: str | None = None
    #: assigned to a runner that has not acknowledged yet
    waiting: bool = False
    ack: world.Timer | None = None
    #: what the runner declared, for cancelling gracefully
    features: frozenset[str] = frozenset()
    protected: bool = False
    variables: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    retry: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    retried: bool = False
    retries: int = 0
    timeout: int = 3600
    #: bytes of the log received; the kept log may be shorter
    trace_size: int = 0
    #: when a final update was first held back for the rest of the log
    held_since: float | None = None

    @property
    def kind(self) -> tuple[frozenset[str], bool]:
        return frozenset(self.labels), self.protected


@dataclasses.dataclass(slots=True)
class Manager:
    """One machine that uses a runner's token, identified by its system_id."""

    id: int
    system_id: str
    created_at: float
    contacted_at: float
    info: dict[str, Any] = dataclasses.field(default_factory=dict)


#: kind, scope, tags, run_untagged, access_level
Profile = tuple[str, str, frozenset[str], bool, str]


def reaches(kind: str, scope: str, repo: str) -> bool:
    """Return True when a runner of this type and scope may serve the project."""
    if kind == "instance_type":
        return True
    return repo == scope or (kind == "group_type" and repo.startswith(scope + "/"))


def fits(profile: Profile, tags: frozenset[str], *, protected: bool) -> bool:
    """Return True when a runner may take a job with these tags; an untagged job needs ``run_untagged``."""
    if profile[4] == "ref_protected" and not protected:
        return False
    return tags <= profile[2] if tags else profile[3]


@dataclasses.dataclass(slots=True)
class RunnerRecord(world.Runner):
    """A registered runner; `scope` is the path of its group or project, empty for the instance."""

    kind: str = "project_type"
    token: str = ""
    description: str = ""
    maintenance_note: str | None = None
    run_untagged: bool = True
    locked: bool = False
    access_level: str = "not_protected"
    maximum_timeout: int | None = None
    paused: bool = False
    contacted_at: float | None = None
    managers: dict[str, Manager] = dataclasses.field(default_factory=dict)
    #: every job it ever got, ascending
    jobs: list[int] = dataclasses.field(default_factory=list)
    #: jobs it holds now: running, canceling, or assigned and not yet acknowledged
    held: set[int] = dataclasses.field(default_factory=set)
    #: when its status will be looked at again
    aging: world.Timer | None = None
    #: changes when the runner itself was edited, which also wakes its long poll
    edition: int = 0

    def serves(self, repo: str) -> bool:
        return reaches(self.kind, self.scope, repo)

    def takes(self, tags: frozenset[str], *, protected: bool) -> bool:
        """Return True when the job's tags are among the runner's.

        Untagged jobs need `run_untagged`, a runner with `ref_protected` needs a protected ref.
        """
        return fits(self.profile, tags, protected=protected)

    @property
    def profile(self) -> Profile:
        """Runners that see exactly the same queue share one profile."""
        return self.kind, self.scope, frozenset(self.labels), self.run_untagged, self.access_level
