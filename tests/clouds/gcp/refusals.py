"""Refusals as Compute Engine words them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tests.clouds import wire

#: HTTP status of a reason.
STATUS = {
    "badRequest": 400,
    "invalid": 400,
    "required": 400,
    "parseError": 400,
    "invalidParameter": 400,
    "invalidUsage": 400,
    "resourceNotReady": 400,
    "resourceInUseByAnotherResource": 400,
    "authError": 401,
    "unauthorized": 401,
    "forbidden": 403,
    "accessNotConfigured": 403,
    "quotaExceeded": 403,
    "rateLimitExceeded": 403,
    "notFound": 404,
    "alreadyExists": 409,
    "conditionNotMet": 412,
    "backendError": 503,
    "insufficientCapacity": 503,
    "internalError": 500,
}


class Refused(Exception):
    """The call is answered with an error."""

    def __init__(
        self, reason: str, message: str, *, status: int = 0, details: Sequence[dict[str, Any]] = (), domain: str = ""
    ) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
        self.status = status or STATUS.get(reason, 400)
        self.details = list(details)
        self.domain = domain or ("usageLimits" if self.status == 403 and "Limit" in reason else "global")


def info(reason: str, **metadata: str) -> dict[str, Any]:
    """An ``ErrorInfo``."""
    return {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": "googleapis.com",
        "metadata": metadata,
    }


def answer(refused: Refused) -> wire.Answer:
    """The error as JSON."""
    error: dict[str, Any] = {
        "code": refused.status,
        "message": refused.message,
        "errors": [{"message": refused.message, "domain": refused.domain, "reason": refused.reason}],
    }
    if refused.details:
        error["details"] = refused.details
    return told({"error": error}, refused.status)


def told(body: Any, status: int = 200) -> wire.Answer:
    """Any answer."""
    return wire.Answer(status, {"Content-Type": "application/json; charset=UTF-8"}, json.dumps(body).encode())


#: Error code of an operation -> (HTTP status that it carries, message, structured details).
def operation_error(code: str, *, zone: str, machine_type: str, message: str = "", **quota: Any) -> dict[str, Any]:
    """The ``error`` of an operation and the HTTP status beside it."""
    status, words = _OPERATIONS.get(code, (400, f"The operation failed: {code}"))
    one: dict[str, Any] = {"code": code, "message": message or words.format(zone=zone, type=machine_type)}
    if code.startswith("ZONE_RESOURCE_POOL_EXHAUSTED_WITH"):
        metadatas = {"zone": zone, "vmType": machine_type, "attachment": ""}
        one["errorDetails"] = [
            {
                "errorInfo": {
                    "reason": "resource_availability",
                    "domain": "compute.googleapis.com",
                    "metadatas": metadatas,
                }
            }
        ]
    if quota:
        one["errorDetails"] = [{"quotaInfo": quota}]
    return {
        "error": {"errors": [one]},
        "httpErrorStatusCode": status,
        "httpErrorMessage": _PHRASES.get(status, "ERROR"),
    }


_PHRASES = {400: "BAD REQUEST", 403: "FORBIDDEN", 404: "NOT FOUND", 409: "CONFLICT", 412: "PRECONDITION FAILED"}
_PHRASES |= {500: "INTERNAL SERVER ERROR", 503: "SERVICE UNAVAILABLE"}
_STOCKOUT = (
    "The zone '{zone}' does not have enough resources available to fulfill the request. '(resource type:compute)'."
)
_OPERATIONS = {
    "ZONE_RESOURCE_POOL_EXHAUSTED": (503, _STOCKOUT),
    "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS": (503, f"{_STOCKOUT} A {{type}} VM instance is currently unavailable."),
    "RESOURCE_POOL_EXHAUSTED": (503, "The resource pool is exhausted."),
    "IP_SPACE_EXHAUSTED": (400, "IP space of 'default' is exhausted."),
    "IP_SPACE_EXHAUSTED_WITH_DETAILS": (400, "IP space of 'default' is exhausted. Insufficient free IP addresses."),
    "UNSUPPORTED_OPERATION": (400, "Instance was preempted during creation."),
    "RESOURCE_NOT_READY": (400, "The resource is not ready."),
    "RESOURCE_OPERATION_RATE_EXCEEDED": (429, "Operation rate exceeded for resource."),
    "VM_MIN_COUNT_NOT_REACHED": (400, "Requested minimum count of 1 VMs could not be created."),
    "RESOURCE_NOT_FOUND": (404, "The resource was not found."),
    "PERMISSIONS_ERROR": (403, "Required permission is missing."),
    "CONDITION_NOT_MET": (412, "Constraint constraints/compute.vmExternalIpAccess violated for the project."),
    "INTERNAL_ERROR": (503, "Internal error. Please try again."),
    "CONCURRENT_OPERATIONS_QUOTA_EXCEEDED": (403, "Concurrent operations quota exceeded."),
}
