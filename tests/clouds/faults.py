"""Scripted faults of a simulated cloud: where they strike and how often.

What a fault does is its cloud's own; the effects that mean the same in every cloud are here as well.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TypeVar


@dataclass(frozen=True, slots=True)
class Call:
    """The facts of a call that a fault is matched against."""

    operation: str
    region: str = ""
    zone: str = ""
    type: str = ""
    market: str = ""


@dataclass(slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong.  Patterns have ``*`` and ``a|b``."""

    region: str = "*"
    zone: str = "*"
    type: str = "*"
    market: str = "*"
    #: Of a refusal, where the usual ones of its code are not meant.
    message: str = ""
    status: int = 0
    #: ``before`` or ``after``: the answer is lost, before or after it was carried out.
    lost: str = ""
    #: With ``lost="before"``: False when no connection was made at all.
    sent: bool = True
    #: The launch is accepted and fails with this code.
    fails_with: str = ""
    #: Seconds after its launch at which a spot instance is taken back.
    preempted_after: float | None = None
    #: Seconds for which a new instance is missing from listings.
    hidden_for: float = 0.0
    #: The deletion is accepted and never ends.
    stuck: bool = False
    #: How many matching calls pass first, how many it befalls then (None: all), by what chance.
    after: int = 0
    times: int | None = 1
    probability: float = 1.0
    #: How many matching calls there were, and how many it befell.
    seen: int = field(default=0, init=False)
    fired: int = field(default=0, init=False)

    @property
    def calls(self) -> str:
        """The operations that it befalls, as a pattern in the words of its cloud."""
        raise NotImplementedError

    def fits(self, call: Call) -> bool:
        """True for the calls that it may befall."""
        return matches(self.calls, call.operation) and all(
            matches(getattr(self, name), getattr(call, name)) for name in ("region", "zone", "type", "market")
        )

    def strikes(self, rng: random.Random) -> bool:
        """Count a call that it fits; True when it befalls this one."""
        self.seen += 1
        if self.seen <= self.after or (self.times is not None and self.fired >= self.times):
            return False
        if self.probability < 1.0 and rng.random() >= self.probability:
            return False
        self.fired += 1
        return True


_F = TypeVar("_F", bound=Fault)


def matches(pattern: str, value: str) -> bool:
    """True when a value is what a pattern with ``*`` and ``a|b`` means."""
    return any(fnmatchcase(value, choice) for choice in pattern.split("|"))


def struck(faults: Iterable[_F], call: Call, rng: random.Random) -> list[_F]:
    """The faults that befall a call; they count it."""
    return [fault for fault in faults if fault.fits(call) and fault.strikes(rng)]
