"""What an answer of Azure means for what is tried next: pure, one row for each code.

Azure's exceptions and HTTP statuses mislead: a size without capacity comes as 409 and so as ``ResourceExistsError``,
and an operation that failed comes as status 200.  Only ``error.code``, and for some codes a term in the message,
decide; the status is looked at where there is no code.

Sources: Azure's own pages on allocation failures, quota and throttling errors; the times that Karpenter's provider
for Azure keeps.  Rows marked "unverified" are from memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from azure.core import exceptions

from provisioners import base
from provisioners.azure.error_scopes import ErrorScope, Target
from provisioners.base import Kind
from provisioners.support import numbers

MINUTE, HOUR = 60.0, 3600.0
#: What a call can end in: the SDK's errors, those of its transport that it lets through, and answers of another form.
HEARD = (exceptions.AzureError, aiohttp.ClientError, OSError, ValueError, base.ProvisionError)
#: Seconds for which a throttling answer is believed at most.
LONGEST_PAUSE = 120.0
#: Seconds to pause where a throttling answer names none: buckets fill by the minute.
USUAL_PAUSE = 10.0


@dataclass(frozen=True, slots=True)
class Row:
    """One code, with a term that its message has, and what it means."""

    code: str
    kind: Kind
    scope: ErrorScope
    #: Lower case; empty: whatever the message says.
    term: str = ""
    block_for: float = 0.0
    #: Where the spot market's time differs.
    spot_block_for: float | None = None
    #: True where the provider may have carried the call out all the same.
    maybe: bool = False


#: The first row that fits is taken.
TABLE: tuple[Row, ...] = (
    # Capacity.
    Row("SkuNotAvailable", Kind.CAPACITY, ErrorScope.SIZE_AND_MARKET, block_for=23 * HOUR, spot_block_for=HOUR),
    Row("ZonalAllocationFailed", Kind.CAPACITY, ErrorScope.LARGER_IN_ZONE, block_for=HOUR),
    Row("AllocationFailed", Kind.CAPACITY, ErrorScope.SIZE, block_for=HOUR),
    Row("OverconstrainedZonalAllocationRequest", Kind.CAPACITY, ErrorScope.OFFER, block_for=HOUR),
    Row("OverconstrainedAllocationRequest", Kind.CAPACITY, ErrorScope.SIZE_AND_MARKET, block_for=HOUR),
    # Throttling, before the quota rows of the same code.
    Row("OperationNotAllowed", Kind.THROTTLED, ErrorScope.REGION, term="too many requests"),
    Row("TooManyRequests", Kind.THROTTLED, ErrorScope.REGION),
    Row("SubscriptionRequestsThrottled", Kind.THROTTLED, ErrorScope.ACCOUNT),
    Row("ResourceRequestsThrottled", Kind.THROTTLED, ErrorScope.REGION),
    Row("RetryableErrorDueToAnotherOperation", Kind.THROTTLED, ErrorScope.REGION),
    # Quota.
    Row("OperationNotAllowed", Kind.QUOTA, ErrorScope.SPOT, term="lowprioritycores", block_for=HOUR),
    Row("OperationNotAllowed", Kind.QUOTA, ErrorScope.REGION, term="total regional cores"),
    Row(
        "OperationNotAllowed",
        Kind.QUOTA,
        ErrorScope.FAMILY_AND_MARKET,
        term="family cores quota.*current limit: 0,",
        block_for=HOUR,
    ),
    Row(
        "OperationNotAllowed",
        Kind.QUOTA,
        ErrorScope.FAMILY_AND_MARKET,
        term="family cores quota",
        block_for=10 * MINUTE,
    ),
    Row("OperationNotAllowed", Kind.QUOTA, ErrorScope.REGION, term="submit a request for quota increase"),
    Row("OperationNotAllowed", Kind.QUOTA, ErrorScope.REGION, term="exceeding approved"),
    Row("QuotaExceeded", Kind.QUOTA, ErrorScope.REGION),
    Row("InsufficientSubnetSize", Kind.QUOTA, ErrorScope.REGION),
    Row("SubnetIsFull", Kind.QUOTA, ErrorScope.REGION),
    Row("PublicIPCountLimitReached", Kind.QUOTA, ErrorScope.REGION),
    # The credential and the subscription.
    Row("ReadOnlyDisabledSubscription", Kind.AUTH, ErrorScope.ACCOUNT),
    Row("AuthorizationFailed", Kind.AUTH, ErrorScope.ACCOUNT),
    Row("LinkedAuthorizationFailed", Kind.AUTH, ErrorScope.REGION),
    Row("ClientAuthenticationError", Kind.AUTH, ErrorScope.ACCOUNT),
    Row("AuthenticationFailed", Kind.AUTH, ErrorScope.ACCOUNT),
    Row("InvalidAuthenticationToken", Kind.AUTH, ErrorScope.ACCOUNT),
    Row("InvalidAuthenticationTokenTenant", Kind.AUTH, ErrorScope.ACCOUNT),
    Row("ExpiredAuthenticationToken", Kind.AUTH, ErrorScope.ACCOUNT),
    Row("SubscriptionNotFound", Kind.AUTH, ErrorScope.ACCOUNT),
    Row("InvalidSubscriptionId", Kind.AUTH, ErrorScope.ACCOUNT),
    # The request as configured.
    Row("ImageNotFound", Kind.CONFIG, ErrorScope.SIZE),
    Row("PlatformImageNotFound", Kind.CONFIG, ErrorScope.SIZE),
    Row("GalleryImageNotFound", Kind.CONFIG, ErrorScope.SIZE),
    Row("InvalidParameter", Kind.CONFIG, ErrorScope.SIZE),
    Row("InvalidTemplate", Kind.CONFIG, ErrorScope.SIZE),
    Row("InvalidRequestContent", Kind.CONFIG, ErrorScope.SIZE),
    Row("InvalidRequestFormat", Kind.CONFIG, ErrorScope.SIZE),
    Row("InvalidResourceReference", Kind.CONFIG, ErrorScope.REGION),
    Row("BadRequest", Kind.CONFIG, ErrorScope.SIZE),
    Row("LocationNotAvailableForResourceType", Kind.CONFIG, ErrorScope.REGION),
    Row("MarketplacePurchaseEligibilityFailed", Kind.CONFIG, ErrorScope.SIZE),
    Row("ResourcePurchaseValidationFailed", Kind.CONFIG, ErrorScope.SIZE),
    Row("VMMarketplaceInvalidInput", Kind.CONFIG, ErrorScope.SIZE),
    Row("RequestDisallowedByPolicy", Kind.CONFIG, ErrorScope.SIZE),
    Row("ResourceGroupNotFound", Kind.CONFIG, ErrorScope.ACCOUNT),
    Row("MissingSubscriptionRegistration", Kind.CONFIG, ErrorScope.ACCOUNT),
    Row("PropertyChangeNotAllowed", Kind.CONFIG, ErrorScope.OFFER),
    # A stumble.
    Row("NicReservedForAnotherVm", Kind.TRANSIENT, ErrorScope.OFFER, block_for=3 * MINUTE),
    Row("AnotherOperationInProgress", Kind.TRANSIENT, ErrorScope.OFFER),
    Row("OperationPreempted", Kind.TRANSIENT, ErrorScope.OFFER),
    Row("Conflict", Kind.TRANSIENT, ErrorScope.OFFER),
    Row("InternalServerError", Kind.TRANSIENT, ErrorScope.OFFER, maybe=True),
    Row("InternalExecutionError", Kind.TRANSIENT, ErrorScope.OFFER, maybe=True),
    Row("InternalOperationError", Kind.TRANSIENT, ErrorScope.OFFER, maybe=True),
    Row("NetworkingInternalOperationError", Kind.TRANSIENT, ErrorScope.OFFER, maybe=True),
    Row("ServerTimeout", Kind.TRANSIENT, ErrorScope.OFFER, maybe=True),
    Row("GatewayTimeout", Kind.TRANSIENT, ErrorScope.OFFER, maybe=True),
    Row("ServiceUnavailable", Kind.TRANSIENT, ErrorScope.OFFER, maybe=True),
    # The machine was there and its system did not come up.
    Row("OSProvisioningTimedOut", Kind.BOOT, ErrorScope.OFFER),
    Row("OSProvisioningClientError", Kind.BOOT, ErrorScope.OFFER),
    Row("OSProvisioningInternalError", Kind.BOOT, ErrorScope.OFFER),
    Row("VMExtensionProvisioningError", Kind.BOOT, ErrorScope.OFFER),
    Row("VMExtensionProvisioningTimeout", Kind.BOOT, ErrorScope.OFFER),
    # What is looked for and not there.
    Row("ResourceNotFound", Kind.NOT_FOUND, ErrorScope.OFFER),
    Row("NotFound", Kind.NOT_FOUND, ErrorScope.OFFER),
)

#: Answers to a create-only PUT from which only a look can tell whether the machine is there.
EXISTS = frozenset({"PreconditionFailed", "PropertyChangeNotAllowed", "Conflict", "AnotherOperationInProgress"})


@dataclass(frozen=True, slots=True)
class Told:
    """An error as Azure told it."""

    code: str
    message: str
    #: The codes inside, the outermost first, with their messages.
    all: tuple[tuple[str, str], ...] = field(default=())


def told(error: exceptions.HttpResponseError) -> Told:
    """Code and message of an answer, empty where its body has none."""
    if error.error is None:
        return Told("", str(error.message or error))
    pairs = tuple(_pairs(error.error))
    return Told(pairs[0][0], pairs[0][1], pairs)


def _pairs(node: Any) -> Iterator[tuple[str, str]]:
    yield str(node.code or ""), str(node.message or "")
    for one in node.details or ():
        yield from _pairs(one)


def row(pairs: Sequence[tuple[str, str]]) -> Row | None:
    """The row for an error and the errors inside it, the outermost first."""
    for code, message in pairs:
        low = message.lower()
        for one in TABLE:
            if one.code.lower() == code.lower() and _has(low, one.term):
                return one
    return None


def _has(message: str, term: str) -> bool:
    """True when the parts of a term (between ``.*``) are in the message in that order."""
    at = 0
    for part in term.split(".*"):
        found = message.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return True


def of_code(code: str, message: str, where: Target) -> base.Failure:
    """What a launch that failed after it was accepted means."""
    found = row([(code, message)])
    if found is None:
        return base.Failure(Kind.TRANSIENT, _words(code, message), code=code)
    return base.Failure(found.kind, _words(code, message), where.pattern(found.scope), code, _block_for(found, where))


def of(error: BaseException, where: Target) -> base.ProvisionError:
    """The same failure in the terms of the contract; pure."""
    if isinstance(error, base.ProvisionError):
        return error
    if isinstance(error, exceptions.HttpResponseError) and error.response is not None:
        return _of_answer(error, where)
    if isinstance(error, exceptions.ClientAuthenticationError):
        # The sign-in failed before anything was asked of the management API.
        message = " ".join(str(error.message).split())
        return base.ProvisionError(
            Kind.AUTH, message, scope=where.pattern(ErrorScope.ACCOUNT), code="ClientAuthenticationError"
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


def _of_answer(error: exceptions.HttpResponseError, where: Target) -> base.ProvisionError:
    heard = told(error)
    status = int(error.status_code or 0)
    words = _words(heard.code, heard.message)
    found = row(heard.all)
    if found is None:
        return _of_status(status, heard.code, words, where, error)
    return base.ProvisionError(
        found.kind,
        words,
        scope=where.pattern(found.scope),
        code=heard.code,
        maybe_created=found.maybe,
        retry_after=retry_after(error) if found.kind is Kind.THROTTLED else 0.0,
        block_for=_block_for(found, where),
    )


def _of_status(
    status: int, code: str, words: str, where: Target, error: exceptions.HttpResponseError
) -> base.ProvisionError:
    """A code that nobody knows speaks for this offer alone."""
    code = code or f"HTTP {status}"
    if status == 429:
        pause = retry_after(error)
        scope = where.pattern(ErrorScope.REGION)
        return base.ProvisionError(Kind.THROTTLED, words, scope=scope, code=code, retry_after=pause)
    if status in (401, 403) or isinstance(error, exceptions.ClientAuthenticationError):
        # A refused sign-in comes with 400 as well, and says nothing about any offer.
        return base.ProvisionError(Kind.AUTH, words, scope=where.pattern(ErrorScope.ACCOUNT), code=code)
    if status == 404:
        return base.ProvisionError(Kind.NOT_FOUND, words, code=code)
    if status in (400, 405, 413, 415, 422):
        return base.ProvisionError(Kind.CONFIG, words, scope=where.pattern(ErrorScope.SIZE), code=code)
    refused = 400 <= status < 500 and status != 408
    return base.ProvisionError(Kind.TRANSIENT, words, code=code, maybe_created=not refused)


def retry_after(error: exceptions.HttpResponseError) -> float:
    """The pause in seconds that a throttling answer asks for, within reason."""
    told_pause = pause_of(getattr(error.response, "headers", {}))
    return USUAL_PAUSE if told_pause is None else told_pause


def pause_of(headers: Any) -> float | None:
    """The pause in seconds that headers ask for, within reason; None when they ask for none."""
    seconds = numbers.real(headers.get("Retry-After"), low=-numbers.LARGEST)
    return None if seconds is None else min(max(seconds, 0.0), LONGEST_PAUSE)


def _block_for(found: Row, where: Target) -> float:
    if found.spot_block_for is not None and where.market == base.Market.SPOT.value:
        return found.spot_block_for
    return found.block_for


def _words(code: str, message: str) -> str:
    text = " ".join(message.split())[:500]
    return f"{code}: {text}" if code and not text.startswith(code) else text or code
