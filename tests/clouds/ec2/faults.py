"""What goes wrong in a simulated EC2, as a test scripts it."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase


@dataclass(slots=True)
class Fault:
    """One thing that goes wrong.  Patterns have ``*`` and ``a|b``."""

    operation: str = "RunInstances"
    region: str = "*"
    zone: str = "*"
    type: str = "*"
    market: str = "*"
    #: Answer with this code in place of doing it.
    code: str = ""
    message: str = ""
    status: int = 0
    #: ``before`` or ``after``: the answer is lost, before or after it was carried out.
    lost: str = ""
    #: With ``lost="before"``: False when no connection was made at all.
    sent: bool = True
    #: The launch is accepted and fails while pending, with this StateReason code.
    fails_with: str = ""
    #: Seconds after it started to run at which the instance vanishes, with ``Server.InternalError``.
    vanishes_after: float | None = None
    #: Seconds after its launch at which a spot instance is taken back.
    preempted_after: float | None = None
    #: Seconds for which the instance is missing from listings.
    hidden_for: float = 0.0
    #: TerminateInstances is accepted, and the instance never gets beyond shutting-down.
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
    region: str
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
