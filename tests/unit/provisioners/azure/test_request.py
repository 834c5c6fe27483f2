"""The body of a PUT: what is in it, what is refused before it is sent, and that a slip in it would be noticed."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from provisioners import base
from provisioners.azure import images, names, request
from tests.clouds import azure
from tests.clouds.azure import lab


async def body_of(one: lab.Lab, wanted: base.CreateRequest) -> dict[str, Any]:
    """The body that the simulation was sent."""
    await one.provisioner.create(wanted)
    return one.arm.created[-1].body


async def test_a_spot_machine_never_costs_more_than_on_demand_and_goes_when_it_is_taken_back() -> None:
    one = lab.Lab()
    properties = (await body_of(one, one.request(market=base.Market.SPOT)))["properties"]
    assert (properties["priority"], properties["evictionPolicy"]) == ("Spot", "Delete")
    assert properties["billingProfile"] == {"maxPrice": -1}
    properties = (await body_of(one, one.request()))["properties"]
    assert not {"priority", "evictionPolicy", "billingProfile"} & properties.keys()


async def test_everything_goes_with_the_machine_and_carries_its_tags() -> None:
    one = lab.Lab(public_address=True)
    wanted = one.request()
    body = await body_of(one, wanted)
    (interface,) = body["properties"]["networkProfile"]["networkInterfaceConfigurations"]
    address = interface["properties"]["ipConfigurations"][0]["properties"]["publicIPAddressConfiguration"]
    assert body["tags"] == interface["tags"] == address["tags"] == dict(wanted.tags)
    disk = body["properties"]["storageProfile"]["osDisk"]
    options = (disk["deleteOption"], interface["properties"]["deleteOption"], address["properties"]["deleteOption"])
    assert options == ("Delete",) * 3
    assert names.owner(disk["name"], "acme-ci") == names.machine(wanted)
    assert names.owner(disk["name"], "somebody-else") is None


async def test_a_notice_before_deletions_is_asked_for_only_where_it_is_wanted_and_can_be_had() -> None:
    plain, one = lab.Lab(), lab.Lab(terminate_notice="5m")
    assert "scheduledEventsProfile" not in (await body_of(plain, plain.request()))["properties"]
    assert "scheduledEventsProfile" not in (await body_of(one, one.request(market=base.Market.SPOT)))["properties"]
    view = await one.provisioner.create(one.request())
    await one.provisioner.delete(view.ref)
    await one.clock.sleep(299)
    assert await one.provisioner.describe(view.ref) is not None
    await one.clock.sleep(60)
    assert await one.provisioner.describe(view.ref) is None


async def test_without_a_public_address_there_is_none() -> None:
    one = lab.Lab()
    await one.provisioner.create(one.request())
    assert {part.kind for part in one.arm.parts.values()} == {"networkInterfaces", "disks"}


async def test_zones_stand_only_where_they_are_configured() -> None:
    one = lab.Lab("eastus", "westus")
    assert (await body_of(one, one.request(zone="2")))["zones"] == ["2"]
    assert "zones" not in await body_of(one, one.request(region="westus", zone="regional"))


async def test_the_longest_name_of_an_instance_makes_a_name_that_azure_takes() -> None:
    one = lab.Lab()
    wanted = one.request(name="i" * 48)
    await one.provisioner.create(wanted)
    name = one.arm.created[0].name
    assert len(name) <= 63, "the limit for the name of a Linux host"
    assert all(len(part) <= 80 for _, _, part in one.arm.parts)


async def test_a_pool_chooses_image_disk_security_and_subnet() -> None:
    one = lab.Lab()
    one.arm.resources[f"{one.arm.subnet('eastus')}2".lower()] = "eastus"
    options = {
        "image": "Canonical:ubuntu-24_04-lts:server:24.04.202609010",
        "disk_type": "StandardSSD_LRS",
        "security_type": "trusted-launch",
        "subnets": {"eastus": f"{one.arm.subnet('eastus')}2"},
        "public_address": True,
    }
    body = await body_of(one, one.request(options=options, disk=200 * 2**30 + 1))
    storage = body["properties"]["storageProfile"]
    assert storage["imageReference"]["version"] == "24.04.202609010"
    assert storage["osDisk"]["managedDisk"]["storageAccountType"] == "StandardSSD_LRS"
    assert storage["osDisk"]["diskSizeGB"] == 201
    assert body["properties"]["securityProfile"]["securityType"] == "TrustedLaunch"
    assert len(one.arm.parts) == 3


async def test_the_newest_version_of_an_image_is_looked_up_once_and_sealed_in_the_offer(tmp_path: Any) -> None:
    one = lab.Lab(directory=str(tmp_path))
    (offer, *_) = await one.provisioner.offers(lab.SHAPE)
    assert offer.image == "microsoft-dsvm:ubuntu-hpc:2204:22.04.2026111001"
    one.arm.images["microsoft-dsvm", "ubuntu-hpc", "2204"].versions.append("22.04.2026112001")
    again = one.make()
    await again.start()
    assert (await again.offers(lab.SHAPE))[0].image == offer.image
    assert [name for name, _ in one.arm.calls].count("images") == 2
    pool = {"image": "Canonical:ubuntu-24_04-lts:server:latest"}
    (other, *_) = await again.offers(lab.SHAPE, pool)
    assert other.image == "Canonical:ubuntu-24_04-lts:server:24.04.202611100"


async def test_an_image_whose_versions_are_not_told_is_asked_for_as_written() -> None:
    one = lab.Lab("eastus")
    one.arm.faults.append(azure.Fault(operation="images", code="AuthorizationFailed", status=403, times=None))
    (offer, *_) = await one.provisioner.offers(lab.SHAPE)
    assert offer.image.endswith(":latest")
    await one.provisioner.offers(lab.SHAPE)
    assert [name for name, _ in one.arm.calls].count("images") == 1
    await one.provisioner.create(one.request())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"user_data": "#!/bin/sh\n" + "x" * 65536}, "65535", id="a-script-that-is-too-long"),
        pytest.param({"tags": {"a/b": "c"}}, '"a/b"', id="a-character-that-tags-cannot-have"),
        pytest.param({"tags": {"t": "x" * 257}}, "257", id="a-value-that-is-too-long"),
        pytest.param({"tags": {f"t{number}": "" for number in range(50)}}, "54 tags", id="too-many-tags"),
        pytest.param({"options": {"imag": "x"}}, "image", id="an-option-misspelt"),
        pytest.param({"options": {"image": "ubuntu"}}, "publisher:offer:sku:version", id="no-image"),
        pytest.param({"region": "northpole"}, "northpole", id="a-region-that-is-not-configured"),
    ],
)
async def test_what_azure_would_refuse_is_refused_before_it_is_sent(change: dict[str, Any], words: str) -> None:
    one = lab.Lab()
    with pytest.raises(base.ProvisionError) as caught:
        await one.provisioner.create(one.request(**change))
    assert (caught.value.kind, caught.value.maybe_created) == (base.Kind.CONFIG, False)
    assert words in str(caught.value)
    assert one.puts() == []


def slip_key(body: dict[str, Any]) -> None:
    body["properties"]["priorty"] = body["properties"].pop("priority")


def slip_enum(body: dict[str, Any]) -> None:
    body["properties"]["evictionPolicy"] = "delete"


def slip_deep(body: dict[str, Any]) -> None:
    interface = body["properties"]["networkProfile"]["networkInterfaceConfigurations"][0]
    interface["properties"]["deleteOptions"] = interface["properties"].pop("deleteOption")


def slip_type(body: dict[str, Any]) -> None:
    body["properties"]["storageProfile"]["osDisk"]["diskSizeGB"] = "128"


def slip_api(body: dict[str, Any]) -> None:
    body["properties"]["networkProfile"]["networkApiVersion"] = "2022-01-01"


def slip_read_only(body: dict[str, Any]) -> None:
    body["properties"]["vmId"] = "made-up"


def slip_missing(body: dict[str, Any]) -> None:
    del body["location"]


@pytest.mark.parametrize(
    ("slip", "member"),
    [
        pytest.param(slip_key, "$.properties.priorty", id="a-member-misspelt"),
        pytest.param(slip_enum, "$.properties.evictionPolicy", id="a-value-of-no-enum"),
        pytest.param(slip_deep, "deleteOptions", id="a-member-misspelt-deep-inside"),
        pytest.param(slip_type, "$.properties.storageProfile.osDisk.diskSizeGB", id="a-text-for-a-number"),
        pytest.param(slip_api, "networkApiVersion", id="a-version-that-does-not-exist"),
        pytest.param(slip_read_only, "$.properties.vmId", id="what-only-the-service-sets"),
        pytest.param(slip_missing, "$.location", id="what-is-required"),
    ],
)
async def test_a_slip_in_the_body_is_refused(
    slip: Callable[[dict[str, Any]], None], member: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = lab.Lab()
    build = request.build

    def slipped(*args: Any, **kwargs: Any) -> dict[str, Any]:
        body = build(*args, **kwargs)
        slip(body)
        return body

    monkeypatch.setattr(request, "build", slipped)
    with pytest.raises(base.ProvisionError) as caught:
        await one.provisioner.create(one.request(market=base.Market.SPOT))
    assert (caught.value.kind, caught.value.code) == (base.Kind.CONFIG, "InvalidRequestContent")
    assert member in str(caught.value)
    assert one.arm.created == []


def test_the_key_without_owner_is_a_valid_point_and_the_same_for_the_same_attempt() -> None:
    first, again, other = request.key_without_owner("a"), request.key_without_owner("a"), request.key_without_owner("b")
    assert first == again != other
    for key in (first, other):
        loaded = serialization.load_ssh_public_key(key.encode())
        raw = loaded.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        assert base64.b64decode(key.split()[1])[-32:] == raw
    # Half of all numbers are no point: a key that skipped the curve's equation would hit one within 64 tries.
    assert len({request.key_without_owner(str(number)) for number in range(64)}) == 64
    assert all(on_curve(request.key_without_owner(str(number))) for number in range(64))


def on_curve(key: str) -> bool:
    """Is there an x for this y?  -x^2 + y^2 = 1 + d x^2 y^2 modulo 2^255 - 19, computed from the definition."""
    p = 2**255 - 19
    d = -121665 * pow(121666, -1, p) % p
    y = int.from_bytes(base64.b64decode(key.split()[1])[-32:], "little")
    square = (y * y - 1) * pow(d * y * y + 1, -1, p) % p
    root = pow(square, (p + 3) // 8, p)
    return any(candidate * candidate % p == square for candidate in (root, root * pow(2, (p - 1) // 4, p) % p))


@pytest.mark.parametrize(
    ("size", "disk"),
    [
        pytest.param("Standard_NC4as_T4_v3", "Premium_LRS", id="as"),
        pytest.param("Standard_NC6s_v3", "Premium_LRS", id="s"),
        pytest.param("Standard_B4ms", "Premium_LRS", id="ms"),
        pytest.param("Standard_D4_v5", "StandardSSD_LRS", id="without-an-s"),
    ],
)
def test_the_disk_is_the_best_that_the_size_takes(size: str, disk: str) -> None:
    one = lab.Lab()
    wanted = one.request(machine_type=size)
    from provisioners.azure import settings

    body = request.build(
        wanted,
        chosen=settings.Settings(),
        pool=settings.PoolOptions(),
        region=settings.Region("eastus", "/subnet"),
        image="a:b:c:1",
    )
    assert body["properties"]["storageProfile"]["osDisk"]["managedDisk"] == {"storageAccountType": disk}


GALLERY = (
    f"/subscriptions/{azure.SUBSCRIPTION}/resourceGroups/images/providers/Microsoft.Compute/galleries/ci/images/gpu"
    "/versions/1.2.0"
)


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        pytest.param("a:b:c:1.0", {"publisher": "a", "offer": "b", "sku": "c", "version": "1.0"}, id="marketplace"),
        pytest.param(GALLERY, {"id": GALLERY}, id="gallery"),
        pytest.param(
            "/sharedGalleries/x/images/y", {"sharedGalleryImageId": "/sharedGalleries/x/images/y"}, id="shared"
        ),
        pytest.param(
            "/communityGalleries/x/images/y/versions/1",
            {"communityGalleryImageId": "/communityGalleries/x/images/y/versions/1"},
            id="community",
        ),
    ],
)
def test_every_kind_of_image_has_its_own_reference(image: str, reference: dict[str, str]) -> None:
    assert images.problem(image) == ""
    assert images.reference(image) == reference


def test_the_newest_version_is_the_highest_number_not_the_last_word() -> None:
    assert images.newest(["9.2.10", "10.0.1", "9.10.0"]) == "10.0.1"
    assert images.newest([]) is None


async def test_a_machine_boots_from_a_gallery_image_behind_a_security_group() -> None:
    one = lab.Lab("eastus", image=GALLERY, security_type="confidential")
    one.arm.resources[GALLERY.lower()] = "eastus"
    regions = {"eastus": {**one.options["regions"]["eastus"], "security_group": one.arm.security_group("eastus")}}
    one.provisioner = one.make(regions=regions)
    body = await body_of(one, one.request())
    (interface,) = body["properties"]["networkProfile"]["networkInterfaceConfigurations"]
    assert interface["properties"]["networkSecurityGroup"] == {"id": one.arm.security_group("eastus")}
    storage = body["properties"]["storageProfile"]
    assert storage["imageReference"] == {"id": GALLERY}
    assert "diskSizeGB" not in storage["osDisk"]
    assert storage["osDisk"]["managedDisk"]["securityProfile"] == {"securityEncryptionType": "VMGuestStateOnly"}
    assert body["properties"]["securityProfile"]["securityType"] == "ConfidentialVM"


async def test_arm_machines_boot_an_arm_image() -> None:
    one = lab.Lab("eastus")
    shape = base.Shape(cpus=4, arch="arm64", types=("Standard_D4ps_v5",))
    (offer, *_) = await one.provisioner.offers(shape)
    assert offer.image == "Canonical:ubuntu-24_04-lts:server-arm64:24.04.202611100"
    body = await body_of(one, one.request(machine_type="Standard_D4ps_v5"))
    assert body["properties"]["storageProfile"]["imageReference"]["sku"] == "server-arm64"


async def test_a_memory_that_is_damaged_is_as_good_as_none(tmp_path: Any) -> None:
    (tmp_path / "azure.json").write_text("{")
    one = lab.Lab("eastus", directory=str(tmp_path))
    await one.provisioner.start()
    (offer, *_) = await one.provisioner.offers(lab.SHAPE)
    assert offer.image.endswith("22.04.2026111001")
    (tmp_path / "azure.json").unlink()
    (tmp_path / "azure.json").mkdir()
    await one.provisioner.create(one.request())
