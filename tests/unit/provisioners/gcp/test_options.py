"""Options of a Google Cloud provider and of its pools, and what they offer."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from provisioners import base, gcp
from provisioners.base import Kind, Market
from provisioners.gcp import settings
from tests.clouds import gcp as clouds_gcp
from tests.clouds import wire
from tests.support.tree import ROOT
from tests.unit.provisioners.gcp.gcp_world import World


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param({"project": None}, "project: is required", id="no-project"),
        pytest.param({"project": "My Project"}, 'project: "My Project" is not', id="project-name"),
        pytest.param({"regions": None}, "regions: is required", id="no-regions"),
        pytest.param({"regions": {"us-centrall1": {}}}, 'did you mean "us-central1"', id="region"),
        pytest.param({"regions": {"us-central1": {"zones": ["q1"]}}}, 'regions.us-central1.zones: "q1"', id="zone"),
        pytest.param(
            {"regions": {"us-central1": {"zones": ["us-west1-a"]}}}, "not a zone of us-central1", id="foreign"
        ),
        pytest.param({"regions": {"us-central1": {"zone": "a"}}}, 'did you mean "zones"', id="region-key"),
        pytest.param({"image": "ubuntu"}, 'image: "ubuntu" is neither', id="image"),
        pytest.param({"network": "no network"}, "network:", id="network"),
        pytest.param({"subnetwork": {"us-centrall1": "x"}}, "subnetwork.us-centrall1: no such region", id="subnetwork"),
        pytest.param({"network_tags": ["No"]}, 'network_tags: "No"', id="network-tag"),
        pytest.param({"service_account": "ci"}, "service_account:", id="service-account"),
        pytest.param({"scopes": ["x"]}, "scopes:", id="scopes-without-account"),
        pytest.param({"disk_type": "pd-balance"}, 'did you mean "pd-balanced"', id="disk-type"),
        pytest.param({"disk": "1GiB"}, "disk: a boot disk has at least", id="disk"),
        pytest.param({"boot": "cloudinit"}, 'did you mean "cloud-init"', id="boot"),
        pytest.param({"metadata": {"user-data": "x"}}, "metadata.user-data: is runnerd's own", id="own-metadata"),
        pytest.param({"metadata": {"a b": "x"}}, "metadata.a b:", id="metadata-key"),
        pytest.param({"credentials": "{'private_key': 'S3CRET'}"}, "credentials: expected where", id="pasted-key"),
        pytest.param({"endpoint": "compute.googleapis.com"}, "endpoint:", id="endpoint"),
        pytest.param({"prices": {"g2-standard-5": 1}}, "prices.g2-standard-5: no such machine type", id="price"),
        pytest.param({"resource_tags": {"a b": "c"}}, "resource_tags.a b: write tagKeys/123", id="resource-tag"),
        pytest.param({"impersonate": "ci"}, "impersonate:", id="impersonate"),
        pytest.param({"netwrok": "default"}, 'netwrok: no such key; did you mean "network"', id="unknown-key"),
    ],
)
def test_a_problem_is_told_with_its_place_and_the_nearest_right_thing(change: dict[str, Any], problem: str) -> None:
    problems = gcp.Gcp.validate({**clouds_gcp.options(), **change})
    assert len(problems) == 1, problems
    assert problem in problems[0]
    assert "S3CRET" not in problems[0]


def test_full_options_are_accepted() -> None:
    assert (
        gcp.Gcp.validate(
            {
                "project": "example.com:acme-ml",
                "regions": {"us-central1": {"zones": ["a", "us-central1-b"], "subnetwork": "ci"}, "us-east1": {}},
                "network": "projects/host/global/networks/shared",
                "subnetwork": {"us-east1": "projects/host/regions/us-east1/subnetworks/ci"},
                "image": "projects/acme-ml/global/images/ci-20261101",
                "service_account": "ci@acme-ml.iam.gserviceaccount.com",
                "scopes": ["https://www.googleapis.com/auth/devstorage.read_only"],
                "credentials": "file:/etc/runnerd/gcp.json",
                "impersonate": "runnerd@acme-ml.iam.gserviceaccount.com",
                "disk_type": "pd-ssd",
                "disk": "200GiB",
                "public_address": False,
                "network_tags": ["ci"],
                "preemption_notice": "120s",
                "boot": "cloud-init",
                "metadata": {"install-nvidia-driver": "True"},
                "resource_tags": {"tagKeys/123": "tagValues/456", "acme-ml/runnerd": "ci"},
                "prices": {"g2-standard-4": {"on-demand": 0.6, "spot": 0.2}, "us-east1": {"g2-standard-8": 0.8}},
                "endpoint": "https://compute-ci.p.googleapis.com",
                "ca": "/etc/ssl/ca.pem",
            }
        )
        == []
    )


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        pytest.param({"image": "family:p/f", "disk_type": "pd-ssd", "public_address": False}, "", id="fine"),
        pytest.param({"scopes": ["x"]}, "", id="scopes-for-the-providers-account"),
        pytest.param({"image": "x"}, "image:", id="image"),
        pytest.param({"subnet": "x"}, 'did you mean "subnetwork"', id="unknown"),
        pytest.param({"project": "x"}, "project: no such key", id="of-the-provider"),
    ],
)
def test_options_of_pools_are_judged_alike(options: dict[str, Any], problem: str) -> None:
    problems = gcp.Gcp.validate_pool(options)
    assert problem in "".join(problems)
    assert bool(problems) is bool(problem)


def test_every_option_is_on_the_page_about_google_cloud() -> None:
    text = (ROOT / "docs" / "gcp.md").read_text()
    (told,) = gcp.Gcp.validate_pool({"nonsense-": 1})
    of_pools = set(told.partition("known: ")[2].split(", "))
    of_providers = {one.name for one in dataclasses.fields(settings.Settings)} - {"launch", "overrides"}
    assert len(of_pools) > 10, told
    assert [one for one in sorted({"prices", *of_pools, *of_providers}) if f"`{one}`" not in text] == []


async def test_offers_come_by_market_region_type_and_zone_in_the_operators_order() -> None:
    world = World(regions={"europe-west4": {"zones": ["c", "a"]}, "us-central1": {"zones": ["b"]}})
    shape = base.Shape("l4", 1, types=("g2-standard-8", "g2-standard-4"), markets=(Market.SPOT, Market.ON_DEMAND))
    offers = await world.provisioner.offers(shape)
    assert [(one.market.value, one.zone, one.machine_type) for one in offers[:6]] == [
        ("spot", "europe-west4-c", "g2-standard-8"),
        ("spot", "europe-west4-a", "g2-standard-8"),
        ("spot", "europe-west4-c", "g2-standard-4"),
        ("spot", "europe-west4-a", "g2-standard-4"),
        ("spot", "us-central1-b", "g2-standard-8"),
        ("spot", "us-central1-b", "g2-standard-4"),
    ]
    assert len(offers) == 12
    assert all(one.price > 0 and one.price_source and one.account == "acme-ml" for one in offers)


async def test_a_zone_without_the_type_or_the_accelerator_is_not_offered(stranger: World) -> None:
    stranger.cloud.lacks = {"us-central1-a": {"nvidia-tesla-t4"}, "europe-west4-b": {"n1-standard-4"}}
    offers = await stranger.provisioner.offers(base.Shape("t4", types=("n1-standard-4",)))
    assert [one.zone for one in offers] == ["us-central1-b", "europe-west4-a", "europe-west4-c"]


async def test_why_there_is_no_offer_is_told_in_words() -> None:
    world = World(regions={"us-central1": {"zones": ["a"]}})
    world.cloud.lacks = {"us-central1-a": {"g2-standard-4"}}
    shape = base.Shape("l4", types=("g2-standard-4",))
    assert await world.provisioner.offers(shape) == []
    assert "us-central1-a" in world.provisioner.why_none(shape)
    assert "a1000" in world.provisioner.why_none(base.Shape("a1000", 1))
    assert world.provisioner.why_none(base.Shape("t4", 1)) == ""


async def test_facts_are_asked_for_once_and_outlive_a_restart(tmp_path: Path) -> None:
    world = World(str(tmp_path))
    await world.offer()
    asked = len(world.cloud.log)
    await world.offer()
    await world.restarted().offers(base.Shape("t4", types=("n1-standard-4",)))
    assert len(world.cloud.log) == asked
    world.seconds += 2 * 86400
    await world.offer()
    assert len(world.cloud.log) > asked


async def test_a_family_is_a_concrete_image_that_stays_with_the_offer(world: World) -> None:
    offer = await world.offer()
    assert offer.image.endswith("common-cu129-ubuntu-2204-nvidia-580-v20261101")
    newer = world.cloud.images[1].__class__("deeplearning-platform-release", "common-zz", offer.image, 50)
    world.cloud.images.append(newer)
    request = await world.request(offer)
    await world.provisioner.create(request)
    sent = [one for one in world.sent if one.method == "POST"][-1]
    assert json.loads(sent.body)["disks"][0]["initializeParams"]["sourceImage"] == offer.image


async def test_a_family_that_does_not_exist_is_told(world: World) -> None:
    with pytest.raises(base.ProvisionError, match="no image family nope in project acme-ml") as caught:
        await world.offer(image="family:acme-ml/nope")
    assert caught.value.kind is Kind.CONFIG


async def test_while_nobody_answers_the_zones_that_are_written_down_are_offered() -> None:
    world = World(regions={"us-central1": {"zones": ["a", "b"]}})
    world.cloud.faults.append(clouds_gcp.Fault(method="*", reason="backendError", times=None))
    offers = await world.provisioner.offers(base.Shape("t4", types=("n1-standard-4",)))
    assert [one.zone for one in offers] == ["us-central1-a", "us-central1-b"]
    assert offers[0].image.endswith("/family/common-cu129-ubuntu-2204-nvidia-580")
    world.cloud.faults.clear()
    assert (await world.provisioner.create(await world.request(offers[0]))).status is base.InstanceStatus.RUNNING


async def test_an_old_answer_serves_while_nobody_gives_a_new_one(world: World) -> None:
    before = await world.offer()
    world.seconds += 2 * 86400
    world.cloud.faults.append(clouds_gcp.Fault(method="*", reason="backendError", times=None))
    assert (await world.offer()).image == before.image


async def test_prices_of_the_operator_count(world: World) -> None:
    offer = await World(prices={"n1-standard-4+nvidia-tesla-t4x1": 0.11}).offer()
    assert (offer.price, offer.price_source) == (0.11, "operator")


def test_scopes_are_exact_zones_or_all_of_a_region() -> None:
    assert World().provisioner.scopes() == {
        "google/acme-ml/us-central1/us-central1-a",
        "google/acme-ml/us-central1/us-central1-b",
        "google/acme-ml/europe-west4/*",
    }


def test_creates_stay_within_the_documented_writes_of_a_minute() -> None:
    traits = World().provisioner.traits
    assert 0.95 * 1500 <= traits.create_rate * 60 <= traits.create_rate * 60 + traits.create_burst <= 1500


async def test_a_minute_of_creates_at_the_promised_rate_is_never_throttled(world: World) -> None:
    offer = await world.offer()
    world.cloud.limits |= {("us-central1", "NVIDIA_T4_GPUS"): 1e6, ("", "GPUS_ALL_REGIONS"): 1e6}
    world.cloud.boot = 0.0
    request = await world.request(offer)
    await world.provisioner.create(request)
    body = json.loads([one for one in world.sent if one.method == "POST"][-1].body)
    traits = world.provisioner.traits
    world.cloud.log.clear()
    start = world.seconds
    for number in range(traits.create_burst + int(traits.create_rate * 59)):
        world.seconds = start + max(0.0, (number - traits.create_burst) / traits.create_rate)
        url = "https://compute.googleapis.com/compute/v1/projects/acme-ml/zones/us-central1-a/instances"
        told = world.cloud.handle(wire.Request("POST", url, {}, json.dumps({**body, "name": f"n{number}"}).encode()))
        assert told.status == 200, told.body
        world.cloud._instances.clear()
        world.cloud.disks.clear()
