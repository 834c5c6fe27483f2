"""Scripted faults of a simulated Azure."""

from __future__ import annotations

from dataclasses import dataclass

from tests.clouds import faults


@dataclass(slots=True, kw_only=True)
class Fault(faults.Fault):
    """A fault of Azure Resource Manager; ``fails_with`` is the code that the launch's operation ends with.

    Operations are ``create``, ``get``, ``view``, ``list``, ``delete``, ``operation`` (of a machine), ``disks``,
    ``network``, ``delete-part``, ``skus``, ``usages``, ``images``, ``console``, ``permissions``, ``activity``,
    ``other``.
    """

    operation: str = "create"
    #: Answer with this code in place of doing it.
    code: str = ""
    #: Seconds of ``Retry-After`` on a refusal.
    retry_after: int | None = None
    #: With ``fails_with``: the machine runs all the same (its system did not report in time).
    runs: bool = False
    #: The PUT is refused with a 500 after interface, address and disk were made: nothing else remains.
    half: bool = False
    #: Seconds after it started to run at which the machine vanishes without a trace in any log.
    vanishes_after: float | None = None

    @property
    def calls(self) -> str:
        return self.operation
