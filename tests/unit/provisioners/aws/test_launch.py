"""A launch is one request; whatever becomes of its answer, the same request again is the same instance."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import pytest

from provisioners import aws, base
from provisioners.aws import request as requests
from provisioners.base import Kind
from provisioners.offload import Offload
from tests.clouds import aws as clouds_aws
from tests.clouds import wire
from tests.unit.provisioners.aws.aws_world import T4, World, request

ON_DEMAND = base.Shape(gpu="t4", gpu_count=1)


# -- what is sent ----------------------------------------------------------------------------------------------------


async def sent(world: World, provider: aws.Aws, **changes: Any) -> dict[str, str]:
    made = await provider.create(await request(provider, **changes))
    return world.cloud.find(made.ref).form


async def test_a_launch_says_everything_that_keeps_it_safe(world: World) -> None:
    form = await sent(world, await world.provider())
    assert form["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert form["MetadataOptions.HttpTokens"] == "required"
    assert form["MetadataOptions.HttpPutResponseHopLimit"] == "1"
    assert form["BlockDeviceMapping.1.DeviceName"] == "/dev/sda1"
    assert form["BlockDeviceMapping.1.Ebs.Encrypted"] == "true"
    assert form["BlockDeviceMapping.1.Ebs.DeleteOnTermination"] == "true"
    assert form["NetworkInterface.1.DeleteOnTermination"] == "true"
    assert (form["MinCount"], form["MaxCount"]) == ("1", "1")
    assert form["InstanceMarketOptions.SpotOptions.SpotInstanceType"] == "one-time"
    assert form["InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior"] == "terminate"
    assert "InstanceMarketOptions.SpotOptions.MaxPrice" not in form
    assert len(form["ClientToken"]) <= 64


async def test_the_disks_inside_the_machine_keep_their_mapping(world: World) -> None:
    form = await sent(world, await world.provider())
    assert not any(key.startswith("BlockDeviceMapping.2") for key in form)
    assert not any("NoDevice" in key or "VirtualName" in key for key in form)


@pytest.mark.parametrize(
    ("shape", "kinds"),
    [
        pytest.param(T4, ["instance", "volume", "network-interface", "spot-instances-request"], id="spot"),
        pytest.param(ON_DEMAND, ["instance", "volume", "network-interface"], id="on-demand"),
    ],
)
async def test_every_resource_of_a_launch_carries_exactly_the_tags_of_the_request(
    world: World, shape: base.Shape, kinds: list[str]
) -> None:
    provider = await world.provider()
    wanted = await request(provider, shape=shape)
    made = await provider.create(wanted)
    form, tags = world.cloud.find(made.ref).form, dict(wanted.tags)
    for number, kind in enumerate(kinds, start=1):
        prefix = f"TagSpecification.{number}."
        assert form[prefix + "ResourceType"] == kind
        told = {form[f"{prefix}Tag.{n}.Key"]: form[f"{prefix}Tag.{n}.Value"] for n in range(1, len(tags) + 1)}
        assert told == tags
        assert f"{prefix}Tag.{len(tags) + 1}.Key" not in form
    assert f"TagSpecification.{len(kinds) + 1}.ResourceType" not in form
    backend = world.cloud.account.backend("us-east-1")
    there = [
        {tag["key"]: tag["value"] for tag in one.get_tags()}
        for one in (*backend.volumes.values(), *backend.enis.values())
    ]
    assert there == [tags, tags]


async def test_the_boot_script_arrives_as_it_is(world: World) -> None:
    provider = await world.provider()
    script = "#!/bin/sh\necho 'ü € \\' \"$(date)\"\n"
    made = await provider.create(await request(provider, user_data=script))
    assert world.cloud.find(made.ref).user_data == script.encode()


@pytest.mark.parametrize(
    ("options", "key", "value"),
    [
        pytest.param({"public_address": False}, "NetworkInterface.1.AssociatePublicIpAddress", "false", id="private"),
        pytest.param({"public_address": True}, "NetworkInterface.1.AssociatePublicIpAddress", "true", id="public"),
        pytest.param({}, "NetworkInterface.1.AssociatePublicIpAddress", None, id="as-the-subnet-says"),
        pytest.param({"hop_limit": 2}, "MetadataOptions.HttpPutResponseHopLimit", "2", id="hops"),
        pytest.param({"disk": "200GiB"}, "BlockDeviceMapping.1.Ebs.VolumeSize", "200", id="disk"),
        pytest.param({"disk": "10GiB"}, "BlockDeviceMapping.1.Ebs.VolumeSize", "75", id="disk-of-the-image"),
        pytest.param({"disk_iops": 4000}, "BlockDeviceMapping.1.Ebs.Iops", "4000", id="iops"),
        pytest.param({"disk_throughput": 250}, "BlockDeviceMapping.1.Ebs.Throughput", "250", id="throughput"),
        pytest.param({"disk_type": "gp2"}, "BlockDeviceMapping.1.Ebs.VolumeType", "gp2", id="disk-type"),
        pytest.param({"kms_key": "alias/ci"}, "BlockDeviceMapping.1.Ebs.KmsKeyId", "alias/ci", id="key"),
        pytest.param({"instance_profile": "ci"}, "IamInstanceProfile.Name", "ci", id="profile"),
        pytest.param(
            {"instance_profile": "arn:aws:iam::111122223333:instance-profile/ci"},
            "IamInstanceProfile.Arn",
            "arn:aws:iam::111122223333:instance-profile/ci",
            id="profile-arn",
        ),
    ],
)
async def test_an_option_is_sent(world: World, options: dict[str, Any], key: str, value: str | None) -> None:
    world.cloud.account.profiles.add("ci")
    form = await sent(world, await world.provider(**options))
    assert form.get(key) == value


async def test_a_pool_launches_as_its_options_say(world: World) -> None:
    provider = await world.provider(hop_limit=3, disk_type="gp2")
    options = {"hop_limit": 1, "subnets": [world.cloud.subnet("us-east-1b")], "public_address": False}
    wanted = await request(provider, options=options)
    assert wanted.offer.zone == "us-east-1b"
    form = world.cloud.find((await provider.create(wanted)).ref).form
    assert form["MetadataOptions.HttpPutResponseHopLimit"] == "1"
    assert form["NetworkInterface.1.SubnetId"] == world.cloud.subnet("us-east-1b")
    assert form["BlockDeviceMapping.1.Ebs.VolumeType"] == "gp2"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"tags": {f"t{n}": "" for n in range(51)}}, "51 tags", id="too-many-tags"),
        pytest.param({"tags": {"aws:team": "x"}}, "Amazon's own", id="reserved"),
        pytest.param({"tags": {"AWS:team": "x"}}, "Amazon's own", id="reserved-in-capitals"),
        pytest.param({"tags": {"k" * 129: "x"}}, "129 characters", id="long-name"),
        pytest.param({"tags": {"k": "v" * 257}}, "257 characters", id="long-value"),
        pytest.param({"tags": {"k": "a\x00b"}}, "U+0000", id="control-character"),
        pytest.param({"user_data": "#!" + "x" * 16383}, "16385 bytes", id="long-script"),
        pytest.param({"user_data": "#!" + "ü" * 8192}, "16386 bytes", id="long-script-in-bytes"),
        pytest.param({"offer": {"image": ""}}, "image", id="no-image"),
        pytest.param({"options": {}, "offer": {"zone": "us-east-1f"}}, "us-east-1f", id="zone-without-subnet"),
    ],
)
async def test_what_amazon_would_refuse_is_not_sent(world: World, changes: dict[str, Any], words: str) -> None:
    provider = await world.provider()
    wanted = await request(provider, **changes)
    with pytest.raises(base.ProvisionError) as caught:
        await provider.create(wanted)
    assert (caught.value.kind, caught.value.maybe_created) == (Kind.CONFIG, False)
    assert words in str(caught.value)
    assert world.sent("RunInstances") == 0


async def test_a_script_of_exactly_the_limit_is_sent(world: World) -> None:
    provider = await world.provider()
    await provider.create(await request(provider, user_data="#!" + "x" * 16382))
    assert len(world.cloud.created) == 1


# -- what becomes of the answer --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "unclear", "created"),
    [
        pytest.param({"lost": "before", "sent": False}, False, 0, id="no-connection"),
        pytest.param({"lost": "before"}, True, 0, id="lost-before"),
        pytest.param({"lost": "after"}, True, 1, id="lost-after"),
        pytest.param({"code": "InternalError"}, True, 0, id="internal-error"),
    ],
)
async def test_a_replay_of_an_unclear_launch_is_one_instance(
    world: World, fault: dict[str, Any], unclear: bool, created: int
) -> None:
    provider = await world.provider()
    wanted = await request(provider)
    world.fail(**fault)
    with pytest.raises(base.ProvisionError) as caught:
        await provider.create(wanted)
    assert (caught.value.kind, caught.value.maybe_created) == (Kind.TRANSIENT, unclear)
    assert len(world.cloud.created) == created
    made = await provider.create(wanted)
    assert [one.id for one in world.cloud.created] == [world.cloud.find(made.ref).id]


async def test_a_replay_from_another_process_is_the_same_instance(world: World) -> None:
    first = await world.provider()
    wanted = await request(first)
    world.fail(lost="after")
    with pytest.raises(base.ProvisionError):
        await first.create(wanted)
    await first.close()
    world.directory = ""
    second = await world.provider()
    made = await second.create(wanted)
    assert made.name == wanted.name
    assert len(world.cloud.created) == 1


async def test_a_replay_after_an_option_changed_finds_the_instance_by_its_tags(world: World) -> None:
    wanted = await request(await world.provider())
    world.fail(lost="after")
    with pytest.raises(base.ProvisionError):
        await (await world.provider()).create(wanted)
    world.settle(10)
    changed = await world.provider(hop_limit=7)
    made = await changed.create(wanted)
    assert len(world.cloud.created) == 1
    assert made.ref.endswith(world.cloud.created[0].id)
    assert [one.outcome for one in world.cloud.calls if one.operation == "RunInstances"][-1] == (
        "IdempotentParameterMismatch"
    )


async def test_a_token_that_is_taken_by_nothing_to_be_seen_stays_unclear(world: World) -> None:
    wanted = await request(await world.provider())
    world.fail(lost="after", hidden_for=90)
    with pytest.raises(base.ProvisionError):
        await (await world.provider()).create(wanted)
    changed = await world.provider(hop_limit=7)
    with pytest.raises(base.ProvisionError) as caught:
        await changed.create(wanted)
    assert (caught.value.code, caught.value.maybe_created) == ("IdempotentParameterMismatch", True)
    assert len(world.cloud.created) == 1


async def test_another_instance_with_the_same_tags_is_not_mistaken_for_it(world: World) -> None:
    provider = await world.provider()
    first = await request(provider, "one")
    await provider.create(first)
    second = replace(await request(provider, "two"), tags=first.tags)
    world.fail(code="IdempotentParameterMismatch")
    world.settle(10)
    with pytest.raises(base.ProvisionError) as caught:
        await provider.create(second)
    assert caught.value.maybe_created


async def test_a_replay_after_its_instance_ended_buys_no_second_one(world: World) -> None:
    provider = await world.provider()
    wanted = await request(provider)
    made = await provider.create(wanted)
    world.settle()
    await provider.delete(made.ref)
    world.settle()
    with pytest.raises(base.ProvisionError) as caught:
        await provider.create(wanted)
    assert (caught.value.code, caught.value.maybe_created) == ("IdempotentInstanceTerminated", False)
    assert len(world.cloud.created) == 1


async def test_a_replay_where_nothing_is_left_is_still_the_same_instance(world: World) -> None:
    provider = await world.provider()
    wanted = await request(provider)
    world.fail(lost="after")
    with pytest.raises(base.ProvisionError):
        await provider.create(wanted)
    world.cloud.capacity["us-east-1a/*/*"] = 0
    made = await provider.create(wanted)
    assert made.ref.endswith(world.cloud.created[0].id)


async def test_a_cancelled_launch_is_carried_out_once_and_found_by_a_replay(world: World) -> None:
    entered, release = threading.Event(), threading.Event()

    def slow(asked: wire.Request) -> wire.Answer:
        if b"Action=RunInstances" in asked.body:
            entered.set()
            assert release.wait(10)
        return world.cloud.handle(asked)

    context = replace(world.context(), offload=lambda width: Offload(2))
    provider = aws.Aws(context, world.options, clouds_aws.mount(slow))
    await provider.start()
    wanted = await request(provider)
    task = asyncio.ensure_future(provider.create(wanted))
    while not entered.is_set():
        await asyncio.sleep(0.002)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    release.set()
    await provider.close()
    made = await (await world.provider()).create(wanted)
    for _ in range(500):
        if len(world.cloud.tokens) == 1 and world.sent("RunInstances") == 2:
            break
        await asyncio.sleep(0.002)
    assert [one.id for one in world.cloud.created] == [world.cloud.find(made.ref).id]


async def test_the_token_names_zone_type_and_market(world: World) -> None:
    wanted = await request(await world.provider())
    others: list[dict[str, Any]] = [
        {"zone": "us-east-1b"},
        {"machine_type": "g4dn.2xlarge"},
        {"market": base.Market.ON_DEMAND},
    ]
    tokens = {requests.token(replace(wanted, offer=replace(wanted.offer, **change))) for change in ({}, *others)}
    assert len(tokens) == 4
    # What can change between two sends of one attempt does not change it.
    later = replace(wanted, offer=replace(wanted.offer, price=9.0, price_source="other"))
    assert requests.token(later) == requests.token(wanted)


# -- subnets ---------------------------------------------------------------------------------------------------------


async def crowded(world: World) -> tuple[aws.Aws, list[str]]:
    """A provider with two subnets in one zone."""
    subnets = [world.cloud.subnet("us-east-1a"), world.cloud.account.add_subnet("us-east-1a")]
    return await world.provider(regions={"us-east-1": {"subnets": subnets}}), subnets


async def test_the_subnets_of_a_zone_fill_evenly(world: World) -> None:
    provider, subnets = await crowded(world)
    used = [requests.turned(subnets, f"key-{number}")[0] for number in range(200)]
    assert 70 < used.count(subnets[0]) < 130
    assert requests.turned(subnets, "key-1") == requests.turned(subnets, "key-1")
    assert len(await provider.offers(ON_DEMAND)) == len({one.key for one in await provider.offers(ON_DEMAND)})


async def test_a_full_subnet_does_not_block_its_zone_while_another_has_room(world: World) -> None:
    provider, subnets = await crowded(world)
    wanted = await request(provider)
    full = requests.turned(subnets, wanted.key)[0]
    world.cloud.addresses[full] = 0
    with pytest.raises(base.ProvisionError) as caught:
        await provider.create(wanted)
    told = caught.value
    assert (told.kind, told.scope, told.maybe_created) == (Kind.TRANSIENT, None, False)
    for number in range(4):
        made = await provider.create(await request(provider, f"next-{number}"))
        assert world.cloud.find(made.ref).subnet != full
        world.clock.time += 1


async def test_a_zone_is_blocked_when_all_of_its_subnets_are_full(world: World) -> None:
    provider, subnets = await crowded(world)
    world.cloud.addresses.update(dict.fromkeys(subnets, 0))
    told = []
    for number in range(2):
        with pytest.raises(base.ProvisionError) as caught:
            await provider.create(await request(provider, f"next-{number}"))
        told.append(caught.value)
    assert (told[1].kind, told[1].scope, told[1].block_for) == (Kind.CAPACITY, "aws/own/us-east-1/us-east-1a/*/*", 300)


# -- throttling ------------------------------------------------------------------------------------------------------


async def test_launches_beyond_the_documented_rate_are_throttled_for_sure(world: World) -> None:
    provider = await world.provider()
    wanted = [await request(provider, f"key-{number}") for number in range(6)]
    outcomes = await asyncio.gather(*(provider.create(one) for one in wanted), return_exceptions=True)
    refused = [one for one in outcomes if isinstance(one, base.ProvisionError)]
    assert [(one.kind, one.maybe_created) for one in refused] == [(Kind.THROTTLED, False)]
    traits = provider.traits
    # One less at once than Amazon takes: what waited in between arrives closer together.
    assert (traits.create_burst, traits.create_rate, traits.paced_by_region) == (4, 2.0, True)


async def test_throttling_pauses_its_own_group_of_calls_only(world: World) -> None:
    provider = await world.provider()
    made = await provider.create(await request(provider))
    world.settle()
    world.fail(operation="DescribeInstances", region="us-east-1", code="RequestLimitExceeded")
    before = world.clock.time
    with pytest.raises(base.ProvisionError) as caught:
        await provider.describe(made.ref)
    assert (caught.value.kind, caught.value.retry_after) == (Kind.THROTTLED, 1.0)
    await provider.create(await request(provider, "other"))
    await provider.describe("us-west-2/i-0123456789abcdef0")
    assert world.clock.time - before < 0.5
    await provider.describe(made.ref)
    assert world.clock.time - before >= 1.0
