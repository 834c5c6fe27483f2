"""What is sent to Compute Engine, and that its simulation refuses anything that is written wrongly."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from provisioners import base
from provisioners.base import Kind, Market
from provisioners.gcp import request as module
from tests.clouds import gcp, wire
from tests.unit.provisioners.gcp.gcp_world import World


async def sent(world: World, request: base.CreateRequest) -> dict[str, Any]:
    """The body of the insert that a request makes."""
    await world.provisioner.create(request)
    found: dict[str, Any] = json.loads([one for one in world.sent if one.method == "POST"][-1].body)
    return found


def item(body: dict[str, Any], key: str) -> str | None:
    return next((one["value"] for one in body["metadata"]["items"] if one["key"] == key), None)


async def test_an_attached_gpu_is_asked_for_beside_the_general_type(world: World) -> None:
    body = await sent(world, await world.request())
    assert body["machineType"] == "zones/us-central1-a/machineTypes/n1-standard-4"
    assert body["guestAccelerators"] == [
        {"acceleratorType": "zones/us-central1-a/acceleratorTypes/nvidia-tesla-t4", "acceleratorCount": 1}
    ]


@pytest.mark.parametrize(
    ("gpu", "machine_type", "disk"),
    [
        pytest.param("l4", "g2-standard-4", "pd-balanced", id="g2"),
        pytest.param("a100-40", "a2-highgpu-1g", "pd-balanced", id="a2"),
        pytest.param("h100", "a3-highgpu-8g", "pd-balanced", id="a3-high"),
        pytest.param("h200", "a3-ultragpu-8g", "hyperdisk-balanced", id="a3-ultra"),
        pytest.param("b200", "a4-highgpu-8g", "hyperdisk-balanced", id="a4"),
        pytest.param("rtx-pro-6000", "g4-standard-48", "hyperdisk-balanced", id="g4"),
        pytest.param("", "c4-standard-4", "hyperdisk-balanced", id="c4"),
        pytest.param("", "n2-standard-4", "pd-balanced", id="n2"),
    ],
)
async def test_a_type_gets_the_disk_that_it_takes_and_no_gpu_that_it_has(
    gpu: str, machine_type: str, disk: str
) -> None:
    world = World(prices={machine_type: 1.0})
    offer = await world.offer(base.Shape(gpu, types=(machine_type,)))
    body = await sent(world, await world.request(offer))
    assert "guestAccelerators" not in body
    assert body["disks"][0]["initializeParams"]["diskType"].endswith(f"/diskTypes/{disk}")


async def test_arm_machines_boot_an_arm_image(world: World) -> None:
    offer = await world.offer(base.Shape(arch="arm64", types=("t2a-standard-4",)))
    assert "arm64" in offer.image
    view = await world.provisioner.create(await world.request(offer))
    assert view.status is base.InstanceStatus.RUNNING


@pytest.mark.parametrize("market", list(Market))
async def test_every_instance_is_deleted_by_the_cloud_at_its_deadline(world: World, market: Market) -> None:
    offer = await world.offer(base.Shape("t4", types=("n1-standard-4",), markets=(market,)))
    request = await world.request(offer, lifetime=7200.0)
    assert (await sent(world, request))["scheduling"] == {
        "provisioningModel": "SPOT" if market is Market.SPOT else "STANDARD",
        "instanceTerminationAction": "DELETE",
        "onHostMaintenance": "TERMINATE",
        "automaticRestart": False,
        "maxRunDuration": {"seconds": "7200"},
    }


async def test_disks_go_with_their_instance_and_carry_its_labels(world: World) -> None:
    request = await world.request(disk=200 * 2**30 + 1)
    body = await sent(world, request)
    (disk,) = body["disks"]
    assert (disk["boot"], disk["autoDelete"], disk["initializeParams"]["diskSizeGb"]) == (True, True, "201")
    assert disk["initializeParams"]["labels"] == body["labels"]
    assert body["labels"]["runnerd-attempt"] == "ci-1-a1"
    assert body["labels"]["runnerd-repo"] == "acme-research"
    assert json.loads(item(body, "runnerd-tags") or "") == dict(request.tags)


async def test_an_instance_has_no_identity_unless_one_is_asked_for(world: World) -> None:
    world.cloud.iam.service_accounts.add("ci@acme-ml.iam.gserviceaccount.com")
    assert "serviceAccounts" not in await sent(world, await world.request())
    options = {"service_account": "ci@acme-ml.iam.gserviceaccount.com"}
    body = await sent(world, await world.request(options=options))
    assert body["serviceAccounts"] == [
        {
            "email": "ci@acme-ml.iam.gserviceaccount.com",
            "scopes": ["https://www.googleapis.com/auth/cloud-platform"],
        }
    ]


@pytest.mark.parametrize(
    ("options", "key"),
    [
        pytest.param({}, "user-data", id="ubuntu-reads-user-data"),
        pytest.param({"image": "family:debian-cloud/debian-12"}, "startup-script", id="others-read-startup-script"),
        pytest.param(
            {"image": "family:debian-cloud/debian-12", "boot": "cloud-init"}, "user-data", id="as-the-operator-says"
        ),
    ],
)
async def test_exactly_one_thing_in_the_image_runs_the_boot_script(
    world: World, options: dict[str, Any], key: str
) -> None:
    offer = await world.offer(base.Shape(types=("n2-standard-4",)), **options)
    request = await world.request(offer, options=options)
    body = await sent(world, request)
    assert [one["key"] for one in body["metadata"]["items"] if one["value"] == request.user_data] == [key]


async def test_networks_addresses_and_tags_are_as_the_pool_has_them(world: World) -> None:
    world.cloud.subnetworks.add("us-central1/ci")
    body = await sent(world, await world.request())
    assert body["networkInterfaces"] == [
        {"network": "global/networks/default", "accessConfigs": [{"name": "External NAT", "type": "ONE_TO_ONE_NAT"}]}
    ]
    options = {"subnetwork": {"us-central1": "ci"}, "public_address": False, "network_tags": ["ci", "no-ingress"]}
    body = await sent(world, await world.request(options=options))
    assert body["networkInterfaces"] == [{"subnetwork": "regions/us-central1/subnetworks/ci"}]
    assert body["tags"] == {"items": ["ci", "no-ingress"]}


async def test_tags_that_iam_conditions_look_at_go_on_instance_and_disk() -> None:
    world = World(resource_tags={"acme-ml/runnerd": "ci"})
    body = await sent(world, await world.request())
    assert body["params"] == {"resourceManagerTags": {"acme-ml/runnerd": "ci"}}
    assert body["disks"][0]["initializeParams"]["resourceManagerTags"] == {"acme-ml/runnerd": "ci"}


async def test_a_notice_before_preemption_is_asked_for_of_spot_instances_only() -> None:
    world = World(preemption_notice="2m")
    for market, expected in ((Market.SPOT, {"seconds": "120"}), (Market.ON_DEMAND, None)):
        offer = await world.offer(base.Shape("t4", types=("n1-standard-4",), markets=(market,)))
        body = await sent(world, await world.request(offer))
        assert body["scheduling"].get("preemptionNoticeDuration") == expected


async def test_a_name_that_starts_with_a_digit_gets_a_letter_before_it(world: World) -> None:
    request = await world.request(name="7-of-9")
    view = await world.provisioner.create(request)
    assert view.name == "7-of-9"
    assert [one.name for one in world.cloud.instances.values()] == ["r-7-of-9"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        pytest.param({"user_data": "#!/bin/sh\n" + "x" * 262144}, "262144", id="script-too-long"),
        pytest.param({"user_data": "echo"}, "#!", id="no-script"),
        pytest.param({"options": {"imagee": "x"}}, "image", id="unknown-option"),
        pytest.param({"options": {"metadata": {"a": "y" * 262000, "b": "y" * 262144}}}, "524288", id="metadata"),
    ],
)
async def test_what_compute_engine_could_not_serve_is_refused_before_it_is_sent(
    world: World, fields: dict[str, Any], words: str
) -> None:
    request = await world.request(**fields)
    with pytest.raises(base.ProvisionError, match=words) as caught:
        await world.provisioner.create(request)
    assert (caught.value.kind, caught.value.maybe_created) == (Kind.CONFIG, False)
    assert world.calls("instances.insert") == 0


# -- the simulation is as strict as the API ----------------------------------------------------------------------------


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(body: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        inner: Any = body
        for part in parents:
            inner = inner[int(part)] if part.isdigit() else inner.setdefault(part, {})
        inner[last] = value

    return change


def _renamed(path: str, name: str) -> Callable[[dict[str, Any]], None]:
    def change(body: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        inner: Any = body
        for part in parents:
            inner = inner[int(part)] if part.isdigit() else inner[part]
        inner[name] = inner.pop(last)

    return change


@pytest.fixture
async def inserted(world: World) -> tuple[str, dict[str, Any]]:
    """An insert that is accepted, under another name."""
    await world.provisioner.create(await world.request())
    found = [one for one in world.sent if one.method == "POST"][-1]
    body = json.loads(found.body)
    body["name"] = "another"
    return found.url.partition("?")[0], body


def post(world: World, url: str, body: dict[str, Any]) -> tuple[int, str]:
    told = world.cloud.handle(wire.Request("POST", url, {}, json.dumps(body).encode()))
    answer = json.loads(told.body)
    return told.status, answer.get("error", {}).get("message", "")


async def test_the_body_that_the_provisioner_sends_is_accepted(
    world: World, inserted: tuple[str, dict[str, Any]]
) -> None:
    assert post(world, *inserted) == (200, "")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(_renamed("scheduling", "shceduling"), "shceduling", id="field-misspelt"),
        pytest.param(_renamed("disks.0.autoDelete", "autodelete"), "autodelete", id="field-in-another-case"),
        pytest.param(_renamed("machineType", "machine_type"), "machine_type", id="field-as-in-python"),
        pytest.param(_set("scheduling.provisioningModel", "spot"), "provisioningModel", id="enum-in-lower-case"),
        pytest.param(_set("scheduling.instanceTerminationAction", "TERMINATE"), "DELETE", id="enum-of-another-field"),
        pytest.param(_set("networkInterfaces.0.accessConfigs.0.type", "NAT"), "ONE_TO_ONE_NAT", id="enum-shortened"),
        pytest.param(_set("scheduling.automaticRestart", "false"), "true or false", id="text-for-a-flag"),
        pytest.param(_set("disks.0.initializeParams.diskSizeGb", 100), "string", id="number-for-an-int64"),
        pytest.param(_set("name", "Upper"), "regex", id="name"),
        pytest.param(_set("labels.runnerd-repo", "Acme/Research"), "Label value", id="label-value"),
        pytest.param(_set("labels", {"7up": "x"}), "Label key", id="label-key"),
        pytest.param(_set("labels", {f"k{n}": "" for n in range(65)}), "64", id="too-many-labels"),
        pytest.param(_set("scheduling.onHostMaintenance", "MIGRATE"), "live migration", id="gpus-do-not-migrate"),
        pytest.param(_set("scheduling.provisioningModel", "SPOT"), "", id="spot-is-fine"),
        pytest.param(
            _set("scheduling", {"provisioningModel": "SPOT", "onHostMaintenance": "TERMINATE"}),
            "automatic restart",
            id="spot-does-not-restart",
        ),
        pytest.param(_set("scheduling.terminationTime", "2027-05-28T20:00:00Z"), "Only one", id="two-limits"),
        pytest.param(_set("scheduling.maxRunDuration", {"seconds": "29"}), "30 seconds", id="limit-too-near"),
        pytest.param(_set("scheduling.maxRunDuration", {"seconds": "10368001"}), "120 days", id="limit-too-far"),
        pytest.param(
            _set("machineType", "zones/us-central1-a/machineTypes/g2-standard-4"), "not compatible", id="gpu-twice"
        ),
        pytest.param(
            _set("machineType", "zones/us-central1-a/machineTypes/n2-standard-4"), "accelerators", id="gpu-on-n2"
        ),
        pytest.param(_set("machineType", "zones/us-east1-b/machineTypes/n1-standard-4"), "zone", id="another-zone"),
        pytest.param(_set("guestAccelerators.0.acceleratorCount", 3), "Not supported", id="three-gpus"),
        pytest.param(_set("disks.0.initializeParams.diskSizeGb", "20"), "image size", id="disk-below-image"),
        pytest.param(
            _set("disks.0.initializeParams.diskType", "zones/us-central1-a/diskTypes/hyperdisk-balanced"),
            "not compatible",
            id="disk-type-of-another-series",
        ),
        pytest.param(
            _set("disks.0.initializeParams.sourceImage", "projects/ubuntu-os-cloud/global/images/nope"),
            "not found",
            id="image",
        ),
        pytest.param(
            _set(
                "disks.0.initializeParams.sourceImage",
                "projects/ubuntu-os-cloud/global/images/ubuntu-2404-noble-arm64-v20261115",
            ),
            "architecture",
            id="image-of-another-architecture",
        ),
        pytest.param(_set("networkInterfaces.0.network", "global/networks/nope"), "network", id="network"),
        pytest.param(_set("serviceAccounts", [{"email": "x@y.z"}]), "service account", id="service-account"),
        pytest.param(_set("metadata.items", [{"key": "a", "value": "b"}] * 2), "duplicate", id="metadata-twice"),
        pytest.param(_set("metadata.items", [{"key": "a", "value": "b" * 262145}]), "262144", id="metadata-too-long"),
        pytest.param(_set("name", "ci-1"), "already exists", id="name-taken"),
    ],
)
async def test_a_body_that_is_wrong_is_refused(
    world: World, inserted: tuple[str, dict[str, Any]], change: Callable[[dict[str, Any]], None], words: str
) -> None:
    url, body = inserted
    body = copy.deepcopy(body)
    change(body)
    status, message = post(world, url, body)
    assert (status == 200) is (words == "")
    assert words in message


@pytest.mark.parametrize(
    ("query", "words"),
    [
        pytest.param("requestID=x", "requestID", id="parameter-misspelt"),
        pytest.param("requestId=x", "UUID", id="not-a-uuid"),
        pytest.param("requestId=00000000-0000-0000-0000-000000000000", "zero", id="zero-uuid"),
    ],
)
async def test_a_query_that_is_wrong_is_refused(
    world: World, inserted: tuple[str, dict[str, Any]], query: str, words: str
) -> None:
    url, body = inserted
    status, message = post(world, f"{url}?{query}", body)
    assert status == 400
    assert words in message


async def test_a_request_id_with_another_body_is_a_conflict(world: World, inserted: tuple[str, dict[str, Any]]) -> None:
    url, body = inserted
    url = f"{url}?requestId=7f0d0e8e-7a4b-4cf5-8d41-0d7b3c1c2a11"
    assert post(world, url, body)[0] == 200
    assert post(world, url, body)[0] == 200
    status, message = post(world, url, {**body, "description": "changed"})
    assert (status, "another request" in message) == (400, True)
    assert len(world.cloud.created) == 2


@pytest.mark.parametrize(
    ("misspell", "words"),
    [
        pytest.param(("provisioning_model", "SPOTTY"), "provisioningModel", id="enum"),
        pytest.param(("on_host_maintenance", "Terminate"), "onHostMaintenance", id="enum-case"),
    ],
)
async def test_a_provisioner_that_misspells_an_enum_is_found_out(
    world: World, monkeypatch: pytest.MonkeyPatch, misspell: tuple[str, str], words: str
) -> None:
    right = module._scheduling

    def wrong(*args: Any) -> Any:
        found = right(*args)
        setattr(found, *misspell)
        return found

    request = await world.request()
    monkeypatch.setattr(module, "_scheduling", wrong)
    with pytest.raises(base.ProvisionError, match=words) as caught:
        await world.provisioner.create(request)
    assert caught.value.kind is Kind.CONFIG


async def test_an_answer_that_breaks_the_official_schema_fails_the_test_that_got_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = await world.created()
    shown = gcp.Instance.shown

    def wrong(self: gcp.Instance, disk: Any) -> dict[str, Any]:
        return {**shown(self, disk), "state": "RUNNING"}

    monkeypatch.setattr(gcp.Instance, "shown", wrong)
    with pytest.raises((AssertionError, base.ProvisionError), match="official schema"):
        await world.provisioner.describe(view.ref)
