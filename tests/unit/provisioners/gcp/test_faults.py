"""Bad days in Compute Engine: lost answers, late failures, partial lists, clashing names, stopped instances."""

from __future__ import annotations

import asyncio

import pytest

from provisioners import base
from provisioners.base import EndKind, InstanceStatus, Kind, Market
from tests.clouds import gcp
from tests.unit.provisioners.gcp.gcp_world import World


@pytest.mark.parametrize("lost", ["before", "after"])
async def test_an_answer_that_is_lost_leaves_it_open_and_a_repetition_makes_one_instance(
    world: World, lost: str
) -> None:
    request = await world.request()
    world.cloud.faults.append(gcp.Fault(lost=lost))
    with pytest.raises(base.ProvisionError) as caught:
        await world.provisioner.create(request)
    assert (caught.value.kind, caught.value.maybe_created) == (Kind.TRANSIENT, True)
    assert len(world.cloud.created) == (lost == "after")
    view = await world.restarted().create(request)
    assert len(world.cloud.created) == 1
    assert [one.ref for one in (await world.provisioner.list_owned()).views] == [view.ref]


async def test_a_connection_that_was_never_made_is_no_open_question(world: World) -> None:
    request = await world.request()
    world.cloud.faults.append(gcp.Fault(lost="before", sent=False))
    with pytest.raises(base.ProvisionError) as caught:
        await world.provisioner.create(request)
    assert (caught.value.kind, caught.value.maybe_created) == (Kind.TRANSIENT, False)


async def test_a_repetition_is_the_same_request_to_the_byte_also_after_time_passed(world: World) -> None:
    request = await world.request()
    world.cloud.faults.append(gcp.Fault(lost="after"))
    with pytest.raises(base.ProvisionError):
        await world.provisioner.create(request)
    world.seconds += 1800
    await world.provisioner.create(request)
    first, second = [one for one in world.sent if one.method == "POST"]
    assert (first.url, first.body) == (second.url, second.body)


async def test_one_create_sends_one_insert(world: World) -> None:
    world.cloud.faults.append(gcp.Fault(reason="backendError", times=None))
    with pytest.raises(base.ProvisionError):
        await world.provisioner.create(await world.request())
    assert world.calls("instances.insert") == 1


async def test_a_restart_between_the_insert_and_its_end_finds_the_instance(world: World) -> None:
    request = await world.request()
    task = asyncio.ensure_future(world.provisioner.create(request))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(world.cloud.created) == 1
    listing = await world.restarted().list_owned()
    assert [one.tags[base.TAG_ATTEMPT] for one in listing.views] == [request.tags[base.TAG_ATTEMPT]]
    assert (await world.provisioner.create(request)).ref == listing.views[0].ref
    assert len(world.cloud.created) == 1


async def test_a_repeated_request_that_failed_fails_the_same_way_and_buys_nothing(world: World) -> None:
    request = await world.request()
    world.cloud.capacity["us-central1-a", "n1-standard-4"] = 0
    for _ in range(2):
        with pytest.raises(base.ProvisionError) as caught:
            await world.provisioner.create(request)
        assert caught.value.kind is Kind.CAPACITY
        world.cloud.capacity.clear()
    assert len(world.cloud.created) == 1
    assert not world.cloud.instances


async def test_a_launch_that_fails_after_the_wait_is_told_by_the_listing_and_by_the_end_reason(world: World) -> None:
    request = await world.request()
    world.cloud.faults.append(gcp.Fault(fails_with="ZONE_RESOURCE_POOL_EXHAUSTED", fails_after=90))
    view = await world.provisioner.create(request)
    assert view.status is InstanceStatus.PENDING
    world.seconds += 60
    (failed,) = (await world.provisioner.list_owned()).views
    assert (failed.ref, failed.status) == (view.ref, InstanceStatus.FAILED)
    assert failed.failure is not None
    assert (failed.failure.kind, failed.failure.scope) == (Kind.CAPACITY, base.OfferPattern(request.offer.key))
    assert await world.provisioner.describe(view.ref) is None
    reason = await world.restarted().end_reason(view.ref)
    assert reason.kind is EndKind.FAILED
    assert reason.failure is not None and reason.failure.kind is Kind.CAPACITY
    await world.provisioner.delete(view.ref)
    assert (await world.provisioner.list_owned()).views == ()


async def test_a_failed_launch_that_is_told_goes_when_it_is_deleted(world: World) -> None:
    world.cloud.faults.append(gcp.Fault(fails_with="ZONE_RESOURCE_POOL_EXHAUSTED", fails_after=90))
    view = await world.provisioner.create(await world.request())
    world.seconds += 60
    assert len((await world.provisioner.list_owned()).views) == 1
    assert len((await world.provisioner.list_owned()).views) == 1, "it is told until somebody reacts"
    await world.provisioner.delete(view.ref)
    assert (await world.provisioner.list_owned()).views == ()


async def test_what_a_failed_launch_leaves_behind_is_told_as_failed(world: World) -> None:
    world.cloud.faults.append(gcp.Fault(fails_with="UNSUPPORTED_OPERATION", leaves=True))
    view = await world.provisioner.create(await world.request())
    assert view.status is InstanceStatus.FAILED
    assert view.failure is not None and view.failure.kind is Kind.CAPACITY
    described = await world.restarted().describe(view.ref)
    (listed,) = (await world.provisioner.list_owned()).views
    for one in (described, listed):
        assert one is not None and one.status is InstanceStatus.FAILED
        assert one.failure is not None and one.failure.code == "UNSUPPORTED_OPERATION"


async def test_an_operation_that_cannot_be_looked_at_is_waited_for(world: World) -> None:
    request = await world.request()
    fault = gcp.Fault(method="zoneOperations.get", reason="backendError", times=3)
    world.cloud.faults.append(fault)
    view = await world.provisioner.create(request)
    assert view.status is InstanceStatus.RUNNING
    assert fault.fired == 3


async def test_an_instance_that_lists_do_not_show_yet_is_told_as_it_was_asked_for(world: World) -> None:
    request = await world.request()
    world.cloud.faults.append(gcp.Fault(hidden_for=300))
    view = await world.provisioner.create(request)
    assert (view.status, view.name, view.scope) == (InstanceStatus.PENDING, request.name, request.offer.scope)
    assert dict(view.tags) == dict(request.tags)
    world.seconds += 300
    assert [one.ref for one in (await world.provisioner.list_owned()).views] == [view.ref]


async def test_a_zone_that_is_not_reached_makes_only_itself_incomplete(world: World) -> None:
    view = await world.created()
    world.cloud.unreachable = {"us-central1-b", "europe-west4-c"}
    listing = await world.provisioner.list_owned()
    root = "google/acme-ml"
    assert [one.ref for one in listing.views] == [view.ref]
    assert listing.covers(base.Scope(f"{root}/us-central1/us-central1-a"))
    assert not listing.covers(base.Scope(f"{root}/us-central1/us-central1-b"))
    assert listing.covers(base.Scope(f"{root}/europe-west4/europe-west4-a"))
    assert not listing.covers(base.Scope(f"{root}/europe-west4/europe-west4-c"))
    assert f"{root}/europe-west4/*" not in listing.complete_scopes
    assert "europe-west4-c" in listing.failures[f"{root}/europe-west4/*"]


@pytest.mark.parametrize("code", ["UNREACHABLE", "LIST_OVERHEAD_QUOTA_EXCEED", "PARTIAL_SUCCESS"])
async def test_a_warning_in_a_zones_part_makes_it_incomplete(world: World, code: str) -> None:
    await world.created()
    world.cloud.faults.append(
        gcp.Fault(method="instances.aggregatedList", unreachable=("us-central1-a",), warning=code)
    )
    listing = await world.provisioner.list_owned()
    assert listing.views == ()
    assert not listing.covers(base.Scope("google/acme-ml/us-central1/us-central1-a"))
    assert code in listing.failures["google/acme-ml/us-central1/us-central1-a"]
    assert listing.covers(base.Scope("google/acme-ml/us-central1/us-central1-b"))


async def test_a_zone_that_the_project_does_not_have_is_never_complete(world: World) -> None:
    also = frozenset({base.Scope("google/acme-ml/us-central1/us-central1-q"), base.Scope("google/acme-ml/moon1/*")})
    listing = await world.provisioner.list_owned(also)
    assert not any(listing.covers(one) for one in also)
    assert also <= listing.failures.keys()


async def test_zones_with_rows_are_listed_although_they_are_not_configured(world: World) -> None:
    also = base.Scope("google/acme-ml/us-west1/us-west1-b")
    assert not (await world.provisioner.list_owned()).covers(also)
    assert (await world.provisioner.list_owned(frozenset({also}))).covers(also)


async def test_a_project_with_rows_that_is_gone_fails_alone(world: World) -> None:
    view = await world.created()
    also = base.Scope("google/old-project/us-west1/us-west1-b")
    listing = await world.provisioner.list_owned(frozenset({also}))
    assert [one.ref for one in listing.views] == [view.ref]
    assert "old-project" in listing.failures[also]


async def test_a_long_list_is_read_to_its_last_page(world: World) -> None:
    offer = await world.offer()
    template = await world.request(offer)
    await world.provisioner.create(template)
    (first,) = world.cloud.instances.values()
    for number in range(600):
        body = {**first.body, "name": f"more-{number}"}
        copy = gcp.Instance(
            str(10**18 + number), "acme-ml", first.zone, f"more-{number}", "", body, first.type, "", 0, "on-demand",
            world.seconds, world.seconds, world.seconds,
        )  # fmt: skip
        world.cloud.instances[copy.ref] = copy
    assert len((await world.provisioner.list_owned()).views) == 601
    assert world.calls("instances.aggregatedList") == 2


async def test_a_guest_that_switches_itself_off_is_told_as_stopped_and_can_be_deleted(world: World) -> None:
    view = await world.created()
    world.cloud.power_off(view.ref)
    world.seconds += 15
    (listed,) = (await world.provisioner.list_owned()).views
    assert (listed.status, listed.failure) == (InstanceStatus.STOPPED, None)
    assert (await world.provisioner.end_reason(view.ref)).kind is EndKind.SELF_ENDED
    await world.provisioner.delete(view.ref)
    world.seconds += 15
    assert await world.provisioner.describe(view.ref) is None
    assert not world.cloud.disks
    assert (await world.provisioner.end_reason(view.ref)).kind is EndKind.SELF_ENDED, "what came first is the cause"


async def test_a_name_that_somebody_else_took_is_a_matter_of_configuration(world: World) -> None:
    request = await world.request()
    mine = {base.TAG_CONTROLLER: "somebody-else", base.TAG_INSTANCE: request.name}
    await world.provisioner.create(await world.request(request.offer, name=request.name, tags=mine))
    with pytest.raises(base.ProvisionError) as caught:
        await world.provisioner.create(request)
    assert (caught.value.kind, caught.value.maybe_created) == (Kind.CONFIG, False)
    assert "another owner" in str(caught.value)
    assert len(world.cloud.created) == 1


async def test_the_instance_of_an_earlier_attempt_is_waited_for(world: World) -> None:
    first = await world.request()
    await world.provisioner.create(first)
    again = await world.request(first.offer, name=first.name)
    with pytest.raises(base.ProvisionError) as caught:
        await world.provisioner.create(again)
    assert (caught.value.kind, caught.value.maybe_created) == (Kind.TRANSIENT, False)


async def test_the_same_request_long_after_its_id_was_forgotten_finds_its_instance_by_name(world: World) -> None:
    request = await world.request()
    view = await world.provisioner.create(request)
    world.seconds += 4000
    assert (await world.provisioner.create(request)).ref == view.ref
    assert len(world.cloud.created) == 1


async def test_a_disk_that_was_left_under_the_name_is_told_and_buys_nothing(world: World) -> None:
    request = await world.request()
    world.cloud.add_disk(request.name, request.offer.zone, {})
    with pytest.raises(base.ProvisionError, match="a disk called ci-1 is left there") as caught:
        await world.provisioner.create(request)
    assert (caught.value.kind, caught.value.maybe_created) == (Kind.TRANSIENT, False)
    assert len(world.cloud.created) == 0


async def test_a_taken_name_that_nobody_can_look_at_leaves_it_open(world: World) -> None:
    request = await world.request()
    await world.provisioner.create(request)
    world.seconds += 4000
    world.cloud.faults.append(gcp.Fault(method="instances.get", reason="backendError"))
    with pytest.raises(base.ProvisionError) as caught:
        await world.provisioner.create(request)
    assert caught.value.maybe_created is True
    world.cloud.faults.append(gcp.Fault(method="instances.get", reason="notFound"))
    with pytest.raises(base.ProvisionError) as caught:
        await world.provisioner.create(request)
    assert (caught.value.kind, caught.value.maybe_created) == (Kind.TRANSIENT, True)


async def test_a_preemption_is_proven_while_it_happens_and_after_the_instance_is_gone(world: World) -> None:
    view = await world.created(Market.SPOT)
    world.cloud.preempt(view.ref)
    described = await world.provisioner.describe(view.ref)
    assert described is not None and described.status is InstanceStatus.ENDING
    assert (await world.provisioner.end_reason(view.ref)).kind is EndKind.PREEMPTED
    world.seconds += 40
    assert await world.provisioner.describe(view.ref) is None
    reason = await world.restarted().end_reason(view.ref)
    assert reason.kind is EndKind.PREEMPTED
    assert "compute.instances.preempted" in reason.detail


async def test_an_instance_that_is_deleted_while_it_is_preempted_was_preempted(world: World) -> None:
    view = await world.created(Market.SPOT)
    world.cloud.preempt(view.ref)
    world.seconds += 5
    await world.provisioner.delete(view.ref)
    world.seconds += 40
    assert (await world.provisioner.end_reason(view.ref)).kind is EndKind.PREEMPTED


async def test_a_recreated_name_is_not_mistaken_for_the_instance_before(world: World) -> None:
    first = await world.request()
    view = await world.provisioner.create(first)
    await world.provisioner.delete(view.ref)
    world.seconds += 60
    later = await world.provisioner.create(await world.request(first.offer, name=first.name))
    assert later.ref != view.ref
    assert await world.provisioner.describe(view.ref) is None
    assert await world.provisioner.console_log(view.ref) is None
    await world.provisioner.delete(view.ref)
    assert (await world.provisioner.end_reason(view.ref)).kind is EndKind.ENDED_BY_US
    assert (await world.provisioner.end_reason(later.ref)).kind is EndKind.UNKNOWN
    (listed,) = (await world.provisioner.list_owned()).views
    assert (listed.ref, listed.status) == (later.ref, InstanceStatus.RUNNING)


async def test_a_delete_by_a_colleague_is_not_claimed_as_ours(world: World) -> None:
    view = await world.created()
    world.cloud.remove(view.ref)
    world.seconds += 60
    reason = await world.provisioner.end_reason(view.ref)
    assert reason.kind is EndKind.UNKNOWN
    assert "alice@example.com" in reason.detail


async def test_the_run_time_limit_ends_an_instance_and_one_that_is_switched_off(world: World) -> None:
    views = [await world.created(), await world.created()]
    world.cloud.power_off(views[1].ref)
    world.seconds += 7100
    assert len((await world.provisioner.list_owned()).views) == 2
    world.seconds += 200
    assert (await world.provisioner.list_owned()).views == ()
    assert not world.cloud.disks
    for view in views:
        assert (await world.provisioner.end_reason(view.ref)).kind is EndKind.SELF_ENDED


async def test_a_broken_host_is_told_as_a_failure_and_stays_stopped(world: World) -> None:
    view = await world.created()
    world.cloud.break_host(view.ref)
    world.seconds += 5
    described = await world.provisioner.describe(view.ref)
    assert described is not None and described.status is InstanceStatus.STOPPED
    assert (await world.provisioner.end_reason(view.ref)).kind is EndKind.FAILED


async def test_a_delete_that_hangs_is_one_operation_for_a_while_and_a_new_one_later(world: World) -> None:
    view = await world.created()
    world.cloud.faults.append(gcp.Fault(method="instances.delete", stuck=True))
    for _ in range(3):
        await world.provisioner.delete(view.ref)
    deletes = [one for one in world.cloud.operations if one.type == "delete"]
    assert len(deletes) == 1
    assert (await world.provisioner.list_owned()).views[0].status is InstanceStatus.ENDING
    (instance,) = world.cloud.instances.values()
    instance.stuck = False
    world.seconds += 700
    await world.provisioner.delete(view.ref)
    world.seconds += 10
    assert await world.provisioner.describe(view.ref) is None


async def test_a_delete_whose_answer_is_lost_may_be_repeated(world: World) -> None:
    view = await world.created()
    world.cloud.faults.append(gcp.Fault(method="instances.delete", lost="after"))
    with pytest.raises(base.ProvisionError) as caught:
        await world.provisioner.delete(view.ref)
    assert caught.value.kind is Kind.TRANSIENT
    await world.provisioner.delete(view.ref)
    world.seconds += 10
    assert not world.cloud.instances
    assert (await world.provisioner.end_reason(view.ref)).kind is EndKind.ENDED_BY_US


async def test_disks_and_addresses_without_use_are_residue_and_can_be_removed(world: World) -> None:
    await world.created()
    ours = {"runnerd-controller": "acme-ci", "runnerd-instance": "ci-9"}
    world.cloud.add_disk("left-over", "us-central1-b", ours)
    world.cloud.add_disk("foreign", "us-central1-b", {"runnerd-controller": "other"})
    world.cloud.add_address("left-over", "us-central1", ours)
    residues = (await world.provisioner.list_owned()).residues
    assert [(one.kind, one.tags["runnerd-instance"]) for one in residues] == [("disk", "ci-9"), ("address", "ci-9")]
    for one in residues:
        await world.provisioner.delete_residue(one)
        await world.provisioner.delete_residue(one)
    assert (await world.provisioner.list_owned()).residues == ()
    assert {one.name for one in world.cloud.disks.values()} == {"ci-1", "foreign"}


async def test_disks_that_cannot_be_listed_do_not_hide_the_instances(world: World) -> None:
    view = await world.created()
    world.cloud.faults.append(gcp.Fault(method="disks.aggregatedList", reason="forbidden", message="no disks for you"))
    listing = await world.provisioner.list_owned()
    assert [one.ref for one in listing.views] == [view.ref]
    assert listing.covers(view.scope)
    assert any("no disks for you" in one for one in listing.failures.values())


async def test_an_instance_whose_label_only_looks_like_ours_is_not_ours(world: World) -> None:
    request = await world.request()
    await world.provisioner.create(
        await world.request(request.offer, tags={**request.tags, base.TAG_CONTROLLER: "ACME-ci"})
    )
    assert len(world.cloud.instances) == 1
    assert (await world.provisioner.list_owned()).views == ()


async def test_the_console_is_told_once_there_is_one(world: World) -> None:
    request = await world.request()
    world.cloud.boot = 200.0
    view = await world.provisioner.create(request)
    (instance,) = world.cloud.instances.values()
    instance.status = "PROVISIONING"
    instance.created_at = world.seconds
    assert await world.provisioner.console_log(view.ref) is None
    world.seconds += 300
    instance.console = "cloud-init: done\n"
    assert await world.provisioner.console_log(view.ref) == "cloud-init: done\n"
