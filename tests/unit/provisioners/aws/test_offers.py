"""Offers: what zones have, at which price, from which image; asked for once and remembered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from provisioners import base
from provisioners.aws import availability
from provisioners.base import Kind, Market
from tests.unit.provisioners.aws.aws_world import T4, World, request

ON_DEMAND = base.Shape(gpu="t4", gpu_count=1)
SPOT = base.Shape(gpu="t4", gpu_count=1, markets=(Market.SPOT,))
DLAMI = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id"


async def test_offers_come_by_market_then_region_then_price_then_subnet(world: World) -> None:
    east, west = world.options["regions"]["us-east-1"], world.options["regions"]["us-west-2"]
    regions = {"us-west-2": west, "us-east-1": {"subnets": east["subnets"][::-1]}}
    offers = await (await world.provider(regions=regions)).offers(T4)
    places_ = list(dict.fromkeys((one.market.value, one.region) for one in offers))
    assert places_ == [(market, region) for market in ("spot", "on-demand") for region in regions]
    for market, region in places_:
        prices = [one.price for one in offers if (one.market, one.region) == (market, region)]
        assert prices == sorted(prices) and len(prices) > 2
    cheapest = [one.zone for one in offers if (one.market, one.region) == (Market.ON_DEMAND, "us-east-1")][:2]
    assert cheapest == ["us-east-1b", "us-east-1a"]
    assert offers[-1].scope == "aws/own/us-east-1/us-east-1a"
    assert all(one.gpus == 1 and one.cpus >= 4 for one in offers)


async def test_a_zone_where_the_spot_price_is_lower_comes_first(world: World) -> None:
    world.cloud.spot_prices.update({"us-east-1a/g4dn.xlarge": 0.21, "us-east-1b/g4dn.xlarge": 0.16})
    offers = await (await world.provider()).offers(SPOT)
    zones = [one.zone for one in offers if one.machine_type == "g4dn.xlarge" and one.region == "us-east-1"]
    assert zones == ["us-east-1b", "us-east-1a"]


async def test_the_account_is_the_configured_one(world: World) -> None:
    offers = await (await world.provider(account="111122223333")).offers(ON_DEMAND)
    assert {one.account for one in offers} == {"111122223333"}


async def test_a_spot_price_is_the_current_one_of_its_zone(world: World) -> None:
    world.cloud.spot_prices.update({"us-east-1a/g4dn.xlarge": 0.1579, "us-east-1b/g4dn.xlarge": 0.2011})
    offers = await (await world.provider()).offers(SPOT)
    told = {one.zone: (one.price, one.price_source) for one in offers if one.machine_type == "g4dn.xlarge"}
    day = "spot price history 2026-11-25"
    assert told["us-east-1a"] == (0.1579, day)
    assert told["us-east-1b"] == (0.2011, day)


async def test_spot_prices_are_asked_for_again_after_ten_minutes(world: World) -> None:
    provider = await world.provider()
    for seconds, asked in ((0, 2), (300, 2), (400, 4)):
        world.clock.time += seconds
        await provider.offers(SPOT)
        assert world.sent("DescribeSpotPriceHistory") == asked


async def test_without_a_spot_price_the_on_demand_price_is_the_ceiling(world: World) -> None:
    world.cloud.denied.add("ec2:DescribeSpotPriceHistory")
    provider = await world.provider()
    spot = {one.machine_type: one for one in await provider.offers(SPOT)}
    demand = {one.machine_type: one for one in await provider.offers(ON_DEMAND)}
    assert spot["g4dn.xlarge"].price <= demand["g4dn.xlarge"].price
    assert "history" not in spot["g4dn.xlarge"].price_source


async def test_the_operators_price_wins(world: World) -> None:
    prices = {"g4dn.xlarge": {"on-demand": 0.4, "spot": 0.05}, "us-west-2": {"g4dn.xlarge": 0.44}}
    offers = await (await world.provider(prices=prices)).offers(T4)
    told = {(one.region, one.market): one.price for one in offers if one.machine_type == "g4dn.xlarge"}
    assert told["us-east-1", Market.SPOT] == 0.05
    assert told["us-east-1", Market.ON_DEMAND] == 0.4
    assert told["us-west-2", Market.ON_DEMAND] == 0.44


async def test_a_type_that_a_zone_does_not_have_is_no_offer_there(world: World) -> None:
    world.cloud.not_sold.append("us-east-1b/g4dn.*")
    offers = await (await world.provider()).offers(ON_DEMAND)
    assert {one.zone for one in offers if one.machine_type.startswith("g4dn.")} == {"us-east-1a", "us-west-2a"}
    assert world.sent("DescribeInstanceTypeOfferings") == 2


async def test_what_zones_have_is_asked_for_once_a_day(world: World) -> None:
    provider = await world.provider()
    for seconds, asked in ((0, 2), (80_000, 2), (7_000, 4)):
        world.clock.time += seconds
        await provider.offers(ON_DEMAND)
        assert world.sent("DescribeInstanceTypeOfferings") == asked


async def test_zones_that_do_not_tell_what_they_have_are_offered_all_the_same(world: World) -> None:
    world.cloud.denied.add("ec2:DescribeInstanceTypeOfferings")
    assert await (await world.provider()).offers(ON_DEMAND)


async def test_what_was_resolved_is_kept_for_the_next_process(world: World) -> None:
    before = await (await world.provider()).offers(ON_DEMAND)
    world.cloud.calls.clear()
    after = await world.provider()
    assert await after.offers(ON_DEMAND) == before
    assert world.cloud.calls == []
    await after.create(await request(after, shape=ON_DEMAND))
    assert [one.operation for one in world.cloud.calls] == ["RunInstances"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 99}', '{"format":1,"zones":3}'])
async def test_a_damaged_file_of_facts_is_made_anew(world: World, text: str) -> None:
    kept = Path(world.directory) / "aws-facts.json"
    kept.write_text(text)
    assert await (await world.provider()).offers(ON_DEMAND)
    assert json.loads(kept.read_text())["format"] == 2


async def test_without_a_directory_facts_live_in_memory(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.directory = ""
    assert await (await world.provider()).offers(ON_DEMAND)
    assert not caplog.records


async def test_a_directory_that_is_not_there_yet_is_made_for_them(world: World) -> None:
    world.directory += "/providers/aws"
    assert await (await world.provider()).offers(ON_DEMAND)
    assert [one.name for one in Path(world.directory).iterdir()] == ["aws-facts.json"]


async def test_a_directory_that_cannot_be_made_costs_a_line_in_the_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    Path(world.directory, "file").write_text("")
    world.directory += "/file/aws"
    assert await (await world.provider()).offers(ON_DEMAND)
    assert "aws-facts.json cannot be written" in caplog.text


# -- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        pytest.param(ON_DEMAND, "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04)", id="gpu"),
        pytest.param(base.Shape(types=("m7i.large",)), "ubuntu-noble-24.04-amd64", id="cpu"),
        pytest.param(base.Shape(types=("m7g.large",), arch="arm64"), "ubuntu-noble-24.04-arm64", id="arm64"),
    ],
)
async def test_the_default_image_follows_the_machine(world: World, shape: base.Shape, name: str) -> None:
    offer = (await (await world.provider()).offers(shape))[0]
    assert name in world.cloud.account.backend(offer.region).amis[offer.image].name


@pytest.mark.parametrize(
    ("options", "name"),
    [
        pytest.param(
            {"image": "ssm:/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"},
            "al2023-ami-2023",
            id="parameter",
        ),
        pytest.param({"image": "name:al2023-ami-*", "image_owner": "amazon"}, "al2023-ami-2023", id="pattern"),
        pytest.param(
            {"image": "name:ubuntu/images/*", "image_owner": "099720109477"}, "ubuntu-noble-24.04-amd64", id="owner"
        ),
    ],
)
async def test_an_image_is_found_as_the_operator_names_it(world: World, options: dict[str, Any], name: str) -> None:
    offer = (await (await world.provider(**options)).offers(ON_DEMAND))[0]
    assert name in world.cloud.account.backend("us-east-1").amis[offer.image].name


async def test_an_image_by_id_brings_its_own_root_device(world: World) -> None:
    images = world.cloud.account.backend("us-east-1").amis.values()
    id = next(one.id for one in images if one.name.startswith("al2023"))
    provider = await world.provider(regions={"us-east-1": {**world.options["regions"]["us-east-1"], "image": id}})
    made = await provider.create(await request(provider))
    assert world.cloud.find(made.ref).form["BlockDeviceMapping.1.DeviceName"] == "/dev/xvda"


async def test_a_pool_brings_its_own_image_for_each_region(world: World) -> None:
    provider = await world.provider()
    ids = {region: list(world.cloud.account.backend(region).amis)[2] for region in world.options["regions"]}
    offers = await provider.offers(ON_DEMAND, {"image": ids})
    assert {(one.region, one.image) for one in offers} == set(ids.items())


async def test_of_several_images_the_newest_is_taken(world: World) -> None:
    images = world.cloud.account.backend("us-east-1").amis
    ubuntu = next(one for one in images.values() if "noble-24.04-amd64" in one.name)
    older = next(one for one in images.values() if one.name.startswith("Deep Learning Base"))
    older.name, older.owner_id = ubuntu.name.replace("20261110", "20250101"), ubuntu.owner_id
    older.creation_date = older.creation_date.replace(year=2025)
    options = {"image": "name:ubuntu/images/*amd64*", "image_owner": "099720109477"}
    east = {"us-east-1": world.options["regions"]["us-east-1"]}
    offer = (await (await world.provider(**options, regions=east)).offers(ON_DEMAND))[0]
    assert offer.image == ubuntu.id


async def test_a_parameter_that_moves_changes_new_offers_after_a_day_and_no_request(world: World) -> None:
    provider = await world.provider()
    before = (await provider.offers(T4))[0].image
    wanted = await request(provider)
    assert wanted.offer.image == before
    other = next(id for id in world.cloud.account.backend("us-east-1").amis if id != before)
    world.cloud.account.parameters["us-east-1", DLAMI] = other
    assert (await provider.offers(T4))[0].image == before
    world.clock.time += availability.FRESH_S
    assert (await provider.offers(T4))[0].image == other
    made = await provider.create(wanted)
    assert world.cloud.find(made.ref).image == before


async def test_a_parameter_that_is_not_told_any_more_leaves_the_image_as_it_was(world: World) -> None:
    provider = await world.provider()
    before = (await provider.offers(T4))[0].image
    world.clock.time += availability.FRESH_S
    world.cloud.denied.add("ssm:GetParameter")
    assert (await provider.offers(T4))[0].image == before


# -- none ------------------------------------------------------------------------------------------------------------


async def test_a_region_that_fails_leaves_the_offers_of_the_others(world: World) -> None:
    world.fail(operation="DescribeSubnets", region="us-east-1", code="OptInRequired", times=None)
    provider = await world.provider()
    assert {one.region for one in await provider.offers(ON_DEMAND)} == {"us-west-2"}


async def test_no_region_at_all_is_an_error(world: World) -> None:
    world.cloud.denied.add("ec2:DescribeSubnets")
    with pytest.raises(base.ProvisionError) as caught:
        await (await world.provider()).offers(ON_DEMAND)
    assert caught.value.kind is Kind.AUTH


@pytest.mark.parametrize(
    ("shape", "options", "provider_options", "words"),
    [
        pytest.param(base.Shape(gpu="t5", gpu_count=1), {}, {}, '"t4"', id="gpu"),
        pytest.param(base.Shape(types=("g4dn.xlarg",)), {}, {}, '"g4dn.xlarge"', id="type"),
        pytest.param(base.Shape(gpu="t4", gpu_count=3), {}, {}, "1, 4 or 8", id="count"),
        pytest.param(ON_DEMAND, {"regions": ["eu-west-1"]}, {}, "eu-west-1", id="region"),
        pytest.param(ON_DEMAND, {"subnets": ["subnet-0123456789abcdef0"]}, {}, "none of the", id="subnet"),
        pytest.param(ON_DEMAND, {}, {"markets": ["spot"]}, "on-demand", id="market"),
        pytest.param(ON_DEMAND, {"subnet": []}, {}, '"subnets"', id="option"),
    ],
)
async def test_nothing_to_offer_is_said_in_plain_words(
    world: World, shape: base.Shape, options: dict[str, Any], provider_options: dict[str, Any], words: str
) -> None:
    provider = await world.provider(**provider_options)
    try:
        assert await provider.offers(shape, options) == []
    except base.ProvisionError as error:
        assert error.kind is Kind.CONFIG
    assert words in provider.why_none(shape, options)


async def test_a_type_that_no_configured_zone_has_is_named(world: World) -> None:
    world.cloud.not_sold.append("us-*/g4dn.*")
    provider = await world.provider()
    shape = base.Shape(types=("g4dn.xlarge",), gpu="t4", gpu_count=1)
    assert await provider.offers(shape) == []
    assert "g4dn.xlarge" in provider.why_none(shape)


async def test_subnets_that_do_not_exist_are_named(world: World) -> None:
    provider = await world.provider(regions={"us-east-1": {"subnets": ["subnet-0123456789abcdef0"]}})
    with pytest.raises(base.ProvisionError, match="subnet-0123456789abcdef0"):
        await provider.offers(ON_DEMAND)
    assert "subnet-0123456789abcdef0" in provider.why_none(ON_DEMAND)
