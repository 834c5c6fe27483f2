"""Which machine types one vCPU quota of Amazon EC2 counts together.

Source: "Amazon EC2 instance type quotas" in the EC2 user guide; the codes are those of Service Quotas.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

from provisioners import base


@dataclass(frozen=True, slots=True)
class Group:
    """Types that share a quota in one market."""

    #: For people: ``G and VT``.
    name: str
    market: base.Market
    #: Over machine types, as one segment of an offer pattern.
    pattern: str
    #: In Service Quotas; empty where it is not known.
    code: str = ""

    def has(self, machine_type: str) -> bool:
        """True for the types that it counts."""
        return any(fnmatchcase(machine_type, one) for one in self.pattern.split("|"))


_LETTERS = re.compile(r"([a-z]+)")
_SPOT, _DEMAND = base.Market.SPOT, base.Market.ON_DEMAND
_G = "g[0-9]*|gr[0-9]*|vt[0-9]*"
_STANDARD = "|".join(f"{one}[0-9]*" for one in ("a", "c", "d", "h", "i", "im", "is", "m", "r", "t", "z"))

GROUPS: tuple[Group, ...] = (
    Group("G and VT on-demand vCPUs", _DEMAND, _G, "L-DB2E81BA"),
    Group("G and VT spot vCPUs", _SPOT, _G, "L-3819A6DF"),
    Group("P on-demand vCPUs", _DEMAND, "p[0-9]*", "L-417A185B"),
    Group("P5 spot vCPUs", _SPOT, "p5*", "L-C4BD4855"),
    Group("P spot vCPUs", _SPOT, "p[!5]*", "L-7212CCBC"),
    Group("Standard (A, C, D, H, I, M, R, T, Z) on-demand vCPUs", _DEMAND, _STANDARD, "L-1216C47A"),
    Group("Standard (A, C, D, H, I, M, R, T, Z) spot vCPUs", _SPOT, _STANDARD, "L-34B43A08"),
)


def group_of(machine_type: str, market: base.Market) -> Group:
    """The quota that counts a type in a market; by its letters alone where the quota is not known."""
    for group in GROUPS:
        if group.market is market and group.has(machine_type):
            return group
    letters = _LETTERS.match(machine_type)
    return Group(f"{machine_type} vCPUs", market, f"{letters[1]}[0-9]*" if letters else machine_type)
