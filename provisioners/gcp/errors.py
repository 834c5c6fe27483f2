"""Google's error codes: one row per code, and the functions that read an exception or an operation by them.

The SDK's exception classes are not consulted: it raises ``Forbidden`` for an exhausted quota and ``ServiceUnavailable``
for a zone without machines, and retries count on the latter.  The code decides, the status only where there is none.

Sources: "Troubleshooting VM creation", "Resource availability errors", "Rate quotas" and "Allocation quotas" of the
Compute Engine documentation, and the schemas ``Operation.error`` and ``QuotaExceededInfo`` of its API.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import requests
import urllib3
from google.api_core import exceptions
from google.auth import exceptions as auth_exceptions
from google.cloud import compute_v1

from provisioners import base
from provisioners.base import Kind
from provisioners.cloud_common import errors
from provisioners.cloud_common.errors import Row
from provisioners.gcp.error_scopes import ErrorScope, Target
from provisioners.support import numbers

#: Seconds that a zone without a machine type stays without: it is a fact of the zone, not of the hour.
_DAY_S = 86400.0
#: Seconds for which Google advises to leave a stocked-out zone alone.
_STOCKOUT_S = 300.0
#: Seconds that an address range stays full, by other clients' experience.
_ADDRESSES_S = 30.0
#: Seconds for a quota of zero: it has to be raised first.
_ZERO_S = 3600.0
#: Seconds past the minute at which a rate quota is surely refilled.
_MINUTE_SLACK_S = 1.0


_CAPACITY = Row(Kind.CAPACITY, ErrorScope.OFFER, _STOCKOUT_S)
_AUTH = Row(Kind.AUTH, ErrorScope.PROJECT)
_THROTTLED = Row(Kind.THROTTLED, ErrorScope.NOTHING)
_CONFIG = Row(Kind.CONFIG, ErrorScope.TYPE_IN_REGION)
_BACKEND = Row(Kind.TRANSIENT, ErrorScope.NOTHING, maybe_created=True)

#: Rows that only the message tells apart; the first that fits counts.
_BY_MESSAGE = (
    Row(Kind.CONFIG, ErrorScope.ZONE, message=r"Location \S+ is not found or access is unauthorized"),
    Row(Kind.CONFIG, ErrorScope.PROJECT, message=r"constraints/[a-z./]+"),
    Row(
        Kind.CONFIG,
        ErrorScope.TYPE_IN_ZONE,
        _DAY_S,
        message=r"/(machineTypes|acceleratorTypes)/|machine type with name",
    ),
    Row(Kind.CONFIG, ErrorScope.REGION, message=r"/(networks|subnetworks)/"),
    Row(Kind.CONFIG, ErrorScope.TYPE, message=r"/images/"),
)
_REFUSED = (*_BY_MESSAGE, _CONFIG)

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def normal(code: str) -> str:
    """A code as the table has it."""
    return _CAMEL.sub("_", code).upper()


#: By code in capitals with underscores: ``quotaExceeded`` of an HTTP answer is ``QUOTA_EXCEEDED`` of an operation.
_ROWS: Mapping[str, Row[ErrorScope] | tuple[Row[ErrorScope], ...]] = {
    "ZONE_RESOURCE_POOL_EXHAUSTED": _CAPACITY,
    "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS": _CAPACITY,
    "RESOURCE_POOL_EXHAUSTED": _CAPACITY,
    "INSUFFICIENT_CAPACITY": _CAPACITY,
    "STOCKOUT": _CAPACITY,
    # A spot instance that is preempted while it is made.
    "UNSUPPORTED_OPERATION": Row(Kind.CAPACITY, ErrorScope.OFFER, _STOCKOUT_S, maybe_created=True),
    "QUOTA_EXCEEDED": Row(Kind.QUOTA, ErrorScope.METRIC),
    "LIMIT_EXCEEDED": Row(Kind.QUOTA, ErrorScope.METRIC),
    "IP_SPACE_EXHAUSTED": Row(Kind.CAPACITY, ErrorScope.REGION, _ADDRESSES_S),
    "IP_SPACE_EXHAUSTED_WITH_DETAILS": Row(Kind.CAPACITY, ErrorScope.REGION, _ADDRESSES_S),
    "RESOURCE_NOT_READY": Row(Kind.TRANSIENT, ErrorScope.ZONE, maybe_created=True),
    "RESOURCE_OPERATION_RATE_EXCEEDED": Row(Kind.TRANSIENT, ErrorScope.ZONE),
    "VM_MIN_COUNT_NOT_REACHED": Row(Kind.TRANSIENT, ErrorScope.ZONE, maybe_created=True),
    # Of an operation: something that the launch needs went away under it; elsewhere it may work.
    "RESOURCE_NOT_FOUND": (*_BY_MESSAGE, Row(Kind.CAPACITY, ErrorScope.ZONE, maybe_created=True)),
    "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE": Row(Kind.TRANSIENT, ErrorScope.OFFER),
    "RESOURCE_ALREADY_EXISTS": Row(Kind.CONFIG, ErrorScope.OFFER, maybe_created=True),
    "ALREADY_EXISTS": Row(Kind.CONFIG, ErrorScope.OFFER, maybe_created=True),
    "RATE_LIMIT_EXCEEDED": _THROTTLED,
    "USER_RATE_LIMIT_EXCEEDED": _THROTTLED,
    "CONCURRENT_OPERATIONS_QUOTA_EXCEEDED": _THROTTLED,
    "TOO_MANY_REQUESTS": _THROTTLED,
    "PERMISSIONS_ERROR": _AUTH,
    "IAM_PERMISSION_DENIED": _AUTH,
    "FORBIDDEN": _AUTH,
    "UNAUTHORIZED": _AUTH,
    "AUTH_ERROR": _AUTH,
    "REQUIRED_PERMISSION_DENIED": _AUTH,
    "ACCESS_NOT_CONFIGURED": _AUTH,
    "SERVICE_DISABLED": _AUTH,
    "BILLING_DISABLED": _AUTH,
    "SERVICE_ACCOUNT_ACCESS_DENIED": _AUTH,
    "CONDITION_NOT_MET": _REFUSED,
    "INVALID": _REFUSED,
    "INVALID_FIELD_VALUE": _REFUSED,
    "INVALID_USAGE": _CONFIG,
    "INVALID_PARAMETER": _CONFIG,
    "INVALID_ARGUMENT": _CONFIG,
    "BAD_REQUEST": _REFUSED,
    "PARSE_ERROR": _CONFIG,
    "REQUIRED": _CONFIG,
    "NOT_FOUND": _REFUSED,
    "BACKEND_ERROR": _BACKEND,
    "INTERNAL_ERROR": _BACKEND,
    "SERVICE_UNAVAILABLE": _BACKEND,
    "TIMEOUT": _BACKEND,
}

TABLE = errors.Table(_ROWS, normal=normal)

#: What goes wrong before a request can be sent: no address, no answer to the handshake, a certificate not trusted.
_UNCONNECTED = (
    urllib3.exceptions.NewConnectionError,
    urllib3.exceptions.ConnectTimeoutError,
    ssl.SSLCertVerificationError,
)

#: The SDK puts the request before what the API says.
_SENT = re.compile(r"^[A-Z]+ https?://\S+: ")
_QUOTA = re.compile(
    r"Quota '(?P<metric>[A-Z0-9_]+)' exceeded\.\s+Limit: (?P<limit>[0-9.]+)(?: in region (?P<region>[a-z0-9-]+))?"
)


@dataclass(frozen=True, slots=True)
class ApiError:
    """A failure as the API states it, in an answer or in an operation."""

    codes: tuple[str, ...]
    message: str
    #: Of an exceeded quota.
    metric: str = ""
    region: str = ""
    family: str = ""
    limit: float | None = None
    #: The HTTP status; 0 for what an operation carries.
    status: int = 0
    retry_after: float = 0.0


def from_operation(operation: compute_v1.Operation, target: Target, *, now: float = 0.0) -> base.ProvisionError:
    """Return the failure that a finished operation carries; ``maybe_created`` where something may be left of it."""
    first = operation.error.errors[0] if operation.error.errors else None
    if first is None:
        stated = ApiError(("",), operation.http_error_message or "the operation failed", status=0)
    else:
        found = ApiError((first.code,), first.message or first.code)
        for detail in first.error_details:
            info = detail.quota_info
            if info.metric_name or info.limit_name:
                found = _with_quota(
                    found,
                    limit_name=info.limit_name,
                    metric_name=info.metric_name,
                    dimensions=dict(info.dimensions),
                    limit=info.limit,
                )
        stated = _with_words(found)
    row = _row(stated)
    return _error(stated, row, target, maybe_created=row.maybe_created, now=now)


def classify(error: BaseException, target: Target, *, now: float, creating: bool = False) -> base.ProvisionError:
    """Return the failure that an exception of the SDK, of its credentials or of the connection stands for.

    ``creating``: the call was to make an instance, so an answer that is lost leaves it unclear whether it did.
    """
    if isinstance(error, base.ProvisionError):
        return error
    if isinstance(error, exceptions.GoogleAPICallError):
        stated = _from_http(error)
        row = _row(stated)
        unclear = creating and (stated.status >= 500 or stated.status == 408) and not _definite(stated)
        return _error(stated, row, target, maybe_created=unclear, now=now)
    if isinstance(error, auth_exceptions.GoogleAuthError):
        if isinstance(error, auth_exceptions.TransportError) or getattr(error, "retryable", False):
            return base.ProvisionError(Kind.TRANSIENT, f"{target}: no access token: {error}", code="TokenUnavailable")
        return base.ProvisionError(
            Kind.AUTH,
            f"{target}: the credentials do not work: {_first(error)}",
            scope=target.pattern(ErrorScope.PROJECT),
            code=type(error).__name__,
        )
    if isinstance(error, requests.exceptions.RequestException):
        sent = not _never_sent(error)
        where = "the answer was lost" if sent else "no connection"
        return base.ProvisionError(
            Kind.TRANSIENT,
            f"{target}: {where}: {_first(error)}",
            code=type(error).__name__,
            maybe_created=creating and sent,
        )
    return base.ProvisionError(
        Kind.TRANSIENT, f"{target}: {type(error).__name__}: {error}", code=type(error).__name__, maybe_created=creating
    )


def is_conflict(error: BaseException) -> bool:
    """True for the answer that something of that name exists already."""
    return isinstance(error, exceptions.GoogleAPICallError) and error.code == 409


def is_missing(error: BaseException) -> bool:
    """True for the answer that there is nothing of that name."""
    return isinstance(error, exceptions.GoogleAPICallError) and error.code == 404


def next_minute(now: float) -> float:
    """Seconds until a rate quota is refilled: it is counted by the minute of the clock ("Rate quotas")."""
    return 60.0 - now % 60.0 + _MINUTE_SLACK_S


def _error(
    stated: ApiError, row: Row[ErrorScope], target: Target, *, maybe_created: bool, now: float
) -> base.ProvisionError:
    retry_after = 0.0
    if row.kind is Kind.THROTTLED:
        retry_after = stated.retry_after or next_minute(now)
    code = next((one for one in stated.codes if one), str(stated.status or "unknown"))
    failed = errors.failure(row, f"{target}: {stated.message}", code=code, target=target, retry_after=retry_after)
    failed.maybe_created = maybe_created
    if row.scope is ErrorScope.METRIC:
        failed.scope = target.quota_pattern(stated.metric, family=stated.family, region=stated.region)
        if stated.limit == 0:
            failed.block_for = _ZERO_S
    return failed


def _row(stated: ApiError) -> Row[ErrorScope]:
    row = TABLE.first((code, stated.message) for code in stated.codes)
    if row is not None:
        return row
    if stated.status == 429:
        return _THROTTLED
    if stated.status in (401, 403):
        return _AUTH
    if 400 <= stated.status < 500:
        return _CONFIG
    # An unknown code speaks for the smallest scope, and the message is there for people.
    return Row(Kind.TRANSIENT, ErrorScope.NOTHING if stated.status else ErrorScope.OFFER, maybe_created=True)


def _definite(stated: ApiError) -> bool:
    """Return True where a 5xx names a reason for which nothing was made."""
    rows = next((TABLE.rows[normal(code)] for code in stated.codes if normal(code) in TABLE.rows), ())
    return bool(rows) and not any(row.maybe_created for row in rows)


def _from_http(error: exceptions.GoogleAPICallError) -> ApiError:
    codes: list[str] = []
    details = [one for one in error.details if isinstance(one, Mapping)]
    stated = ApiError((), str(error.message or error), status=int(error.code or 0))
    for detail in details:
        kind = str(detail.get("@type", ""))
        if kind.endswith("ErrorInfo") and detail.get("reason"):
            codes.append(str(detail["reason"]))
        if kind.endswith("QuotaExceededInfo") or "limitName" in detail:
            stated = _with_quota(
                stated,
                limit_name=str(detail.get("limitName", "")),
                metric_name=str(detail.get("metricName", "")),
                dimensions=dict(detail.get("dimensions") or {}),
                limit=numbers.real(detail.get("limit")) or 0.0,
            )
    # google-api-core parses the details that it knows; what it made of an ErrorInfo is in `reason`.
    if error.reason:
        codes.append(str(error.reason))
    codes += [str(one["reason"]) for one in error.errors if isinstance(one, Mapping) and one.get("reason")]
    known = [one for one in codes if TABLE.find(one)]
    retry = error.response.headers.get("Retry-After", "") if error.response is not None else ""
    return _with_words(
        ApiError(
            (*known, *codes),
            _first(_SENT.sub("", stated.message)),
            metric=stated.metric,
            region=stated.region,
            family=stated.family,
            limit=stated.limit,
            status=stated.status,
            retry_after=numbers.real(retry) or 0.0,
        )
    )


def _with_quota(
    stated: ApiError, *, limit_name: str, metric_name: str, dimensions: Mapping[str, Any], limit: float
) -> ApiError:
    """Add what a ``QuotaExceededInfo`` says; its limit is named ``NVIDIA-L4-GPUS-per-project-region``."""
    metric = limit_name.partition("-per-project")[0].replace("-", "_").upper()
    return ApiError(
        stated.codes,
        stated.message,
        metric=metric or metric_name.rpartition("/")[2].upper(),
        region=str(dimensions.get("region", "")),
        family=str(dimensions.get("gpu_family", "")),
        limit=limit,
        status=stated.status,
        retry_after=stated.retry_after,
    )


def _with_words(stated: ApiError) -> ApiError:
    """Add what only the message says of a quota."""
    match = _QUOTA.search(stated.message)
    if match is None:
        return stated
    return ApiError(
        stated.codes,
        stated.message,
        metric=match["metric"],
        region=stated.region or match["region"] or "",
        family=stated.family,
        limit=float(match["limit"].rstrip(".")) if stated.limit is None else stated.limit,
        status=stated.status,
        retry_after=stated.retry_after,
    )


def _never_sent(error: requests.exceptions.RequestException) -> bool:
    """True where no connection was made, so that the server cannot have seen the request."""
    if isinstance(error, requests.exceptions.ConnectTimeout | requests.exceptions.InvalidURL):
        return True
    return any(isinstance(cause, _UNCONNECTED) for cause in _causes(error))


def _causes(error: BaseException) -> Iterable[BaseException]:
    seen: list[BaseException] = [error]
    while seen:
        one = seen.pop()
        yield one
        reason = getattr(one, "reason", None)
        if isinstance(reason, BaseException):
            seen.append(reason)
        seen += [part for part in one.args if isinstance(part, BaseException)]


def _first(error: object) -> str:
    """The first line, without the dump of the answer that some errors carry."""
    lines = str(error).strip().splitlines()
    return lines[0][:400] if lines else type(error).__name__
