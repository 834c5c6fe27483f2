"""A scenario over the simulated clouds from a seed: the clouds, the faults at each call, and the daemon's deaths.

As in the scenarios of the cloud that ships with runnerd the faults stop in the end, and everything must come to rest:
each job done, no machine and no side resource left.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from provisioners import base
from runnerd import daemon as daemons
from runnerd.simulator import faults
from tests.clouds import registry
from tests.simulation import clouds, lab

#: Virtual seconds after the last trouble in which everything must be done and gone: longer than the longest block that
#: a trouble here can earn (an hour at Azure).
PATIENCE = 3 * 3600.0
#: Virtual seconds in which things go wrong.
TROUBLED = 700.0

#: How likely each class of trouble is drawn, and how often it befalls a call that it can befall.
_CREATE = (
    ("throttled", 0.3),
    ("capacity", 0.4),
    ("quota", 0.2),
    ("auth", 0.05),
    ("config", 0.1),
    ("price", 0.1),
    ("stumble", 0.3),
    ("unconnected", 0.3),
    ("lost-before", 0.4),
    ("lost-after", 0.5),
    ("accepted-then-fails", 0.4),
    ("accepted-then-fails-late", 0.3),
    ("fails-and-stays", 0.3),
    ("half-made", 0.2),
    ("vanishes", 0.2),
    ("preempted", 0.4),
    ("hidden", 0.4),
    ("slow", 0.3),
)
_OTHER = (
    ("list-fails", 0.3),
    ("list-lost", 0.3),
    ("list-partial", 0.3),
    ("list-warns", 0.3),
    ("list-throttled", 0.15),
    ("look-lost", 0.4),
    ("delete-404", 0.3),
    ("delete-fails", 0.3),
    ("delete-lost", 0.3),
    ("delete-throttled", 0.2),
    ("delete-stuck", 0.2),
)


def play(seed: int, mutate: Callable[[daemons.Daemon], None] = lambda daemon: None) -> lab.Lab:
    """Play the scenario of a seed; raises AssertionError with the line that replays it."""
    try:
        return lab.run(_plan(seed), lambda world: _story(world, mutate))
    except AssertionError as error:
        raise AssertionError(f"replay: python -m tests.simulation.soak --clouds --seed {seed}\n{error}") from error


def names(seed: int) -> list[str]:
    """Return the clouds of a seed: each alone, all of them, and each pair come up in turn."""
    every = list(registry.NAMES)
    pairs = [[name, every[number - gap]] for gap in range(1, len(every) // 2 + 1) for number, name in enumerate(every)]
    sets = [*([name] for name in every), every, *pairs]
    return sets[seed % len(sets)]


def _plan(seed: int) -> lab.Plan:
    rng = random.Random(seed)
    market = rng.choice(("on-demand", "spot-then-on-demand", "spot-then-on-demand"))
    order = rng.choice(("listed", "cheapest"))
    types = {name: list(registry.ADAPTERS[name].t4_types[: rng.choice((1, 2))]) for name in names(seed)}
    limits = f"{{instances: {rng.choice((2, 4, 8))}}}"
    if rng.random() < 0.3:
        # Room for two or three at once: a lifetime commits about sixty cents.
        limits = f"{{instances: 8, dollars_per_day: {rng.choice((1.5, 2.5))}}}"
    return lab.Plan(
        seed=seed,
        forges=rng.choice((lab.GITHUB, lab.GITHUB, lab.GITLAB)),
        providers="",
        pools=f"  gpu: {{gpu: t4, types: {types}, market: {market}, order: {order}}}\n",
        limits=limits,
        loss=rng.choice((0.0, 0.05, 0.2)),
        latency=rng.choice(((0.01, 0.05), (0.1, 0.5))),
        boot="3m",
        list_interval=rng.choice((15.0, 30.0, 40.0)),
    )


def _narrow(rng: random.Random, cloud: clouds.SimulatedCloud) -> None:
    """Set quotas and capacity that jobs can run into."""
    if rng.random() < 0.3:
        cloud.adapter.narrow_quotas(rng, rng.choice((1, 2, 3)))
    if rng.random() < 0.3:
        room = rng.choice((0, 1, 2))
        region = next(iter(cloud.adapter.regions))
        cloud.adapter.limit_capacity(region, cloud.adapter.zones(region)[0], room)


def _break(rng: random.Random, cloud: clouds.SimulatedCloud) -> None:
    """Draw the faults of a cloud."""
    for kind, chance in (*_CREATE, *_OTHER):
        known = kind in cloud.adapter.fault_classes and kind not in cloud.adapter.long_blocks
        if not known or rng.random() >= chance:
            continue
        where: dict[str, Any] = {"times": rng.choice((1, 2, 4)), "probability": rng.choice((0.2, 0.5, 1.0))}
        where["after"] = rng.choice((0, 0, 1, 3))
        if kind.startswith("list"):
            # There are many listings; a place that cannot be seen is out of sight for a while.
            where |= {"times": rng.choice((1, 3, 8)), "probability": 1.0, "after": rng.randrange(30)}
        if kind == "quota":
            where["region"] = rng.choice(list(cloud.adapter.regions))
        cloud.inject(kind, **where)


def _forge_faults(rng: random.Random, start: float) -> list[faults.Fault]:
    """A forge that stumbles a little meanwhile."""
    kinds: Sequence[dict[str, Any]] = (
        {"status": 500, "probability": 0.05},
        {"drop": "before", "probability": 0.05},
        {"drop": "after", "probability": 0.05},
    )
    drawn = [kind for kind in kinds if rng.random() < 0.2]
    return [faults.Fault(**{"since": start, "until": start + TROUBLED, **kind}) for kind in drawn]


async def _story(world: lab.Lab, mutate: Callable[[daemons.Daemon], None]) -> None:
    rng = random.Random(world.plan.seed + 1)
    world.mutate = mutate
    kinds = names(world.plan.seed)
    for name in rng.sample(kinds, len(kinds)):
        cloud = clouds.add(world, name, latency=rng.choice(((0.01, 0.1), (0.05, 0.8), (0.5, 4.0))))
        _narrow(rng, cloud)
        _break(rng, cloud)
    forge = "github" if "type: github" in world.plan.forges else "gitlab"
    await world.start(crash_at=rng.randrange(1, 200) if rng.random() < 0.3 else None)
    await world.sleep(rng.uniform(0, 20))
    for fault in _forge_faults(rng, world.clock.now()):
        world.app.faults.add(fault)
    until = world.clock.now() + TROUBLED
    for _ in range(rng.randrange(1, 4)):
        world.queue(forge, count=rng.randrange(1, 4), duration=rng.choice((5, 40, 150, 400)))
        if rng.random() < 0.3:
            world.machines.deaf += 1
        await world.sleep(rng.uniform(1, 60))
        if rng.random() < 0.15:
            world.cancel()
        if rng.random() < 0.3:
            await _mischief(rng, world)
        await world.sleep(rng.uniform(1, 60))
        if rng.random() < 0.7 and world.life is not None and world.life.alive:
            world.life.crash_at = world.life.crossings + rng.randrange(1, 120)
    await world.sleep(max(0.0, until - world.clock.now()), step=10)
    world.app.faults.clear()
    world.machines.loss = 0.0
    world.machines.deaf = 0
    for cloud in _simulated(world).values():
        cloud.clear()
    if world.life is not None:
        world.life.crash_at = None
    await world.until(world.finished, within=PATIENCE, step=20)
    assert world.finished(), "starvation: a job is not done\n" + world.describe()
    await world.drain("gpu")
    await world.until(world.settled, within=PATIENCE, step=20)
    assert world.settled(), "leak: something is left\n" + world.describe()
    world.check()
    _check_throttled(world)


def _check_throttled(world: lab.Lab) -> None:
    """Hardly a create call is turned away for its pace: some that were long under way, and a new life's full bucket."""
    for name, cloud in _simulated(world).items():
        told = sum(
            provider == name and error.kind is base.Kind.THROTTLED for provider, error in world.invariants.failures
        )
        scripted = sum(fault.fired for kind, fault in cloud.injected if kind == "throttled")
        asked = sum(request.offer.provider == name for _, request in world.invariants.requests)
        allowed = 4 + 5 * len(world.deaths) + asked // 10
        assert told - scripted <= allowed, f"throttled: {name} turned {told - scripted} of {asked} creates away"


def _simulated(world: lab.Lab) -> dict[str, clouds.SimulatedCloud]:
    """Return the clouds by name; all are simulated ones here."""
    return {name: cloud for name, cloud in world.clouds.items() if isinstance(cloud, clouds.SimulatedCloud)}


async def _mischief(rng: random.Random, world: lab.Lab) -> None:
    """Somebody or something outside ends or stops a machine."""
    now = world.clock.now()
    running = [vm for cloud in _simulated(world).values() for vm in cloud.vms() if vm.running(now)]
    if not running:
        return
    vm = rng.choice(running)
    if vm.market == "spot" and rng.random() < 0.5:
        vm.preempt()
    elif rng.random() < 0.5:
        vm.power_off(now)
