"""Observations: what agents and providers last said about an instance, and how long that can be acted on."""

from __future__ import annotations

from dataclasses import dataclass

from provisioners.base import Failure, InstanceStatus

#: Seconds without a heartbeat after which an agent counts as silent.
SILENCE_S = 90.0
#: How many complete listings in a row must show an instance absent before it counts as gone.
ABSENCES = 2
#: Seconds added to a deadline of ours before it is enforced against a job, for clocks and the runner's own clean-up.
SLACK_S = 300.0


@dataclass(frozen=True, slots=True)
class Observation:
    """The knowledge about one instance beside its row; kept in memory and gathered again after a restart.

    Times are of the steady clock; 0 means never.
    """

    #: When the agent last spoke to this process.
    agent_at: float = 0.0
    #: The agent sees a runner process with a job.
    worker: bool = False
    #: The agent has a registration request open.
    asking: bool = False
    #: What the provider last said, and when; None before the first answer.
    cloud: InstanceStatus | None = None
    cloud_at: float = 0.0
    #: How many complete listings in a row did not have it.
    absences: int = 0
    #: The provider's own health probe; None for no verdict.
    healthy: bool | None = None
    #: Why its launch failed after it was accepted.
    failure: Failure | None = None
    #: The provider has shown it since it was created, so that it will not appear late any more.
    seen: bool = False
    #: When the provider last accepted its deletion.
    deleted_at: float = 0.0

    def fresh(self, now: float) -> bool:
        """Return True while the agent's last report is recent enough to act on."""
        return self.agent_at > 0 and now - self.agent_at < SILENCE_S

    @property
    def absent(self) -> bool:
        """True once the provider has shown that the instance does not exist."""
        return self.cloud is InstanceStatus.GONE or self.absences >= ABSENCES
