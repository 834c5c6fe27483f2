"""One plan over a fleet and a queue that are larger than anybody's."""

from __future__ import annotations

import random
import time

from provisioners.base import InstanceStatus
from runnerd import model, planner

INSTANCES, JOBS = 10_000, 100_000
POOLS, REPOS = 20, 2_000
NOW = 1_800_000_000.0

#: How many of a thousand instances are in each state: most work, some come, some go.
_STATES = (
    (model.InstanceState.PLANNED, 20),
    (model.InstanceState.REQUESTING, 20),
    (model.InstanceState.BOOTING, 100),
    (model.InstanceState.READY, 20),
    (model.InstanceState.REGISTERING, 10),
    (model.InstanceState.REGISTERED, 80),
    (model.InstanceState.BUSY, 700),
    (model.InstanceState.DRAINING, 25),
    (model.InstanceState.ENDING, 25),
)


def snapshot(instances: int = INSTANCES, jobs: int = JOBS, *, seed: int = 1) -> planner.Snapshot:
    """A fleet in every state of life and jobs of many repositories that wait for it."""
    rng = random.Random(seed)
    states = [state for state, share in _STATES for _ in range(share)]
    repos = [f"acme/repo-{number}" for number in range(REPOS)]
    queues = [model.Queue("github", "acme", f"pool-{number}") for number in range(POOLS)]
    rows: dict[model.InstanceId, model.Instance] = {}
    observations: dict[model.InstanceId, planner.Observation] = {}
    for number in range(instances):
        id = model.InstanceId(f"ci-pool-{number % POOLS}-{number:06x}")
        state = states[number % len(states)]
        queue = queues[number % POOLS]
        age = rng.uniform(1.0, 50.0)
        bound = state not in (model.InstanceState.PLANNED, model.InstanceState.REQUESTING, model.InstanceState.BOOTING)
        rows[id] = model.Instance(
            id=id,
            pool=queue.pool,
            state=state,
            created_at=NOW - age,
            since=NOW - age / 2,
            queue=queue if bound else None,
            attempt=model.AttemptKey(f"key-{number}"),
            provider="sim",
            ref=f"fake-{number:08x}",
            gpus=1,
            price=0.5,
            running_at=NOW - age,
            ready_at=NOW - age / 2,
            registered_at=NOW - age / 2,
            busy_at=NOW - age / 2,
            deadline=NOW + 50_000.0,
            repo=rng.choice(repos),
        )
        observations[id] = planner.Observation(
            agent_at=NOW - rng.uniform(0.0, 20.0),
            worker=state is model.InstanceState.BUSY,
            asking=state is model.InstanceState.READY,
            cloud=InstanceStatus.RUNNING,
            cloud_at=NOW - 5.0,
        )
    registrations = [
        model.Registration(
            id=model.RegistrationId(f"reg-{row.id}"),
            instance=row.id,
            queue=row.queue,
            state=model.RegistrationState.REGISTERED,
            runner_name=row.id,
            created_at=row.created_at,
            since=row.since,
        )
        for row in rows.values()
        if row.queue is not None and row.state is not model.InstanceState.ENDING
    ]
    pools = []
    for number, queue in enumerate(queues):
        share = jobs // POOLS
        mine = repos[number::POOLS]
        waiting = {repo: share // len(mine) for repo in mine}
        running = instances * 7 // 10 // POOLS
        demand = model.Demand(
            waiting=sum(waiting.values()), running=running, as_of=NOW - 1.0, known=True, repos=waiting
        )
        pools.append(planner.PoolView(queue.pool, queues=(planner.QueueView(queue, demand),), gpus=1))
    return planner.Snapshot(
        pools=tuple(pools),
        instances=rows,
        observations=observations,
        registrations=registrations,
        max_instances=instances + 500,
    )


def measure(repeats: int = 5) -> tuple[float, int]:
    """Seconds of the fastest plan, and how many actions it had."""
    seen = snapshot()
    fastest, actions = float("inf"), 0
    for _ in range(repeats):
        began = time.perf_counter()
        plan = planner.plan(seen, NOW)
        fastest = min(fastest, time.perf_counter() - began)
        actions = len(plan.actions)
    assert actions > 0, "a plan over this fleet has something to do"
    return fastest, actions
