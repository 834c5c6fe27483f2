"""What an account holds of ours is listed whole or not at all, with what is left of instances."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from provisioners import aws, base
from provisioners.base import InstanceStatus
from tests.clouds import aws as clouds_aws
from tests.unit.provisioners.aws.aws_world import World, request

OURS = [{"Key": base.TAG_CONTROLLER, "Value": "acme-ci"}, {"Key": base.TAG_INSTANCE, "Value": "i-x"}]


async def test_a_region_that_fails_is_not_complete_and_says_why(world: World) -> None:
    provider = await world.provider()
    made = await provider.create(await request(provider))
    world.settle()
    world.fail(operation="DescribeInstances", region="us-west-2", code="InternalError")
    listing = await provider.list_owned()
    assert [view.ref for view in listing.views] == [made.ref]
    assert listing.complete_scopes == {"aws/own/us-east-1/*"}
    assert list(listing.failures) == ["aws/own/us-west-2/*"]
    assert "InternalError" in listing.failures["aws/own/us-west-2/*"]


async def test_half_a_list_is_no_list(world: World) -> None:
    provider = await world.provider()
    for number in range(7):
        await provider.create(await request(provider, f"key-{number}"))
        world.clock.time += 5
    world.settle()
    page: dict[str, Any] = {"Filters": [{"Name": "tag-key", "Values": [base.TAG_CONTROLLER]}], "size": 5}
    found = await provider._calls.pages("DescribeInstances", "us-east-1", "Reservations", **page)
    assert len(found) == 7
    world.fail(operation="DescribeInstances", code="Unavailable", after=1)
    with pytest.raises(base.ProvisionError):
        await provider._calls.pages("DescribeInstances", "us-east-1", "Reservations", **page)


async def test_regions_that_only_rows_know_are_listed_too(world: World) -> None:
    before = await world.provider()
    made = await before.create(await request(before))
    world.settle()
    only_west = await world.provider(regions={"us-west-2": world.options["regions"]["us-west-2"]})
    assert (await only_west.list_owned()).views == ()
    listing = await only_west.list_owned(
        frozenset({base.Scope("aws/own/us-east-1/us-east-1a"), base.Scope("gcp/p/europe-west4/a")})
    )
    assert [view.ref for view in listing.views] == [made.ref]
    assert listing.covers(base.Scope("aws/own/us-east-1/us-east-1a"))
    assert not listing.covers(base.Scope("gcp/p/europe-west4/a"))


async def test_a_scope_of_another_account_is_never_called_complete(world: World) -> None:
    listing = await (await world.provider()).list_owned(
        frozenset({base.Scope("aws/999988887777/us-east-1/us-east-1a")})
    )
    assert not listing.covers(base.Scope("aws/999988887777/us-east-1/us-east-1a"))
    assert "999988887777" in listing.failures["aws/999988887777/us-east-1/us-east-1a"]


async def test_an_instance_shows_once_listings_have_caught_up_and_for_an_hour_after_its_end(world: World) -> None:
    provider = await world.provider()
    world.fail(hidden_for=60)
    made = await provider.create(await request(provider))

    async def seen() -> list[InstanceStatus]:
        return [view.status for view in (await provider.list_owned()).views]

    assert await seen() == []
    world.settle(provider.traits.visibility_grace)
    assert await seen() == [InstanceStatus.RUNNING]
    await provider.delete(made.ref)
    assert await seen() == [InstanceStatus.ENDING]
    world.settle(60)
    assert await seen() == [InstanceStatus.GONE]
    world.settle(3600)
    assert await seen() == []
    assert await provider.describe(made.ref) is None


async def test_pending_and_stopped_instances_are_told_apart(world: World) -> None:
    provider = await world.provider()
    made = await provider.create(await request(provider))
    assert made.status is InstanceStatus.PENDING
    world.settle()
    instance = world.cloud.find(made.ref)
    instance.turn("stopped", "Client.UserInitiatedShutdown")
    view = await provider.describe(made.ref)
    assert view is not None and view.status is InstanceStatus.STOPPED


@pytest.mark.parametrize(
    ("verdict", "healthy"),
    [
        pytest.param("ok", True, id="ok"),
        pytest.param("impaired", False, id="impaired"),
        pytest.param("initializing", None, id="initializing"),
        pytest.param("insufficient-data", None, id="no-data"),
    ],
)
async def test_the_status_checks_say_whether_a_machine_is_dead(
    world: World, verdict: str, healthy: bool | None
) -> None:
    provider = await world.provider()
    made = await provider.create(await request(provider))
    world.settle()
    world.cloud.find(made.ref).health = verdict
    assert [view.healthy for view in (await provider.list_owned()).views] == [healthy]


async def test_status_checks_that_are_not_told_hide_no_instance(world: World) -> None:
    provider = await world.provider()
    await provider.create(await request(provider))
    world.settle()
    world.cloud.denied.update({"ec2:DescribeInstanceStatus", "ec2:DescribeVolumes"})
    listing = await provider.list_owned()
    assert [view.healthy for view in listing.views] == [None]
    assert listing.covers(base.Scope("aws/own/us-east-1/us-east-1a"))


async def test_what_is_left_of_instances_is_found_by_its_tags_and_removed(world: World) -> None:
    provider = await world.provider()
    client = clouds_aws.sdk(world.cloud.handle)
    subnet = world.cloud.subnet("us-east-1a")
    specs = {kind: [{"ResourceType": kind, "Tags": OURS}] for kind in ("volume", "network-interface", "elastic-ip")}
    volume = client.create_volume(AvailabilityZone="us-east-1b", Size=8, TagSpecifications=specs["volume"])["VolumeId"]
    interface = client.create_network_interface(SubnetId=subnet, TagSpecifications=specs["network-interface"])
    nic = interface["NetworkInterface"]["NetworkInterfaceId"]
    address = client.allocate_address(Domain="vpc", TagSpecifications=specs["elastic-ip"])["AllocationId"]
    client.create_volume(AvailabilityZone="us-east-1b", Size=8)
    made = await provider.create(await request(provider))
    world.settle()
    spot = world.cloud.find(made.ref).spot_request
    world.cloud.account.spot_requests[spot].instance = ""
    world.cloud.account.spot_requests[spot].state = "open"

    found = {one.kind: one for one in (await provider.list_owned()).residues}
    assert {kind: one.ref for kind, one in found.items()} == {
        "volume": f"us-east-1/{volume}",
        "network-interface": f"us-east-1/{nic}",
        "address": f"us-east-1/{address}",
        "spot-request": f"us-east-1/{spot}",
    }
    assert found["volume"].scope == "aws/own/us-east-1/us-east-1b"
    assert found["volume"].tags[base.TAG_INSTANCE] == "i-x"
    assert found["spot-request"].tags[base.TAG_ATTEMPT] == "attempt-1"
    for one in found.values():
        await provider.delete_residue(one)
    assert (await provider.list_owned()).residues == ()
    for one in found.values():
        await provider.delete_residue(one)
    assert len((await provider.list_owned()).views) == 1


async def test_the_disk_and_interface_of_a_living_instance_are_not_left_over(world: World) -> None:
    provider = await world.provider()
    made = await provider.create(await request(provider))
    world.settle()
    assert (await provider.list_owned()).residues == ()
    await provider.delete(made.ref)
    world.settle()
    assert (await provider.list_owned()).residues == ()
    backend = world.cloud.account.backend("us-east-1")
    assert not backend.volumes and not backend.enis


async def test_a_residue_of_a_kind_that_nobody_makes_is_refused(world: World) -> None:
    provider = await world.provider()
    strange = base.Residue("bucket", "us-east-1/b", base.Scope("aws/own/us-east-1/*"), {}, 0.0)
    with pytest.raises(base.ProvisionError, match="bucket"):
        await provider.delete_residue(strange)


# -- ends ------------------------------------------------------------------------------------------------------------


async def several(world: World, count: int) -> tuple[aws.Aws, list[str]]:
    provider = await world.provider()
    refs = []
    for number in range(count):
        refs.append((await provider.create(await request(provider, f"key-{number}"))).ref)
        world.clock.time += 1
    world.settle()
    world.cloud.calls.clear()
    return provider, refs


async def test_terminations_at_once_are_one_call_for_each_fifty_and_region(world: World) -> None:
    provider, refs = await several(world, 52)
    west = await request(provider, "west", shape=base.Shape(gpu="t4", gpu_count=1), nth=-1)
    refs.append((await provider.create(west)).ref)
    assert west.offer.region == "us-west-2"
    await asyncio.gather(*(provider.delete(ref) for ref in refs))
    assert world.sent("TerminateInstances") == 3
    assert world.cloud.alive == []


async def test_one_unknown_handle_does_not_keep_the_others_of_its_batch(world: World) -> None:
    provider, refs = await several(world, 3)
    await asyncio.gather(*(provider.delete(ref) for ref in [*refs, "us-east-1/i-0123456789abcdef0"]))
    assert world.cloud.alive == []
    assert world.sent("TerminateInstances") == 1 + 4


async def test_a_protected_instance_fails_alone(world: World) -> None:
    provider, refs = await several(world, 3)
    world.cloud.find(refs[1]).moto.disable_api_termination = True
    outcomes = await asyncio.gather(*(provider.delete(ref) for ref in refs), return_exceptions=True)
    assert [type(one) for one in outcomes] == [type(None), base.ProvisionError, type(None)]
    assert [one.ref for one in world.cloud.alive] == [refs[1]]


async def test_a_failed_termination_is_told_to_everybody_who_waits_for_it(world: World) -> None:
    provider, refs = await several(world, 2)
    world.fail(operation="TerminateInstances", code="Unavailable")
    outcomes = await asyncio.gather(*(provider.delete(ref) for ref in refs), return_exceptions=True)
    assert [getattr(one, "kind", None) for one in outcomes] == [base.Kind.TRANSIENT] * 2
    await asyncio.gather(*(provider.delete(ref) for ref in refs))
    assert world.cloud.alive == []


async def test_whoever_stops_waiting_for_a_termination_stops_nobody_else(world: World) -> None:
    provider, refs = await several(world, 2)
    first, again, other = (asyncio.ensure_future(provider.delete(ref)) for ref in (refs[0], *refs))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(again, other)
    assert world.cloud.alive == []
    assert world.sent("TerminateInstances") == 1


async def test_a_stop_lets_collected_terminations_go_out(world: World) -> None:
    provider, refs = await several(world, 1)
    task = asyncio.ensure_future(provider.delete(refs[0]))
    await asyncio.sleep(0)
    await provider.close()
    await task
    assert world.cloud.alive == []


async def test_a_spot_request_that_lingers_is_cancelled(world: World) -> None:
    provider, refs = await several(world, 1)
    spot = world.cloud.account.spot_requests[world.cloud.find(refs[0]).spot_request]
    await provider.delete(refs[0])
    world.settle()
    # It should have closed with its instance; Amazon has been seen to be late.
    spot.state = "active"
    (left,) = (await provider.list_owned()).residues
    await provider.delete_residue(left)
    assert spot.state == "cancelled"


async def test_an_instance_that_does_not_end_is_still_told_to_be_ending(world: World) -> None:
    provider, refs = await several(world, 1)
    world.fail(operation="TerminateInstances", stuck=True)
    await provider.delete(refs[0])
    world.settle(1800)
    view = await provider.describe(refs[0])
    assert view is not None and view.status is InstanceStatus.ENDING
    await provider.delete(refs[0])


async def test_a_preempted_instance_is_proven_to_be_preempted(world: World) -> None:
    provider = await world.provider()
    world.fail(preempted_after=120)
    made = await provider.create(await request(provider))
    world.settle(60)
    assert (await provider.end_reason(made.ref)).kind is base.EndKind.UNKNOWN
    world.settle(120)
    reason = await provider.end_reason(made.ref)
    assert (reason.kind, "Server.SpotInstanceTermination" in reason.detail) == (base.EndKind.PREEMPTED, True)


async def test_the_console_is_told_and_its_absence_too(world: World) -> None:
    provider, refs = await several(world, 1)
    assert await provider.console_log(refs[0]) is None
    world.cloud.find(refs[0]).console = "Linux version 6.8\nlogin: ü\n"
    assert await provider.console_log(refs[0]) == "Linux version 6.8\nlogin: ü\n"


async def test_an_old_type_gives_its_last_stored_console(world: World) -> None:
    provider = await world.provider()
    wanted = await request(provider)
    made = await provider.create(replace(wanted, offer=replace(wanted.offer, machine_type="p2.xlarge")))
    world.settle()
    world.cloud.find(made.ref).console = "stored"
    assert await provider.console_log(made.ref) == "stored"
    assert world.sent("GetConsoleOutput") == 2
