from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from provisioners.base import Failure, Kind
from runnerd import model
from runnerd.model import Block, InstanceId, InstanceState, Reason
from runnerd.offers import blocklist
from tests.support.fakes import START, ManualClock, Place, bought, settle

BOOT = Failure(Kind.BOOT, "no word from its agent within 300 s")


@pytest.fixture
def keeper(place: Place) -> blocklist.Blame:
    return blocklist.Blame(place.runtime)


def machine(number: int, **fields: Any) -> model.Instance:
    offer = f"sky/acct/east/a/type-{number}/spot"
    return dataclasses.replace(bought(f"vm-{number}"), offer=offer, image="image-1", market="spot", **fields)


async def test_a_machine_that_did_not_come_up_speaks_against_its_offer_alone(
    keeper: blocklist.Blame, place: Place
) -> None:
    keeper.instance(machine(1), Kind.BOOT, BOOT)
    await settle()
    assert set(place.rows.blocks) == {"sky/acct/east/a/type-1/spot"}
    assert "within 300 s" in place.rows.blocks["sky/acct/east/a/type-1/spot"].detail


async def test_an_image_is_suspected_when_machines_in_a_row_fail_with_it(keeper: blocklist.Blame, place: Place) -> None:
    for number in range(1, 4):
        keeper.instance(machine(number), "gate", BOOT)
        await settle()
    assert "sky/*/*/*/*/*/image-1" in place.rows.blocks
    assert "image-suspected" in place.alarms()


async def test_one_machine_that_came_up_clears_the_image(keeper: blocklist.Blame, place: Place) -> None:
    for number in (1, 2):
        keeper.instance(machine(number), Kind.BOOT, BOOT)
        await settle()
    place.put(machine(9))
    await place.rows.step(InstanceId("vm-9"), InstanceState.READY)
    keeper.instance(machine(3), Kind.BOOT, BOOT)
    await settle()
    assert not any("image-1" in pattern for pattern in place.rows.blocks)


async def test_failures_that_lie_far_apart_are_not_the_images(
    keeper: blocklist.Blame, place: Place, clock: ManualClock
) -> None:
    for number in range(1, 4):
        keeper.instance(machine(number), Kind.BOOT, BOOT)
        await settle()
        await clock.advance(blocklist.IMAGE_WINDOW)
    assert not any("image-1" in pattern for pattern in place.rows.blocks)


async def test_a_preemption_gives_its_place_a_rest(keeper: blocklist.Blame, place: Place) -> None:
    place.put(machine(1))
    await place.rows.step(InstanceId("vm-1"), InstanceState.GONE, reason=Reason.PREEMPTED)
    await settle()
    (block,) = place.rows.blocks.values()
    assert (block.pattern, block.reason) == ("sky/acct/east/a/type-1/spot", "preempted")
    assert block.until > START


async def test_when_one_of_ours_ends_a_quota_that_it_was_under_is_tried_again(
    keeper: blocklist.Blame, place: Place
) -> None:
    for pattern, reason in (("sky/acct/east/*/*/*", "quota"), ("sky/*", "capacity"), ("sea/*", "quota")):
        await place.rows.write_block(Block(pattern, reason, START + 600, START))
    place.put(machine(1))
    await place.rows.step(InstanceId("vm-1"), InstanceState.GONE, reason=Reason.JOB_DONE)
    await settle()
    assert set(place.rows.blocks) == {"sky/*", "sea/*"}


async def test_an_instance_whose_offer_is_not_known_blames_nobody(keeper: blocklist.Blame, place: Place) -> None:
    keeper.instance(dataclasses.replace(bought("vm-1"), offer="sky/acct/east/a/?/?"), Kind.BOOT, BOOT)
    await settle()
    assert not place.rows.blocks
