"""Azure's error codes: one row per code, and the pure functions that read an exception by them.

Azure's exceptions and HTTP statuses mislead: a size without capacity comes as 409 and so as ``ResourceExistsError``,
and an operation that failed comes as status 200.  Only ``error.code``, and for some codes a term in the message,
decide; the status is looked at where there is no code.

Sources: Azure's own pages on allocation failures, quota and throttling errors; the times that Karpenter's provider
for Azure keeps.  Rows marked "unverified" are from memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from azure.core import exceptions

from provisioners import base
from provisioners.azure.error_scopes import ErrorScope, Target
from provisioners.base import Kind
from provisioners.cloud_common import errors
from provisioners.cloud_common.errors import Row
from provisioners.support import numbers

MINUTE, HOUR = 60.0, 3600.0
#: What a call can end in: the SDK's errors, those of its transport that it lets through, and answers of another form.
HEARD = (exceptions.AzureError, aiohttp.ClientError, OSError, ValueError, base.ProvisionError)
#: Seconds for which a throttling answer is believed at most.
LONGEST_PAUSE_S = 120.0
#: Seconds to pause where a throttling answer names none: buckets fill by the minute.
USUAL_PAUSE_S = 10.0


#: Where a code has several rows, the first whose message fits is taken.
_ROWS: Mapping[str, Row[ErrorScope] | tuple[Row[ErrorScope], ...]] = {
    # Capacity.
    "SkuNotAvailable": Row(Kind.CAPACITY, ErrorScope.SIZE_AND_MARKET, block_for=23 * HOUR, spot_block_for=HOUR),
    "ZonalAllocationFailed": Row(Kind.CAPACITY, ErrorScope.LARGER_IN_ZONE, block_for=HOUR),
    "AllocationFailed": Row(Kind.CAPACITY, ErrorScope.SIZE, block_for=HOUR),
    "OverconstrainedZonalAllocationRequest": Row(Kind.CAPACITY, ErrorScope.OFFER, block_for=HOUR),
    "OverconstrainedAllocationRequest": Row(Kind.CAPACITY, ErrorScope.SIZE_AND_MARKET, block_for=HOUR),
    # Throttling, before the quota rows of the same code.
    "OperationNotAllowed": (
        Row(Kind.THROTTLED, ErrorScope.REGION, message="too many requests"),
        Row(Kind.QUOTA, ErrorScope.SPOT, message="lowprioritycores", block_for=HOUR),
        Row(Kind.QUOTA, ErrorScope.REGION, message="total regional cores"),
        Row(Kind.QUOTA, ErrorScope.FAMILY_AND_MARKET, message="family cores quota.*current limit: 0,", block_for=HOUR),
        Row(Kind.QUOTA, ErrorScope.FAMILY_AND_MARKET, message="family cores quota", block_for=10 * MINUTE),
        Row(Kind.QUOTA, ErrorScope.REGION, message="submit a request for quota increase"),
        Row(Kind.QUOTA, ErrorScope.REGION, message="exceeding approved"),
    ),
    "TooManyRequests": Row(Kind.THROTTLED, ErrorScope.REGION),
    "SubscriptionRequestsThrottled": Row(Kind.THROTTLED, ErrorScope.ACCOUNT),
    "ResourceRequestsThrottled": Row(Kind.THROTTLED, ErrorScope.REGION),
    "RetryableErrorDueToAnotherOperation": Row(Kind.THROTTLED, ErrorScope.REGION),
    # Quota.
    "QuotaExceeded": Row(Kind.QUOTA, ErrorScope.REGION),
    "InsufficientSubnetSize": Row(Kind.QUOTA, ErrorScope.REGION),
    "SubnetIsFull": Row(Kind.QUOTA, ErrorScope.REGION),
    "PublicIPCountLimitReached": Row(Kind.QUOTA, ErrorScope.REGION),
    # The credential and the subscription.
    "ReadOnlyDisabledSubscription": Row(Kind.AUTH, ErrorScope.ACCOUNT),
    "AuthorizationFailed": Row(Kind.AUTH, ErrorScope.ACCOUNT),
    "LinkedAuthorizationFailed": Row(Kind.AUTH, ErrorScope.REGION),
    "ClientAuthenticationError": Row(Kind.AUTH, ErrorScope.ACCOUNT),
    "AuthenticationFailed": Row(Kind.AUTH, ErrorScope.ACCOUNT),
    "InvalidAuthenticationToken": Row(Kind.AUTH, ErrorScope.ACCOUNT),
    "InvalidAuthenticationTokenTenant": Row(Kind.AUTH, ErrorScope.ACCOUNT),
    "ExpiredAuthenticationToken": Row(Kind.AUTH, ErrorScope.ACCOUNT),
    "SubscriptionNotFound": Row(Kind.AUTH, ErrorScope.ACCOUNT),
    "InvalidSubscriptionId": Row(Kind.AUTH, ErrorScope.ACCOUNT),
    # The request as configured.
    "ImageNotFound": Row(Kind.CONFIG, ErrorScope.SIZE),
    "PlatformImageNotFound": Row(Kind.CONFIG, ErrorScope.SIZE),
    "GalleryImageNotFound": Row(Kind.CONFIG, ErrorScope.SIZE),
    "InvalidParameter": Row(Kind.CONFIG, ErrorScope.SIZE),
    "InvalidTemplate": Row(Kind.CONFIG, ErrorScope.SIZE),
    "InvalidRequestContent": Row(Kind.CONFIG, ErrorScope.SIZE),
    "InvalidRequestFormat": Row(Kind.CONFIG, ErrorScope.SIZE),
    "InvalidResourceReference": Row(Kind.CONFIG, ErrorScope.REGION),
    "BadRequest": Row(Kind.CONFIG, ErrorScope.SIZE),
    "LocationNotAvailableForResourceType": Row(Kind.CONFIG, ErrorScope.REGION),
    "MarketplacePurchaseEligibilityFailed": Row(Kind.CONFIG, ErrorScope.SIZE),
    "ResourcePurchaseValidationFailed": Row(Kind.CONFIG, ErrorScope.SIZE),
    "VMMarketplaceInvalidInput": Row(Kind.CONFIG, ErrorScope.SIZE),
    "RequestDisallowedByPolicy": Row(Kind.CONFIG, ErrorScope.SIZE),
    "ResourceGroupNotFound": Row(Kind.CONFIG, ErrorScope.ACCOUNT),
    "MissingSubscriptionRegistration": Row(Kind.CONFIG, ErrorScope.ACCOUNT),
    "PropertyChangeNotAllowed": Row(Kind.CONFIG, ErrorScope.OFFER),
    # A stumble.
    "NicReservedForAnotherVm": Row(Kind.TRANSIENT, ErrorScope.OFFER, block_for=3 * MINUTE),
    "AnotherOperationInProgress": Row(Kind.TRANSIENT, ErrorScope.OFFER),
    "OperationPreempted": Row(Kind.TRANSIENT, ErrorScope.OFFER),
    "Conflict": Row(Kind.TRANSIENT, ErrorScope.OFFER),
    "InternalServerError": Row(Kind.TRANSIENT, ErrorScope.OFFER, maybe_created=True),
    "InternalExecutionError": Row(Kind.TRANSIENT, ErrorScope.OFFER, maybe_created=True),
    "InternalOperationError": Row(Kind.TRANSIENT, ErrorScope.OFFER, maybe_created=True),
    "NetworkingInternalOperationError": Row(Kind.TRANSIENT, ErrorScope.OFFER, maybe_created=True),
    "ServerTimeout": Row(Kind.TRANSIENT, ErrorScope.OFFER, maybe_created=True),
    "GatewayTimeout": Row(Kind.TRANSIENT, ErrorScope.OFFER, maybe_created=True),
    "ServiceUnavailable": Row(Kind.TRANSIENT, ErrorScope.OFFER, maybe_created=True),
    # The machine was there and its system did not come up.
    "OSProvisioningTimedOut": Row(Kind.BOOT, ErrorScope.OFFER),
    "OSProvisioningClientError": Row(Kind.BOOT, ErrorScope.OFFER),
    "OSProvisioningInternalError": Row(Kind.BOOT, ErrorScope.OFFER),
    "VMExtensionProvisioningError": Row(Kind.BOOT, ErrorScope.OFFER),
    "VMExtensionProvisioningTimeout": Row(Kind.BOOT, ErrorScope.OFFER),
    # What is looked for and not there.
    "ResourceNotFound": Row(Kind.NOT_FOUND, ErrorScope.OFFER),
    "NotFound": Row(Kind.NOT_FOUND, ErrorScope.OFFER),
}
TABLE = errors.Table(_ROWS, normal=str.lower)

#: Answers to a create-only PUT from which only a look can tell whether the machine is there.
EXISTS = frozenset({"PreconditionFailed", "PropertyChangeNotAllowed", "Conflict", "AnotherOperationInProgress"})


@dataclass(frozen=True, slots=True)
class ApiError:
    """An error as Azure sent it."""

    code: str
    message: str
    #: The codes inside, the outermost first, with their messages.
    all: tuple[tuple[str, str], ...] = field(default=())


def read(error: exceptions.HttpResponseError) -> ApiError:
    """Code and message of an answer, empty where its body has none."""
    if error.error is None:
        return ApiError("", str(error.message or error))
    pairs = tuple(_pairs(error.error))
    return ApiError(pairs[0][0], pairs[0][1], pairs)


def _pairs(node: Any) -> Iterator[tuple[str, str]]:
    yield str(node.code or ""), str(node.message or "")
    for one in node.details or ():
        yield from _pairs(one)


def launch_failure(code: str, message: str, target: Target) -> base.Failure:
    """Return the failure of a launch that was accepted and failed later."""
    row = TABLE.find(code, message)
    if row is None:
        return base.Failure(Kind.TRANSIENT, _message(code, message), code=code)
    return errors.failure(row, _message(code, message), code=code, target=target).failure


def classify(error: BaseException, target: Target) -> base.ProvisionError:
    """Return the failure that an exception of the SDK or of its transport stands for; pure."""
    if isinstance(error, base.ProvisionError):
        return error
    if isinstance(error, exceptions.HttpResponseError) and error.response is not None:
        return _of_answer(error, target)
    if isinstance(error, exceptions.ClientAuthenticationError):
        # The sign-in failed before anything was asked of the management API.
        message = " ".join(str(error.message).split())
        return base.ProvisionError(
            Kind.AUTH, message, scope=target.pattern(ErrorScope.ACCOUNT), code="ClientAuthenticationError"
        )
    name = type(error).__name__
    if isinstance(error, exceptions.ServiceRequestError) and _never_sent(error):
        return base.ProvisionError(Kind.TRANSIENT, f"no connection to Azure: {error}", code=name)
    return base.ProvisionError(Kind.TRANSIENT, f"no answer from Azure: {error}", code=name, maybe_created=True)


def _never_sent(error: exceptions.ServiceRequestError) -> bool:
    """True when no connection was made.

    azure-core's transport calls a connection that broke after the request was sent a request error, too; only the
    error underneath tells.
    """
    return isinstance(error, exceptions.ServiceRequestTimeoutError) or isinstance(
        error.inner_exception, aiohttp.ClientConnectorError | aiohttp.ClientSSLError
    )


def _of_answer(error: exceptions.HttpResponseError, target: Target) -> base.ProvisionError:
    heard = read(error)
    status = int(error.status_code or 0)
    words = _message(heard.code, heard.message)
    row = TABLE.first(heard.all)
    if row is None:
        return _of_status(status, heard.code, words, target, error)
    pause = retry_after(error) if row.kind is Kind.THROTTLED else 0.0
    return errors.failure(row, words, code=heard.code, target=target, retry_after=pause)


def _of_status(
    status: int, code: str, words: str, target: Target, error: exceptions.HttpResponseError
) -> base.ProvisionError:
    """Return the failure of a status; an unknown code speaks for this offer alone."""
    code = code or f"HTTP {status}"
    if status == 429:
        pause = retry_after(error)
        scope = target.pattern(ErrorScope.REGION)
        return base.ProvisionError(Kind.THROTTLED, words, scope=scope, code=code, retry_after=pause)
    if status in (401, 403) or isinstance(error, exceptions.ClientAuthenticationError):
        # A refused sign-in comes with 400 as well, and says nothing about any offer.
        return base.ProvisionError(Kind.AUTH, words, scope=target.pattern(ErrorScope.ACCOUNT), code=code)
    if status == 404:
        return base.ProvisionError(Kind.NOT_FOUND, words, code=code)
    if status in (400, 405, 413, 415, 422):
        return base.ProvisionError(Kind.CONFIG, words, scope=target.pattern(ErrorScope.SIZE), code=code)
    refused = 400 <= status < 500 and status != 408
    return base.ProvisionError(Kind.TRANSIENT, words, code=code, maybe_created=not refused)


def retry_after(error: exceptions.HttpResponseError) -> float:
    """The pause in seconds that a throttling answer asks for, within reason."""
    pause = pause_of(getattr(error.response, "headers", {}))
    return USUAL_PAUSE_S if pause is None else pause


def pause_of(headers: Any) -> float | None:
    """The pause in seconds that headers ask for, within reason; None when they ask for none."""
    seconds = numbers.real(headers.get("Retry-After"), low=-numbers.LARGEST)
    return None if seconds is None else min(max(seconds, 0.0), LONGEST_PAUSE_S)


def _message(code: str, message: str) -> str:
    text = " ".join(message.split())[:500]
    return f"{code}: {text}" if code and not text.startswith(code) else text or code
