"""What can go wrong at a cloud, each class by one name, as the faults of each simulated cloud.

The classes are those of the fault matrix that the design asks for; a cell of the matrix is a class at a cloud.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.clouds import aws, azure, gcp

Fault = aws.Fault | gcp.Fault | azure.Fault
#: Keywords: where it strikes (``region``, ``zone``, ``type``, ``market``) and how often (``times``, ``after``,
#: ``probability``).
_Make = Callable[..., Fault]


def _ec2(**fixed: Any) -> _Make:
    return lambda **where: aws.Fault(**{**fixed, **where})


def _gce(**fixed: Any) -> _Make:
    return lambda **where: gcp.Fault(**{**fixed, **where})


def _arm(**fixed: Any) -> _Make:
    return lambda **where: azure.Fault(**{**fixed, **where})


_T4 = "NVIDIA_T4_GPUS"


def _gce_quota(**where: Any) -> gcp.Fault:
    """A quota of the region that the fault names; of all regions' GPUs where it names none."""
    region = where.get("region", "*")
    if region == "*":
        told = {"metricName": "compute.googleapis.com/gpus_all_regions", "limitName": "GPUS-ALL-REGIONS-per-project"}
        return gcp.Fault(fails_with="QUOTA_EXCEEDED", quota={**told, "dimensions": {}, "limit": 1.0}, **where)
    told = {"metricName": "compute.googleapis.com/nvidia_t4_gpus", "limitName": "NVIDIA-T4-GPUS-per-project-region"}
    quota = {**told, "dimensions": {"region": region}, "limit": 1.0}
    return gcp.Fault(fails_with="QUOTA_EXCEEDED", quota=quota, **where)


_CORES = (
    "Operation could not be completed as it results in exceeding approved standardNCASv3_T4Family Cores quota. "
    "Additional details - Current Limit: 4, Current Usage: 4, Additional Required: 4, (Minimum) New Limit Required: 8."
)
_UNTOLD = "ServiceUnavailable"

#: Class -> cloud -> what makes its fault.  What only one cloud knows stands at that cloud alone.
CLASSES: Mapping[str, Mapping[str, _Make]] = {
    # The create call is refused.
    "throttled": {
        "aws": _ec2(code="RequestLimitExceeded"),
        "gcp": _gce(reason="rateLimitExceeded"),
        "azure": _arm(code="OperationNotAllowed", message="Too many requests.", status=429, retry_after=20),
    },
    "capacity": {
        "aws": _ec2(code="InsufficientInstanceCapacity"),
        "gcp": _gce(fails_with="ZONE_RESOURCE_POOL_EXHAUSTED"),
        "azure": _arm(code="SkuNotAvailable", message="The requested size is not available.", status=409),
    },
    "quota": {
        "aws": _ec2(code="VcpuLimitExceeded", market="on-demand"),
        "gcp": _gce_quota,
        "azure": _arm(code="OperationNotAllowed", message=_CORES, status=409, market="on-demand"),
    },
    "auth": {
        "aws": _ec2(code="UnauthorizedOperation"),
        "gcp": _gce(reason="forbidden", message="Required 'compute.instances.create' permission"),
        "azure": _arm(code="AuthorizationFailed", message="The client does not have authorization.", status=403),
    },
    "config": {
        "aws": _ec2(code="InvalidGroup.NotFound"),
        "gcp": _gce(reason="invalid", message="Invalid value for field 'resource.networkInterfaces[0].subnetwork'"),
        "azure": _arm(code="InvalidResourceReference", message="The subnet is not there.", status=400),
    },
    "price": {"aws": _ec2(code="SpotMaxPriceTooLow", market="spot")},
    # Nobody knows what came of it.
    "stumble": {
        "aws": _ec2(code=_UNTOLD),
        "gcp": _gce(reason="backendError"),
        "azure": _arm(code=_UNTOLD, message="The service is unavailable now.", status=503),
    },
    "unconnected": {
        "aws": _ec2(lost="before", sent=False),
        "gcp": _gce(lost="before", sent=False),
        "azure": _arm(lost="before", sent=False),
    },
    "lost-before": {"aws": _ec2(lost="before"), "gcp": _gce(lost="before"), "azure": _arm(lost="before")},
    "lost-after": {"aws": _ec2(lost="after"), "gcp": _gce(lost="after"), "azure": _arm(lost="after")},
    # It was accepted.
    "accepted-then-fails": {
        "aws": _ec2(fails_with="Server.InsufficientInstanceCapacity"),
        "gcp": _gce(fails_with="ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", fails_after=6.0),
        "azure": _arm(fails_with="ZonalAllocationFailed", message="Allocation failed."),
    },
    "accepted-then-fails-late": {
        "gcp": _gce(fails_with="ZONE_RESOURCE_POOL_EXHAUSTED", fails_after=100.0),
        "azure": _arm(fails_with="OSProvisioningTimedOut", message="It did not report in time.", runs=True),
    },
    "fails-and-stays": {"gcp": _gce(fails_with="INTERNAL_ERROR", leaves=True)},
    "half-made": {"azure": _arm(half=True)},
    "vanishes": {
        "aws": _ec2(vanishes_after=30.0),
        "gcp": _gce(breaks_after=30.0),
        "azure": _arm(vanishes_after=30.0),
    },
    "preempted": {
        "aws": _ec2(preempted_after=70.0, market="spot"),
        "gcp": _gce(preempted_after=70.0, market="spot"),
        "azure": _arm(preempted_after=70.0, market="spot"),
    },
    "hidden": {"aws": _ec2(hidden_for=90.0), "gcp": _gce(hidden_for=45.0), "azure": _arm(hidden_for=90.0)},
    "slow": {"gcp": _gce(slow=80.0)},
    # Lists.
    "list-fails": {
        "aws": _ec2(operation="DescribeInstances", code="InternalError"),
        "gcp": _gce(method="instances.aggregatedList", reason="backendError"),
        "azure": _arm(operation="list", code="InternalServerError", status=500),
    },
    "list-lost": {
        "aws": _ec2(operation="DescribeInstances", lost="after"),
        "gcp": _gce(method="instances.aggregatedList", lost="after"),
        "azure": _arm(operation="list", lost="after"),
    },
    "list-partial": {
        "aws": _ec2(operation="DescribeInstances", region="us-east-1", code="Unavailable"),
        "gcp": _gce(
            method="instances.aggregatedList",
            unreachable=("us-central1-a", "us-central1-b"),
        ),
        "azure": _arm(operation="network", code="InternalServerError", status=500),
    },
    "list-warns": {
        "gcp": _gce(method="instances.aggregatedList", unreachable=("us-central1-a",), warning="UNREACHABLE"),
    },
    "list-throttled": {
        "aws": _ec2(operation="Describe*", code="RequestLimitExceeded"),
        "gcp": _gce(method="*ist", reason="rateLimitExceeded"),
        "azure": _arm(operation="list", code="TooManyRequests", status=429, retry_after=10),
    },
    # Looks at one.
    "look-lost": {
        "aws": _ec2(operation="DescribeInstances", lost="after"),
        "gcp": _gce(method="instances.get|zoneOperations.get", lost="after"),
        "azure": _arm(operation="get|operation", lost="after"),
    },
    # The end.
    "delete-404": {
        "aws": _ec2(operation="TerminateInstances", code="InvalidInstanceID.NotFound"),
        "gcp": _gce(method="instances.delete", reason="notFound"),
        "azure": _arm(operation="delete", code="ResourceNotFound", message="It was not found.", status=404),
    },
    "delete-fails": {
        "aws": _ec2(operation="TerminateInstances", code="InternalError"),
        "gcp": _gce(method="instances.delete", reason="backendError"),
        "azure": _arm(operation="delete", code="InternalServerError", status=500),
    },
    "delete-lost": {
        "aws": _ec2(operation="TerminateInstances", lost="after"),
        "gcp": _gce(method="instances.delete", lost="after"),
        "azure": _arm(operation="delete", lost="after"),
    },
    "delete-throttled": {
        "aws": _ec2(operation="TerminateInstances", code="RequestLimitExceeded"),
        "gcp": _gce(method="instances.delete", reason="rateLimitExceeded"),
        "azure": _arm(operation="delete", code="TooManyRequests", status=429, retry_after=10),
    },
    "delete-stuck": {
        "aws": _ec2(operation="TerminateInstances", stuck=True),
        "gcp": _gce(method="instances.delete", stuck=True),
        "azure": _arm(operation="delete", stuck=True),
    },
}


def fault(kind: str, cloud: str, **where: Any) -> Fault:
    """The fault of that class at that cloud."""
    return CLASSES[kind][cloud](**where)


def inject(sky: Any, kind: str, cloud: str, **where: Any) -> Fault:
    """Let it happen."""
    made = fault(kind, cloud, **where)
    sky.cloud.faults.append(made)
    sky.injected.append((kind, made))
    return made


def unstick(sky: Any) -> None:
    """What was stuck goes on."""
    for box in sky.boxes():
        instance = box.instance
        if not instance.stuck:
            continue
        instance.stuck = False
        if isinstance(instance, gcp.Instance) and instance.exists:
            sky.cloud.remove(instance.ref)


def clear(skies: Sequence[Any]) -> None:
    """Nothing goes wrong any more."""
    for sky in skies:
        sky.cloud.faults.clear()
        unstick(sky)
