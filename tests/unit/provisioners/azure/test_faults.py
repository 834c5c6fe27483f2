"""Azure on bad days: answers that are lost, launches that fail late, parts that are left behind."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from provisioners import base
from provisioners.azure import names
from provisioners.base import InstanceStatus
from tests.clouds import azure as clouds_azure
from tests.clouds.azure import lab


@pytest.fixture
def azure() -> lab.Lab:
    return lab.Lab(public_address=True)


async def statuses(one: lab.Lab) -> dict[str, InstanceStatus]:
    return {view.name: view.status for view in (await one.provisioner.list_owned()).views}


# -- the outcome of a create ----------------------------------------------------------------------------------------


async def test_an_answer_lost_before_it_was_carried_out_leaves_nothing_and_the_replay_makes_one(azure: lab.Lab) -> None:
    request = azure.request()
    azure.arm.faults.append(clouds_azure.Fault(lost="before"))
    with pytest.raises(base.ProvisionError) as caught:
        await azure.provisioner.create(request)
    assert (caught.value.kind, caught.value.maybe_created) == (base.Kind.TRANSIENT, True)
    assert azure.arm.created == []
    view = await azure.provisioner.create(request)
    assert view.status is InstanceStatus.RUNNING
    assert len(azure.arm.created) == 1


async def test_an_answer_lost_after_it_was_carried_out_is_found_by_the_replay(azure: lab.Lab) -> None:
    request = azure.request()
    azure.arm.faults.append(clouds_azure.Fault(lost="after"))
    with pytest.raises(base.ProvisionError) as caught:
        await azure.provisioner.create(request)
    assert caught.value.maybe_created is True
    view = await azure.make().create(request)
    assert names.parse(view.ref).vm_id == azure.arm.created[0].vm_id  # type: ignore[union-attr]
    assert len(azure.arm.created) == 1
    assert azure.puts() == ["lost", "412"]


async def test_a_connection_that_was_never_made_is_a_definite_failure(azure: lab.Lab) -> None:
    azure.arm.faults.append(clouds_azure.Fault(lost="before", sent=False))
    with pytest.raises(base.ProvisionError) as caught:
        await azure.provisioner.create(azure.request())
    assert (caught.value.kind, caught.value.maybe_created) == (base.Kind.TRANSIENT, False)


async def test_a_daemon_that_dies_while_it_watches_finds_its_machine_again(azure: lab.Lab) -> None:
    request = azure.request()
    task = asyncio.ensure_future(azure.provisioner.create(request))
    while not azure.arm.created:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    after = azure.make()
    await azure.clock.sleep(60)
    listed = (await after.list_owned()).views
    assert [(view.tags[base.TAG_ATTEMPT], view.status) for view in listed] == [(request.key, InstanceStatus.RUNNING)]
    assert (await after.create(request)).ref == listed[0].ref
    assert len(azure.arm.created) == 1


async def test_a_launch_that_takes_long_is_pending_and_its_failure_is_seen_later(azure: lab.Lab) -> None:
    azure.arm.boot = azure.arm.allocation = (300.0, 300.0)
    azure.arm.faults.append(clouds_azure.Fault(fails_with="ZonalAllocationFailed", message="no capacity"))
    view = await azure.provisioner.create(azure.request())
    assert view.status is InstanceStatus.PENDING
    await azure.clock.sleep(300)
    for seen in (await azure.provisioner.describe(view.ref), (await azure.make().list_owned()).views[0]):
        assert seen is not None and seen.status is InstanceStatus.FAILED
        assert seen.failure is not None
        assert (seen.failure.kind, seen.failure.code) == (base.Kind.CAPACITY, "ZonalAllocationFailed")
        assert "Standard_NC64as_T4_v3" in (seen.failure.scope or "")
    reason = await azure.provisioner.end_reason(view.ref)
    assert seen is not None and (reason.kind, reason.failure) == (base.EndKind.FAILED, seen.failure)


async def test_a_failed_machine_that_cannot_be_deleted_is_an_unclear_outcome_and_is_listed_as_failed(
    azure: lab.Lab,
) -> None:
    azure.arm.faults += [
        clouds_azure.Fault(fails_with="AllocationFailed"),
        clouds_azure.Fault(operation="delete", code="InternalServerError", status=500),
    ]
    request = azure.request()
    with pytest.raises(base.ProvisionError) as caught:
        await azure.provisioner.create(request)
    assert (caught.value.kind, caught.value.maybe_created) == (base.Kind.CAPACITY, True)
    await azure.clock.sleep(60)
    (view,) = (await azure.provisioner.list_owned()).views
    assert (view.status, view.tags[base.TAG_ATTEMPT]) == (InstanceStatus.FAILED, request.key)
    await azure.provisioner.delete(view.ref)
    await azure.clock.sleep(30)
    assert (azure.arm.instances, azure.arm.parts) == ([], {})


async def test_the_replay_of_a_failed_launch_is_told_the_failure_and_removes_what_is_left(azure: lab.Lab) -> None:
    azure.arm.faults += [clouds_azure.Fault(fails_with="AllocationFailed", lost="after")]
    request = azure.request()
    with pytest.raises(base.ProvisionError):
        await azure.provisioner.create(request)
    await azure.clock.sleep(60)
    with pytest.raises(base.ProvisionError) as caught:
        await azure.provisioner.create(request)
    assert (caught.value.kind, caught.value.code) == (base.Kind.CAPACITY, "AllocationFailed")
    assert caught.value.maybe_created is False
    await azure.clock.sleep(60)
    assert azure.arm.instances == []


async def test_a_name_that_somebody_else_took_is_refused_for_certain(azure: lab.Lab) -> None:
    request = azure.request()
    await azure.provisioner.create(request)
    other = dataclasses.replace(request, tags={**request.tags, base.TAG_ATTEMPT: "another"})
    with pytest.raises(base.ProvisionError) as caught:
        await azure.provisioner.create(other)
    assert (caught.value.kind, caught.value.maybe_created) == (base.Kind.CONFIG, False)
    assert "not of this attempt" in str(caught.value)
    assert len(azure.arm.instances) == 1


async def test_a_machine_that_may_exist_and_cannot_be_looked_at_is_an_unclear_outcome(azure: lab.Lab) -> None:
    request = azure.request()
    await azure.provisioner.create(request)
    azure.arm.faults.append(clouds_azure.Fault(operation="get", code="InternalServerError", status=500))
    with pytest.raises(base.ProvisionError) as caught:
        await azure.provisioner.create(request)
    assert caught.value.maybe_created is True


async def test_another_attempt_of_the_same_instance_is_another_machine(azure: lab.Lab) -> None:
    first = azure.request()
    second = dataclasses.replace(first, key="another", tags={**first.tags, base.TAG_ATTEMPT: "another"})
    refs = {(await azure.provisioner.create(one)).ref for one in (first, second)}
    assert len(refs) == 2


async def test_stumbles_while_a_launch_is_watched_change_nothing_about_it(azure: lab.Lab) -> None:
    azure.arm.faults += [
        clouds_azure.Fault(operation="operation", lost="before", times=2),
        clouds_azure.Fault(operation="operation", code="InternalServerError", status=500, after=2),
        clouds_azure.Fault(operation="operation", code="OperationNotFound", status=404, after=3),
    ]
    view = await azure.provisioner.create(azure.request())
    assert view.status is InstanceStatus.RUNNING
    assert azure.puts() == ["201"]


async def test_azure_is_asked_where_an_operation_is_only_at_its_own_address(azure: lab.Lab) -> None:
    from tests.clouds import wire

    honest = azure.arm.handle

    def elsewhere(request: wire.Request) -> wire.Answer:
        assert "evil" not in request.url
        told = honest(request)
        headers = {key: value.replace("management.azure.com", "evil.example") for key, value in told.headers.items()}
        return wire.Answer(told.status, headers, told.body)

    azure.arm.handle = elsewhere  # type: ignore[method-assign]
    view = await azure.make().create(azure.request())
    assert view.status is InstanceStatus.RUNNING


# -- what is left behind --------------------------------------------------------------------------------------------


async def sweep(one: lab.Lab) -> list[str]:
    """One pass over what is left: the kinds, in the order in which they were told and removed."""
    residues = (await one.provisioner.list_owned()).residues
    for residue in residues:
        await one.provisioner.delete_residue(residue)
    return [residue.kind for residue in residues]


async def test_parts_of_a_put_that_failed_halfway_are_told_and_go_in_the_order_that_works(azure: lab.Lab) -> None:
    azure.arm.faults.append(clouds_azure.Fault(half=True))
    request = azure.request()
    with pytest.raises(base.ProvisionError) as caught:
        await azure.provisioner.create(request)
    assert caught.value.maybe_created is True
    assert {part.kind for part in azure.arm.parts.values()} == {"networkInterfaces", "publicIPAddresses", "disks"}
    for residue in (await azure.provisioner.list_owned()).residues:
        assert residue.tags[base.TAG_CONTROLLER] == "acme-ci"
        assert residue.tags[base.TAG_INSTANCE] == request.name
    # The address hangs on the interface and so is free only once that is gone.
    assert await sweep(azure) == ["network-interface", "disk"]
    assert await sweep(azure) == []
    assert azure.arm.parts == {}


async def test_a_part_that_stays_when_its_interface_goes_is_swept_next(azure: lab.Lab) -> None:
    azure.arm.faults.append(clouds_azure.Fault(half=True))
    with pytest.raises(base.ProvisionError):
        await azure.provisioner.create(azure.request())
    for part in azure.arm.parts.values():
        part.delete = False
    assert await sweep(azure) == ["network-interface", "disk"]
    assert await sweep(azure) == ["public-address"]
    assert azure.arm.parts == {}


async def test_parts_of_machines_and_of_others_are_left_alone(azure: lab.Lab) -> None:
    await azure.provisioner.create(azure.request())
    foreign = azure.request(tags={base.TAG_CONTROLLER: "somebody-else"})
    azure.arm.faults.append(clouds_azure.Fault(half=True))
    with pytest.raises(base.ProvisionError):
        await azure.provisioner.create(foreign)
    assert len(azure.arm.parts) == 6
    assert (await azure.provisioner.list_owned()).residues == ()


async def test_an_interface_that_azure_keeps_for_a_failed_machine_goes_later(azure: lab.Lab) -> None:
    azure.arm.faults.append(clouds_azure.Fault(fails_with="AllocationFailed"))
    with pytest.raises(base.ProvisionError):
        await azure.provisioner.create(azure.request())
    for part in azure.arm.parts.values():
        part.delete = False
    await azure.clock.sleep(60)
    with pytest.raises(base.ProvisionError) as caught:
        await sweep(azure)
    assert (caught.value.kind, caught.value.code) == (base.Kind.TRANSIENT, "NicReservedForAnotherVm")
    await azure.clock.sleep(180)
    await sweep(azure)
    await sweep(azure)
    assert azure.arm.parts == {}


async def test_deleting_what_is_gone_already_succeeds(azure: lab.Lab) -> None:
    azure.arm.faults.append(clouds_azure.Fault(half=True))
    with pytest.raises(base.ProvisionError):
        await azure.provisioner.create(azure.request())
    residues = (await azure.provisioner.list_owned()).residues
    for _ in range(2):
        for residue in residues:
            await azure.provisioner.delete_residue(residue)


async def test_machines_are_told_of_although_their_parts_cannot_be_listed(azure: lab.Lab) -> None:
    await azure.provisioner.create(azure.request())
    azure.arm.faults.append(clouds_azure.Fault(operation="network", code="AuthorizationFailed", status=403, times=None))
    listing = await azure.provisioner.list_owned()
    assert len(listing.views) == 1
    assert all(listing.covers(scope) for scope in azure.provisioner.scopes())
    assert any("AuthorizationFailed" in words for words in listing.failures.values())
    assert not listing.failures.keys() & listing.complete_scopes


# -- how machines end -----------------------------------------------------------------------------------------------


async def test_a_machine_that_shut_itself_down_is_stopped_and_billed_until_it_is_deleted(azure: lab.Lab) -> None:
    view = await azure.provisioner.create(azure.request())
    await statuses(azure)
    azure.arm.power_off(view.ref)
    await azure.clock.sleep(61)
    assert await statuses(azure) == {view.name: InstanceStatus.STOPPED}
    assert azure.arm.billed == [azure.arm.created[0].name]
    await azure.provisioner.delete(view.ref)
    await azure.clock.sleep(30)
    assert (azure.arm.billed, azure.arm.parts) == ([], {})


async def test_an_evicted_machine_is_gone_with_its_parts_and_the_activity_log_proves_it(azure: lab.Lab) -> None:
    view = await azure.provisioner.create(azure.request(market=base.Market.SPOT))
    azure.arm.activity_lag = 300.0
    azure.arm.preempt(view.ref)
    assert await azure.provisioner.describe(view.ref) is None
    assert azure.arm.parts == {}
    assert (await azure.provisioner.end_reason(view.ref)).kind is base.EndKind.UNKNOWN
    await azure.clock.sleep(300)
    assert (await azure.provisioner.end_reason(view.ref)).kind is base.EndKind.PREEMPTED


async def test_a_machine_that_vanished_proves_nothing(azure: lab.Lab) -> None:
    azure.arm.faults.append(clouds_azure.Fault(vanishes_after=5.0))
    view = await azure.provisioner.create(azure.request())
    await azure.clock.sleep(60)
    assert await azure.provisioner.describe(view.ref) is None
    assert (await azure.provisioner.end_reason(view.ref)).kind is base.EndKind.UNKNOWN


async def test_our_own_deletion_is_told_from_that_of_others(azure: lab.Lab) -> None:
    ours, theirs = [await azure.provisioner.create(azure.request()) for _ in range(2)]
    await azure.provisioner.delete(ours.ref)
    azure.arm.daemon = dataclasses.replace(azure.arm.daemon, oid="a-person")
    await azure.make().delete(theirs.ref)
    azure.arm.daemon = dataclasses.replace(azure.arm.daemon, oid="daemon-object-id")
    await azure.clock.sleep(60)
    assert (await azure.provisioner.end_reason(ours.ref)).kind is base.EndKind.ENDED_BY_US
    reason = await azure.provisioner.end_reason(theirs.ref)
    assert (reason.kind, "a-person" in reason.detail) == (base.EndKind.UNKNOWN, True)


async def test_without_the_activity_log_the_end_stays_unknown(azure: lab.Lab) -> None:
    view = await azure.provisioner.create(azure.request(market=base.Market.SPOT))
    azure.arm.preempt(view.ref)
    azure.arm.faults.append(clouds_azure.Fault(operation="activity", code="AuthorizationFailed", status=403))
    reason = await azure.provisioner.end_reason(view.ref)
    assert reason.kind is base.EndKind.UNKNOWN
    assert "AuthorizationFailed" in reason.detail


async def test_a_deletion_that_never_ends_is_shown_as_ending(azure: lab.Lab) -> None:
    view = await azure.provisioner.create(azure.request())
    azure.arm.faults.append(clouds_azure.Fault(operation="delete", stuck=True))
    await azure.provisioner.delete(view.ref)
    await azure.clock.sleep(3600)
    assert await statuses(azure) == {view.name: InstanceStatus.ENDING}


async def test_a_machine_whose_system_did_not_report_in_time_failed_to_boot(azure: lab.Lab) -> None:
    azure.arm.boot = (70.0, 70.0)
    azure.arm.faults.append(clouds_azure.Fault(fails_with="OSProvisioningTimedOut", runs=True))
    view = await azure.provisioner.create(azure.request())
    assert view.status is InstanceStatus.PENDING
    await azure.clock.sleep(60)
    seen = await azure.provisioner.describe(view.ref)
    assert seen is not None and seen.failure is not None
    assert (seen.status, seen.failure.kind) == (InstanceStatus.FAILED, base.Kind.BOOT)


async def test_a_change_that_failed_on_a_running_machine_does_not_end_it(azure: lab.Lab) -> None:
    view = await azure.provisioner.create(azure.request())
    one = azure.arm.created[0]
    one.provisioning, one.fails_with = "Failed", "PolicyExtensionFailed"
    assert await statuses(azure) == {view.name: InstanceStatus.RUNNING}
    seen = await azure.provisioner.describe(view.ref)
    assert seen is not None and seen.status is InstanceStatus.RUNNING
    azure.arm.faults.append(clouds_azure.Fault(operation="view", code="InternalServerError", status=500))
    after = azure.make()
    assert [each.status for each in (await after.list_owned()).views] == [InstanceStatus.PENDING]


async def test_a_machine_made_later_under_the_same_name_is_not_taken_for_the_one_that_was_meant(azure: lab.Lab) -> None:
    request = azure.request()
    first = await azure.provisioner.create(request)
    await azure.provisioner.delete(first.ref)
    await azure.clock.sleep(60)
    second = await azure.provisioner.create(request)
    assert first.ref != second.ref
    assert await azure.provisioner.describe(first.ref) is None
    await azure.provisioner.delete(first.ref)
    await azure.clock.sleep(60)
    assert (await azure.provisioner.describe(second.ref)) is not None


# -- looking --------------------------------------------------------------------------------------------------------


async def test_a_listing_that_failed_covers_nothing_and_says_why(azure: lab.Lab) -> None:
    await azure.provisioner.create(azure.request())
    azure.arm.faults.append(clouds_azure.Fault(operation="list", lost="after"))
    listing = await azure.provisioner.list_owned()
    assert (listing.views, listing.complete_scopes) == ((), frozenset())
    assert set(listing.failures) == azure.provisioner.scopes()


async def test_a_long_listing_is_read_to_its_end(azure: lab.Lab) -> None:
    for _ in range(55):
        await azure.provisioner.create(azure.request())
    assert len((await azure.provisioner.list_owned()).views) == 55
    assert [name for name, _ in azure.arm.calls].count("list") == 2


async def test_machines_in_a_group_that_left_the_configuration_are_still_seen_also_after_a_restart(
    tmp_path: Path,
) -> None:
    one = lab.Lab(directory=str(tmp_path))
    await one.provisioner.start()
    view = await one.provisioner.create(one.request())
    one.arm.groups["elsewhere"] = "eastus"
    moved = one.make(resource_group="elsewhere")
    await moved.start()
    await one.clock.sleep(60)
    listing = await moved.list_owned()
    assert [each.ref for each in listing.views] == [view.ref]
    await moved.delete(view.ref)
    await one.clock.sleep(60)
    assert (await moved.list_owned()).views == ()
    await one.clock.sleep(2 * 86400)
    await moved.list_owned()
    calls = len(one.arm.calls)
    await moved.list_owned()
    assert [name for name, _ in one.arm.calls[calls:]].count("list") == 1


async def test_scopes_that_only_rows_know_are_covered_where_we_look(azure: lab.Lab) -> None:
    gone = base.Scope.of("az", azure.arm.subscription, "southcentralus", "1")
    other = base.Scope("az/another-subscription/eastus/1")
    listing = await azure.provisioner.list_owned(frozenset({gone, other, base.Scope("aws/x/us-east-1/a")}))
    assert listing.covers(gone)
    assert not listing.covers(other)


async def test_a_throttled_call_pauses_its_bucket_and_says_so(azure: lab.Lab) -> None:
    view = await azure.provisioner.create(azure.request())
    azure.arm.faults.append(clouds_azure.Fault(operation="get", code="TooManyRequests", status=429, retry_after=30))
    with pytest.raises(base.ProvisionError) as caught:
        await azure.provisioner.describe(view.ref)
    assert (caught.value.kind, caught.value.retry_after) == (base.Kind.THROTTLED, 30.0)
    before = azure.clock.now()
    await azure.provisioner.describe(view.ref)
    assert azure.clock.now() - before >= 30.0


async def test_the_documented_rates_are_kept_without_a_single_refusal(azure: lab.Lab) -> None:
    views = [await azure.provisioner.create(azure.request()) for _ in range(3)]
    for _ in range(60):
        for view in views:
            await azure.provisioner.describe(view.ref)
        await azure.provisioner.list_owned()
    assert azure.arm.buckets.refused == 0


async def test_the_console_is_read_without_our_credential(azure: lab.Lab) -> None:
    view = await azure.provisioner.create(azure.request())
    log = await azure.provisioner.console_log(view.ref)
    assert log is not None and "Linux version" in log
    azure.arm.created[0].console = ""
    assert await azure.provisioner.console_log(view.ref) is None


async def test_an_answer_that_is_no_json_is_a_stumble_wherever_it_comes(azure: lab.Lab) -> None:
    from tests.clouds import wire

    view = await azure.provisioner.create(azure.request())
    honest = azure.arm.handle
    azure.arm.handle = lambda request: wire.Answer(200, {"Content-Type": "text/html"}, b"<html>a proxy</html>")  # type: ignore[method-assign]
    lost = azure.make()
    for call in (lost.describe(view.ref), lost.delete(view.ref), lost.quotas()):
        with pytest.raises(base.ProvisionError) as caught:
            await call
        assert caught.value.kind is base.Kind.TRANSIENT
    with pytest.raises(base.ProvisionError) as caught:
        await lost.create(azure.request())
    assert caught.value.maybe_created is True
    assert (await lost.list_owned()).complete_scopes == frozenset()
    azure.arm.handle = honest  # type: ignore[method-assign]
    assert len((await azure.make().list_owned()).views) == 1


async def test_a_certificate_that_cannot_be_read_is_told_and_nothing_is_sent() -> None:
    one = lab.Lab("eastus")
    from provisioners import azure as provider

    given = {
        **one.options,
        "tenant": clouds_azure.TENANT,
        "client_id": clouds_azure.CLIENT,
        "certificate": "/no/such/file.pem",
    }
    made = provider.Azure(one.context, given)
    with pytest.raises(base.ProvisionError) as caught:
        await made.create(one.request())
    assert (caught.value.kind, caught.value.maybe_created) == (base.Kind.AUTH, False)
    (finding,) = await made.check()
    assert "/no/such/file.pem" in finding.message


async def test_a_conflict_over_a_machine_that_is_not_there_is_a_definite_stumble(azure: lab.Lab) -> None:
    azure.arm.faults.append(clouds_azure.Fault(code="Conflict", message="another operation", status=409))
    with pytest.raises(base.ProvisionError) as caught:
        await azure.provisioner.create(azure.request())
    assert (caught.value.kind, caught.value.maybe_created) == (base.Kind.TRANSIENT, False)


async def test_an_unknown_late_failure_speaks_for_its_offer_alone(azure: lab.Lab) -> None:
    azure.arm.faults.append(clouds_azure.Fault(fails_with="NobodyKnows", message="who knows", lost="after"))
    request = azure.request()
    with pytest.raises(base.ProvisionError):
        await azure.provisioner.create(request)
    await azure.clock.sleep(60)
    (view,) = (await azure.provisioner.list_owned()).views
    assert view.failure == base.Failure(base.Kind.TRANSIENT, "NobodyKnows: who knows", code="NobodyKnows")


async def test_the_power_of_every_machine_is_known_within_a_few_listings(azure: lab.Lab) -> None:
    views = [await azure.provisioner.create(azure.request()) for _ in range(5)]
    await azure.clock.sleep(60)
    for view in views:
        azure.arm.power_off(view.ref)
    assert set((await statuses(azure)).values()) == {InstanceStatus.STOPPED}


async def test_a_group_that_does_not_exist_has_nothing_and_that_is_certain() -> None:
    one = lab.Lab(resource_group="not-made-yet")
    listing = await one.provisioner.list_owned()
    assert listing.views == ()
    assert all(listing.covers(scope) for scope in one.provisioner.scopes())
    with pytest.raises(base.ProvisionError) as caught:
        await one.provisioner.create(one.request())
    assert (caught.value.kind, caught.value.maybe_created) == (base.Kind.CONFIG, False)


async def test_a_size_that_is_not_sold_as_spot_is_offered_on_demand_only() -> None:
    one = lab.Lab("eastus")
    one.arm.sizes[lab.T4] = dataclasses.replace(one.arm.sizes[lab.T4], spot=False)
    offers = [offer for offer in await one.provisioner.offers(lab.SHAPE) if offer.machine_type == lab.T4]
    assert {offer.market for offer in offers} == {base.Market.ON_DEMAND}
