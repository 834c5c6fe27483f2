"""A world from a seed: what is configured, what is queued, what breaks and when.

The faults of every class are drawn first; then the world runs with them, the daemon being killed at random seams; then
the faults stop, and everything must come to rest: each job done, nothing left, nothing paid twice.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from runnerd import daemon as daemons
from runnerd.simulator import faults
from tests.simulation import lab

#: Virtual seconds after the last fault in which everything must be done and gone.
PATIENCE = 6 * 3600.0


def play(seed: int, mutate: Callable[[daemons.Daemon], None] = lambda daemon: None) -> lab.Lab:
    """Play the scenario of a seed; raises AssertionError with the line that replays it."""
    try:
        return lab.run(_plan(seed), lambda world: _story(world, mutate))
    except AssertionError as error:
        raise AssertionError(f"replay: python -m tests.simulation.soak --seed {seed}\n{error}") from error


def _plan(seed: int) -> lab.Plan:
    rng = random.Random(seed)
    both = rng.random()
    forges = lab.GITHUB if both < 0.5 else lab.GITLAB if both < 0.75 else lab.GITHUB + lab.GITLAB
    providers = "".join(_provider(rng, name) for name in ("sky", "sea")[: rng.choice((1, 2, 2))])
    spot = rng.choice(("on-demand", "on-demand", "spot-then-on-demand"))
    warm = rng.choice((0, 0, 1))
    limits = f"{{instances: {rng.choice((2, 4, 8))}}}"
    if rng.random() < 0.3:
        # Room for two or three at once; a warm one is committed until its deadline a day later.
        limits = f"{{instances: 8, dollars_per_day: {rng.choice((1, 1.5)) + 20 * warm}}}"
    return lab.Plan(
        seed=seed,
        forges=forges,
        providers=providers,
        pools=f"  gpu: {{gpu: t4, market: {spot}, warm: {warm}}}\n",
        limits=limits,
        loss=rng.choice((0.0, 0.05, 0.2)),
        latency=rng.choice(((0.01, 0.05), (0.1, 0.5), (0.3, 3.0))),
    )


def _provider(rng: random.Random, name: str) -> str:
    zones = rng.choice(("[a]", "[a, b]"))
    options = [
        "type: fake",
        f"seed: {rng.randrange(10**6)}",
        f"boot: [{rng.choice((1, 5))}s, {rng.choice((10, 60, 110))}s]",
        f"regions: {{east: {{zones: {zones}, capacity: {rng.choice((1, 3, 100))}}}, west: {{}}}}",
        "machine_types: {small: {gpu: t4, gpu_count: 1, cpus: 4, memory: 16GiB, price: 0.5, spot_price: 0.2}}",
        f"visibility_delay: {rng.choice((0, 2, 15))}s",
        f"replay_window: {rng.choice(('20s', '5m', '1h'))}",
        f"idempotent: {rng.choice(('true', 'true', 'false'))}",
        f"create_latency: [0s, {rng.choice((1, 5))}s]",
        f"delete_latency: [0s, {rng.choice((1, 20))}s]",
        f"create_rate: {rng.choice((0.5, 10))}",
        f"create_burst: {rng.choice((1, 10))}",
    ]
    drawn = [fault for fault in _FAULTS if rng.random() < 0.3]
    if drawn:
        options.append(f"faults: [{', '.join(drawn)}]")
    return f"  {name}: {{{', '.join(options)}}}\n"


_FAULTS = (
    "{call: create, kind: capacity, probability: 0.3, times: 10}",
    "{call: create, kind: quota, probability: 0.2, times: 5}",
    "{call: create, kind: timeout, applied: true, probability: 0.2, times: 5}",
    "{call: create, kind: timeout, applied: false, probability: 0.2, times: 5}",
    "{call: create, kind: throttled, probability: 0.2, times: 10}",
    "{call: create, kind: auth, times: 2}",
    "{call: create, async_failure: true, probability: 0.2, times: 3}",
    "{call: create, preempt_after: [20s, 90s], probability: 0.3, times: 3}",
    "{call: create, stop_after: 60s, probability: 0.1, times: 2}",
    "{call: delete, kind: timeout, applied: true, probability: 0.3, times: 5}",
    "{call: delete, kind: transient, applied: false, probability: 0.3, times: 5}",
    "{call: list, kind: transient, probability: 0.3, times: 20}",
    '{call: list, partial_list: ["*"], probability: 0.3, times: 20}',
    "{call: list, stale: 10s, probability: 0.3, times: 20}",
    "{call: describe, kind: transient, probability: 0.2, times: 10}",
)


def _forge_faults(rng: random.Random, start: float) -> list[faults.Fault]:
    """Some hours' worth of a forge that has a bad day."""
    end = start + 1200
    kinds = (
        {"status": 500, "probability": 0.1},
        {"html": True, "probability": 0.05},
        {"drop": "before", "probability": 0.1},
        {"drop": "after", "probability": 0.1},
        {"hang": True, "probability": 0.02},
        {"bom": True, "probability": 0.2},
        {"empty": True, "probability": 0.02},
        {"outage": True, "since": start + 200, "until": start + 200 + rng.choice((30, 300))},
        {"latency": 5.0, "probability": 0.1},
        # The forge says that a runner is gone when it is not: the second witness must hold.
        {"method": "DELETE", "path": "*/agents/*", "status": 204, "probability": 0.7},
    )
    drawn = []
    for kind in kinds:
        if rng.random() < 0.3:
            drawn.append(faults.Fault(**{"since": start, "until": end, **kind}))  # type: ignore[arg-type]
    return drawn


async def _story(world: lab.Lab, mutate: Callable[[daemons.Daemon], None]) -> None:
    rng = random.Random(world.plan.seed + 1)
    world.mutate = mutate
    names = [name for name in ("github", "gitlab") if f"type: {name}" in world.plan.forges]
    await world.start(crash_at=_crash(rng))
    await world.sleep(rng.uniform(0, 20))
    for fault in _forge_faults(rng, world.clock.now()):
        world.app.faults.add(fault)
    for _ in range(rng.randrange(1, 5)):
        world.queue(rng.choice(names), count=rng.randrange(1, 5), duration=rng.choice((5, 30, 120)))
        await world.sleep(rng.uniform(1, 60))
        if rng.random() < 0.2:
            world.cancel()
        if rng.random() < 0.4:
            world.lie()
        await world.sleep(rng.uniform(1, 60))
        if rng.random() < 0.5 and world.life is not None and world.life.alive:
            world.life.crash_at = world.life.crossings + rng.randrange(1, 60)
    await world.sleep(1300)
    world.app.faults.clear()
    world.machines.loss = 0.0
    if world.life is not None:
        world.life.crash_at = None
    await world.until(world.finished, within=PATIENCE, step=20)
    assert world.finished(), "starvation: a job is not done\n" + world.describe()
    # A warm instance would stay for ever; a person drains the pool.
    await world.drain("gpu")
    await world.until(world.settled, within=PATIENCE, step=20)
    assert world.settled(), "leak: something is left\n" + world.describe()
    world.check()


def _crash(rng: random.Random) -> int | None:
    return rng.randrange(1, 80) if rng.random() < 0.3 else None
