from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from provisioners import base
from runnerd import model
from runnerd.forges.base import RunnerView
from runnerd.lifecycle import adoption, inventory
from runnerd.model import AttemptState, InstanceId, InstanceState, Reason
from tests.support.clocks import START, settle
from tests.support.fakes import (
    FULL,
    NONCE,
    Place,
    bought,
    instance,
    refusal,
    tried,
)

VM = InstanceId("vm-1")
RUNNING = base.InstanceStatus.RUNNING


@pytest.fixture
def lister(place: Place) -> inventory.Inventory:
    return inventory.Inventory(place.runtime, adoption.Adoption(place.runtime))


def machine(place: Place, name: str = "vm-1", key: str = "key-vm-1", **fields: Any) -> base.InstanceView:
    """A machine that the provider has."""
    tags = {
        base.TAG_INSTANCE: name,
        base.TAG_ATTEMPT: key,
        base.TAG_POOL: "gpu",
        base.TAG_PRICE: "1.5",
        base.TAG_DEADLINE: str(int(START + 5000)),
        "runnerd-repo": "acme/ml",
    }
    values: dict[str, Any] = {
        "ref": f"i-{key}",
        "name": name,
        "scope": base.Scope("sky/acct/east/a"),
        "status": RUNNING,
        "tags": tags,
        "created_at": START - 600,
        "offer": base.OfferKey("sky/acct/east/a/small/spot"),
    } | fields
    view = base.InstanceView(**values)
    place.sky.machines[view.ref] = view
    return view


async def look(place: Place, lister: inventory.Inventory, times: int = 1) -> None:
    for _ in range(times):
        await lister.look(place.runtime.providers["sky"])
        await settle()


# -- observations --------------------------------------------------------------------------------------------------


async def test_what_the_listing_says_becomes_an_observation(lister: inventory.Inventory, place: Place) -> None:
    place.put(bought("vm-1", "busy"))
    place.runtime.observations.missed(VM)
    machine(place, status=base.InstanceStatus.STOPPED, healthy=False)
    await look(place, lister)
    seen = place.runtime.observations[VM]
    assert (seen.cloud, seen.cloud_at, seen.absences, seen.healthy) == (
        base.InstanceStatus.STOPPED,
        START,
        0,
        False,
    )
    assert place.runtime.woken.is_set()


@pytest.mark.parametrize(
    ("partial", "fields", "absences"),
    [
        pytest.param(False, {}, 2, id="complete"),
        pytest.param(True, {}, 0, id="a partial listing proves nothing"),
        pytest.param(False, {"running_at": START - 10, "age": 10.0}, 0, id="too young to show"),
        pytest.param(False, {"offer": "sky/acct/west/z/small/spot"}, 0, id="another scope"),
        pytest.param(False, {"provider": "sea"}, 0, id="another provider"),
        pytest.param(False, {"state": "planned"}, 0, id="not bought yet"),
        pytest.param(False, {"state": "unknown"}, 0, id="unclear ones are resolved elsewhere"),
    ],
)
async def test_absence_counts_only_where_the_listing_is_complete(
    lister: inventory.Inventory, place: Place, partial: bool, fields: dict[str, Any], absences: int
) -> None:
    place.put(bought("vm-1", **({"state": "busy"} | fields)))
    place.sky.partial = partial
    await look(place, lister, times=2)
    assert place.runtime.observations.of(VM).absences == absences


async def test_a_listing_that_fails_closes_the_provider_until_one_succeeds(
    lister: inventory.Inventory, place: Place
) -> None:
    place.put(bought("vm-1", "busy"))
    for error in (refusal(base.Kind.AUTH), RuntimeError("a bug in a plugin")):
        place.sky.listing_error = error
        await look(place, lister)
        assert "listing failed" in place.runtime.providers["sky"].problem
        assert place.alarms() == {"listing-failed"}
        assert place.runtime.observations.of(VM).absences == 0
    place.sky.listing_error = None
    await look(place, lister)
    assert place.runtime.providers["sky"].problem == "" and not place.alarms()


async def test_following_goes_on_whatever_a_look_meets(lister: inventory.Inventory, place: Place) -> None:
    machine(place)
    place.book.broken = FULL
    following = asyncio.ensure_future(lister.follow(place.runtime.providers["sky"]))
    await settle()
    assert place.state() == "forgotten"
    place.book.broken = None
    await place.clock.advance(120)
    assert place.state() == "booting", "adopted at the next look"
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_a_wish_for_a_listing_is_granted_before_its_time(lister: inventory.Inventory, place: Place) -> None:
    provider = place.runtime.providers["sky"]
    following = asyncio.ensure_future(lister.follow(provider))
    await settle()
    assert place.sky.count("list") == 1
    provider.listing_wanted.set()
    await place.clock.advance(1)
    assert place.sky.count("list") == 2
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


# -- adoption ------------------------------------------------------------------------------------------------------


async def test_what_carries_our_tags_without_a_row_becomes_one(lister: inventory.Inventory, place: Place) -> None:
    machine(place)
    await look(place, lister)
    row = place.row()
    assert (row.state, row.adopted, row.attempt, row.ref) == (InstanceState.BOOTING, True, "key-vm-1", "i-key-vm-1")
    assert (row.price, row.deadline, row.repo, row.market) == (1.5, START + 5000, "acme/ml", "spot")
    assert row.running_at == START - 600
    assert place.alarms() == {"adopted"}
    assert place.sky.count("delete") == 0
    await look(place, lister)
    assert list(place.rows.instances) == ["vm-1"]


async def test_an_adopted_instance_finds_its_runner(lister: inventory.Inventory, place: Place) -> None:
    machine(place)
    place.forge.runners = {"vm-1": RunnerView("7", "vm-1", True, True)}
    await look(place, lister)
    assert (place.state(), place.row().job_started) == ("busy", True)


async def test_what_is_gone_already_is_not_adopted(lister: inventory.Inventory, place: Place) -> None:
    machine(place, status=base.InstanceStatus.GONE)
    await look(place, lister)
    assert not place.rows.instances


@pytest.mark.parametrize("state", ["requesting", "unknown"])
async def test_what_is_being_requested_is_not_adopted_beside_its_row(
    lister: inventory.Inventory, place: Place, state: str
) -> None:
    place.put(bought("vm-1", state))
    machine(place)
    await look(place, lister)
    assert list(place.rows.instances) == ["vm-1"] and place.state() == state


@pytest.mark.parametrize("row", [bought("vm-1", "booting", attempt="key-second"), instance("vm-1", "planned")])
async def test_a_late_child_of_an_earlier_attempt_is_ended_under_a_name_of_its_own(
    lister: inventory.Inventory, place: Place, row: Any
) -> None:
    place.put(row)
    machine(place, key="key-first")
    await look(place, lister)
    other = place.row("vm-1-key-fi")
    assert (other.state, other.reason, other.ref) == (InstanceState.DRAINING, Reason.ORPHAN, "i-key-first")
    assert place.state() == row.state.value


async def test_such_a_late_child_is_not_taken_for_absent_while_it_is_listed(
    lister: inventory.Inventory, place: Place
) -> None:
    place.put(bought("vm-1", "booting", attempt="key-second"))
    machine(place, key="key-second")
    machine(place, key="key-first")
    await look(place, lister, times=4)
    seen = place.runtime.observations.of(InstanceId("vm-1-key-fi"))
    assert (seen.absences, seen.cloud) == (0, RUNNING)
    assert len(place.rows.instances) == 2


async def test_tags_that_somebody_bent_do_not_stop_the_sweep(lister: inventory.Inventory, place: Place) -> None:
    machine(place, tags={base.TAG_INSTANCE: "vm-1", base.TAG_PRICE: "cheap", base.TAG_DEADLINE: ""}, offer=None)
    await look(place, lister)
    row = place.row()
    assert (row.price, row.deadline, row.attempt) == (0.0, 0.0, None)


# -- residues ------------------------------------------------------------------------------------------------------


def disk(owner: str = "vm-9", age: float = 600.0) -> base.Residue:
    return base.Residue("disk", "d-1", base.Scope("sky/acct/east/a"), {base.TAG_INSTANCE: owner}, START - age)


async def test_a_side_resource_without_its_instance_goes_when_seen_twice(
    lister: inventory.Inventory, place: Place
) -> None:
    place.sky.residues = (disk(),)
    await look(place, lister)
    assert place.sky.count("delete_residue") == 0
    await look(place, lister)
    assert place.sky.count("delete_residue") == 1


@pytest.mark.parametrize(
    "residue", [pytest.param(disk("vm-1"), id="of a live instance"), pytest.param(disk(age=5.0), id="too young")]
)
async def test_a_side_resource_that_may_be_needed_stays(
    lister: inventory.Inventory, place: Place, residue: base.Residue
) -> None:
    place.put(bought("vm-1", "requesting", agent_nonce=NONCE))
    place.sky.residues = (residue,)
    await look(place, lister, times=3)
    assert place.sky.count("delete_residue") == 0


async def test_a_side_resource_that_was_away_starts_anew(lister: inventory.Inventory, place: Place) -> None:
    for residues in ((disk(),), (), (disk(),)):
        place.sky.residues = residues
        await look(place, lister)
    assert place.sky.count("delete_residue") == 0


async def test_what_a_refused_attempt_left_behind_is_no_instance_unless_it_stays(
    lister: inventory.Inventory, place: Place
) -> None:
    row = bought("vm-1", "booting")
    place.put(row)
    machine(place)
    refused = dataclasses.replace(tried(row), key=model.AttemptKey("key-before"), state=AttemptState.FAILED)
    await place.rows.step(VM, InstanceState.BOOTING, attempt_row=refused)
    machine(place, key="key-before", status=base.InstanceStatus.FAILED)
    await look(place, lister)
    assert list(place.rows.instances) == [VM]
    await place.clock.advance(inventory.LEFT_BEHIND_S[base.InstanceStatus.FAILED] + 1)
    await look(place, lister)
    assert len(place.rows.instances) == 2, "it is taken in, and ended through the gate"
