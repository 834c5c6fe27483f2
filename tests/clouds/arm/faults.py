"""What goes wrong in a simulated Azure, as a test scripts it."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase


@dataclass(slots=True)
class Fault:
    """One thing that goes wrong.  Patterns have ``*`` and ``a|b``.

    Operations are ``create``, ``get``, ``view``, ``list``, ``delete``, ``operation`` (of a machine), ``disks``,
    ``network``, ``delete-part``, ``skus``, ``usages``, ``images``, ``console``, ``permissions``, ``activity``,
    ``other``.
    """

    operation: str = "create"
    region: str = "*"
    zone: str = "*"
    type: str = "*"
    market: str = "*"
    #: Answer with this code in place of doing it.
    code: str = ""
    message: str = ""
    status: int = 0
    #: Seconds of ``Retry-After`` on a refusal.
    retry_after: int | None = None
    #: ``before`` or ``after``: the answer is lost, before or after it was carried out.
    lost: str = ""
    #: With ``lost="before"``: False when no connection was made at all.
    sent: bool = True
    #: The launch is accepted and its operation fails with this code.
    fails_with: str = ""
    #: With ``fails_with``: the machine runs all the same (its system did not report in time).
    runs: bool = False
    #: The PUT is refused with a 500 after interface, address and disk were made: nothing else remains.
    half: bool = False
    #: Seconds after it started to run at which the machine vanishes without a trace in any log.
    vanishes_after: float | None = None
    #: Seconds after its launch at which a spot machine is taken back.
    preempted_after: float | None = None
    #: Seconds for which the machine is missing from listings.
    hidden_for: float = 0.0
    #: The deletion is accepted, and the machine never gets beyond Deleting.
    stuck: bool = False
    #: How many matching calls pass first, how many it befalls then (None: all), by what chance.
    after: int = 0
    times: int | None = 1
    probability: float = 1.0
    #: How many matching calls there were, and how many it befell.
    seen: int = field(default=0, init=False)
    fired: int = field(default=0, init=False)


@dataclass(frozen=True, slots=True)
class Call:
    """What a fault is matched against."""

    operation: str
    region: str = ""
    zone: str = ""
    type: str = ""
    market: str = ""


def matches(pattern: str, value: str) -> bool:
    return any(fnmatchcase(value, choice) for choice in pattern.split("|"))


def struck(faults: Iterable[Fault], call: Call, rng: random.Random) -> list[Fault]:
    """The faults that befall a call; they count it."""
    found = []
    for fault in faults:
        if not all(
            matches(getattr(fault, name), getattr(call, name))
            for name in ("operation", "region", "zone", "type", "market")
        ):
            continue
        fault.seen += 1
        if fault.seen <= fault.after or (fault.times is not None and fault.fired >= fault.times):
            continue
        if fault.probability < 1.0 and rng.random() >= fault.probability:
            continue
        fault.fired += 1
        found.append(fault)
    return found
