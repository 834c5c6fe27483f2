"""Every code of Azure's that is known, through the SDK's own parsing: as a refusal, and as an operation that failed."""

from __future__ import annotations

import pytest

from provisioners import base
from provisioners.base import Kind
from tests.clouds import azure
from tests.clouds.azure import lab

HERE = f"az/{azure.SUBSCRIPTION}"
T4_FAMILY = "Standard_NC16as_T4_v3|Standard_NC4as_T4_v3|Standard_NC64as_T4_v3|Standard_NC8as_T4_v3"
LARGER = "Standard_NC16as_T4_v3|Standard_NC64as_T4_v3|Standard_NC8as_T4_v3"
HOUR = 3600.0


def quota(name: str, limit: int) -> str:
    return (
        f"Operation could not be completed as it results in exceeding approved {name} quota. Additional details - "
        f"Deployment Model: Resource Manager, Location: eastus, Current Limit: {limit}, Current Usage: {limit}, "
        "Additional Required: 8, (Minimum) New Limit Required: 108. Submit a request for Quota increase at https://x"
    )


#: code, message, HTTP status, kind, scope, seconds on demand, seconds in the spot market.
ROWS = [
    (
        "SkuNotAvailable",
        "is not available",
        409,
        Kind.CAPACITY,
        "eastus/*/Standard_NC8as_T4_v3/{market}",
        23 * HOUR,
        HOUR,
    ),
    ("ZonalAllocationFailed", "no capacity", 409, Kind.CAPACITY, f"eastus/1/{LARGER}/*", HOUR, HOUR),
    ("AllocationFailed", "no capacity", 409, Kind.CAPACITY, "eastus/*/Standard_NC8as_T4_v3/*", HOUR, HOUR),
    ("OverconstrainedZonalAllocationRequest", "too many constraints", 409, Kind.CAPACITY, "", HOUR, HOUR),
    (
        "OverconstrainedAllocationRequest",
        "too many constraints",
        409,
        Kind.CAPACITY,
        "eastus/*/Standard_NC8as_T4_v3/{market}",
        HOUR,
        HOUR,
    ),
    ("OperationNotAllowed", quota("LowPriorityCores", 100), 409, Kind.QUOTA, "eastus/*/*/spot", HOUR, HOUR),
    (
        "OperationNotAllowed",
        quota("standardNCASv3_T4Family Cores", 0),
        409,
        Kind.QUOTA,
        f"eastus/*/{T4_FAMILY}/{{market}}",
        HOUR,
        HOUR,
    ),
    (
        "OperationNotAllowed",
        quota("standardNCASv3_T4Family Cores", 100),
        409,
        Kind.QUOTA,
        f"eastus/*/{T4_FAMILY}/{{market}}",
        600.0,
        600.0,
    ),
    ("OperationNotAllowed", quota("Total Regional Cores", 100), 409, Kind.QUOTA, "eastus/*/*/*", 0.0, 0.0),
    (
        "OperationNotAllowed",
        "Submit a request for Quota increase at https://aka.ms/x",
        409,
        Kind.QUOTA,
        "eastus/*/*/*",
        0.0,
        0.0,
    ),
    ("QuotaExceeded", "too much", 403, Kind.QUOTA, "eastus/*/*/*", 0.0, 0.0),
    ("InsufficientSubnetSize", "no address", 400, Kind.QUOTA, "eastus/*/*/*", 0.0, 0.0),
    ("SubnetIsFull", "no address", 400, Kind.QUOTA, "eastus/*/*/*", 0.0, 0.0),
    ("PublicIPCountLimitReached", "no address", 400, Kind.QUOTA, "eastus/*/*/*", 0.0, 0.0),
    ("TooManyRequests", "slow down", 429, Kind.THROTTLED, "eastus/*/*/*", 0.0, 0.0),
    ("OperationNotAllowed", "rejected because too many requests", 429, Kind.THROTTLED, "eastus/*/*/*", 0.0, 0.0),
    ("RetryableErrorDueToAnotherOperation", "busy", 409, Kind.THROTTLED, "eastus/*/*/*", 0.0, 0.0),
    ("ReadOnlyDisabledSubscription", "disabled", 409, Kind.AUTH, "*/*/*/*", 0.0, 0.0),
    ("AuthorizationFailed", "may not", 403, Kind.AUTH, "*/*/*/*", 0.0, 0.0),
    ("ClientAuthenticationError", "who", 401, Kind.AUTH, "*/*/*/*", 0.0, 0.0),
    ("InvalidAuthenticationToken", "who", 401, Kind.AUTH, "*/*/*/*", 0.0, 0.0),
    ("LinkedAuthorizationFailed", "may not join the subnet", 403, Kind.AUTH, "eastus/*/*/*", 0.0, 0.0),
    ("ImageNotFound", "no image", 404, Kind.CONFIG, "eastus/*/Standard_NC8as_T4_v3/*", 0.0, 0.0),
    ("InvalidParameter", "bad", 400, Kind.CONFIG, "eastus/*/Standard_NC8as_T4_v3/*", 0.0, 0.0),
    ("InvalidTemplate", "bad", 400, Kind.CONFIG, "eastus/*/Standard_NC8as_T4_v3/*", 0.0, 0.0),
    (
        "MarketplacePurchaseEligibilityFailed",
        "plan",
        400,
        Kind.CONFIG,
        "eastus/*/Standard_NC8as_T4_v3/*",
        0.0,
        0.0,
    ),
    ("NicReservedForAnotherVm", "180 seconds", 400, Kind.TRANSIENT, "", 180.0, 180.0),
    ("OSProvisioningTimedOut", "did not report", 409, Kind.BOOT, "", 0.0, 0.0),
    ("VMExtensionProvisioningError", "failed", 409, Kind.BOOT, "", 0.0, 0.0),
]
PARAMS = [pytest.param(*one, id=f"{one[0]}-{at}") for at, one in enumerate(ROWS)]


def expected_scope(scope: str, market: base.Market) -> str | None:
    if not scope:
        return None
    place = scope.format(market=market.value)
    return f"{HERE}/{place}"


async def failed(one: lab.Lab, market: base.Market, zone: str = "1") -> base.ProvisionError:
    request = one.request(machine_type="Standard_NC8as_T4_v3", market=market, zone=zone)
    with pytest.raises(base.ProvisionError) as caught:
        await one.provisioner.create(request)
    return caught.value


@pytest.mark.parametrize("market", list(base.Market))
@pytest.mark.parametrize(("code", "message", "status", "kind", "scope", "on_demand", "spot"), PARAMS)
async def test_a_refusal_is_classified_by_its_code_and_leaves_nothing(
    code: str, message: str, status: int, kind: Kind, scope: str, on_demand: float, spot: float, market: base.Market
) -> None:
    one = lab.Lab()
    one.arm.faults.append(azure.Fault(code=code, message=message, status=status))
    error = await failed(one, market)
    assert (error.kind, error.code, error.maybe_created) == (kind, code, False)
    assert error.scope == expected_scope(scope, market)
    assert error.block_for == (spot if market is base.Market.SPOT else on_demand)
    assert message.split()[0] in str(error)
    assert one.puts() == [str(status)]
    assert one.arm.instances == []


@pytest.mark.parametrize("market", list(base.Market))
@pytest.mark.parametrize(
    ("code", "message", "status", "kind", "scope", "on_demand", "spot"),
    [one for one in PARAMS if one.values[3] in (Kind.CAPACITY, Kind.QUOTA, Kind.CONFIG, Kind.TRANSIENT, Kind.BOOT)],
)
async def test_an_operation_that_fails_is_classified_the_same_and_its_machine_is_removed(
    code: str, message: str, status: int, kind: Kind, scope: str, on_demand: float, spot: float, market: base.Market
) -> None:
    one = lab.Lab()
    one.arm.faults.append(azure.Fault(fails_with=code, message=message))
    error = await failed(one, market)
    assert (error.kind, error.code, error.maybe_created) == (kind, code, False)
    assert error.scope == expected_scope(scope, market)
    assert error.block_for == (spot if market is base.Market.SPOT else on_demand)
    assert one.puts() == ["201"]
    assert [each.state for each in one.arm.created] == ["deleting"]
    await one.clock.sleep(60)
    assert (one.arm.instances, one.arm.parts) == ([], {})


@pytest.mark.parametrize(
    ("code", "status", "kind", "maybe"),
    [
        pytest.param("NobodyKnows", 400, Kind.CONFIG, False, id="a-bad-request"),
        pytest.param("NobodyKnows", 403, Kind.AUTH, False, id="a-forbidden-one"),
        pytest.param("NobodyKnows", 409, Kind.TRANSIENT, False, id="a-conflict"),
        pytest.param("NobodyKnows", 408, Kind.TRANSIENT, True, id="a-timeout"),
        pytest.param("NobodyKnows", 500, Kind.TRANSIENT, True, id="a-stumble"),
        pytest.param("InternalServerError", 500, Kind.TRANSIENT, True, id="a-known-stumble"),
        pytest.param("ServiceUnavailable", 503, Kind.TRANSIENT, True, id="out-of-service"),
        pytest.param("NobodyKnows", 429, Kind.THROTTLED, False, id="throttled"),
    ],
)
async def test_an_unknown_code_goes_by_its_status_and_blocks_as_little_as_can_be(
    code: str, status: int, kind: Kind, maybe: bool
) -> None:
    one = lab.Lab()
    one.arm.faults.append(azure.Fault(code=code, status=status))
    error = await failed(one, base.Market.ON_DEMAND)
    assert (error.kind, error.code, error.maybe_created) == (kind, code, maybe)
    if kind is Kind.TRANSIENT:
        assert error.scope is None


@pytest.mark.parametrize(
    ("told", "heard"),
    [
        pytest.param(17, 17.0, id="as-it-says"),
        pytest.param(900, 120.0, id="never-longer-than-two-minutes"),
        pytest.param(None, 10.0, id="where-it-does-not-say"),
    ],
)
async def test_a_throttled_create_carries_the_pause_that_is_asked_for(told: int | None, heard: float) -> None:
    one = lab.Lab()
    one.arm.faults.append(azure.Fault(code="TooManyRequests", status=429, retry_after=told))
    error = await failed(one, base.Market.ON_DEMAND)
    assert (error.kind, error.retry_after) == (Kind.THROTTLED, heard)
    assert one.puts() == ["429"]


async def test_the_codes_inside_an_error_count_where_the_outer_one_says_nothing() -> None:
    from azure.core.exceptions import HttpResponseError
    from azure.core.rest import HttpRequest
    from azure.mgmt.core.exceptions import ARMErrorFormat

    from provisioners.azure import error_scopes, errors
    from tests.clouds import wire
    from tests.clouds.azure.mount import Response

    body = (
        b'{"error": {"code": "ResourceDeploymentFailure", "message": "see inside", "details": '
        b'[{"code": "Conflicting", "message": "", "details": [{"code": "QuotaExceeded", "message": "too much"}]}]}}'
    )
    answer = Response(HttpRequest("PUT", "https://x/y"), wire.Answer(409, {}, body))
    error = errors.classify(
        HttpResponseError(response=answer, error_format=ARMErrorFormat), error_scopes.Target("az", "s", "eastus")
    )
    assert (error.kind, error.scope, error.code) == (Kind.QUOTA, "az/s/eastus/*/*/*", "ResourceDeploymentFailure")
