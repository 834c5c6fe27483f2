"""The classes of the fault matrix as faults of Compute Engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.clouds.adapter import FaultMaker
from tests.clouds.gcp.faults import Fault


def _fault(**fixed: Any) -> FaultMaker:
    return lambda **where: Fault(**{**fixed, **where})


def _quota(**where: Any) -> Fault:
    """Return a refusal by a quota of the region that is named; of all regions' GPUs where none is."""
    region = where.get("region", "*")
    if region == "*":
        names = {"metricName": "compute.googleapis.com/gpus_all_regions", "limitName": "GPUS-ALL-REGIONS-per-project"}
        return Fault(fails_with="QUOTA_EXCEEDED", quota={**names, "dimensions": {}, "limit": 1.0}, **where)
    names = {"metricName": "compute.googleapis.com/nvidia_t4_gpus", "limitName": "NVIDIA-T4-GPUS-per-project-region"}
    quota = {**names, "dimensions": {"region": region}, "limit": 1.0}
    return Fault(fails_with="QUOTA_EXCEEDED", quota=quota, **where)


CLASSES: Mapping[str, FaultMaker] = {
    # The create call is refused.
    "throttled": _fault(reason="rateLimitExceeded"),
    "capacity": _fault(fails_with="ZONE_RESOURCE_POOL_EXHAUSTED"),
    "quota": _quota,
    "auth": _fault(reason="forbidden", message="Required 'compute.instances.create' permission"),
    "config": _fault(reason="invalid", message="Invalid value for field 'resource.networkInterfaces[0].subnetwork'"),
    # Nobody knows what came of it.
    "stumble": _fault(reason="backendError"),
    "unconnected": _fault(lost="before", sent=False),
    "lost-before": _fault(lost="before"),
    "lost-after": _fault(lost="after"),
    # It was accepted.
    "accepted-then-fails": _fault(fails_with="ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", fails_after=6.0),
    "accepted-then-fails-late": _fault(fails_with="ZONE_RESOURCE_POOL_EXHAUSTED", fails_after=100.0),
    "fails-and-stays": _fault(fails_with="INTERNAL_ERROR", leaves=True),
    "vanishes": _fault(breaks_after=30.0),
    "preempted": _fault(preempted_after=70.0, market="spot"),
    "hidden": _fault(hidden_for=45.0),
    "slow": _fault(slow=80.0),
    # Lists.
    "list-fails": _fault(method="instances.aggregatedList", reason="backendError"),
    "list-lost": _fault(method="instances.aggregatedList", lost="after"),
    "list-partial": _fault(
        method="instances.aggregatedList",
        unreachable=("us-central1-a", "us-central1-b"),
    ),
    "list-warns": _fault(method="instances.aggregatedList", unreachable=("us-central1-a",), warning="UNREACHABLE"),
    "list-throttled": _fault(method="*ist", reason="rateLimitExceeded"),
    # Looks at one.
    "look-lost": _fault(method="instances.get|zoneOperations.get", lost="after"),
    # The end.
    "delete-404": _fault(method="instances.delete", reason="notFound"),
    "delete-fails": _fault(method="instances.delete", reason="backendError"),
    "delete-lost": _fault(method="instances.delete", lost="after"),
    "delete-throttled": _fault(method="instances.delete", reason="rateLimitExceeded"),
    "delete-stuck": _fault(method="instances.delete", stuck=True),
}
