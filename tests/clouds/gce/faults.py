"""What goes wrong in a simulated Compute Engine, as a test scripts it."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any


@dataclass(slots=True)
class Fault:
    """One thing that goes wrong.  Patterns have ``*`` and ``a|b``."""

    #: The method, without ``compute.``.
    method: str = "instances.insert"
    region: str = "*"
    zone: str = "*"
    type: str = "*"
    market: str = "*"
    #: Answer with this reason (``rateLimitExceeded``) in place of doing it.
    reason: str = ""
    status: int = 0
    message: str = ""
    details: list[dict[str, Any]] = field(default_factory=list)
    #: The insert is accepted, and its operation ends with this code, so many seconds later.
    fails_with: str = ""
    fails_after: float = 3.0
    #: With ``fails_with``: the instance stays behind, stopped.
    leaves: bool = False
    #: Of an exceeded quota: ``metricName``, ``limitName``, ``dimensions``, ``limit``.
    quota: dict[str, Any] = field(default_factory=dict)
    #: ``before`` or ``after``: the answer is lost, before or after it was carried out.
    lost: str = ""
    #: With ``lost="before"``: False when no connection was made at all.
    sent: bool = True
    #: Seconds that the operation takes longer.
    slow: float = 0.0
    #: Seconds after it started to run at which the instance's host breaks.
    breaks_after: float | None = None
    #: Seconds after its launch at which a spot instance is taken back.
    preempted_after: float | None = None
    #: Seconds for which a new instance is missing from lists and is not found.
    hidden_for: float = 0.0
    #: A delete is accepted and never ends.
    stuck: bool = False
    #: Zones that an aggregated list does not reach; with ``warning`` it says so by that code in the zone's part.
    unreachable: tuple[str, ...] = ()
    warning: str = ""
    #: How many matching calls pass first, how many it befalls then (None: all), by what chance.
    after: int = 0
    times: int | None = 1
    probability: float = 1.0
    #: How many matching calls there were, and how many it befell.
    seen: int = field(default=0, init=False)
    fired: int = field(default=0, init=False)


@dataclass(frozen=True, slots=True)
class Subject:
    """What a fault is matched against."""

    method: str
    region: str = ""
    zone: str = ""
    type: str = ""
    market: str = ""


def matches(pattern: str, value: str) -> bool:
    return any(fnmatchcase(value, choice) for choice in pattern.split("|"))


def struck(faults: Iterable[Fault], subject: Subject, rng: random.Random) -> list[Fault]:
    """The faults that befall a call; they count it."""
    found = []
    for fault in faults:
        if not all(
            matches(getattr(fault, name), getattr(subject, name))
            for name in ("method", "region", "zone", "type", "market")
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
