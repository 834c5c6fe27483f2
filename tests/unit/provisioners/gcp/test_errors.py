"""Google's error codes mean what the table says, through the SDK's own parsing, in operations and in answers."""

from __future__ import annotations

import socket
import ssl
from typing import Any

import pytest
import requests
import urllib3
from google.auth import exceptions as auth
from google.auth.credentials import AnonymousCredentials

from provisioners import base, catalogue, gcp
from provisioners.base import Kind, Market
from provisioners.gcp import errors, settings
from provisioners.gcp.error_scopes import ErrorScope, Target
from tests.clouds import gcp as clouds_gcp
from tests.unit.provisioners.gcp.gcp_world import World

ROOT = "google/acme-ml"
OFFER = f"{ROOT}/us-central1/us-central1-a/n1-standard-4+nvidia-tesla-t4x1/on-demand"
TYPE_IN_ZONE = f"{ROOT}/us-central1/us-central1-a/n1-standard-4+nvidia-tesla-t4x1/*"
TYPE_IN_REGION = f"{ROOT}/us-central1/*/n1-standard-4+nvidia-tesla-t4x1/*"
ZONE = f"{ROOT}/us-central1/us-central1-a/*/*"
REGION = f"{ROOT}/us-central1/*/*/*"
PROJECT = f"{ROOT}/*/*/*/*"
GPUS = f"{ROOT}/*/*/*+*|a2-*|a3-*|a4-*|g2-*|g4-*/*"
T4 = f"{ROOT}/us-central1/*/*+nvidia-tesla-t4x*/on-demand"


def quota(metric: str, limit: float = 8.0, where: str = "in region us-central1") -> str:
    return f"Quota '{metric}' exceeded.  Limit: {limit:.1f} {where}."


@pytest.mark.parametrize(
    ("code", "kind", "scope", "block_for"),
    [
        pytest.param("ZONE_RESOURCE_POOL_EXHAUSTED", Kind.CAPACITY, OFFER, 300, id="stockout"),
        pytest.param("ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", Kind.CAPACITY, OFFER, 300, id="stockout-details"),
        pytest.param("RESOURCE_POOL_EXHAUSTED", Kind.CAPACITY, OFFER, 300, id="pool"),
        pytest.param("insufficientCapacity", Kind.CAPACITY, OFFER, 300, id="insufficient"),
        pytest.param("UNSUPPORTED_OPERATION", Kind.CAPACITY, OFFER, 300, id="preempted-while-made"),
        pytest.param("IP_SPACE_EXHAUSTED", Kind.CAPACITY, REGION, 30, id="addresses"),
        pytest.param("IP_SPACE_EXHAUSTED_WITH_DETAILS", Kind.CAPACITY, REGION, 30, id="addresses-details"),
        pytest.param("RESOURCE_NOT_READY", Kind.TRANSIENT, ZONE, 0, id="not-ready"),
        pytest.param("RESOURCE_OPERATION_RATE_EXCEEDED", Kind.TRANSIENT, ZONE, 0, id="operation-rate"),
        pytest.param("VM_MIN_COUNT_NOT_REACHED", Kind.TRANSIENT, ZONE, 0, id="min-count"),
        pytest.param("RESOURCE_NOT_FOUND", Kind.CAPACITY, ZONE, 0, id="not-found"),
        pytest.param("CONCURRENT_OPERATIONS_QUOTA_EXCEEDED", Kind.THROTTLED, None, 0, id="concurrent"),
        pytest.param("RATE_LIMIT_EXCEEDED", Kind.THROTTLED, None, 0, id="rate"),
        pytest.param("PERMISSIONS_ERROR", Kind.AUTH, PROJECT, 0, id="permissions"),
        pytest.param("IAM_PERMISSION_DENIED", Kind.AUTH, PROJECT, 0, id="iam"),
        pytest.param("CONDITION_NOT_MET", Kind.CONFIG, PROJECT, 0, id="org-policy"),
        pytest.param("INVALID_FIELD_VALUE", Kind.CONFIG, TYPE_IN_REGION, 0, id="field"),
        pytest.param("INTERNAL_ERROR", Kind.TRANSIENT, None, 0, id="internal"),
        pytest.param("SOMETHING_NEW", Kind.TRANSIENT, OFFER, 0, id="unknown"),
    ],
)
async def test_an_operation_that_fails_is_told_by_its_code(
    world: World, code: str, kind: Kind, scope: str | None, block_for: float
) -> None:
    world.cloud.faults.append(clouds_gcp.Fault(fails_with=code))
    with pytest.raises(base.ProvisionError) as caught:
        await world.provisioner.create(await world.request())
    found = caught.value
    assert (found.kind, found.code, found.scope, found.block_for) == (kind, code, scope, block_for)
    assert found.maybe_created is False
    assert "n1-standard-4+nvidia-tesla-t4x1 on-demand in us-central1-a" in str(found)


@pytest.mark.parametrize(
    ("reason", "status", "message", "details", "kind", "scope", "unclear"),
    [
        pytest.param("insufficientCapacity", 503, "none left", [], Kind.CAPACITY, OFFER, False, id="stockout"),
        pytest.param("quotaExceeded", 403, quota("NVIDIA_T4_GPUS"), [], Kind.QUOTA, T4, False, id="quota"),
        pytest.param(
            "quotaExceeded", 403, quota("GPUS_ALL_REGIONS", 0, "globally"), [], Kind.QUOTA, GPUS, False, id="quota-all"
        ),
        pytest.param(
            "quotaExceeded", 403, quota("IN_USE_ADDRESSES"), [], Kind.QUOTA, REGION, False, id="quota-address"
        ),
        pytest.param("rateLimitExceeded", 403, "slow down", [], Kind.THROTTLED, None, False, id="rate"),
        pytest.param(
            "rateLimitExceeded",
            403,
            "Rate Limit Exceeded",
            [
                {
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": "CONCURRENT_OPERATIONS_QUOTA_EXCEEDED",
                    "domain": "compute.googleapis.com",
                }
            ],
            Kind.THROTTLED,
            None,
            False,
            id="concurrent",
        ),
        pytest.param(
            "forbidden",
            403,
            "slow down",
            [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "RATE_LIMIT_EXCEEDED", "domain": "x"}],
            Kind.THROTTLED,
            None,
            False,
            id="details-before-reason",
        ),
        pytest.param("tooManyRequests", 429, "slow down", [], Kind.THROTTLED, None, False, id="429"),
        pytest.param("forbidden", 403, "Required permission", [], Kind.AUTH, PROJECT, False, id="forbidden"),
        pytest.param("authError", 401, "Invalid credentials", [], Kind.AUTH, PROJECT, False, id="401"),
        pytest.param("accessNotConfigured", 403, "enable it", [], Kind.AUTH, PROJECT, False, id="api-off"),
        pytest.param(
            "forbidden",
            403,
            "denied",
            [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "IAM_PERMISSION_DENIED", "domain": "x"}],
            Kind.AUTH,
            PROJECT,
            False,
            id="iam",
        ),
        pytest.param(
            "conditionNotMet",
            412,
            "Constraint constraints/compute.vmExternalIpAccess violated for project 1.",
            [],
            Kind.CONFIG,
            PROJECT,
            False,
            id="org-policy",
        ),
        pytest.param("conditionNotMet", 412, "no", [], Kind.CONFIG, TYPE_IN_REGION, False, id="condition"),
        pytest.param(
            "notFound",
            404,
            "Location us-central1-q is not found or access is unauthorized.",
            [],
            Kind.CONFIG,
            ZONE,
            False,
            id="location",
        ),
        pytest.param(
            "notFound",
            404,
            "The resource 'projects/p/global/images/x' was not found",
            [],
            Kind.CONFIG,
            f"{ROOT}/*/*/n1-standard-4+nvidia-tesla-t4x1/*",
            False,
            id="image",
        ),
        pytest.param(
            "invalid",
            400,
            "Requested disk size cannot be smaller than the image size (50 GB)",
            [],
            Kind.CONFIG,
            TYPE_IN_REGION,
            False,
            id="disk-size",
        ),
        pytest.param("badRequest", 400, "no", [], Kind.CONFIG, TYPE_IN_REGION, False, id="bad-request"),
        pytest.param("resourceNotReady", 400, "not ready", [], Kind.TRANSIENT, ZONE, False, id="not-ready"),
        pytest.param("somethingNew", 400, "no", [], Kind.CONFIG, TYPE_IN_REGION, False, id="unknown-400"),
        pytest.param("somethingNew", 403, "no", [], Kind.AUTH, PROJECT, False, id="unknown-403"),
        pytest.param("backendError", 503, "try again", [], Kind.TRANSIENT, None, True, id="backend"),
        pytest.param("internalError", 500, "try again", [], Kind.TRANSIENT, None, True, id="internal"),
        pytest.param("somethingNew", 502, "bad gateway", [], Kind.TRANSIENT, None, True, id="unknown-5xx"),
    ],
)
async def test_an_answer_that_refuses_is_told_by_its_reason(
    world: World,
    reason: str,
    status: int,
    message: str,
    details: list[dict[str, Any]],
    kind: Kind,
    scope: str | None,
    unclear: bool,
) -> None:
    request = await world.request()
    world.cloud.faults.append(clouds_gcp.Fault(reason=reason, status=status, message=message, details=details))
    with pytest.raises(base.ProvisionError) as caught:
        await world.provisioner.create(request)
    found = caught.value
    assert (found.kind, found.scope, found.maybe_created) == (kind, scope, unclear)
    # After a 401 the session asks for another token, which these credentials cannot have.
    assert (message if status != 401 else "cannot be refreshed") in str(found)
    assert "http" not in str(found)
    assert found.code
    assert not world.cloud.created


async def test_a_rate_quota_is_waited_for_until_the_minute_ends(world: World) -> None:
    request = await world.request()
    world.seconds = 1_780_000_000.0 // 60 * 60 + 47
    world.cloud.faults.append(clouds_gcp.Fault(reason="rateLimitExceeded"))
    with pytest.raises(base.ProvisionError) as caught:
        await world.provisioner.create(request)
    assert caught.value.retry_after == pytest.approx(14)


async def test_a_throttled_listing_pauses_only_its_own_group_of_methods(world: World) -> None:
    view = await world.created()
    world.cloud.faults.append(clouds_gcp.Fault(method="instances.aggregatedList", reason="rateLimitExceeded"))
    with pytest.raises(base.ProvisionError) as caught:
        await world.provisioner.list_owned()
    assert (caught.value.kind, caught.value.maybe_created) == (Kind.THROTTLED, False)
    before = world.seconds
    await world.provisioner.describe(view.ref)
    assert world.seconds == before
    await world.provisioner.list_owned()
    assert world.seconds >= before + caught.value.retry_after


@pytest.mark.parametrize(
    ("metric", "dimensions", "limit_name", "market", "blocks", "spares"),
    [
        pytest.param(
            "gpus_per_gpu_family",
            {"region": "us-central1", "gpu_family": "NVIDIA_H100"},
            "GPUS-PER-GPU-FAMILY-per-project-region",
            Market.ON_DEMAND,
            ["us-central1/us-central1-f/a3-highgpu-1g/on-demand"],
            ["us-central1/us-central1-a/g2-standard-4/on-demand", "us-west1/us-west1-a/a3-highgpu-8g/on-demand"],
            id="h100-family",
        ),
        pytest.param(
            "gpus_per_gpu_family",
            {"region": "us-central1", "gpu_family": "NVIDIA_RTX_PRO_6000"},
            "GPUS-PER-GPU-FAMILY-per-project-region",
            Market.ON_DEMAND,
            ["us-central1/us-central1-b/g4-standard-48/on-demand"],
            ["us-central1/us-central1-b/g2-standard-4/on-demand"],
            id="rtx-family",
        ),
        pytest.param(
            "preemptible_nvidia_t4_gpus",
            {"region": "us-central1"},
            "PREEMPTIBLE-NVIDIA-T4-GPUS-per-project-region",
            Market.SPOT,
            ["us-central1/us-central1-f/n1-standard-8+nvidia-tesla-t4x2/spot"],
            ["us-central1/us-central1-f/n1-standard-8+nvidia-tesla-t4x2/on-demand"],
            id="preemptible",
        ),
        pytest.param(
            "nvidia_t4_gpus",
            {"region": "us-central1"},
            "NVIDIA-T4-GPUS-per-project-region",
            Market.SPOT,
            [
                "us-central1/us-central1-f/n1-standard-8+nvidia-tesla-t4x2/on-demand",
                "us-central1/us-central1-a/n1-standard-4+nvidia-tesla-t4x1/spot",
            ],
            ["us-central1/us-central1-f/n1-standard-8/on-demand"],
            id="spot-on-the-plain-quota",
        ),
        pytest.param(
            "cpus",
            {"region": "us-central1"},
            "CPUS-per-project-region",
            Market.ON_DEMAND,
            [
                "us-central1/us-central1-f/e2-standard-4/on-demand",
                "us-central1/us-central1-f/n1-standard-8+nvidia-tesla-t4x2/on-demand",
            ],
            ["us-central1/us-central1-a/c3-standard-4/on-demand", "us-central1/us-central1-a/n1-standard-4/spot"],
            id="cpus",
        ),
    ],
)
async def test_the_structured_quota_of_an_operation_tells_what_it_governs(
    world: World,
    metric: str,
    dimensions: dict[str, str],
    limit_name: str,
    market: Market,
    blocks: list[str],
    spares: list[str],
) -> None:
    types = ("a3-highgpu-1g",) if "H100" in str(dimensions) else ("n1-standard-4",)
    types = ("g4-standard-48",) if "RTX" in str(dimensions) else types
    gpu = {"a3-highgpu-1g": "h100", "g4-standard-48": "rtx-pro-6000"}.get(types[0], "t4")
    offer = await world.offer(base.Shape(gpu, 1, types=types, markets=(market,)))
    told = {
        "metricName": f"compute.googleapis.com/{metric}",
        "limitName": limit_name,
        "dimensions": dimensions,
        "limit": 0.0,
        "message": "Quota exceeded.",
    }
    world.cloud.faults.append(clouds_gcp.Fault(fails_with="QUOTA_EXCEEDED", quota=told))
    with pytest.raises(base.ProvisionError) as caught:
        await world.provisioner.create(await world.request(offer))
    scope = caught.value.scope
    assert caught.value.kind is Kind.QUOTA
    assert caught.value.block_for == 3600.0, "a quota of zero is not raised within minutes"
    assert scope is not None and scope.matches(offer.key)
    assert all(scope.matches(f"{ROOT}/{one}") for one in blocks), scope
    assert not any(scope.matches(f"{ROOT}/{one}") for one in spares), scope


async def test_a_type_that_a_zone_does_not_have_is_left_alone_there_for_a_day(world: World) -> None:
    request = await world.request()
    world.cloud.lacks["us-central1-a"] = {"n1-standard-4"}
    with pytest.raises(base.ProvisionError) as caught:
        await world.provisioner.create(request)
    assert (caught.value.kind, caught.value.scope, caught.value.block_for) == (Kind.CONFIG, TYPE_IN_ZONE, 86400.0)


@pytest.mark.parametrize("code", sorted(errors.TABLE.rows))
def test_every_code_of_the_table_is_written_as_codes_are_compared(code: str) -> None:
    assert errors.normal(code) == code


@pytest.mark.parametrize(
    ("written", "normal"),
    [("quotaExceeded", "QUOTA_EXCEEDED"), ("rateLimitExceeded", "RATE_LIMIT_EXCEEDED"), ("INVALID", "INVALID")],
)
def test_a_reason_and_a_code_are_the_same_word(written: str, normal: str) -> None:
    assert errors.normal(written) == normal


def test_a_failure_outside_an_offer_speaks_for_no_offer_unless_it_is_the_project() -> None:
    target = Target("google", "acme-ml", catalogue.load("gcp"))
    assert [target.pattern(one) for one in (ErrorScope.OFFER, ErrorScope.ZONE, ErrorScope.METRIC)] == [None] * 3
    assert target.pattern(ErrorScope.PROJECT) == PROJECT


def _connection(cause: BaseException) -> requests.exceptions.ConnectionError:
    pool: Any = None
    return requests.exceptions.ConnectionError(urllib3.exceptions.MaxRetryError(pool, "/", cause))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "kind", "unclear"),
    [
        pytest.param(requests.exceptions.ReadTimeout("slow"), Kind.TRANSIENT, True, id="read-timeout"),
        pytest.param(requests.exceptions.ConnectTimeout("slow"), Kind.TRANSIENT, False, id="connect-timeout"),
        pytest.param(
            requests.exceptions.ConnectionError(urllib3.exceptions.ProtocolError("aborted", ConnectionResetError())),
            Kind.TRANSIENT,
            True,
            id="reset",
        ),
        pytest.param(
            _connection(urllib3.exceptions.NameResolutionError("compute.googleapis.com", None, socket.gaierror())),  # type: ignore[arg-type]
            Kind.TRANSIENT,
            False,
            id="no-such-host",
        ),
        pytest.param(
            requests.exceptions.SSLError(
                urllib3.exceptions.MaxRetryError(
                    None,  # type: ignore[arg-type]
                    "/",
                    urllib3.exceptions.SSLError(ssl.SSLCertVerificationError("certificate verify failed")),
                )
            ),
            Kind.TRANSIENT,
            False,
            id="certificate",
        ),
        pytest.param(requests.exceptions.ChunkedEncodingError("cut off"), Kind.TRANSIENT, True, id="cut-off"),
        pytest.param(auth.RefreshError("invalid_grant: Invalid JWT Signature."), Kind.AUTH, False, id="key-revoked"),
        pytest.param(auth.RefreshError("try later", retryable=True), Kind.TRANSIENT, False, id="token-later"),
        pytest.param(auth.TransportError("token endpoint unreachable"), Kind.TRANSIENT, False, id="no-token"),
        pytest.param(auth.DefaultCredentialsError("none found"), Kind.AUTH, False, id="no-credentials"),
        pytest.param(RuntimeError("cannot parse"), Kind.TRANSIENT, True, id="anything-else"),
    ],
)
def test_what_went_wrong_on_the_way_tells_whether_anything_was_made(
    error: Exception, kind: Kind, unclear: bool
) -> None:
    target = Target("google", "acme-ml", catalogue.load("gcp"))
    found = errors.classify(error, target, now=0.0, creating=True)
    assert (found.kind, found.maybe_created) == (kind, unclear)
    assert errors.classify(error, target, now=0.0).maybe_created is False


async def test_a_closed_port_is_no_open_question() -> None:
    world = World(endpoint="http://127.0.0.1:1")
    offer = await World().offer()
    chosen = settings.read(world.options, catalogue.load("gcp"))[0]
    real = gcp.Clients(chosen, credentials=AnonymousCredentials())
    provisioner = gcp.Gcp(world.context, world.options, real)
    with pytest.raises(base.ProvisionError, match="no connection") as caught:
        await provisioner.create(await world.request(offer))
    assert caught.value.maybe_created is False
    await provisioner.close()
