"""Scripted faults of a simulated EC2."""

from __future__ import annotations

from dataclasses import dataclass

from tests.clouds import faults


@dataclass(slots=True, kw_only=True)
class Fault(faults.Fault):
    """A fault of EC2 or of what stands beside it; ``fails_with`` is the code of a StateReason."""

    operation: str = "RunInstances"
    #: Answer with this code in place of doing it.
    code: str = ""
    #: Seconds after it started to run at which the instance vanishes, with ``Server.InternalError``.
    vanishes_after: float | None = None

    @property
    def calls(self) -> str:
        return self.operation
