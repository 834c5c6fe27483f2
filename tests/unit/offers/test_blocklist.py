from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from provisioners.base import Failure, Kind
from runnerd import errors, model
from runnerd.model import Block, InstanceId, InstanceState, Reason
from runnerd.offers import blocklist
from runnerd.runtime import step_facts
from tests.support.clocks import START, ManualClock, settle
from tests.support.fakes import (
    FULL,
    Place,
    bought,
    instance,
)

BOOT = Failure(Kind.BOOT, "no report from its agent within 5 min")


@pytest.fixture
def blocks(place: Place) -> blocklist.Blocklist:
    return blocklist.Blocklist(place.runtime)


async def fail(place: Place, row: model.Instance, reason: str) -> None:
    """Drain a machine for a fault."""
    place.put(row)
    fault = step_facts.Fault(reason, BOOT)
    await place.rows.step(row.id, InstanceState.DRAINING, reason=Reason.BOOT_TIMEOUT, fault=fault)


def machine(number: int, **fields: Any) -> model.Instance:
    offer = f"sky/acct/east/a/type-{number}/spot"
    return dataclasses.replace(bought(f"vm-{number}"), offer=offer, image="image-1", market="spot", **fields)


async def test_a_machine_that_did_not_come_up_speaks_against_its_offer_alone(
    blocks: blocklist.Blocklist, place: Place
) -> None:
    await fail(place, machine(1), Kind.BOOT)
    assert set(place.rows.blocks) == {"sky/acct/east/a/type-1/spot"}
    assert "within 5 min" in place.rows.blocks["sky/acct/east/a/type-1/spot"].detail


async def test_an_image_is_suspected_when_machines_in_a_row_fail_with_it(
    blocks: blocklist.Blocklist, place: Place
) -> None:
    for number in range(1, 4):
        await fail(place, machine(number), "gate")
    assert "sky/*/*/*/*/*/image-1" in place.rows.blocks
    assert "image-suspected" in place.alarms()


async def test_one_machine_that_came_up_clears_the_image(blocks: blocklist.Blocklist, place: Place) -> None:
    for number in (1, 2):
        await fail(place, machine(number), Kind.BOOT)
    place.put(machine(9))
    await place.rows.step(InstanceId("vm-9"), InstanceState.READY)
    await fail(place, machine(3), Kind.BOOT)
    assert not any("image-1" in pattern for pattern in place.rows.blocks)


async def test_failures_that_lie_far_apart_are_not_the_images(
    blocks: blocklist.Blocklist, place: Place, clock: ManualClock
) -> None:
    for number in range(1, 4):
        await fail(place, machine(number), Kind.BOOT)
        await clock.advance(blocklist.IMAGE_WINDOW_S)
    assert not any("image-1" in pattern for pattern in place.rows.blocks)


async def test_a_preemption_gives_its_place_a_rest(blocks: blocklist.Blocklist, place: Place) -> None:
    place.put(machine(1))
    await place.rows.step(InstanceId("vm-1"), InstanceState.GONE, reason=Reason.PREEMPTED)
    await settle()
    (block,) = place.rows.blocks.values()
    assert (block.pattern, block.reason) == ("sky/acct/east/a/type-1/spot", "preempted")
    assert block.until > START


async def test_when_one_of_ours_ends_a_quota_that_it_was_under_is_tried_again(
    blocks: blocklist.Blocklist, place: Place
) -> None:
    for pattern, reason in (("sky/acct/east/*/*/*", "quota"), ("sky/*", "capacity"), ("sea/*", "quota")):
        await place.rows.write_block(Block(pattern, reason, START + 600, START))
    place.put(machine(1))
    await place.rows.step(InstanceId("vm-1"), InstanceState.GONE, reason=Reason.JOB_DONE)
    await settle()
    assert set(place.rows.blocks) == {"sky/*", "sea/*"}


async def test_an_instance_whose_offer_is_not_known_blames_nobody(blocks: blocklist.Blocklist, place: Place) -> None:
    await fail(place, dataclasses.replace(bought("vm-1"), offer="sky/acct/east/a/?/?"), Kind.BOOT)
    assert not place.rows.blocks


async def test_what_a_fault_blocks_is_written_with_the_step_that_it_caused(
    blocks: blocklist.Blocklist, place: Place
) -> None:
    await fail(place, machine(1), Kind.BOOT)
    (commit,) = place.book.commits
    assert {type(change).__name__ for change in commit} == {"Instance", "Event", "Block"}


async def test_a_fault_whose_step_could_not_be_written_blocks_nothing_and_counts_once(
    blocks: blocklist.Blocklist, place: Place
) -> None:
    place.book.broken = FULL
    for _ in range(blocklist.IMAGE_FAULTS):
        with pytest.raises(errors.StoreUnwritable):
            await fail(place, machine(1), Kind.BOOT)
    assert not place.rows.blocks
    place.book.broken = None
    await fail(place, machine(1), Kind.BOOT)
    assert set(place.rows.blocks) == {"sky/acct/east/a/type-1/spot"} and "image-suspected" not in place.alarms()


async def test_a_pool_that_found_no_offer_rests_longer_each_time_until_something_boots(
    blocks: blocklist.Blocklist, place: Place
) -> None:
    for number in (1, 2):
        place.put(instance(f"vm-{number}", "planned"))
        id = InstanceId(f"vm-{number}")
        await place.rows.step(id, InstanceState.FAILED, reason=Reason.NO_OFFER, detail="all are blocked")
    cooling = blocks.cooling("gpu")
    assert (cooling.count, cooling.until, cooling.detail) == (2, START + blocklist.COOL_DOWN_S[2], "all are blocked")
    place.put(bought("vm-3", "requesting"))
    await place.rows.step(InstanceId("vm-3"), InstanceState.BOOTING)
    assert blocks.cooling("gpu") == blocklist.Cooling()
