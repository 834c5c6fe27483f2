"""A world over the real clouds from a seed: which of them, what breaks at each call of each, and when the daemon dies.

As in the worlds of the cloud that ships with runnerd the troubles stop in the end, and everything must come to rest:
each job done, no machine and no side resource left.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from provisioners import base
from runnerd import daemon as daemons
from runnerd.simulator import faults
from tests.simulation import clouds, lab, troubles

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
#: Azure says of a size that it is not there for 23 hours; what it cannot allocate is asked for again after one.
_TOO_LONG = {("capacity", "azure")}


def play(seed: int, mutate: Callable[[daemons.Daemon], None] = lambda daemon: None) -> lab.Lab:
    """Play the world of a seed; raises AssertionError with the line that replays it."""
    try:
        return lab.run(_plan(seed), lambda world: _story(world, mutate))
    except AssertionError as error:
        raise AssertionError(f"replay: python -m tests.simulation.soak --clouds --seed {seed}\n{error}") from error


def names(seed: int) -> list[str]:
    """The clouds of a seed: each alone, each pair, and all three come up in turn."""
    sets = [["aws"], ["gcp"], ["azure"], ["aws", "gcp", "azure"], ["aws", "azure"], ["gcp", "aws"], ["azure", "gcp"]]
    return sets[seed % len(sets)]


def _plan(seed: int) -> lab.Plan:
    rng = random.Random(seed)
    market = rng.choice(("on-demand", "spot-then-on-demand", "spot-then-on-demand"))
    order = rng.choice(("listed", "cheapest"))
    types = {name: list(clouds.TYPES[name][: rng.choice((1, 2))]) for name in names(seed)}
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


def _narrow(rng: random.Random, name: str, sky: Any) -> None:
    """Quotas and capacity that jobs can run into."""
    cloud = sky.cloud
    if rng.random() < 0.3:
        few = rng.choice((1, 2, 3))
        for region in clouds.PLACES[name]:
            if name == "aws":
                cloud.quotas[region, "L-DB2E81BA"] = 8 * few
                cloud.quotas[region, "L-3819A6DF"] = 8 * rng.choice((0, 1, few))
            elif name == "gcp":
                cloud.limits[region, "NVIDIA_T4_GPUS"] = float(few)
            else:
                cloud.quota[region, "standardNCASv3_T4Family"] = 8 * few
                cloud.quota[region, "lowPriorityCores"] = 8 * few
    if rng.random() < 0.3:
        room = rng.choice((0, 1, 2))
        region, zones = next(iter(clouds.PLACES[name].items()))
        if name == "aws":
            cloud.capacity[f"{zones[0]}/*/*"] = room
        elif name == "gcp":
            cloud.capacity[zones[0], "nvidia-tesla-t4"] = room
        else:
            cloud.capacity[f"{region}/{zones[0]}/*/*"] = room


def _trouble(rng: random.Random, name: str, sky: Any) -> None:
    """Draw what goes wrong there."""
    for kind, chance in (*_CREATE, *_OTHER):
        if name not in troubles.CLASSES[kind] or (kind, name) in _TOO_LONG or rng.random() >= chance:
            continue
        where: dict[str, Any] = {"times": rng.choice((1, 2, 4)), "probability": rng.choice((0.2, 0.5, 1.0))}
        where["after"] = rng.choice((0, 0, 1, 3))
        if kind.startswith("list"):
            # There are many listings; a place that cannot be seen is out of sight for a while.
            where |= {"times": rng.choice((1, 3, 8)), "probability": 1.0, "after": rng.randrange(30)}
        if kind == "quota":
            where["region"] = rng.choice(list(clouds.PLACES[name]))
        troubles.inject(sky, kind, name, **where)


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
        sky = clouds.add(world, name, latency=rng.choice(((0.01, 0.1), (0.05, 0.8), (0.5, 4.0))))
        _narrow(rng, name, sky)
        _trouble(rng, name, sky)
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
    troubles.clear(list(world.skies.values()))
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
    for name, sky in world.skies.items():
        told = sum(
            provider == name and error.kind is base.Kind.THROTTLED for provider, error in world.promises.failures
        )
        scripted = sum(fault.fired for kind, fault in sky.injected if kind == "throttled")  # type: ignore[attr-defined]
        asked = sum(request.offer.provider == name for _, request in world.promises.requests)
        allowed = 4 + 5 * len(world.deaths) + asked // 10
        assert told - scripted <= allowed, f"throttled: {name} turned {told - scripted} of {asked} creates away"


async def _mischief(rng: random.Random, world: lab.Lab) -> None:
    """Somebody or something outside ends or stops a machine."""
    now = world.clock.now()
    boxes: list[Any] = [box for box in world.boxes() if box.running(now)]
    if not boxes:
        return
    box = rng.choice(boxes)
    if box.market == "spot" and rng.random() < 0.5:
        box.preempt()
    elif rng.random() < 0.5:
        box.power_off(now)
