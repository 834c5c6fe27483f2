"""Rate limits of the API and quotas of an account, as Amazon documents them.

Rates: "Throttle limits" in the EC2 developer guide.  Quotas count vCPUs by family group and market.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from moto.ec2.models.instance_types import INSTANCE_TYPES

from tests.clouds.aws import refusals

#: Operation -> its bucket; (tokens at once, refill per second).
_RATES = {
    "read": (100.0, 20.0),
    "unfiltered": (50.0, 10.0),
    "change": (50.0, 5.0),
    "run": (5.0, 2.0),
    "run-instances": (1000.0, 2.0),
    "terminate": (100.0, 5.0),
    "terminate-instances": (1000.0, 20.0),
    "tags": (100.0, 10.0),
    "quotas": (5.0, 0.16),
    "other": (100.0, 40.0),
}
#: Listings that cost more where they have neither filter nor page size.
_LARGE = frozenset(
    {
        "DescribeInstances",
        "DescribeInstanceStatus",
        "DescribeVolumes",
        "DescribeSpotInstanceRequests",
        "DescribeNetworkInterfaces",
        "DescribeSecurityGroups",
    }
)
#: Service Quotas' codes by market and first letters; vCPUs.
CODES = {
    ("on-demand", "g"): ("L-DB2E81BA", "Running On-Demand G and VT instances"),
    ("spot", "g"): ("L-3819A6DF", "All G and VT Spot Instance Requests"),
    ("on-demand", "p"): ("L-417A185B", "Running On-Demand P instances"),
    ("spot", "p"): ("L-7212CCBC", "All P4, P3 and P2 Spot Instance Requests"),
    ("spot", "p5"): ("L-C4BD4855", "All P5 Spot Instance Requests"),
    ("on-demand", "standard"): ("L-1216C47A", "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances"),
    ("spot", "standard"): ("L-34B43A08", "All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests"),
}
_STANDARD = frozenset({"a", "c", "d", "h", "i", "im", "is", "m", "r", "t", "z"})


def cpus(instance_type: str) -> int:
    """vCPUs of a type."""
    found: int = INSTANCE_TYPES.get(instance_type, {}).get("VCpuInfo", {}).get("DefaultVCpus", 2)
    return found


def quota_code(instance_type: str, market: str) -> str:
    """Return the quota that counts a type in a market; empty where this simulation has none."""
    match = re.match(r"([a-z]+)(\d)", instance_type)
    letters, generation = (match[1], match[2]) if match else ("", "")
    if market == "spot" and letters == "p" and generation == "5":
        group = "p5"
    elif letters in ("g", "gr", "vt"):
        group = "g"
    elif letters == "p":
        group = "p"
    else:
        group = "standard" if letters in _STANDARD else ""
    return CODES.get((market, group), ("", ""))[0]


@dataclass(slots=True)
class Limits:
    """Token buckets of one account."""

    now: Callable[[], float]
    enabled: bool = True
    _tokens: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)

    def spend(self, region: str, operation: str, *, narrowed: bool, resources: int = 1) -> None:
        """Take what a call costs, or refuse it."""
        if not self.enabled:
            return
        buckets = [(_bucket(operation, narrowed), 1.0)]
        if operation in ("RunInstances", "TerminateInstances"):
            buckets.append(
                ("run-instances" if operation == "RunInstances" else "terminate-instances", float(resources))
            )
        for name, cost in buckets:
            if self.left(region, name) < cost:
                raise refusals.Refused("RequestLimitExceeded", "Request limit exceeded.")
        for name, cost in buckets:
            self._tokens[region, name] = (self.left(region, name) - cost, self.now())

    def left(self, region: str, bucket: str) -> float:
        """Tokens that a bucket holds now."""
        burst, rate = _RATES[bucket]
        tokens, at = self._tokens.get((region, bucket), (burst, self.now()))
        return min(burst, tokens + max(0.0, self.now() - at) * rate)


def _bucket(operation: str, narrowed: bool) -> str:
    if operation == "RunInstances":
        return "run"
    if operation == "TerminateInstances":
        return "terminate"
    if operation in ("CreateTags", "DeleteTags"):
        return "tags"
    if operation in ("ListServiceQuotas", "GetServiceQuota"):
        return "quotas"
    if operation in ("GetParameter", "GetParameters", "GetCallerIdentity", "AssumeRole", "GetProducts"):
        return "other"
    if operation.startswith(("Describe", "Get", "List")):
        return "unfiltered" if operation in _LARGE and not narrowed else "read"
    return "change"
