"""Every documented refusal of EC2, sent as EC2 sends it and read by the SDK, says what may be concluded from it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from botocore import exceptions, parsers

from provisioners import aws, base
from provisioners.aws import errors
from provisioners.base import Kind
from tests.clouds import aws as clouds_aws
from tests.unit.provisioners.aws.aws_world import World, request

OFFER = None
TYPE_IN_ZONE = "aws/own/us-east-1/us-east-1a/g4dn.xlarge/*"
TYPE_IN_REGION = "aws/own/us-east-1/*/g4dn.xlarge/*"
ZONE = "aws/own/us-east-1/us-east-1a/*/*"
REGION = "aws/own/us-east-1/*/*/*"
FAMILY = "aws/own/us-east-1/*/g[0-9]*|gr[0-9]*|vt[0-9]*/spot"
SPOT = "aws/own/*/*/*/spot"
ACCOUNT = "aws/own/*/*/*/*"
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
SURE, UNCLEAR = False, True

#: Code, HTTP status, and what is concluded: kind, scope, block in seconds, whether something may have been created.
TABLE = [
    ("InsufficientInstanceCapacity", 500, Kind.CAPACITY, OFFER, 3 * MINUTE, SURE),
    ("UnfulfillableCapacity", 400, Kind.CAPACITY, OFFER, 3 * MINUTE, SURE),
    ("InsufficientCapacity", 500, Kind.CAPACITY, OFFER, 3 * MINUTE, SURE),
    ("InsufficientHostCapacity", 500, Kind.CAPACITY, OFFER, 3 * MINUTE, SURE),
    ("InsufficientCapacityOnHost", 400, Kind.CAPACITY, OFFER, 3 * MINUTE, SURE),
    ("ReservationCapacityExceeded", 400, Kind.CAPACITY, OFFER, 3 * MINUTE, SURE),
    ("Unsupported", 400, Kind.CAPACITY, TYPE_IN_ZONE, DAY, SURE),
    ("VolumeTypeNotAvailableInZone", 400, Kind.CAPACITY, TYPE_IN_ZONE, DAY, SURE),
    ("SpotMaxPriceTooLow", 400, Kind.PRICE, OFFER, 30 * MINUTE, SURE),
    ("InsufficientFreeAddressesInSubnet", 400, Kind.CAPACITY, ZONE, 5 * MINUTE, SURE),
    ("MaxSpotInstanceCountExceeded", 400, Kind.QUOTA, FAMILY, 10 * MINUTE, SURE),
    ("MaxSpotFleetRequestCountExceeded", 400, Kind.QUOTA, FAMILY, 10 * MINUTE, SURE),
    ("VcpuLimitExceeded", 400, Kind.QUOTA, FAMILY, 10 * MINUTE, SURE),
    ("InstanceLimitExceeded", 400, Kind.QUOTA, FAMILY, 10 * MINUTE, SURE),
    ("MaxFleetCountExceeded", 400, Kind.QUOTA, REGION, 10 * MINUTE, SURE),
    ("ResourceLimitExceeded", 400, Kind.QUOTA, REGION, 10 * MINUTE, SURE),
    ("VolumeLimitExceeded", 400, Kind.QUOTA, REGION, 10 * MINUTE, SURE),
    ("AddressLimitExceeded", 400, Kind.QUOTA, REGION, 10 * MINUTE, SURE),
    ("NetworkInterfaceLimitExceeded", 400, Kind.QUOTA, REGION, 10 * MINUTE, SURE),
    ("RequestLimitExceeded", 503, Kind.THROTTLED, OFFER, 0.0, SURE),
    ("EC2ThrottledException", 503, Kind.THROTTLED, OFFER, 0.0, SURE),
    ("Throttling", 400, Kind.THROTTLED, OFFER, 0.0, SURE),
    ("ThrottlingException", 400, Kind.THROTTLED, OFFER, 0.0, SURE),
    ("ServiceUnavailable", 503, Kind.TRANSIENT, OFFER, 0.0, UNCLEAR),
    ("Unavailable", 503, Kind.TRANSIENT, OFFER, 0.0, UNCLEAR),
    ("InternalError", 500, Kind.TRANSIENT, OFFER, 0.0, UNCLEAR),
    ("InternalFailure", 500, Kind.TRANSIENT, OFFER, 0.0, UNCLEAR),
    ("ServerInternal", 500, Kind.TRANSIENT, OFFER, 0.0, UNCLEAR),
    ("RequestTimeout", 400, Kind.TRANSIENT, OFFER, 0.0, UNCLEAR),
    ("IdempotentParameterMismatch", 400, Kind.TRANSIENT, OFFER, 0.0, UNCLEAR),
    ("IdempotentInstanceTerminated", 400, Kind.TRANSIENT, OFFER, 0.0, SURE),
    ("AuthFailure", 401, Kind.AUTH, ACCOUNT, 30 * MINUTE, SURE),
    ("UnauthorizedOperation", 403, Kind.AUTH, ACCOUNT, 30 * MINUTE, SURE),
    ("InvalidClientTokenId", 403, Kind.AUTH, ACCOUNT, 30 * MINUTE, SURE),
    ("SignatureDoesNotMatch", 403, Kind.AUTH, ACCOUNT, 30 * MINUTE, SURE),
    ("RequestExpired", 400, Kind.AUTH, ACCOUNT, 30 * MINUTE, SURE),
    ("ExpiredToken", 400, Kind.AUTH, ACCOUNT, 30 * MINUTE, SURE),
    ("OptInRequired", 401, Kind.AUTH, REGION, 30 * MINUTE, SURE),
    ("Blocked", 403, Kind.AUTH, ACCOUNT, 30 * MINUTE, SURE),
    ("AccountDisabled", 403, Kind.AUTH, ACCOUNT, 30 * MINUTE, SURE),
    ("PendingVerification", 400, Kind.AUTH, ACCOUNT, 30 * MINUTE, SURE),
    ("AuthFailure.ServiceLinkedRoleCreationNotPermitted", 400, Kind.AUTH, SPOT, 30 * MINUTE, SURE),
    ("InvalidAMIID.NotFound", 400, Kind.CONFIG, TYPE_IN_REGION, 0.0, SURE),
    ("InvalidAMIID.Malformed", 400, Kind.CONFIG, TYPE_IN_REGION, 0.0, SURE),
    ("InvalidAMIID.Unavailable", 400, Kind.CONFIG, TYPE_IN_REGION, 0.0, SURE),
    ("InvalidSubnetID.NotFound", 400, Kind.CONFIG, ZONE, 0.0, SURE),
    ("InvalidGroup.NotFound", 400, Kind.CONFIG, REGION, 0.0, SURE),
    ("InvalidParameter", 400, Kind.CONFIG, TYPE_IN_REGION, 0.0, SURE),
    ("InvalidParameterValue", 400, Kind.CONFIG, TYPE_IN_REGION, 0.0, SURE),
    ("InvalidParameterCombination", 400, Kind.CONFIG, TYPE_IN_REGION, 0.0, SURE),
    ("InvalidUserData.Malformed", 400, Kind.CONFIG, TYPE_IN_REGION, 0.0, SURE),
    ("TagPolicyViolation", 400, Kind.CONFIG, ACCOUNT, 0.0, SURE),
    ("UnsupportedOperation", 400, Kind.CONFIG, TYPE_IN_REGION, 0.0, SURE),
    ("InvalidLaunchTemplateId.NotFound", 400, Kind.CONFIG, TYPE_IN_REGION, 0.0, SURE),
    ("SomethingNobodyHeardOf", 400, Kind.CONFIG, OFFER, 0.0, SURE),
    ("SomethingNobodyHeardOf", 502, Kind.TRANSIENT, OFFER, 0.0, UNCLEAR),
]


class Refusing:
    """One account for all rows: nothing is ever created in it."""

    def __init__(self) -> None:
        self.world = World()
        options = {"regions": {"us-east-1": {"subnets": [self.world.cloud.subnet("us-east-1a")]}}}
        self.provider = aws.Aws(self.world.context(), options, clouds_aws.mount(self.world.cloud.handle))


@pytest.fixture(scope="module")
def refusing() -> Iterator[Refusing]:
    made = Refusing()
    yield made
    made.world.cloud.close()


@pytest.mark.parametrize(
    ("code", "status", "kind", "scope", "block_for", "unclear"),
    [pytest.param(*row, id=f"{row[0]}-{row[1]}") for row in TABLE],
)
async def test_a_refused_launch_says_what_is_concluded(
    refusing: Refusing, code: str, status: int, kind: Kind, scope: str | None, block_for: float, unclear: bool
) -> None:
    world, provider = refusing.world, refusing.provider
    wanted = await request(provider)
    world.settle()
    world.cloud.calls.clear()
    world.cloud.faults[:] = [clouds_aws.Fault(code=code, status=status, message="as the service words it")]
    with pytest.raises(base.ProvisionError) as caught:
        await provider.create(wanted)
    told = caught.value
    assert (told.kind, told.scope, told.block_for, told.maybe_created) == (kind, scope, block_for, unclear)
    assert told.code == code
    assert "as the service words it" in str(told)
    assert world.sent("RunInstances") == 1
    assert world.cloud.created == []


def test_every_row_of_the_code_is_in_this_table_or_of_another_call() -> None:
    of_launches = {
        code
        for code, (row, *_) in errors.TABLE.rows.items()
        if row.kind is not Kind.NOT_FOUND and not code.startswith("Invalid")
    }
    assert of_launches - {row[0] for row in TABLE} == {
        "TooManyRequestsException",
        "RequestTimeoutException",
        "UnrecognizedClientException",
        "IncompleteSignature",
        "MissingAuthenticationToken",
        "ExpiredTokenException",
        "AccessDenied",
        "AccessDeniedException",
        "TagLimitExceeded",
        "OperationNotPermitted",
        "ValidationError",
        "ParameterNotFound",
    }


async def test_an_instance_profile_that_does_not_exist_speaks_for_the_whole_account(world: World) -> None:
    provider = await world.provider(instance_profile="no-such-profile")
    with pytest.raises(base.ProvisionError) as caught:
        await provider.create(await request(provider))
    assert (caught.value.kind, caught.value.scope) == (Kind.CONFIG, ACCOUNT)
    assert "instance_profile" in str(caught.value)


async def test_the_quota_of_a_family_blocks_that_family_in_that_market_only(world: World) -> None:
    world.cloud.quotas["us-east-1", "L-417A185B"] = 8
    provider = await world.provider()
    wanted = await request(provider, shape=base.Shape(types=("p4d.24xlarge",), gpu="a100-40", gpu_count=8))
    with pytest.raises(base.ProvisionError) as caught:
        await provider.create(wanted)
    told = caught.value
    assert (told.kind, told.code) == (Kind.QUOTA, "VcpuLimitExceeded")
    assert told.scope == "aws/own/us-east-1/*/p[0-9]*/on-demand"
    assert "Service Quotas" in str(told)


async def test_what_the_credentials_lack_is_said_without_the_encoded_part(world: World) -> None:
    provider = await world.provider()
    wanted = await request(provider)
    world.cloud.denied.add("ec2:RunInstances")
    with pytest.raises(base.ProvisionError) as caught:
        await provider.create(wanted)
    assert errors.denied_action(caught.value) == "ec2:RunInstances"
    assert "Encoded" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "kind", "unclear"),
    [
        pytest.param(exceptions.EndpointConnectionError(endpoint_url="u"), Kind.TRANSIENT, SURE, id="no-connection"),
        pytest.param(exceptions.ConnectTimeoutError(endpoint_url="u"), Kind.TRANSIENT, SURE, id="connect-timeout"),
        pytest.param(exceptions.ProxyConnectionError(proxy_url="u"), Kind.TRANSIENT, SURE, id="proxy"),
        pytest.param(exceptions.ReadTimeoutError(endpoint_url="u"), Kind.TRANSIENT, UNCLEAR, id="read-timeout"),
        pytest.param(exceptions.ConnectionClosedError(endpoint_url="u"), Kind.TRANSIENT, UNCLEAR, id="closed"),
        pytest.param(exceptions.HTTPClientError(error="reset"), Kind.TRANSIENT, UNCLEAR, id="reset"),
        pytest.param(exceptions.ResponseStreamingError(error="cut"), Kind.TRANSIENT, UNCLEAR, id="cut"),
        pytest.param(parsers.ResponseParserError("not XML"), Kind.TRANSIENT, UNCLEAR, id="no-xml"),
        pytest.param(
            exceptions.SSLError(endpoint_url="u", error="CERTIFICATE_VERIFY_FAILED certificate verify failed"),
            Kind.CONFIG,
            SURE,
            id="wrong-authority",
        ),
        pytest.param(exceptions.SSLError(endpoint_url="u", error="EOF"), Kind.TRANSIENT, UNCLEAR, id="tls-broken"),
        pytest.param(exceptions.NoCredentialsError(), Kind.AUTH, SURE, id="no-credentials"),
        pytest.param(
            exceptions.PartialCredentialsError(provider="env", cred_var="x"), Kind.AUTH, SURE, id="half-credentials"
        ),
        pytest.param(
            exceptions.CredentialRetrievalError(provider="imds", error_msg="x"), Kind.AUTH, SURE, id="no-retrieval"
        ),
        pytest.param(exceptions.ProfileNotFound(profile="x"), Kind.AUTH, SURE, id="no-profile"),
        pytest.param(exceptions.ParamValidationError(report="x"), Kind.CONFIG, SURE, id="bad-parameter"),
        pytest.param(ValueError("file:/x cannot be read"), Kind.CONFIG, SURE, id="no-secret"),
    ],
)
def test_an_answer_that_never_came_is_unclear_only_when_something_was_sent(
    error: Exception, kind: Kind, unclear: bool
) -> None:
    offer = base.Offer("aws", "own", "us-east-1", "us-east-1a", "g4dn.xlarge", base.Market.SPOT, 1.0)
    told = errors.classify(error, offer)
    assert (told.kind, told.maybe_created) == (kind, unclear)
    assert errors.classify(error).maybe_created is False


@pytest.mark.parametrize(
    ("code", "kind", "scope"),
    [
        pytest.param("Server.InsufficientInstanceCapacity", Kind.CAPACITY, OFFER, id="capacity"),
        pytest.param("Server.InternalError", Kind.TRANSIENT, OFFER, id="internal"),
        pytest.param("Client.VolumeLimitExceeded", Kind.QUOTA, REGION, id="volumes"),
        pytest.param("Client.InternalError", Kind.CONFIG, TYPE_IN_REGION, id="key"),
        pytest.param("Client.InvalidSnapshot.NotFound", Kind.CONFIG, TYPE_IN_REGION, id="snapshot"),
    ],
)
async def test_a_launch_that_fails_after_it_was_accepted_says_why(
    world: World, code: str, kind: Kind, scope: str | None
) -> None:
    provider = await world.provider()
    world.fail(fails_with=code)
    made = await provider.create(await request(provider))
    assert (made.status, made.failure) == (base.InstanceStatus.PENDING, None)
    world.settle()
    view = await provider.describe(made.ref)
    assert view is not None and view.status is base.InstanceStatus.GONE
    assert view.failure is not None
    assert (view.failure.kind, view.failure.scope, view.failure.code) == (kind, scope, code)
    reason = await provider.end_reason(made.ref)
    assert (reason.kind, reason.failure) == (base.EndKind.FAILED, view.failure)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        pytest.param("Server.SpotInstanceTermination", base.EndKind.PREEMPTED, id="spot-termination"),
        pytest.param("Server.SpotInstanceShutdown", base.EndKind.PREEMPTED, id="spot-shutdown"),
        pytest.param("Server.ScheduledStop", base.EndKind.FAILED, id="scheduled-stop"),
        pytest.param("Client.InstanceInitiatedShutdown", base.EndKind.SELF_ENDED, id="guest"),
        pytest.param("Client.UserInitiatedShutdown", base.EndKind.ENDED_BY_US, id="call"),
        pytest.param("Client.SomethingNew", base.EndKind.UNKNOWN, id="unknown"),
    ],
)
async def test_who_ended_an_instance_is_told_by_its_reason(world: World, code: str, kind: base.EndKind) -> None:
    provider = await world.provider()
    made = await provider.create(await request(provider))
    world.settle()
    world.cloud.vanish(made.ref, code)
    world.settle()
    assert (await provider.end_reason(made.ref)).kind is kind
    view = await provider.describe(made.ref)
    assert view is not None and view.failure is None
