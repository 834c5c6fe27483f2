"""A GitLab job as its API shows it, read leniently, and what it means in runnerd's words.

Only what is needed is looked at; a field of an unexpected type is absent, and a row without an id is refused.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from provisioners.support import numbers
from runnerd import model
from runnerd.forges import base

#: The queue: only these are demand (doc/api/jobs: "waiting for a runner").  With two-phase commit a job that is
#: assigned but not acknowledged stays pending, and may come back, so it counts as well.
WAITING = frozenset({"pending"})
#: A runner works on it.
RUNNING = frozenset({"running", "canceling"})
#: It will not change any more under this id.
FINAL = frozenset({"success", "failed", "canceled", "skipped"})

_CONCLUSIONS: Mapping[str, str] = {
    "success": "success",
    "failed": "failure",
    "canceled": "cancelled",
    "skipped": "skipped",
}
#: Failure reasons that mean "took too long" (Ci::StuckBuilds, before and after 19.0).
_TIMEOUTS = frozenset({"job_execution_timeout", "server_timeout_running", "server_timeout_canceling"})


@dataclass(frozen=True, slots=True)
class JobView:
    """One job as GitLab showed it."""

    id: int
    project: int
    name: str
    status: str
    tags: tuple[str, ...]
    ref: str
    #: The ref is a git tag.
    is_tag: bool
    pipeline: int
    runner: int
    #: The runner's description, which is its name in runnerd.
    runner_name: str
    #: Of the runner manager that has it; empty when not told.
    system_id: str
    created_at: float
    started_at: float
    finished_at: float
    #: Seconds in the queue.
    queued_for: float | None
    failure_reason: str
    url: str
    #: Full path of its project, where the list tells it (a runner's jobs do); else empty.
    repo: str = ""

    @property
    def conclusion(self) -> str:
        if self.status == "failed" and self.failure_reason in _TIMEOUTS:
            return "timed_out"
        return _CONCLUSIONS.get(self.status, "")


def read(row: Mapping[str, Any], project: int) -> JobView:
    """Read one job.  Raises ValueError when it has no id or no status."""
    id_, status = number(row.get("id")), row.get("status")
    if not id_ or not isinstance(status, str):
        raise ValueError("a job without id or status")
    tags = row.get("tag_list")
    pipeline, runner, manager = (_mapping(row.get(key)) for key in ("pipeline", "runner", "runner_manager"))
    owner = _mapping(row.get("project"))
    queued = row.get("queued_duration")
    return JobView(
        id=id_,
        project=project or number(owner.get("id")),
        name=_text(row.get("name")),
        status=status,
        tags=tuple(tag for tag in tags if isinstance(tag, str)) if isinstance(tags, list) else (),
        ref=_text(row.get("ref")),
        is_tag=row.get("tag") is True,
        pipeline=number(pipeline.get("id")),
        runner=number(runner.get("id")),
        runner_name=_text(runner.get("description")),
        system_id=_text(manager.get("system_id")),
        created_at=moment(row.get("created_at")),
        started_at=moment(row.get("started_at")),
        finished_at=moment(row.get("finished_at")),
        queued_for=numbers.real(queued) if isinstance(queued, int | float) else None,
        failure_reason=_text(row.get("failure_reason")),
        url=_text(row.get("web_url")),
        repo=_text(owner.get("path_with_namespace")),
    )


def update(event: base.JobEvent, view: JobView, queue: model.Queue, repo: str, *, server_now: float) -> base.JobUpdate:
    """Put a job into the words of the contract.

    REST has no ``queued_at``: it is the server's present time less ``queued_duration`` (doc/api/jobs).
    """
    at = {
        base.JobEvent.STARTED: view.started_at,
        base.JobEvent.COMPLETED: view.finished_at,
    }.get(event, view.created_at)
    if event is base.JobEvent.QUEUED and view.queued_for is not None:
        at = max(server_now - view.queued_for, view.created_at)
    return base.JobUpdate(
        event=event,
        queue=queue,
        repo=repo,
        run=str(view.pipeline),
        name=view.name,
        alias=str(view.id),
        labels=view.tags,
        runner_name=view.runner_name if event is not base.JobEvent.QUEUED else "",
        conclusion=view.conclusion if event is base.JobEvent.COMPLETED else "",
        at=at,
        url=view.url,
    )


def latest_id(job: model.Job) -> int:
    """Return GitLab's id of the job's latest attempt; 0 when it is not known."""
    return next((int(alias) for alias in reversed(job.aliases) if alias.isdigit()), 0)


def moment(text: object) -> float:
    """ISO 8601 to unix seconds; 0 for anything else."""
    if not isinstance(text, str):
        return 0.0
    try:
        value = datetime.datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    return (value if value.tzinfo else value.replace(tzinfo=datetime.UTC)).timestamp()


def number(value: Any) -> int:
    """A positive id; 0 for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
