"""Rules by which the agent ends its instance by itself: pure functions over monotonic seconds.

While a job exists only ``max_job`` applies: an unreachable daemon is no reason to lose a job.  Without one, an unused
instance must not be rented forever, but the daemon is asked first (docs/agent-protocol.md).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

#: Seconds between two requests about an instance that got no job.
ASK_INTERVAL_S = 15.0


class Verdict(enum.Enum):
    """The decision of the rules."""

    #: Do nothing.
    GO_ON = "go-on"
    #: Ask the daemon, by a heartbeat, if this instance is still needed.
    ASK = "ask"
    #: End: the daemon has not answered for too long.
    END_UNREACHABLE = "end-unreachable"
    #: End: the job has reached its time limit.
    END_MAX_JOB = "end-max-job"
    #: End: the job is over and the daemon did not end the instance.
    END_LEFT = "end-left"


@dataclass(frozen=True)
class Limits:
    """Limits in seconds, as set by the daemon; 0 or less for no limit."""

    #: Without a job, until the daemon is asked.
    unclaimed: float
    #: Without a job and without an answer from the daemon.
    unreachable: float
    max_job: float


@dataclass(frozen=True)
class Facts:
    """The input of the rules; times are monotonic seconds."""

    #: When this agent began.
    began: float
    #: When the daemon last answered; the agent's start counts too.
    heard: float
    #: When the daemon was last asked about an unclaimed instance; negative for never.
    asked: float = -1.0
    #: When the job was seen to start; negative for no job yet.
    job_at: float = -1.0
    #: When the job's process tree had ended; negative while it runs, or without one.
    over_at: float = -1.0


def decide(facts: Facts, limits: Limits, now: float, *, patience: float = 600.0) -> Verdict:
    """Return the verdict; ``patience`` is the time that a finished instance waits for the daemon, in seconds."""
    if facts.over_at >= 0:
        return Verdict.END_LEFT if now - facts.over_at >= patience else Verdict.GO_ON
    if facts.job_at >= 0:
        exceeded = limits.max_job > 0 and now - facts.job_at >= limits.max_job
        return Verdict.END_MAX_JOB if exceeded else Verdict.GO_ON
    if limits.unreachable > 0 and now - facts.heard >= limits.unreachable:
        return Verdict.END_UNREACHABLE
    unclaimed = limits.unclaimed > 0 and now - facts.began >= limits.unclaimed
    if unclaimed and (facts.asked < 0 or now - facts.asked >= ASK_INTERVAL_S):
        return Verdict.ASK
    return Verdict.GO_ON
