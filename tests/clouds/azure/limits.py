"""Rate limits of a simulated Azure: token buckets as Compute and Resource Manager document them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """One bucket's size, and what is put into it every minute."""

    name: str
    per_minute: float
    most: float


#: By subscription and region.
PUT = Policy("PutVM", 500, 1500)
DELETE = Policy("DeleteVM", 500, 1500)
GET = Policy("LowCostGetVM", 8000, 24000)
LIST = Policy("HighCostGetVM", 300, 900)
OPERATION = Policy("GetOperation", 5000, 15000)
#: By machine.
GET_ONE = Policy("LowCostGetVMResource", 12, 36)
CHANGE_ONE = Policy("ChangeVMResource", 4, 12)
#: By caller and subscription, of Resource Manager itself.
READS = Policy("subscription-reads", 25 * 60, 250)
WRITES = Policy("subscription-writes", 10 * 60, 200)
DELETES = Policy("subscription-deletes", 10 * 60, 200)


class Buckets:
    """All buckets that were ever used."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._left: dict[tuple[str, str], tuple[float, float]] = {}
        #: Changes of policies by name, for tests: ``buckets.policies["PutVM"] = Policy("PutVM", 1, 1)``.
        self.policies: dict[str, Policy] = {}
        #: How many calls were turned away.
        self.refused = 0

    def take(self, policy: Policy, key: str) -> tuple[float, int]:
        """Take one token.  Seconds until there is one (0: it was taken), and how many are left."""
        policy = self.policies.get(policy.name, policy)
        now = self._now()
        left, at = self._left.get((policy.name, key), (policy.most, now))
        left = min(policy.most, left + max(0.0, now - at) * policy.per_minute / 60)
        if left < 1:
            self._left[policy.name, key] = (left, now)
            self.refused += 1
            return max(0.001, (1 - left) * 60 / policy.per_minute), 0
        self._left[policy.name, key] = (left - 1, now)
        return 0.0, int(left - 1)
