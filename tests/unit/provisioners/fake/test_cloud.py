"""The simulated cloud does what its script says, in virtual time."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from provisioners import base, fake
from provisioners.base import EndKind, InstanceStatus, Kind, Market

START = 1_700_000_000.0


class World:
    """A clock, a simulated cloud, and requests for it."""

    def __init__(self, directory: str = "", **options: Any) -> None:
        self.seconds = START
        self.options: Mapping[str, Any] = {"boot": 30, **options}
        self.context = base.Context("sim", "acme-ci", directory, lambda: self.seconds, self.sleep)
        self.provisioner = fake.Fake(self.context, self.options)
        self.numbers = iter(range(1, 1_000_000))

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.seconds += seconds

    def restarted(self) -> fake.Fake:
        shared = None if self.context.directory else self.provisioner.cloud
        return fake.Fake(self.context, self.options, shared)

    async def request(
        self, *, market: Market = Market.ON_DEMAND, region: str = "", lifetime: float = 9000.0, gpu: str = "t4"
    ) -> base.CreateRequest:
        offers = await self.provisioner.offers(base.Shape(gpu, 1 if gpu else 0, markets=(market,)))
        offer = next(one for one in offers if region in ("", one.region))
        name = f"i-{next(self.numbers)}"
        tags = {base.TAG_CONTROLLER: "acme-ci", base.TAG_INSTANCE: name}
        return base.CreateRequest(f"key-{name}", name, offer, "#!/bin/sh\n", tags, self.seconds + lifetime)

    async def create(self, **wanted: Any) -> base.InstanceView:
        return await self.provisioner.create(await self.request(**wanted))

    async def refused(self, **wanted: Any) -> base.ProvisionError:
        with pytest.raises(base.ProvisionError) as caught:
            await self.create(**wanted)
        return caught.value

    async def status(self, ref: str) -> InstanceStatus | None:
        view = await self.provisioner.describe(ref)
        return view.status if view else None


async def test_an_instance_boots_in_its_time_and_ends_at_its_deadline() -> None:
    world = World(delete_latency=10)
    made = await world.create(lifetime=100)
    assert made.status is InstanceStatus.PENDING
    world.seconds += 30
    assert await world.status(made.ref) is InstanceStatus.RUNNING
    world.seconds += 70
    assert await world.status(made.ref) is InstanceStatus.GONE
    assert (await world.provisioner.end_reason(made.ref)).kind is EndKind.SELF_ENDED


async def test_without_self_end_the_deadline_passes_unnoticed() -> None:
    world = World(self_end=False)
    made = await world.create(lifetime=100)
    world.seconds += 1000
    assert await world.status(made.ref) is InstanceStatus.RUNNING
    assert world.provisioner.traits.self_end is False


async def test_a_delete_takes_its_time_and_frees_capacity_only_then() -> None:
    world = World(regions={"us-1": {"capacity": 1}}, delete_latency=10)
    made = await world.create()
    await world.provisioner.delete(made.ref)
    assert await world.status(made.ref) is InstanceStatus.ENDING
    assert (await world.refused()).kind is Kind.CAPACITY
    world.seconds += 10
    assert await world.status(made.ref) is InstanceStatus.GONE
    assert (await world.provisioner.end_reason(made.ref)).kind is EndKind.ENDED_BY_US
    await world.create()


async def test_capacity_speaks_for_as_far_as_it_is_known() -> None:
    world = World(regions={"us-1": {"zones": ["a", "b"], "capacity": {"sim-t4": 0}}, "eu-1": {"capacity": 0}})
    error = await world.refused(region="us-1")
    assert (error.kind, error.scope, error.maybe_created) == (Kind.CAPACITY, "sim/sim/us-1/*/sim-t4/*", False)
    await world.create(region="us-1", gpu="a100-40")
    assert (await world.refused(region="eu-1")).scope == "sim/sim/eu-1/*/*/*"


async def test_quota_counts_gpus_and_instances_per_region() -> None:
    world = World(quota={"gpus": 2}, regions={"us-1": {}, "eu-1": {"quota": {"instances": 1}}})
    for _ in range(2):
        await world.create(region="us-1")
    error = await world.refused(region="us-1")
    assert (error.kind, error.scope) == (Kind.QUOTA, "sim/sim/us-1/*/*/*")
    await world.create(region="us-1", gpu="")
    await world.create(region="eu-1")
    assert (await world.refused(region="eu-1")).kind is Kind.QUOTA


async def test_creates_beyond_the_token_bucket_are_throttled_with_the_time_to_wait() -> None:
    world = World(create_rate=2, create_burst=3)
    for _ in range(3):
        await world.create()
    error = await world.refused()
    assert (error.kind, error.maybe_created, error.retry_after) == (Kind.THROTTLED, False, 0.5)
    world.seconds += error.retry_after
    await world.create()
    assert (await world.refused()).kind is Kind.THROTTLED


@pytest.mark.parametrize("kind", ["capacity", "quota", "price", "auth", "config", "throttled"])
async def test_a_scripted_refusal_is_definite_and_counted(kind: str) -> None:
    world = World(faults=[{"kind": kind, "match": "*/sim-t4/*", "code": "Scripted", "times": 1, "after": 1}])
    await world.create()
    await world.create(gpu="a100-40")
    error = await world.refused()
    assert (error.kind, error.code, error.maybe_created) == (Kind(kind), "Scripted", False)
    await world.create()
    assert len((await world.provisioner.list_owned()).views) == 3


@pytest.mark.parametrize("kind", ["transient", "timeout"])
@pytest.mark.parametrize("applied", [True, False])
async def test_after_a_lost_answer_nothing_is_certain_and_the_same_request_settles_it(kind: str, applied: bool) -> None:
    world = World(faults=[{"kind": kind, "applied": applied, "times": 1}])
    request = await world.request()
    with pytest.raises(base.ProvisionError) as caught:
        await world.provisioner.create(request)
    assert (caught.value.kind, caught.value.maybe_created) == (Kind.TRANSIENT, True)
    before = (await world.provisioner.list_owned()).views
    assert len(before) == applied
    made = await world.provisioner.create(request)
    assert [made.ref] == [one.ref for one in (await world.provisioner.list_owned()).views]


async def test_an_accepted_instance_may_break_while_it_boots() -> None:
    world = World(faults=[{"async_failure": True, "times": 1}])
    made = await world.create()
    assert made.status is InstanceStatus.PENDING
    world.seconds += 30
    assert await world.status(made.ref) is InstanceStatus.GONE
    assert (await world.provisioner.end_reason(made.ref)).kind is EndKind.FAILED


async def test_only_spot_instances_are_taken_back() -> None:
    world = World(faults=[{"preempt_after": [60, 90]}])
    spot, bought = await world.create(market=Market.SPOT), await world.create()
    assert spot.offer is not None and bought.offer is not None
    assert (spot.offer.market, bought.offer.market) == ("spot", "on-demand")
    world.seconds += 59
    assert await world.status(spot.ref) is InstanceStatus.RUNNING
    world.seconds += 31
    assert await world.status(spot.ref) is InstanceStatus.GONE
    assert (await world.provisioner.end_reason(spot.ref)).kind is EndKind.PREEMPTED
    assert await world.status(bought.ref) is InstanceStatus.RUNNING


async def test_a_preempted_instance_stays_preempted_when_it_is_deleted_afterwards() -> None:
    world = World(faults=[{"preempt_after": 60}])
    made = await world.create(market=Market.SPOT)
    world.seconds += 60
    await world.provisioner.delete(made.ref)
    assert (await world.provisioner.end_reason(made.ref)).kind is EndKind.PREEMPTED


async def test_a_stopped_instance_is_billed_past_its_deadline_until_it_is_deleted() -> None:
    world = World(faults=[{"stop_after": "2m"}], regions={"us-1": {"capacity": 1}})
    made = await world.create(lifetime=600)
    world.seconds += 6000
    assert await world.status(made.ref) is InstanceStatus.STOPPED
    assert (await world.refused()).kind is Kind.CAPACITY
    await world.provisioner.delete(made.ref)
    assert await world.status(made.ref) is InstanceStatus.GONE
    await world.create()


async def test_a_partial_listing_lacks_the_scope_and_says_so() -> None:
    world = World(
        regions={"us-1": {"zones": ["a", "b"]}, "eu-1": {}}, faults=[{"partial_list": ["sim/sim/us-1/*"], "times": 1}]
    )
    await world.create(region="us-1")
    far = await world.create(region="eu-1")
    listing = await world.provisioner.list_owned()
    assert [one.ref for one in listing.views] == [far.ref]
    assert not listing.covers(base.Scope("sim/sim/us-1/a")) and listing.covers(base.Scope("sim/sim/eu-1/eu-1a"))
    assert set(listing.failures) == {"sim/sim/us-1/a", "sim/sim/us-1/b"}
    assert len((await world.provisioner.list_owned()).views) == 2


async def test_a_listing_fails_in_one_region_or_as_a_whole() -> None:
    faults = [{"call": "list", "kind": "auth", "match": "sim/sim/us-1/*", "times": 1}]
    world = World(regions={"us-1": {}, "eu-1": {}}, faults=[*faults, {"call": "list", "kind": "transient", "times": 1}])
    listing = await world.provisioner.list_owned()
    assert listing.complete_scopes == {"sim/sim/eu-1/eu-1a"}
    with pytest.raises(base.ProvisionError) as caught:
        await world.provisioner.list_owned()
    assert (caught.value.kind, caught.value.maybe_created) == (Kind.TRANSIENT, False)


async def test_a_stale_listing_shows_the_past_and_the_grace_allows_for_it() -> None:
    world = World(faults=[{"stale": 20, "after": 1, "times": 1}])
    made = await world.create()
    world.seconds += 30
    assert (await world.provisioner.list_owned()).views[0].status is InstanceStatus.RUNNING
    assert (await world.provisioner.list_owned()).views[0].status is InstanceStatus.PENDING
    assert world.provisioner.traits.visibility_grace == 20
    assert await world.status(made.ref) is InstanceStatus.RUNNING


async def test_listings_lag_behind_creates() -> None:
    world = World(visibility_delay=15)
    await world.create()
    assert (await world.provisioner.list_owned()).views == ()
    world.seconds += 15
    assert len((await world.provisioner.list_owned()).views) == 1


async def test_a_lost_answer_to_a_delete_may_have_been_carried_out() -> None:
    world = World(faults=[{"call": "delete", "kind": "timeout", "applied": True, "times": 1}])
    made = await world.create()
    with pytest.raises(base.ProvisionError):
        await world.provisioner.delete(made.ref)
    assert await world.status(made.ref) is InstanceStatus.GONE


async def test_a_key_is_forgotten_after_the_replay_window() -> None:
    world = World(replay_window=100, remember=10)
    request = await world.request(lifetime=50)
    first = await world.provisioner.create(request)
    world.seconds += 90
    again = await world.provisioner.create(request)
    assert (again.ref, again.status) == (first.ref, InstanceStatus.GONE)
    world.seconds += 11
    assert (await world.provisioner.create(request)).ref != first.ref


async def test_an_ended_instance_is_forgotten_after_a_while() -> None:
    world = World(remember=100, replay_window=10)
    made = await world.create()
    await world.provisioner.delete(made.ref)
    world.seconds += 99
    assert len((await world.provisioner.list_owned()).views) == 1
    world.seconds += 1
    assert await world.status(made.ref) is None
    assert (await world.provisioner.list_owned()).views == ()
    assert world.provisioner.cloud.machines == {}


async def test_the_same_seed_tells_the_same_story() -> None:
    async def story(seed: int) -> list[float]:
        world = World(boot=[10, 1000], seed=seed, faults=[{"kind": "capacity", "probability": 0.3}])
        made = []
        for _ in range(20):
            try:
                made.append(world.provisioner.cloud.machines[(await world.create()).ref].boots_at - START)
            except base.ProvisionError:
                made.append(-1.0)
        return made

    assert await story(1) == await story(1) != await story(2)
    assert 1 <= (await story(1)).count(-1.0) <= 12


async def test_a_cloud_in_memory_is_handed_to_the_next_provisioner() -> None:
    world = World(faults=[{"kind": "capacity", "times": 1}])
    await world.refused()
    made = await world.create()
    again = world.restarted()
    assert [one.ref for one in (await again.list_owned()).views] == [made.ref]
    assert world.provisioner.cloud.machines[made.ref].user_data == "#!/bin/sh\n"


async def test_a_cloud_on_disk_survives_everything_but_its_directory(tmp_path: Path) -> None:
    world = World(str(tmp_path), faults=[{"kind": "capacity", "times": 1}], replay_window=60)
    await world.provisioner.start()
    await world.refused()
    kept, ended = await world.create(), await world.create()
    await world.provisioner.delete(ended.ref)
    world.provisioner = world.restarted()
    await world.provisioner.start()
    assert await world.status(kept.ref) is InstanceStatus.PENDING
    assert await world.status(ended.ref) is InstanceStatus.GONE
    assert (await world.provisioner.end_reason(ended.ref)).kind is EndKind.ENDED_BY_US
    assert (await world.create()).ref not in (kept.ref, ended.ref)
    assert "#!/bin/sh" not in (tmp_path / "cloud.jsonl").read_text()


async def test_a_line_that_was_written_half_is_cut_off(tmp_path: Path) -> None:
    world = World(str(tmp_path))
    made = await world.create()
    book = tmp_path / "cloud.jsonl"
    whole = book.read_bytes()
    book.write_bytes(whole + b'["end","fake-0000')
    world.provisioner = world.restarted()
    assert await world.status(made.ref) is InstanceStatus.PENDING
    await world.provisioner.delete(made.ref)
    assert await World.status(world, made.ref) is InstanceStatus.GONE
    assert all(json.loads(line) for line in book.read_text().splitlines())


async def test_two_processes_on_one_journal_see_each_other(tmp_path: Path) -> None:
    world = World(str(tmp_path))
    other = world.restarted()
    made = await world.create()
    assert [one.ref for one in (await other.list_owned()).views] == [made.ref]
    await other.delete(made.ref)
    assert await world.status(made.ref) is InstanceStatus.GONE
    assert (await other.create(await world.request())).ref != made.ref


async def test_the_journal_is_rewritten_when_most_of_it_is_past(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake.cloud, "_WORTH", 10)
    world = World(str(tmp_path), remember=10, replay_window=10)
    other = world.restarted()
    for _ in range(20):
        await world.provisioner.delete((await world.create()).ref)
    world.seconds += 20
    kept = await world.create()
    await other.list_owned()
    world.provisioner = world.restarted()
    await world.provisioner.start()
    assert len((tmp_path / "cloud.jsonl").read_text().splitlines()) == 1
    for one in (world.provisioner, other):
        assert [view.ref for view in (await one.list_owned()).views] == [kept.ref]


async def test_every_call_is_logged_with_its_time_and_outcome(tmp_path: Path) -> None:
    world = World(str(tmp_path), log="calls.jsonl", faults=[{"kind": "transient", "applied": True, "times": 1}])
    request = await world.request()
    for _ in range(2):
        try:
            made = await world.provisioner.create(request)
        except base.ProvisionError:
            world.seconds += 5
    await world.provisioner.list_owned()
    await world.provisioner.describe(made.ref)
    await world.provisioner.delete(made.ref)
    lines = [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines()]
    assert [(one["call"], one["outcome"]) for one in lines] == [
        ("create", "created"),
        ("create", "existing"),
        ("list", "ok"),
        ("describe", "ok"),
        ("delete", "ok"),
    ]
    assert [one["at"] for one in lines[:2]] == [START, START + 5]
    assert lines[0] == {
        "at": START,
        "provider": "sim",
        "call": "create",
        "outcome": "created",
        "ref": made.ref,
        "lost": True,
        "key": request.key,
        "name": request.name,
        "offer": request.offer.key,
    }


@pytest.mark.parametrize("turns", range(6))
async def test_a_create_that_is_cancelled_was_carried_out_or_not(turns: int) -> None:
    world = World(create_latency=4)
    request = await world.request()
    task = asyncio.ensure_future(world.provisioner.create(request))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    made = (await world.restarted().list_owned()).views
    assert len(made) <= 1
    await world.restarted().create(request)
    assert len((await world.restarted().list_owned()).views) == 1


async def test_offers_come_in_the_order_of_the_options_with_the_regions_prices() -> None:
    world = World(regions={"z-1": {"zones": ["b", "a"], "price_factor": 2}, "a-1": {"machine_types": ["sim-cpu"]}})
    offers = await world.provisioner.offers(base.Shape("t4", 1, markets=(Market.SPOT, Market.ON_DEMAND)))
    assert [(one.key, one.price) for one in offers] == [
        ("sim/sim/z-1/b/sim-t4/spot", 0.32),
        ("sim/sim/z-1/a/sim-t4/spot", 0.32),
        ("sim/sim/z-1/b/sim-t4/on-demand", 1.06),
        ("sim/sim/z-1/a/sim-t4/on-demand", 1.06),
    ]
    assert world.provisioner.scopes() == {"sim/sim/z-1/b", "sim/sim/z-1/a", "sim/sim/a-1/a-1a"}


async def test_ten_thousand_instances_are_made_and_listed_in_moments() -> None:
    world = World(create_burst=20_000)
    requests = [await world.request() for _ in range(10_000)]
    begun = time.process_time()
    for request in requests:
        await world.provisioner.create(request)
    created = time.process_time()
    await world.provisioner.list_owned()
    again = time.process_time()
    assert len((await world.provisioner.list_owned()).views) == 10_000
    listed = time.process_time()
    # Measured: 0.25 s and 0.006 s; the bounds only catch what grows with the number of instances.
    assert created - begun < 6.0
    assert listed - again < 1.0
