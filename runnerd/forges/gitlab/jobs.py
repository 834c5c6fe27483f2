"""A GitLab job as its API shows it, read without trust, and the fact that it stands for.

Only the fields that are needed are read; a field of an unexpected type counts as absent, and a row without an id is
refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from provisioners.support import numbers
from runnerd import model
from runnerd.forges import base, fields

#: Statuses in which the job is demand (doc/api/jobs: "waiting for a runner").  With two-phase commit a job that is
#: assigned but not acknowledged stays pending, and may come back, so it counts as well.
WAITING = frozenset({"pending"})
#: Statuses in which a runner works on the job.
RUNNING = frozenset({"running", "canceling"})
#: Statuses in which the job ends: under this id it changes no more.
FINAL = frozenset({"success", "failed", "canceled", "skipped"})

_CONCLUSIONS: Mapping[str, str] = {
    "success": "success",
    "failed": "failure",
    "canceled": "cancelled",
    "skipped": "skipped",
}
#: Failure reasons of a job that ran for too long (Ci::StuckBuilds, before and after 19.0).
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
    #: Of the runner manager that has it; empty when not reported.
    system_id: str
    created_at: float
    started_at: float
    finished_at: float
    #: Seconds in the queue.
    queued_for: float | None
    failure_reason: str
    url: str
    #: Full path of its project, where the list has it (that of a runner's jobs does); else empty.
    repo: str = ""

    @property
    def conclusion(self) -> str:
        """The conclusion as in :class:`base.JobUpdate`."""
        if self.status == "failed" and self.failure_reason in _TIMEOUTS:
            return "timed_out"
        return _CONCLUSIONS.get(self.status, "")


def read(row: Mapping[str, Any], project: int) -> JobView:
    """Return one job of a list, of ``project`` if that is known.  Raises ValueError when it has no id or no status."""
    id_, status = fields.positive_id(row.get("id")), row.get("status")
    if not id_ or not isinstance(status, str):
        raise ValueError("a job without id or status")
    pipeline, runner, manager = (fields.mapping(row.get(key)) for key in ("pipeline", "runner", "runner_manager"))
    owner = fields.mapping(row.get("project"))
    queued = row.get("queued_duration")
    return JobView(
        id=id_,
        project=project or fields.positive_id(owner.get("id")),
        name=fields.text(row.get("name")),
        status=status,
        tags=fields.texts(row.get("tag_list")),
        ref=fields.text(row.get("ref")),
        is_tag=row.get("tag") is True,
        pipeline=fields.positive_id(pipeline.get("id")),
        runner=fields.positive_id(runner.get("id")),
        runner_name=fields.text(runner.get("description")),
        system_id=fields.text(manager.get("system_id")),
        created_at=fields.timestamp(row.get("created_at")),
        started_at=fields.timestamp(row.get("started_at")),
        finished_at=fields.timestamp(row.get("finished_at")),
        queued_for=numbers.real(queued) if isinstance(queued, int | float) else None,
        failure_reason=fields.text(row.get("failure_reason")),
        url=fields.text(row.get("web_url")),
        repo=fields.text(owner.get("path_with_namespace")),
    )


def update(event: base.JobEvent, view: JobView, queue: model.Queue, repo: str, *, server_now: float) -> base.JobUpdate:
    """Return the fact that a job stands for.

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
