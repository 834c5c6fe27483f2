"""Scripted faults of a simulated Compute Engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.clouds import faults


@dataclass(slots=True, kw_only=True)
class Fault(faults.Fault):
    """A fault of Compute Engine or of what stands beside it; ``fails_with`` is the code of the insert's operation."""

    #: The method, without ``compute.``.
    method: str = "instances.insert"
    #: Answer with this reason (``rateLimitExceeded``) in place of doing it.
    reason: str = ""
    details: list[dict[str, Any]] = field(default_factory=list)
    #: With ``fails_with``: so many seconds after the insert; ``leaves``: the instance stays behind, stopped.
    fails_after: float = 3.0
    leaves: bool = False
    #: Of an exceeded quota: ``metricName``, ``limitName``, ``dimensions``, ``limit``.
    quota: dict[str, Any] = field(default_factory=dict)
    #: Seconds that the operation takes longer.
    slow: float = 0.0
    #: Seconds after it started to run at which the instance's host breaks.
    breaks_after: float | None = None
    #: Zones that an aggregated list does not reach; with ``warning`` it says so by that code in the zone's part.
    unreachable: tuple[str, ...] = ()
    warning: str = ""

    @property
    def calls(self) -> str:
        return self.method
