"""The classes of the fault matrix as faults of EC2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.clouds.adapter import FaultMaker
from tests.clouds.aws.faults import Fault


def _fault(**fixed: Any) -> FaultMaker:
    return lambda **where: Fault(**{**fixed, **where})


CLASSES: Mapping[str, FaultMaker] = {
    # The create call is refused.
    "throttled": _fault(code="RequestLimitExceeded"),
    "capacity": _fault(code="InsufficientInstanceCapacity"),
    "quota": _fault(code="VcpuLimitExceeded", market="on-demand"),
    "auth": _fault(code="UnauthorizedOperation"),
    "config": _fault(code="InvalidGroup.NotFound"),
    "price": _fault(code="SpotMaxPriceTooLow", market="spot"),
    # Nobody knows what came of it.
    "stumble": _fault(code="ServiceUnavailable"),
    "unconnected": _fault(lost="before", sent=False),
    "lost-before": _fault(lost="before"),
    "lost-after": _fault(lost="after"),
    # It was accepted.
    "accepted-then-fails": _fault(fails_with="Server.InsufficientInstanceCapacity"),
    "vanishes": _fault(vanishes_after=30.0),
    "preempted": _fault(preempted_after=70.0, market="spot"),
    "hidden": _fault(hidden_for=90.0),
    # Lists.
    "list-fails": _fault(operation="DescribeInstances", code="InternalError"),
    "list-lost": _fault(operation="DescribeInstances", lost="after"),
    "list-partial": _fault(operation="DescribeInstances", region="us-east-1", code="Unavailable"),
    "list-throttled": _fault(operation="Describe*", code="RequestLimitExceeded"),
    # Looks at one.
    "look-lost": _fault(operation="DescribeInstances", lost="after"),
    # The end.
    "delete-404": _fault(operation="TerminateInstances", code="InvalidInstanceID.NotFound"),
    "delete-fails": _fault(operation="TerminateInstances", code="InternalError"),
    "delete-lost": _fault(operation="TerminateInstances", lost="after"),
    "delete-throttled": _fault(operation="TerminateInstances", code="RequestLimitExceeded"),
    "delete-stuck": _fault(operation="TerminateInstances", stuck=True),
}
