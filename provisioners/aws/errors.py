"""Amazon's error codes: one row per code, and the pure function that reads an SDK exception by them.

The codes are those of the EC2 API reference ("Error codes for the Amazon EC2 API") and of the services beside it.
"""

from __future__ import annotations

import re
from typing import Any

from botocore import exceptions, parsers

from provisioners import base
from provisioners.aws.error_scopes import ErrorScope, Target
from provisioners.base import Kind
from provisioners.cloud_common import errors
from provisioners.cloud_common.errors import Row

_MINUTE, _DAY = 60.0, 86400.0
_EMPTY = Row(Kind.CAPACITY, ErrorScope.OFFER, 3 * _MINUTE)
_NOT_SOLD = Row(Kind.CAPACITY, ErrorScope.TYPE_IN_ZONE, _DAY)
_FAMILY_FULL = Row(
    Kind.QUOTA,
    ErrorScope.FAMILY,
    10 * _MINUTE,
    hint="raise the vCPU quota in the Service Quotas console, under Amazon EC2",
)
_REGION_FULL = Row(Kind.QUOTA, ErrorScope.REGION, 10 * _MINUTE, hint="raise it in the Service Quotas console")
_TOO_FAST = Row(Kind.THROTTLED, ErrorScope.OFFER)
_STUMBLED = Row(Kind.TRANSIENT, ErrorScope.OFFER, maybe_created=True)
_REFUSED = Row(Kind.AUTH, ErrorScope.ACCOUNT, 30 * _MINUTE)
_WRONG = Row(Kind.CONFIG, ErrorScope.TYPE_IN_REGION)
_NO_SUBNET = Row(Kind.CONFIG, ErrorScope.ZONE, hint="check the provider's subnets")
_NO_GROUP = Row(Kind.CONFIG, ErrorScope.REGION, hint="check security_groups: they belong to the subnets' network")
_NO_IMAGE = Row(Kind.CONFIG, ErrorScope.TYPE_IN_REGION, hint="images belong to one region; check image")
_ABSENT = Row(Kind.NOT_FOUND, ErrorScope.OFFER)

ROWS: dict[str, Row[ErrorScope] | tuple[Row[ErrorScope], ...]] = {
    # Nothing free.
    "InsufficientInstanceCapacity": _EMPTY,
    "UnfulfillableCapacity": _EMPTY,
    "InsufficientCapacity": _EMPTY,
    "InsufficientHostCapacity": _EMPTY,
    "InsufficientCapacityOnHost": _EMPTY,
    "ReservationCapacityExceeded": _EMPTY,
    "InsufficientFreeAddressesInSubnet": Row(
        Kind.CAPACITY, ErrorScope.ZONE, 5 * _MINUTE, hint="the subnet has no address left: add another one of that zone"
    ),
    # Not sold there.
    "Unsupported": _NOT_SOLD,
    "VolumeTypeNotAvailableInZone": _NOT_SOLD,
    # Our own limit on the price.
    "SpotMaxPriceTooLow": Row(Kind.PRICE, ErrorScope.OFFER, 30 * _MINUTE),
    # Ceilings of the account.
    "MaxSpotInstanceCountExceeded": _FAMILY_FULL,
    "MaxSpotFleetRequestCountExceeded": _FAMILY_FULL,
    "VcpuLimitExceeded": _FAMILY_FULL,
    "InstanceLimitExceeded": _FAMILY_FULL,
    "MaxFleetCountExceeded": _REGION_FULL,
    "ResourceLimitExceeded": _REGION_FULL,
    "VolumeLimitExceeded": _REGION_FULL,
    "AddressLimitExceeded": _REGION_FULL,
    "NetworkInterfaceLimitExceeded": _REGION_FULL,
    # Too many calls: refused before anything was done.
    "RequestLimitExceeded": _TOO_FAST,
    "EC2ThrottledException": _TOO_FAST,
    "Throttling": _TOO_FAST,
    "ThrottlingException": _TOO_FAST,
    "TooManyRequestsException": _TOO_FAST,
    # The service stumbled; whether it had done its work by then, it does not say.
    "ServiceUnavailable": _STUMBLED,
    "Unavailable": _STUMBLED,
    "InternalError": _STUMBLED,
    "InternalFailure": _STUMBLED,
    "ServerInternal": _STUMBLED,
    "RequestTimeout": _STUMBLED,
    "RequestTimeoutException": _STUMBLED,
    # The same token again.
    "IdempotentParameterMismatch": _STUMBLED,
    "IdempotentInstanceTerminated": Row(
        Kind.TRANSIENT, ErrorScope.OFFER, hint="the instance of this attempt has ended already"
    ),
    # The credentials.
    "AuthFailure": _REFUSED,
    "UnauthorizedOperation": _REFUSED,
    "InvalidClientTokenId": _REFUSED,
    "UnrecognizedClientException": _REFUSED,
    "SignatureDoesNotMatch": _REFUSED,
    "IncompleteSignature": _REFUSED,
    "MissingAuthenticationToken": _REFUSED,
    "RequestExpired": Row(Kind.AUTH, ErrorScope.ACCOUNT, 30 * _MINUTE, hint="is this host's clock right?"),
    "ExpiredToken": _REFUSED,
    "ExpiredTokenException": _REFUSED,
    "AccessDenied": _REFUSED,
    "AccessDeniedException": _REFUSED,
    "Blocked": Row(Kind.AUTH, ErrorScope.ACCOUNT, 30 * _MINUTE, hint="the account is blocked: ask AWS Support"),
    "AccountDisabled": Row(
        Kind.AUTH, ErrorScope.ACCOUNT, 30 * _MINUTE, hint="the account is disabled: ask AWS Support"
    ),
    "PendingVerification": Row(
        Kind.AUTH, ErrorScope.ACCOUNT, 30 * _MINUTE, hint="AWS is verifying the account; this can take four hours"
    ),
    "OptInRequired": Row(
        Kind.AUTH, ErrorScope.REGION, 30 * _MINUTE, hint="enable the region, or the service, for the account"
    ),
    "AuthFailure.ServiceLinkedRoleCreationNotPermitted": Row(
        Kind.AUTH,
        ErrorScope.SPOT,
        30 * _MINUTE,
        hint="create it once: aws iam create-service-linked-role --aws-service-name spot.amazonaws.com",
    ),
    # What cannot work as configured.
    "InvalidSubnetID.NotFound": _NO_SUBNET,
    "InvalidSubnetID.Malformed": _NO_SUBNET,
    "InvalidSubnet": _NO_SUBNET,
    "InvalidGroup.NotFound": _NO_GROUP,
    "InvalidGroupId.Malformed": _NO_GROUP,
    "InvalidSecurityGroupID.NotFound": _NO_GROUP,
    "InvalidUserData.Malformed": _WRONG,
    "InvalidLaunchTemplateId.NotFound": _WRONG,
    "InvalidKeyPair.NotFound": Row(Kind.CONFIG, ErrorScope.REGION, hint="keys belong to one region; check key_name"),
    "TagPolicyViolation": Row(Kind.CONFIG, ErrorScope.ACCOUNT, hint="the organisation's tag policy refuses a tag"),
    "TagLimitExceeded": _WRONG,
    "UnsupportedOperation": _WRONG,
    "OperationNotPermitted": _WRONG,
    "InvalidClientToken": _WRONG,
    "ValidationError": _WRONG,
    "ParameterNotFound": _NO_IMAGE,
    "InvalidParameterValue": (
        Row(
            Kind.CONFIG,
            ErrorScope.ACCOUNT,
            hint="check instance_profile, and that the role may pass it",
            message="IAM Instance Profile",
        ),
        _WRONG,
    ),
    # Nothing under that handle.
    "InvalidInstanceID.NotFound": _ABSENT,
    "InvalidInstanceID.Malformed": _ABSENT,
    "InvalidInstanceID": _ABSENT,
    "InvalidVolume.NotFound": _ABSENT,
    "InvalidVolumeID.Malformed": _ABSENT,
    "InvalidNetworkInterfaceID.NotFound": _ABSENT,
    "InvalidNetworkInterfaceId.Malformed": _ABSENT,
    "InvalidSpotInstanceRequestID.NotFound": _ABSENT,
    "InvalidSpotInstanceRequestID.Malformed": _ABSENT,
    "InvalidAllocationID.NotFound": _ABSENT,
    "InvalidAddressID.NotFound": _ABSENT,
}
#: What is not in the table, by how it begins.
PREFIXES: dict[str, Row[ErrorScope]] = {
    "InvalidAMIID.": _NO_IMAGE,
    "InvalidAMI": _NO_IMAGE,
    "AuthFailure": _REFUSED,
    "Invalid": _WRONG,
    "Missing": _WRONG,
    "Malformed": _WRONG,
    "Unknown": _WRONG,
    "Unsupported": _WRONG,
}
TABLE = errors.Table(ROWS, prefixes=PREFIXES)
#: Codes under which a launch that was accepted failed after all (``StateReason`` in the EC2 API reference).
LAUNCH_FAILURES: dict[str, Row[ErrorScope]] = {
    "Server.InsufficientInstanceCapacity": _EMPTY,
    "Server.InternalError": Row(Kind.TRANSIENT, ErrorScope.OFFER),
    "Client.VolumeLimitExceeded": _REGION_FULL,
    "Client.InternalError": Row(
        Kind.CONFIG, ErrorScope.TYPE_IN_REGION, hint="often the key of the disk: may the service use kms_key?"
    ),
    "Client.InvalidSnapshot.NotFound": _NO_IMAGE,
}
#: The keys themselves were refused; others may have taken their place where they come from.
BAD_KEYS = frozenset(
    {
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
#: An unknown code: the offer is refused, and no other.
_UNKNOWN = Row(Kind.CONFIG, ErrorScope.OFFER)
_DENIED = re.compile(r"not authorized to perform:? (?:the )?([a-z0-9-]+:[A-Za-z*]+)")
_NEVER_CONNECTED = (
    exceptions.EndpointConnectionError,
    exceptions.ConnectTimeoutError,
    exceptions.ProxyConnectionError,
)
_NO_CREDENTIALS = (
    exceptions.NoCredentialsError,
    exceptions.PartialCredentialsError,
    exceptions.CredentialRetrievalError,
    exceptions.TokenRetrievalError,
    exceptions.SSOError,
    exceptions.NoAuthTokenError,
    exceptions.ProfileNotFound,
    # Newer than the oldest SDK that is good enough.
    *((exceptions.LoginError,) if hasattr(exceptions, "LoginError") else ()),
)
#: What the SDK raises for a call that failed; anything else is a mistake of ours and is not hidden.
SDK_ERRORS = (exceptions.BotoCoreError, exceptions.ClientError, parsers.ResponseParserError, OSError, ValueError)
_UNUSABLE = (
    exceptions.ParamValidationError,
    exceptions.ValidationError,
    exceptions.InvalidConfigError,
    exceptions.BaseEndpointResolverError,
    exceptions.EndpointProviderError,
    # A secret that cannot be read, a URL that is none.
    ValueError,
)


def denied_action(error: BaseException) -> str:
    """The action that the credentials lack, such as ``ec2:RunInstances``; empty where the answer does not name it."""
    found = _DENIED.search(str(error))
    return found[1] if found else ""


def classify(error: Exception, offer: base.Offer | None = None, *, what: str = "") -> base.ProvisionError:
    """Return the failure that an exception of the SDK stands for; ``offer`` when the call was a launch."""
    where = f"{what}: " if what else ""
    if isinstance(error, exceptions.ClientError):
        body: dict[str, Any] = error.response.get("Error", {})
        code, message = str(body.get("Code", "")), str(body.get("Message", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400))
        row = TABLE.find(code, message) or (_STUMBLED if status >= 500 else _UNKNOWN)
        text = plain(message)
    else:
        row, code, text = _row_of_exception(error), type(error).__name__, str(error)
    failed = errors.failure(row, f"{where}{code}: {text}", code=code, target=Target(offer))
    # Only a launch leaves it open whether an instance came of it.
    failed.maybe_created = failed.maybe_created and offer is not None
    return failed


def launch_failure(code: str, message: str, offer: base.Offer) -> base.Failure | None:
    """Return why an accepted launch failed; None when that reason is no failure of a launch."""
    row = LAUNCH_FAILURES.get(code)
    if row is None:
        return None
    return errors.failure(row, f"{code}: {plain(message)}", code=code, target=Target(offer)).failure


def plain(message: str) -> str:
    """The message without the encoded part that only ``sts decode-authorization-message`` can read."""
    return re.sub(r"\s*Encoded authorization failure message: \S+", "", message).strip()


def _row_of_exception(error: Exception) -> Row[ErrorScope]:
    """Return the row of an exception without an answer."""
    if isinstance(error, _NEVER_CONNECTED):
        return Row(Kind.TRANSIENT, ErrorScope.OFFER)
    if isinstance(error, _NO_CREDENTIALS):
        return Row(_REFUSED.kind, _REFUSED.scope, hint="see credentials in docs/aws.md")
    if isinstance(error, exceptions.SSLError) and "certificate verify failed" in str(error).lower():
        # The handshake failed: nothing was sent.
        return Row(Kind.CONFIG, ErrorScope.ACCOUNT, hint="check endpoint and ca")
    if isinstance(error, _UNUSABLE):
        return Row(Kind.CONFIG, ErrorScope.OFFER)
    return _STUMBLED
