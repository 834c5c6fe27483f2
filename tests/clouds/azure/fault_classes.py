"""The classes of the fault matrix as faults of Azure Resource Manager."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.clouds.adapter import FaultMaker
from tests.clouds.azure.faults import Fault

_CORES = (
    "Operation could not be completed as it results in exceeding approved standardNCASv3_T4Family Cores quota. "
    "Additional details - Current Limit: 4, Current Usage: 4, Additional Required: 4, (Minimum) New Limit Required: 8."
)


def _fault(**fixed: Any) -> FaultMaker:
    return lambda **where: Fault(**{**fixed, **where})


CLASSES: Mapping[str, FaultMaker] = {
    # The create call is refused.
    "throttled": _fault(code="OperationNotAllowed", message="Too many requests.", status=429, retry_after=20),
    "capacity": _fault(code="SkuNotAvailable", message="The requested size is not available.", status=409),
    "quota": _fault(code="OperationNotAllowed", message=_CORES, status=409, market="on-demand"),
    "auth": _fault(code="AuthorizationFailed", message="The client does not have authorization.", status=403),
    "config": _fault(code="InvalidResourceReference", message="The subnet is not there.", status=400),
    # Nobody knows what came of it.
    "stumble": _fault(code="ServiceUnavailable", message="The service is unavailable now.", status=503),
    "unconnected": _fault(lost="before", sent=False),
    "lost-before": _fault(lost="before"),
    "lost-after": _fault(lost="after"),
    # It was accepted.
    "accepted-then-fails": _fault(fails_with="ZonalAllocationFailed", message="Allocation failed."),
    "accepted-then-fails-late": _fault(
        fails_with="OSProvisioningTimedOut", message="It did not report in time.", runs=True
    ),
    "half-made": _fault(half=True),
    "vanishes": _fault(vanishes_after=30.0),
    "preempted": _fault(preempted_after=70.0, market="spot"),
    "hidden": _fault(hidden_for=90.0),
    # Lists.
    "list-fails": _fault(operation="list", code="InternalServerError", status=500),
    "list-lost": _fault(operation="list", lost="after"),
    "list-partial": _fault(operation="network", code="InternalServerError", status=500),
    "list-throttled": _fault(operation="list", code="TooManyRequests", status=429, retry_after=10),
    # Looks at one.
    "look-lost": _fault(operation="get|operation", lost="after"),
    # The end.
    "delete-404": _fault(operation="delete", code="ResourceNotFound", message="It was not found.", status=404),
    "delete-fails": _fault(operation="delete", code="InternalServerError", status=500),
    "delete-lost": _fault(operation="delete", lost="after"),
    "delete-throttled": _fault(operation="delete", code="TooManyRequests", status=429, retry_after=10),
    "delete-stuck": _fault(operation="delete", stuck=True),
}
