"""``check`` finds what would keep instances from being bought, before the first job does, and buys nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from provisioners import base
from provisioners.base import Finding, Level
from tests.unit.provisioners.aws.aws_world import World, request

ON_DEMAND = base.Shape(gpu="t4", gpu_count=1)


async def findings(
    world: World, *, level: Level = Level.ERROR, sample: dict[str, Any] | None = None, **options: Any
) -> list[Finding]:
    """What a check of a healthy account says at a level, once something was broken."""
    provider = await world.provider(**options)
    samples = [await request(provider, "sample", shape=ON_DEMAND, **sample)] if sample is not None else []
    found = await provider.check(samples)
    assert world.cloud.created == []
    assert all(one.remedy for one in found if one.level is not Level.OK)
    return [one for one in found if one.level is level]


def only(found: list[Finding]) -> Finding:
    assert len(found) == 1, found
    return found[0]


async def test_a_healthy_account_has_nothing_but_good_news(world: World) -> None:
    provider = await world.provider()
    found = await provider.check([await request(provider, "sample", shape=ON_DEMAND)])
    assert {one.level for one in found} == {Level.OK}
    assert any(one.place == "pools.gpu-t4" and "could be launched" in one.message for one in found)
    assert any("user/runnerd" in one.message for one in found)
    assert world.cloud.created == []


async def test_credentials_that_are_refused_are_the_one_finding(world: World) -> None:
    world.cloud.keys.clear()
    one = only(await findings(world))
    assert (one.place, "credentials" in one.message) == ("providers.aws", True)


async def test_credentials_of_another_account_are_told(world: World) -> None:
    one = only(await findings(world, account="222233334444"))
    assert "111122223333" in one.message and "222233334444" in one.message


@pytest.mark.parametrize(
    "action",
    [
        "ec2:DescribeSubnets",
        "ec2:DescribeInstances",
        "ec2:DescribeInstanceStatus",
        "ec2:DescribeVolumes",
        "ec2:DescribeNetworkInterfaces",
        "ec2:DescribeSpotInstanceRequests",
        "ec2:DescribeAddresses",
        "ec2:DescribeImages",
        "ec2:DescribeInstanceTypeOfferings",
        "ec2:DescribeSpotPriceHistory",
        "ec2:RunInstances",
    ],
)
async def test_a_missing_permission_is_named(world: World, action: str) -> None:
    provider = await world.provider()
    sample = await request(provider, "sample", shape=ON_DEMAND)
    world.cloud.denied.add(action)
    found = [one for one in await provider.check([sample]) if one.level is Level.ERROR]
    assert found
    assert all(f"lack {action}" in one.message and "docs/aws.md" in one.remedy for one in found)


@pytest.mark.parametrize("action", ["servicequotas:ListServiceQuotas", "ec2:DescribeSecurityGroups"])
async def test_a_permission_that_only_helps_is_a_warning(world: World, action: str) -> None:
    world.cloud.denied.add(action)
    east = {"us-east-1": {**world.options["regions"]["us-east-1"], "security_groups": [default_group(world)]}}
    one = only(await findings(world, level=Level.WARNING, regions=east))
    assert action in one.message


def default_group(world: World, region: str = "us-east-1") -> str:
    backend = world.cloud.account.backend(region)
    return str(next(iter(backend.groups[backend.get_default_vpc().id])))


async def test_a_subnet_that_does_not_exist_is_told_with_the_nearest(world: World) -> None:
    right = world.cloud.subnet("us-east-1a")
    wrong = right[:-1] + ("0" if right[-1] != "0" else "1")
    one = only(await findings(world, regions={"us-east-1": {"subnets": [wrong]}}))
    assert wrong in one.message and right in one.message


async def test_a_security_group_that_does_not_exist_is_told_with_the_nearest(world: World) -> None:
    right = default_group(world)
    wrong = right[:-1] + ("0" if right[-1] != "0" else "1")
    east = {"us-east-1": {**world.options["regions"]["us-east-1"], "security_groups": [wrong]}}
    one = only(await findings(world, regions=east))
    assert wrong in one.message and right in one.message


async def test_a_security_group_of_another_network_is_told(world: World) -> None:
    backend = world.cloud.account.backend("us-east-1")
    with world.cloud.account.seeded():
        vpc = backend.create_vpc("10.9.0.0/16")
        group = backend.create_security_group("other", "other", vpc_id=vpc.id)
    east = {"us-east-1": {**world.options["regions"]["us-east-1"], "security_groups": [group.id]}}
    one = only(await findings(world, regions=east))
    assert vpc.id in one.message


async def test_a_nearly_full_subnet_is_a_warning(world: World) -> None:
    subnet = world.cloud.subnet("us-east-1a")
    world.cloud.account.backend("us-east-1").subnets["us-east-1a"][subnet]._available_ip_addresses = 3
    one = only(await findings(world, level=Level.WARNING))
    assert subnet in one.message and "3 free" in one.message


async def test_an_image_that_does_not_exist_is_told(world: World) -> None:
    one, two = await findings(world, image="ssm:/no/such/parameter")
    assert "/no/such/parameter" in one.message and "us-east-1" in one.message
    assert "us-west-2" in two.message


async def test_an_instance_profile_that_does_not_exist_is_told_by_the_trial(world: World) -> None:
    one = only(await findings(world, instance_profile="ghost", sample={}))
    assert (one.place, "ghost" in one.message) == ("pools.gpu-t4", True)


async def test_a_quota_of_zero_says_where_it_is_raised(world: World) -> None:
    world.cloud.quotas["us-east-1", "L-DB2E81BA"] = 0
    provider = await world.provider()
    found = await provider.check([await request(provider, "sample", shape=ON_DEMAND)])
    (warning,) = [one for one in found if one.level is Level.WARNING]
    (error,) = [one for one in found if one.level is Level.ERROR]
    assert (warning.place, error.place) == ("providers.aws", "pools.gpu-t4")
    assert "is 0" in warning.message and "4 vCPUs" in error.message
    for one in (warning, error):
        assert one.remedy.endswith("us-east-1.console.aws.amazon.com/servicequotas/home/services/ec2/quotas/L-DB2E81BA")


@pytest.mark.parametrize(
    ("sample", "level", "words"),
    [
        pytest.param({"tags": {"aws:x": "1"}}, Level.ERROR, "Amazon's own", id="reserved-tag"),
        pytest.param({"tags": {"team": "ml, x"}}, Level.WARNING, '"team"', id="unusual-tag"),
        pytest.param(
            {"user_data": "#!" + "x" * 16330 + base.TOKEN_PLACEHOLDER}, Level.ERROR, "with its token", id="long-script"
        ),
    ],
)
async def test_a_request_that_would_be_refused_is_told_for_its_pool(
    world: World, sample: dict[str, Any], level: Level, words: str
) -> None:
    one = only(await findings(world, level=level, sample=sample))
    assert words in one.message
    assert one.place == ("pools.gpu-t4" if "tags" not in sample else "pools.i-sample")


async def test_an_image_of_the_wrong_architecture_is_told(world: World) -> None:
    images = world.cloud.account.backend("us-east-1").amis
    arm = next(id for id, one in images.items() if one.architecture == "arm64")
    one = only(await findings(world, sample={"offer": {"image": arm}}))
    assert "arm64" in one.message and "x86_64" in one.message


async def test_a_type_that_the_zone_does_not_have_is_told_with_the_zones_that_do(world: World) -> None:
    provider = await world.provider()
    sample = await request(provider, "sample", shape=ON_DEMAND)
    world.cloud.not_sold.append("us-east-1a/*")
    world.clock.time += 90_000
    one = only([one for one in await provider.check([sample]) if one.level is Level.ERROR])
    assert "us-east-1a has no g4dn.xlarge" in one.message and "us-east-1b" in one.message


async def test_a_pool_in_a_region_that_cannot_be_asked_is_not_tried(world: World) -> None:
    provider = await world.provider()
    sample = await request(provider, "sample", shape=ON_DEMAND)
    world.fail(operation="DescribeSubnets", region="us-east-1", code="OptInRequired")
    (one,) = [one for one in await provider.check([replace(sample)]) if one.level is Level.ERROR]
    assert "us-east-1" in one.message and "OptInRequired" in one.message
    assert world.sent("RunInstances") == 0
