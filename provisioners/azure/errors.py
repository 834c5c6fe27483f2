"""What an answer of Azure means for what is tried next: pure, one row for each code.

Azure's exceptions and HTTP statuses mislead: a size without capacity comes as 409 and so as ``ResourceExistsError``,
and an operation that failed comes as status 200.  Only ``error.code``, and for some codes a term in the message,
decide; the status is looked at where there is no code.

Sources: Azure's own pages on allocation failures, quota and throttling errors; the times that Karpenter's provider
for Azure keeps.  Rows marked "unverified" are from memory.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from azure.core import exceptions

from provisioners import base, catalogue
from provisioners.base import Kind
from provisioners.support import numbers

MINUTE, HOUR = 60.0, 3600.0
#: What a call can end in: the SDK's errors, those of its transport that it lets through, and answers of another form.
HEARD = (exceptions.AzureError, aiohttp.ClientError, OSError, ValueError, base.ProvisionError)
#: Seconds for which a throttling answer is believed at most.
LONGEST_PAUSE = 120.0
#: Seconds to pause where a throttling answer names none: buckets fill by the minute.
USUAL_PAUSE = 10.0


class Reach(enum.Enum):
    """How far a failure speaks."""

    #: This size, market and zone.
    OFFER = enum.auto()
    #: This size in this zone, in both markets.
    SIZE_IN_ZONE = enum.auto()
    #: This size and every larger one of its family in this zone, in both markets.
    LARGER_IN_ZONE = enum.auto()
    #: This size and market in every zone of the region.
    SIZE_AND_MARKET = enum.auto()
    #: This size in the region, in both markets.
    SIZE = enum.auto()
    #: Every size of the family in the region, in this market.
    FAMILY_AND_MARKET = enum.auto()
    #: Everything in the spot market of the region.
    SPOT = enum.auto()
    #: Everything in the region.
    REGION = enum.auto()
    #: Everything in the subscription.
    ACCOUNT = enum.auto()


@dataclass(frozen=True, slots=True)
class Place:
    """The offer that a call was about, with the sizes that share its fate."""

    provider: str
    account: str
    region: str = "*"
    zone: str = "*"
    machine_type: str = "*"
    market: str = "*"
    #: This size and the larger ones of its family.
    larger: tuple[str, ...] = ()
    family: tuple[str, ...] = ()

    def pattern(self, reach: Reach) -> str:
        """The offers that a failure of that reach speaks for; empty: this offer alone."""
        if reach is Reach.OFFER:
            return ""
        larger = "|".join(self.larger) or self.machine_type
        family = "|".join(self.family) or self.machine_type
        region, zone, size, market = {
            Reach.SIZE_IN_ZONE: (self.region, self.zone, self.machine_type, "*"),
            Reach.LARGER_IN_ZONE: (self.region, self.zone, larger, "*"),
            Reach.SIZE_AND_MARKET: (self.region, "*", self.machine_type, self.market),
            Reach.SIZE: (self.region, "*", self.machine_type, "*"),
            Reach.FAMILY_AND_MARKET: (self.region, "*", family, self.market),
            Reach.SPOT: (self.region, "*", "*", base.Market.SPOT.value),
            Reach.REGION: (self.region, "*", "*", "*"),
            Reach.ACCOUNT: ("*", "*", "*", "*"),
        }[reach]
        return "/".join((self.provider, self.account, region, zone, size, market))


def place(offer: base.Offer, book: catalogue.Book) -> Place:
    """Where an offer stands among the sizes of the catalogue."""
    machine = book.machines.get(offer.machine_type)
    family = [
        one for one in book.machines.values() if machine is not None and one.family and one.family == machine.family
    ]
    larger = [one for one in family if machine is not None and one.cpus >= machine.cpus]
    return Place(
        provider=offer.provider,
        account=offer.account,
        region=offer.region,
        zone=offer.zone,
        machine_type=offer.machine_type,
        market=offer.market.value,
        larger=tuple(sorted(one.name for one in larger)),
        family=tuple(sorted(one.name for one in family)),
    )


@dataclass(frozen=True, slots=True)
class Row:
    """One code, with a term that its message has, and what it means."""

    code: str
    kind: Kind
    reach: Reach
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
    Row("SkuNotAvailable", Kind.CAPACITY, Reach.SIZE_AND_MARKET, block_for=23 * HOUR, spot_block_for=HOUR),
    Row("ZonalAllocationFailed", Kind.CAPACITY, Reach.LARGER_IN_ZONE, block_for=HOUR),
    Row("AllocationFailed", Kind.CAPACITY, Reach.SIZE, block_for=HOUR),
    Row("OverconstrainedZonalAllocationRequest", Kind.CAPACITY, Reach.OFFER, block_for=HOUR),
    Row("OverconstrainedAllocationRequest", Kind.CAPACITY, Reach.SIZE_AND_MARKET, block_for=HOUR),
    # Throttling, before the quota rows of the same code.
    Row("OperationNotAllowed", Kind.THROTTLED, Reach.REGION, term="too many requests"),
    Row("TooManyRequests", Kind.THROTTLED, Reach.REGION),
    Row("SubscriptionRequestsThrottled", Kind.THROTTLED, Reach.ACCOUNT),
    Row("ResourceRequestsThrottled", Kind.THROTTLED, Reach.REGION),
    Row("RetryableErrorDueToAnotherOperation", Kind.THROTTLED, Reach.REGION),
    # Quota.
    Row("OperationNotAllowed", Kind.QUOTA, Reach.SPOT, term="lowprioritycores", block_for=HOUR),
    Row("OperationNotAllowed", Kind.QUOTA, Reach.REGION, term="total regional cores"),
    Row(
        "OperationNotAllowed",
        Kind.QUOTA,
        Reach.FAMILY_AND_MARKET,
        term="family cores quota.*current limit: 0,",
        block_for=HOUR,
    ),
    Row("OperationNotAllowed", Kind.QUOTA, Reach.FAMILY_AND_MARKET, term="family cores quota", block_for=10 * MINUTE),
    Row("OperationNotAllowed", Kind.QUOTA, Reach.REGION, term="submit a request for quota increase"),
    Row("OperationNotAllowed", Kind.QUOTA, Reach.REGION, term="exceeding approved"),
    Row("QuotaExceeded", Kind.QUOTA, Reach.REGION),
    Row("InsufficientSubnetSize", Kind.QUOTA, Reach.REGION),
    Row("SubnetIsFull", Kind.QUOTA, Reach.REGION),
    Row("PublicIPCountLimitReached", Kind.QUOTA, Reach.REGION),
    # The credential and the subscription.
    Row("ReadOnlyDisabledSubscription", Kind.AUTH, Reach.ACCOUNT),
    Row("AuthorizationFailed", Kind.AUTH, Reach.ACCOUNT),
    Row("LinkedAuthorizationFailed", Kind.AUTH, Reach.REGION),
    Row("ClientAuthenticationError", Kind.AUTH, Reach.ACCOUNT),
    Row("AuthenticationFailed", Kind.AUTH, Reach.ACCOUNT),
    Row("InvalidAuthenticationToken", Kind.AUTH, Reach.ACCOUNT),
    Row("InvalidAuthenticationTokenTenant", Kind.AUTH, Reach.ACCOUNT),
    Row("ExpiredAuthenticationToken", Kind.AUTH, Reach.ACCOUNT),
    Row("SubscriptionNotFound", Kind.AUTH, Reach.ACCOUNT),
    Row("InvalidSubscriptionId", Kind.AUTH, Reach.ACCOUNT),
    # The request as configured.
    Row("ImageNotFound", Kind.CONFIG, Reach.SIZE),
    Row("PlatformImageNotFound", Kind.CONFIG, Reach.SIZE),
    Row("GalleryImageNotFound", Kind.CONFIG, Reach.SIZE),
    Row("InvalidParameter", Kind.CONFIG, Reach.SIZE),
    Row("InvalidTemplate", Kind.CONFIG, Reach.SIZE),
    Row("InvalidRequestContent", Kind.CONFIG, Reach.SIZE),
    Row("InvalidRequestFormat", Kind.CONFIG, Reach.SIZE),
    Row("InvalidResourceReference", Kind.CONFIG, Reach.REGION),
    Row("BadRequest", Kind.CONFIG, Reach.SIZE),
    Row("LocationNotAvailableForResourceType", Kind.CONFIG, Reach.REGION),
    Row("MarketplacePurchaseEligibilityFailed", Kind.CONFIG, Reach.SIZE),
    Row("ResourcePurchaseValidationFailed", Kind.CONFIG, Reach.SIZE),
    Row("VMMarketplaceInvalidInput", Kind.CONFIG, Reach.SIZE),
    Row("RequestDisallowedByPolicy", Kind.CONFIG, Reach.SIZE),
    Row("ResourceGroupNotFound", Kind.CONFIG, Reach.ACCOUNT),
    Row("MissingSubscriptionRegistration", Kind.CONFIG, Reach.ACCOUNT),
    Row("PropertyChangeNotAllowed", Kind.CONFIG, Reach.OFFER),
    # A stumble.
    Row("NicReservedForAnotherVm", Kind.TRANSIENT, Reach.OFFER, block_for=3 * MINUTE),
    Row("AnotherOperationInProgress", Kind.TRANSIENT, Reach.OFFER),
    Row("OperationPreempted", Kind.TRANSIENT, Reach.OFFER),
    Row("Conflict", Kind.TRANSIENT, Reach.OFFER),
    Row("InternalServerError", Kind.TRANSIENT, Reach.OFFER, maybe=True),
    Row("InternalExecutionError", Kind.TRANSIENT, Reach.OFFER, maybe=True),
    Row("InternalOperationError", Kind.TRANSIENT, Reach.OFFER, maybe=True),
    Row("NetworkingInternalOperationError", Kind.TRANSIENT, Reach.OFFER, maybe=True),
    Row("ServerTimeout", Kind.TRANSIENT, Reach.OFFER, maybe=True),
    Row("GatewayTimeout", Kind.TRANSIENT, Reach.OFFER, maybe=True),
    Row("ServiceUnavailable", Kind.TRANSIENT, Reach.OFFER, maybe=True),
    # The machine was there and its system did not come up.
    Row("OSProvisioningTimedOut", Kind.BOOT, Reach.OFFER),
    Row("OSProvisioningClientError", Kind.BOOT, Reach.OFFER),
    Row("OSProvisioningInternalError", Kind.BOOT, Reach.OFFER),
    Row("VMExtensionProvisioningError", Kind.BOOT, Reach.OFFER),
    Row("VMExtensionProvisioningTimeout", Kind.BOOT, Reach.OFFER),
    # What is looked for and not there.
    Row("ResourceNotFound", Kind.NOT_FOUND, Reach.OFFER),
    Row("NotFound", Kind.NOT_FOUND, Reach.OFFER),
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


def of_code(code: str, message: str, where: Place) -> base.Failure:
    """What a launch that failed after it was accepted means."""
    found = row([(code, message)])
    if found is None:
        return base.Failure(Kind.TRANSIENT, _words(code, message), code=code)
    return base.Failure(found.kind, _words(code, message), where.pattern(found.reach), code, _block_for(found, where))


def of(error: BaseException, where: Place) -> base.ProvisionError:
    """The same failure in the terms of the contract; pure."""
    if isinstance(error, base.ProvisionError):
        return error
    if isinstance(error, exceptions.HttpResponseError) and error.response is not None:
        return _of_answer(error, where)
    if isinstance(error, exceptions.ClientAuthenticationError):
        # The sign-in failed before anything was asked of the management API.
        message = " ".join(str(error.message).split())
        return base.ProvisionError(
            Kind.AUTH, message, scope=where.pattern(Reach.ACCOUNT), code="ClientAuthenticationError"
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


def _of_answer(error: exceptions.HttpResponseError, where: Place) -> base.ProvisionError:
    heard = told(error)
    status = int(error.status_code or 0)
    words = _words(heard.code, heard.message)
    found = row(heard.all)
    if found is None:
        return _of_status(status, heard.code, words, where, error)
    return base.ProvisionError(
        found.kind,
        words,
        scope=where.pattern(found.reach),
        code=heard.code,
        maybe_created=found.maybe,
        retry_after=retry_after(error) if found.kind is Kind.THROTTLED else 0.0,
        block_for=_block_for(found, where),
    )


def _of_status(
    status: int, code: str, words: str, where: Place, error: exceptions.HttpResponseError
) -> base.ProvisionError:
    """A code that nobody knows speaks for this offer alone."""
    code = code or f"HTTP {status}"
    if status == 429:
        pause = retry_after(error)
        scope = where.pattern(Reach.REGION)
        return base.ProvisionError(Kind.THROTTLED, words, scope=scope, code=code, retry_after=pause)
    if status in (401, 403) or isinstance(error, exceptions.ClientAuthenticationError):
        # A refused sign-in comes with 400 as well, and says nothing about any offer.
        return base.ProvisionError(Kind.AUTH, words, scope=where.pattern(Reach.ACCOUNT), code=code)
    if status == 404:
        return base.ProvisionError(Kind.NOT_FOUND, words, code=code)
    if status in (400, 405, 413, 415, 422):
        return base.ProvisionError(Kind.CONFIG, words, scope=where.pattern(Reach.SIZE), code=code)
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


def _block_for(found: Row, where: Place) -> float:
    if found.spot_block_for is not None and where.market == base.Market.SPOT.value:
        return found.spot_block_for
    return found.block_for


def _words(code: str, message: str) -> str:
    text = " ".join(message.split())[:500]
    return f"{code}: {text}" if code and not text.startswith(code) else text or code
