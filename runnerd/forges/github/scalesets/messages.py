"""The messages of a scale set's queue, decoded without trust.

A message is JSON in JSON: the body is a string that holds an array of job messages.  Every part that can be understood
is used; the rest becomes a list of problems for an alarm, never an exception, because a message that cannot be
acknowledged blocks everything behind it (GARM PR #812 was such an outage).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from provisioners.support import numbers
from runnerd import model
from runnerd.forges import base, fields

#: The only kind of message that the queue is known to carry.
JOB_MESSAGES = "RunnerScaleSetJobMessages"


class Kind(enum.StrEnum):
    """The kinds of job message."""

    #: A job is offered; it must be acquired (GitHub Enterprise Server).
    AVAILABLE = "JobAvailable"
    #: A job is committed to the set.
    ASSIGNED = "JobAssigned"
    #: A runner took it.
    STARTED = "JobStarted"
    #: It ended, or its assignment did.
    COMPLETED = "JobCompleted"


#: Conclusions by the result of ``JobCompleted``; other results are used in lower case.
CONCLUSIONS: Mapping[str, str] = {
    "succeeded": "success",
    "success": "success",
    "succeededwithissues": "success",
    "failed": "failure",
    "failure": "failure",
    "abandoned": "failure",
    "canceled": "cancelled",
    "cancelled": "cancelled",
    "skipped": "skipped",
    "timedout": "timed_out",
    "timed_out": "timed_out",
}

_EVENTS = {
    Kind.AVAILABLE: base.JobEvent.QUEUED,
    Kind.ASSIGNED: base.JobEvent.QUEUED,
    Kind.STARTED: base.JobEvent.STARTED,
    Kind.COMPLETED: base.JobEvent.COMPLETED,
}
_KINDS = {kind.value: kind for kind in Kind}
_TIMES = {
    Kind.AVAILABLE: "queueTime",
    Kind.ASSIGNED: "queueTime",
    Kind.STARTED: "runnerAssignTime",
    Kind.COMPLETED: "finishTime",
}


@dataclass(frozen=True, slots=True)
class Statistics:
    """The counts that come with every message; demand is read from these, never from the number of messages."""

    available: int = 0
    acquired: int = 0
    #: Jobs that wait or run.
    assigned: int = 0
    running: int = 0
    registered: int = 0
    busy: int = 0
    idle: int = 0

    @classmethod
    def read(cls, value: Any) -> Statistics | None:
        """Return the counts of an answer; None when it holds none."""
        total = value.get("totalAssignedJobs") if isinstance(value, Mapping) else None
        if not isinstance(total, int) or numbers.whole(total) is None:
            return None
        return cls(
            _count(value, "totalAvailableJobs"),
            _count(value, "totalAcquiredJobs"),
            _count(value, "totalAssignedJobs"),
            _count(value, "totalRunningJobs"),
            _count(value, "totalRegisteredRunners"),
            _count(value, "totalBusyRunners"),
            _count(value, "totalIdleRunners"),
        )


@dataclass(frozen=True, slots=True)
class JobMessage:
    """One job message."""

    kind: Kind
    #: The fact that it reports.
    update: base.JobUpdate
    #: The id by which the job is acquired; 0 on github.com, where nothing is.
    request: int


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the queue."""

    id: int
    statistics: Statistics | None
    jobs: tuple[JobMessage, ...]
    #: Parts that could not be understood, as messages for people.
    problems: tuple[str, ...]


def decode(queue: model.Queue, value: Mapping[str, Any], *, web: str) -> Message | None:
    """Return a message; None when it has no id, so that it cannot even be acknowledged.

    ``web`` is the address of GitHub for people.
    """
    id = value.get("messageId")
    if not isinstance(id, int) or isinstance(id, bool):
        return None
    problems: list[str] = []
    jobs: list[JobMessage] = []
    kind = value.get("messageType")
    if kind != JOB_MESSAGES:
        problems.append(f"message {id} is of the unknown type {str(kind)[:60]!r}")
    else:
        for entry in _body(id, value.get("body"), problems):
            job = read_job(queue, entry, problems, web=web)
            if job is not None:
                jobs.append(job)
    return Message(id, Statistics.read(value.get("statistics")), tuple(jobs), tuple(problems))


def _body(id: int, body: Any, problems: list[str]) -> list[Any]:
    if body is None or body == "":
        return []
    if isinstance(body, str):
        try:
            body = numbers.loads(body)
        except (ValueError, RecursionError):
            problems.append(f"the body of message {id} is not JSON")
            return []
    if not isinstance(body, list):
        problems.append(f"the body of message {id} is not a list")
        return []
    return body


def read_job(queue: model.Queue, entry: Any, problems: list[str], *, web: str) -> JobMessage | None:
    """Return one inner message; None for unknown kinds, and for damaged ones, which are added to ``problems``."""
    if not isinstance(entry, dict):
        problems.append("a job message is not an object")
        return None
    kind = _KINDS.get(str(entry.get("messageType")))
    if kind is None:
        return None
    owner, repository, run = entry.get("ownerName"), entry.get("repositoryName"), entry.get("workflowRunId")
    if not (isinstance(owner, str) and isinstance(repository, str) and isinstance(run, int)):
        problems.append(f"a {kind.value} message names no repository or run")
        return None
    # A full name in older tenants.
    repo = repository if "/" in repository else f"{owner}/{repository}"
    request = entry.get("runnerRequestId")
    runner = fields.text(entry.get("runnerName"))
    alias = entry.get("jobId")
    event = _EVENTS[kind]
    conclusion = ""
    if kind is Kind.COMPLETED:
        result = str(entry.get("result") or "").lower()
        conclusion = CONCLUSIONS.get(result, result)
        if conclusion == "cancelled" and not runner:
            # GitHub takes an assignment back that no runner picked up and assigns the job anew.  A job cancelled by a
            # person looks the same, so only the run can tell (runpool's measurements).
            event = base.JobEvent.ASSIGNMENT_TIMEOUT
    update = base.JobUpdate(
        event=event,
        queue=queue,
        repo=repo,
        run=str(run),
        name=fields.text(entry.get("jobDisplayName")),
        alias=str(alias) if alias is not None else "",
        labels=fields.texts(entry.get("requestLabels")),
        runner_name=runner,
        conclusion=conclusion,
        at=fields.timestamp(entry.get(_TIMES[kind])),
        url=f"{web}/{repo}/actions/runs/{run}",
    )
    return JobMessage(kind, update, request if isinstance(request, int) else 0)


def _count(value: Mapping[str, Any], name: str) -> int:
    count = value.get(name)
    return (numbers.whole(count) or 0) if isinstance(count, int) else 0
