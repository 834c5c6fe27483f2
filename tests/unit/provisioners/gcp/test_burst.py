"""Many launches at once: none is lost or doubled, and looking at them stays within the documented rates."""

from __future__ import annotations

import asyncio
from typing import Any

from provisioners import base
from provisioners.base import Kind
from provisioners.support import ratelimit
from tests.clouds import gcp
from tests.support import virtual
from tests.unit.provisioners.gcp.gcp_world import START, World


class Timed(World):
    """A world on the virtual clock of its loop, where many wait at once."""

    @property
    def seconds(self) -> float:
        return START + asyncio.get_running_loop().time()

    @seconds.setter
    def seconds(self, value: float) -> None:
        """The loop has the time."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def burst(world: Timed, count: int, zones: int = 1) -> list[Any]:
    """That many creates, paced as the traits say."""
    shape = base.Shape("t4", 1, types=("n1-standard-4",))
    offers = (await world.provisioner.offers(shape))[:zones]
    requests = [await world.request(offers[number % zones]) for number in range(count)]
    traits = world.provisioner.traits
    bucket = ratelimit.Bucket(
        rate=traits.create_rate, burst=traits.create_burst, now=world.context.now, sleep=world.context.sleep
    )

    async def create(request: base.CreateRequest) -> base.InstanceView:
        await bucket.take()
        return await world.provisioner.create(request)

    return await asyncio.gather(*(create(one) for one in requests), return_exceptions=True)


def test_a_burst_is_watched_by_a_few_lists_and_not_by_a_look_for_each() -> None:
    async def main() -> None:
        world = Timed()
        began = world.seconds
        views = await burst(world, 100)
        assert len({one.ref for one in views}) == len(world.cloud.created) == 100
        assert {one.status for one in views} == {base.InstanceStatus.RUNNING}
        looks = world.calls("zoneOperations.get") + world.calls("zoneOperations.list")
        assert looks < 50, "six looks for each would be 600"
        # Paced, the last is sent after 3.1 s, and takes 8 s to boot.
        assert world.seconds - began < 18

    virtual.run(main())


def test_a_burst_over_two_zones_of_which_one_is_dry_tells_each_launch_its_own_fate() -> None:
    async def main() -> None:
        world = Timed()
        world.cloud.capacity["us-central1-b", "n1-standard-4"] = 3
        told = await burst(world, 100, zones=2)
        views = [one for one in told if isinstance(one, base.InstanceView)]
        failures = [one for one in told if isinstance(one, base.ProvisionError)]
        assert (len(views), len(failures)) == (53, 47)
        assert {one.kind for one in failures} == {Kind.CAPACITY}
        assert all("/us-central1-b/" in (one.scope or "") and not one.maybe_created for one in failures)
        assert len(world.cloud.instances) == 53
        assert len((await world.provisioner.list_owned()).views) == 53

    virtual.run(main())


def test_a_list_that_fails_or_lacks_an_operation_costs_only_a_look() -> None:
    async def main() -> None:
        world = Timed()
        world.cloud.faults.append(gcp.Fault(method="zoneOperations.list", reason="backendError", times=2))
        views = await burst(world, 12)
        assert {one.status for one in views} == {base.InstanceStatus.RUNNING}
        assert len(world.cloud.created) == 12

    virtual.run(main())
