"""The fault matrix: each class of trouble at each cloud, as one small story with one outcome.

The real provisioner and its SDK over the simulated cloud; a single trouble, and a job that has to be done all the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from provisioners import base
from runnerd import model
from tests.clouds import adapter, faults, registry, wire
from tests.simulation import clouds, lab

MINUTE, HOUR = 60.0, 3600.0


class Cell:
    """One cloud and one job under one trouble."""

    def __init__(self, world: lab.Lab, cloud: clouds.SimulatedCloud) -> None:
        self.world = world
        self.cloud = cloud
        self.adapter = cloud.adapter

    def strike(self, kind: str, **where: Any) -> faults.Fault:
        return self.cloud.inject(kind, **where)

    async def begin(self, *, count: int = 1, **job: Any) -> None:
        """A daemon that works, and a job that waits."""
        await self.world.start()
        await self.world.sleep(5)
        self.world.queue("github", count=count, **({"duration": 20} | job))

    async def until(self, done: Callable[[], bool], *, within: float = 10 * MINUTE) -> None:
        assert await self.world.until(done, within=within, step=1), self.world.describe()

    async def running(self, count: int = 1) -> None:
        """Until the jobs run."""
        await self.until(lambda: sum(agent.worker for agent in self.world.machines.running.values()) == count)

    async def all_is_well(self, *, within: float = 20 * MINUTE) -> None:
        """Every job ran once and succeeded, and nothing is left of anything."""
        assert await self.world.until(self.world.finished, within=within), self.world.describe()
        assert await self.world.until(self.world.settled, within=within), self.world.describe()
        done = [(job.conclusion, job.starts) for job in self.world.jobs()]
        assert done == [("success", 1)] * len(done), self.world.describe()

    # -- what happened ------------------------------------------------------------------------------------------------

    @property
    def offers(self) -> list[base.Offer]:
        """The offers that create calls went to, in order."""
        return [request.offer for _, request in self.world.invariants.requests]

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.world.invariants.requests]

    @property
    def keys(self) -> list[str]:
        """The attempts that create calls were of; one that is sent again stands twice."""
        return [request.key for _, request in self.world.invariants.requests]

    @property
    def vms(self) -> list[adapter.VM]:
        """Every machine that the cloud ever made."""
        return self.cloud.vms()

    @property
    def failures(self) -> list[base.ProvisionError]:
        return [error for _, error in self.world.invariants.failures]

    def blocks(self) -> Mapping[str, model.Block]:
        assert self.world.daemon is not None
        return self.world.daemon.runtime.rows.blocks

    @property
    def notes(self) -> tuple[str, ...]:
        """The reasons for which the pool does not buy what is wanted."""
        assert self.world.daemon is not None
        return self.world.daemon.controller.notes.get("gpu", ())

    def alarms(self) -> set[str]:
        assert self.world.daemon is not None
        return {reason for _, _, reason in self.world.daemon.runtime.alarms.open}

    def rows(self) -> list[model.Instance]:
        return [row for row in self.world.rows().values() if row.live]

    async def events(self, what: str) -> list[model.Event]:
        assert self.world.daemon is not None
        found = await self.world.daemon.store.events(subject="instance", limit=500)
        return [event for event in found if event.what == what]


Story = Callable[[Cell], Awaitable[None]]
_CELLS: list[Any] = []


def cell(kind: str, *, market: str = "on-demand", forges: str = lab.GITHUB, **plan: Any) -> Callable[[Story], Story]:
    """A row of the matrix: at the clouds that know a class of fault, at all of them where it is no such class."""
    known = [one for one in registry.ADAPTERS.values() if kind in one.fault_classes]

    def keep(story: Story) -> Story:
        for cloud in known or registry.ADAPTERS.values():
            _CELLS.append(pytest.param(story, cloud.name, market, forges, plan, id=f"{cloud.name}-{kind}"))
        return story

    return keep


def play(story: Story, cloud: str, market: str, forges: str, plan: dict[str, Any]) -> lab.Lab:
    async def whole(world: lab.Lab) -> None:
        await story(Cell(world, clouds.add(world, cloud)))
        world.check()

    types = list(registry.ADAPTERS[cloud].t4_types)
    pools = f"  gpu: {{gpu: t4, types: {{{cloud}: {types}}}, market: {market}}}\n"
    settings = {"boot": "3m", "list_interval": 20.0, **plan}
    return lab.run(lab.Plan(seed=7, forges=forges, providers="", pools=pools, **settings), whole)


# -- the create call is refused ------------------------------------------------------------------------------------


@cell("throttled")
async def _throttled(cell: Cell) -> None:
    """The API rests for as long as it asks; the offer is not to blame and gets the next call."""
    cell.strike("throttled")
    await cell.begin()
    await cell.all_is_well()
    (failure,) = cell.failures
    assert (failure.kind, failure.maybe_created) == (base.Kind.THROTTLED, False)
    first, second = cell.offers
    assert first == second and len(set(cell.keys)) == 2
    pause = cell.times[1] - cell.times[0]
    assert pause >= (failure.retry_after or 2.0), pause
    assert not cell.blocks() and len(cell.vms) == 1


@cell("capacity")
async def _capacity(cell: Cell) -> None:
    """The next offer outside the refused place is tried at once."""
    fault = cell.strike("capacity")
    await cell.begin()
    await cell.all_is_well()
    (failure,) = cell.failures
    assert (failure.kind, failure.maybe_created, fault.fired) == (base.Kind.CAPACITY, False, 1)
    first, second = cell.offers
    scope = failure.scope or first.key
    assert base.OfferPattern(scope).matches(first.key) and not base.OfferPattern(scope).matches(second.key)
    # At once: what an operation takes to fail is not ours.
    assert cell.times[1] - cell.times[0] <= cell.adapter.refusal_s
    assert sum(vm.user_data != "" and vm.key == cell.keys[1] for vm in cell.vms) == 1
    (block,) = cell.blocks().values()
    assert block.pattern == scope and block.reason == "capacity"


@cell("capacity-everywhere")
async def _capacity_everywhere(cell: Cell) -> None:
    """With nothing free anywhere no offer is tried twice; the job waits, says why, and is served when there is room."""
    # Where a refusal makes an offer rest for a day, a launch that fails makes it rest for an hour.
    fault = cell.strike("accepted-then-fails" if "capacity" in cell.adapter.long_blocks else "capacity", times=None)
    await cell.begin()
    await cell.until(lambda: cell.notes != () and not cell.rows(), within=3 * MINUTE)
    tried = cell.offers
    assert len(tried) == len(set(tried)) == fault.fired > 1
    (words,) = cell.notes
    assert "capacity" in words
    cell.cloud.cloud.faults.clear()
    await cell.all_is_well(within=2 * HOUR)


@cell("quota")
async def _quota(cell: Cell) -> None:
    """A quota speaks for all that it governs: what is tried next lies outside."""
    region = next(iter(cell.adapter.regions))
    cell.strike("quota", region=region)
    await cell.begin()
    await cell.all_is_well()
    (failure,) = cell.failures
    assert failure.kind is base.Kind.QUOTA and not failure.maybe_created
    first, second = cell.offers
    assert first.region == region != second.region


@cell("quota-in-advance")
async def _quota_in_advance(cell: Cell) -> None:
    """Nothing is asked for that the account's quota is known not to allow, though ten jobs want it."""
    for region in cell.adapter.regions:
        cell.adapter.limit_t4s(region, 2)
    await cell.begin(count=10)
    await cell.all_is_well(within=2 * HOUR)
    assert [error.kind for error in cell.failures] == []
    assert len(cell.vms) == 10


@cell("auth")
async def _auth(cell: Cell) -> None:
    """Nothing is tried while the account is refused; the reason is told."""
    cell.strike("auth")
    await cell.begin()
    await cell.world.sleep(60)
    (failure,) = cell.failures
    assert failure.kind is base.Kind.AUTH and len(cell.offers) == 1
    (words,) = cell.notes
    assert "auth" in words
    await cell.all_is_well(within=HOUR)
    assert len(cell.offers) == 2 and len(cell.vms) == 1


@cell("config")
async def _config(cell: Cell) -> None:
    """An offer that cannot work in one place is tried in another."""
    cell.strike("config")
    await cell.begin()
    await cell.all_is_well()
    (failure,) = cell.failures
    assert failure.kind is base.Kind.CONFIG and not failure.maybe_created
    first, second = cell.offers
    assert not base.OfferPattern(failure.scope or first.key).matches(second.key)
    assert cell.times[1] - cell.times[0] <= 1.0


@cell("price", market="spot-then-on-demand")
async def _price(cell: Cell) -> None:
    """A spot offer that is dearer than we pay is passed over."""
    cell.strike("price", times=None)
    await cell.begin()
    await cell.all_is_well()
    assert {error.kind for error in cell.failures} == {base.Kind.PRICE}
    assert [one.market for one in cell.offers][-1] is base.Market.ON_DEMAND
    assert len(cell.vms) == 1


# -- nobody knows what came of it ----------------------------------------------------------------------------------


@cell("unconnected")
async def _unconnected(cell: Cell) -> None:
    """Without a connection nothing can have been created: the next try needs no listing."""
    cell.strike("unconnected")
    await cell.begin()
    await cell.all_is_well()
    (failure,) = cell.failures
    assert (failure.kind, failure.maybe_created) == (base.Kind.TRANSIENT, False)
    assert cell.times[1] - cell.times[0] <= 1.0 and len(cell.vms) == 1
    assert not await cell.events("unknown")


@cell("lost-before")
async def _lost_before(cell: Cell) -> None:
    """A request that got lost is sent again, the same: the cloud knows whether it had it."""
    cell.strike("lost-before")
    await cell.begin()
    await cell.all_is_well()
    assert len(set(cell.keys)) == 1 and len(cell.keys) == 2
    assert len(await cell.events("unknown")) == 1
    (vm,) = cell.vms
    assert vm.key == cell.keys[0]
    assert cell.times[1] - cell.times[0] <= 2.0


@cell("lost-after")
async def _lost_after(cell: Cell) -> None:
    """An answer that got lost costs no second machine: a listing shows the first, or the same request names it."""
    cell.strike("lost-after")
    await cell.begin()
    await cell.all_is_well()
    assert len(await cell.events("unknown")) == 1
    assert len(set(cell.keys)) == 1 and len(cell.vms) == 1
    assert cell.failures[0].maybe_created


@cell("lost-after-and-hidden")
async def _lost_and_hidden(cell: Cell) -> None:
    """A cloud whose listings lag longer than it says: the same request again yields the same machine."""
    cell.cloud.cloud.faults.append(cell.adapter.fault(lost="after", hidden_for=420.0))
    await cell.begin()
    await cell.until(lambda: len(cell.keys) == 2, within=8 * MINUTE)
    await cell.world.sleep(30)
    assert len(set(cell.keys)) == 1 and len(cell.vms) == 1
    assert [row.state for row in cell.rows()] != [model.InstanceState.UNKNOWN], cell.world.describe()


@cell("lost-then-refused")
async def _lost_then_refused(cell: Cell) -> None:
    """The repetition of what may have been carried out is refused: that says nothing of the first."""
    cell.strike("lost-after")
    cell.strike("throttled", after=1)
    await cell.begin(duration=60)
    await cell.all_is_well()
    assert len(set(cell.keys)) == 1 and len(cell.vms) == 1


@cell("lost-twice")
async def _lost_twice(cell: Cell) -> None:
    """The request is carried out, and both its answer and that of its repetition get lost."""
    cell.strike("lost-after", times=2)
    await cell.begin()
    await cell.all_is_well()
    assert len(set(cell.keys)) == 1 and len(cell.vms) == 1


@cell("stumble")
async def _stumble(cell: Cell) -> None:
    """A server error says nothing of what was done: it is looked up before anything else is tried."""
    cell.strike("stumble")
    await cell.begin()
    await cell.all_is_well()
    assert cell.failures[0].maybe_created and cell.failures[0].kind is base.Kind.TRANSIENT
    assert len(await cell.events("unknown")) == 1
    assert len(cell.vms) == 1


# -- it was accepted ---------------------------------------------------------------------------------------------------


@cell("accepted-then-fails")
async def _accepted_then_fails(cell: Cell) -> None:
    """A launch that fails after it was accepted counts against its offer, leaves nothing, and another is made."""
    cell.strike("accepted-then-fails")
    await cell.begin()
    await cell.all_is_well()
    first, second = cell.offers
    assert first != second and len(cell.vms) == 2
    (block,) = cell.blocks().values()
    assert block.reason == "capacity"
    assert base.OfferPattern(block.pattern).matches(first.key) and not base.OfferPattern(block.pattern).matches(
        second.key
    )


@cell("accepted-then-fails-late")
async def _fails_late(cell: Cell) -> None:
    """The same when the failure shows long after the answer."""
    cell.strike("accepted-then-fails-late")
    await cell.begin(duration=200)
    await cell.until(lambda: len(cell.offers) == 2 or cell.world.finished(), within=8 * MINUTE)
    await cell.all_is_well()
    # A machine that runs all the same has an agent that speaks for it.
    if not cell.adapter.late_failures_run:
        assert len(cell.offers) == 2
        assert "capacity" in {block.reason for block in cell.blocks().values()}


@cell("fails-and-stays")
async def _fails_and_stays(cell: Cell) -> None:
    """The remains of a failed launch are deleted."""
    cell.strike("fails-and-stays")
    await cell.begin()
    await cell.all_is_well()
    assert len(cell.vms) == 2 and len(cell.offers) == 2


@cell("half-made")
async def _half_made(cell: Cell) -> None:
    """Interface, address and disk of a machine that never came of them are swept, seen twice."""
    cell.strike("half-made")
    cell.strike("capacity", after=1)
    await cell.begin()
    await cell.until(lambda: bool(cell.cloud.orphans()))
    await cell.all_is_well()
    assert len(cell.vms) == 1


@cell("vanishes", forges=lab.GITHUB)
async def _vanishes(cell: Cell) -> None:
    """A machine that is gone with its job is written off, and nothing else is."""
    cell.strike("vanishes")
    await cell.begin(duration=300)
    await cell.running()
    await cell.until(lambda: not cell.rows(), within=15 * MINUTE)
    (job,) = cell.world.jobs()
    assert job.starts == 1 and job.conclusion != "success"
    assert await cell.world.until(cell.world.settled, within=HOUR), cell.world.describe()
    cell.world.queue("github", duration=20)
    assert await cell.world.until(cell.world.finished, within=20 * MINUTE), cell.world.describe()
    assert cell.world.jobs()[-1].conclusion == "success"
    assert await cell.world.until(cell.world.settled, within=20 * MINUTE), cell.world.describe()


@cell(
    "preempted",
    market="spot-then-on-demand",
    forges=lab.GITHUB.replace("}\n", ", retry: {preempted: 1}}\n"),
)
async def _preempted(cell: Cell) -> None:
    """An interruption that the cloud proves runs the job again, on demand; the place has a rest."""
    cell.strike("preempted")
    await cell.begin(duration=120)
    await cell.until(lambda: len(cell.offers) > 1, within=20 * MINUTE)
    assert await cell.world.until(cell.world.finished, within=20 * MINUTE), cell.world.describe()
    assert await cell.world.until(cell.world.settled, within=20 * MINUTE), cell.world.describe()
    first, second = cell.offers[0], cell.offers[-1]
    assert first.market is base.Market.SPOT and second.market is base.Market.ON_DEMAND
    assert [job.conclusion for job in cell.world.jobs()][-1] == "success"
    assert any(event.reason == "preempted" for event in await cell.events("gone"))
    assert any(
        block.reason == "preempted" and base.OfferPattern(block.pattern).matches(first.key)
        for block in cell.blocks().values()
    )


@cell("never-registers")
async def _never_registers(cell: Cell) -> None:
    """A machine whose agent never speaks is given back in its time and counts against its offer."""
    cell.world.machines.deaf = 1
    await cell.begin()
    await cell.all_is_well()
    first, second = cell.offers
    assert first != second and len(cell.vms) == 2
    (block,) = cell.blocks().values()
    assert (block.pattern, block.reason) == (first.key, "boot")


@cell("hidden")
async def _hidden(cell: Cell) -> None:
    """A machine that listings do not show yet is neither written off nor bought again."""
    cell.strike("hidden")
    await cell.begin(duration=100)
    await cell.all_is_well()
    assert len(cell.vms) == 1 and len(cell.keys) == 1


@cell("slow")
async def _slow(cell: Cell) -> None:
    """An operation that takes longer than it is waited for ends well all the same."""
    cell.strike("slow")
    await cell.begin()
    await cell.all_is_well()
    assert len(cell.vms) == 1 and len(cell.keys) == 1


# -- lists -----------------------------------------------------------------------------------------------------------


@cell("list-partial")
async def _list_partial(cell: Cell) -> None:
    """Machines in a place that a listing did not reach are not absent."""
    await cell.begin(duration=400)
    await cell.running()
    cell.strike("list-partial", times=None)
    await cell.world.sleep(300)
    (row,) = cell.rows()
    assert row.state is model.InstanceState.BUSY
    assert {"listing-partial", "listing-failed"} & cell.alarms()
    cell.cloud.cloud.faults.clear()
    await cell.all_is_well()
    assert len(cell.vms) == 1 and not {"listing-partial", "listing-failed"} & cell.alarms()


@cell("list-warns")
async def _list_warns(cell: Cell) -> None:
    """The same where the list says so in the part of the zone."""
    await _list_partial_by(cell, "list-warns")


async def _list_partial_by(cell: Cell, kind: str) -> None:
    await cell.begin(duration=300)
    await cell.running()
    cell.strike(kind, times=None)
    await cell.world.sleep(200)
    (row,) = cell.rows()
    assert row.state is model.InstanceState.BUSY and "listing-partial" in cell.alarms()
    cell.cloud.cloud.faults.clear()
    await cell.all_is_well()


@cell("list-fails")
async def _list_fails(cell: Cell) -> None:
    """While nothing can be listed nothing is bought there, nothing is written off, and the reason is told."""
    await cell.begin(duration=200)
    await cell.running()
    cell.strike("list-fails", times=None)
    await cell.world.sleep(120)
    assert {"listing-partial", "listing-failed"} & cell.alarms()
    (row,) = cell.rows()
    assert row.state is model.InstanceState.BUSY
    cell.cloud.cloud.faults.clear()
    await cell.all_is_well()


@cell("list-throttled")
async def _list_throttled(cell: Cell) -> None:
    """A throttled listing is asked for more slowly, and ends nothing."""
    await cell.begin(duration=200)
    await cell.running()
    fault = cell.strike("list-throttled", times=None)
    await cell.world.sleep(120)
    asked = fault.fired
    assert asked <= 40, f"a cloud that asks for rest is asked {asked} times in two minutes"
    cell.cloud.cloud.faults.clear()
    await cell.all_is_well()
    assert len(cell.vms) == 1


@cell("look-lost")
async def _look_lost(cell: Cell) -> None:
    """Looks that fail while a machine comes up cost neither it nor a second one."""
    cell.strike("look-lost", times=4)
    await cell.begin()
    await cell.all_is_well()
    assert len(cell.vms) == 1 and len(cell.keys) == 1


# -- the end ---------------------------------------------------------------------------------------------------------


@cell("delete-404")
async def _delete_404(cell: Cell) -> None:
    """A cloud that says "not found" of what it lists is asked again until it is gone."""
    cell.world.machines.deaf = 1
    cell.strike("delete-404")
    await cell.begin()
    await cell.all_is_well()
    assert not [vm for vm in cell.vms if vm.live(cell.world.clock.now())]


@cell("delete-fails")
async def _delete_fails(cell: Cell) -> None:
    """A deletion that fails is tried again."""
    cell.world.machines.deaf = 1
    fault = cell.strike("delete-fails", times=3)
    await cell.begin()
    await cell.all_is_well()
    assert fault.fired == 3 and "delete-failed" not in cell.alarms()


@cell("delete-lost")
async def _delete_lost(cell: Cell) -> None:
    """A deletion whose answer is lost was one."""
    cell.world.machines.deaf = 1
    fault = cell.strike("delete-lost")
    await cell.begin()
    await cell.all_is_well()
    assert fault.fired == 1


@cell("delete-stuck")
async def _delete_stuck(cell: Cell) -> None:
    """A machine that does not end is counted, told of and asked after until it has; meanwhile others work."""
    cell.world.machines.deaf = 1
    cell.strike("delete-stuck")
    await cell.begin()
    await cell.until(lambda: any(vm.instance.stuck for vm in cell.vms), within=15 * MINUTE)
    await cell.world.sleep(700)
    (row,) = cell.rows()
    assert row.state is model.InstanceState.ENDING and cell.world.finished()
    assert "delete-stuck" in cell.alarms()
    cell.adapter.unstick()
    await cell.all_is_well()
    assert "delete-stuck" not in cell.alarms()


@cell("stopped-but-billed")
async def _stopped(cell: Cell) -> None:
    """A machine that switched itself off is deleted where that does not end it, and its disk with it."""
    await cell.begin(duration=600)
    await cell.running()
    (vm,) = cell.vms
    vm.power_off(cell.world.clock.now())
    await cell.until(lambda: not vm.live(cell.world.clock.now()), within=10 * MINUTE)
    assert await cell.world.until(cell.world.settled, within=HOUR), cell.world.describe()


@cell("duplicate-name")
async def _duplicate_name(cell: Cell) -> None:
    """Somebody else's machine of the same name is neither taken for ours nor touched."""
    theirs: list[str] = []

    def squat(request: wire.Request) -> None:
        if theirs or request.method not in ("POST", "PUT"):
            return
        found = cell.adapter.squat(request)
        if found is not None:
            theirs.append(found)

    cell.cloud.on_request = squat
    await cell.begin()
    assert await cell.world.until(cell.world.finished, within=20 * MINUTE), cell.world.describe()
    await cell.until(lambda: not cell.rows(), within=10 * MINUTE)
    assert len(theirs) == 1 and len(cell.vms) == 1
    assert cell.adapter.has(theirs[0]), "a machine of somebody else was deleted"


# -- a crash in the middle -------------------------------------------------------------------------------------------


@cell("crash-inside-create")
async def _crash_inside(cell: Cell) -> None:
    """A daemon that dies between the cloud's answer and the next request of the same method finds its machine again."""
    for ahead in itertools.count(1):
        made = len(cell.vms)
        await _attempt_with_crash(cell, ahead)
        if len(cell.vms) > made and cell.world.deaths:
            break
        assert ahead < 40, "no crash fell behind the purchase"
    await cell.all_is_well()
    assert len(cell.vms) == len(cell.world.jobs()), cell.world.describe()


async def _attempt_with_crash(cell: Cell, ahead: int) -> None:
    """One job, with a crash so many seams after the create call; done before this returns."""
    world = cell.world
    if world.daemon is None:
        await world.start()
        await world.sleep(30)
    assert world.life is not None
    calls = len(cell.keys)
    world.queue("github", duration=20)
    await cell.until(lambda: len(cell.keys) > calls, within=2 * MINUTE)
    if world.life is not None and world.life.alive:
        world.life.crash_at = world.life.crossings + ahead
    await cell.all_is_well()


@pytest.mark.parametrize(("story", "cloud", "market", "forges", "plan"), _CELLS)
def test_trouble_has_its_outcome(story: Story, cloud: str, market: str, forges: str, plan: dict[str, Any]) -> None:
    play(story, cloud, market, forges, plan)
