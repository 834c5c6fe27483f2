"""Lists: jobs, instances, pools and the offers of a pool."""

from __future__ import annotations

import collections
from typing import Any

from runnerd import errors, model, read_model
from runnerd.config import schedule
from runnerd.runtime import lookup
from runnerd.views import documents, entries

#: Seconds for which a job that ended is still listed.
LATELY_S = 3600.0
#: Most entries of a list.
MOST = 5000


async def jobs(
    reading: read_model.ReadModel, *, state: str = "", pool: str = "", every: bool = False, limit: int = 500
) -> documents.Jobs:
    """Return jobs, newest first: those that are not over or ended recently, or with ``every`` all in the store."""
    wanted = _state(model.JobState, state)
    limit = max(1, min(limit, MOST))
    now = reading.state.clock.now()
    if every:
        found = await reading.history.jobs(state=wanted, pool=pool or None, limit=limit)
    else:
        found = [
            row
            for row in reading.state.rows.jobs.values()
            if (wanted is None or row.state is wanted)
            and (not pool or row.queue.pool == pool)
            and (row.state is not model.JobState.COMPLETED or now - row.finished_at < LATELY_S)
        ]
        found.sort(key=lambda row: (-row.queued_at, row.key))
    return {"jobs": [entries.job(row, now) for row in found[:limit]], "now": now, "more": len(found) > limit}


async def instances(
    reading: read_model.ReadModel, *, state: str = "", pool: str = "", every: bool = False, limit: int = 500
) -> documents.Instances:
    """Return instances, newest first: those that live, or with ``every`` all in the store."""
    wanted = _state(model.InstanceState, state)
    limit = max(1, min(limit, MOST))
    if every or wanted in model.CLOSED:
        found = await reading.history.instances(pool=pool or None, limit=MOST if wanted else limit)
    else:
        found = [row for row in reading.state.rows.instances.values() if row.live and (not pool or row.pool == pool)]
        found.sort(key=lambda row: (-row.created_at, row.id))
    if wanted is not None:
        found = [row for row in found if row.state is wanted]
    return {
        "instances": [entries.instance(row, reading) for row in found[:limit]],
        "now": reading.state.clock.now(),
        "more": len(found) > limit,
    }


def _state(kind: Any, text: str) -> Any:
    if not text:
        return None
    try:
        return kind(text)
    except ValueError:
        words = ", ".join(one.value for one in kind)
        raise errors.Refused(f'"{text}" is not a state; states are {words}', status=400) from None


def pools(reading: read_model.ReadModel) -> documents.Pools:
    """Return every pool with its demand, its supply and what holds it back."""
    state = reading.state
    wall = state.clock.wall()
    found: list[documents.Pool] = []
    for pool in state.config.pools.values():
        members = [row for row in state.rows.instances.values() if row.pool == pool.name and row.live]
        demands = [
            state.forges[queue.forge].demand(queue) for queue in state.queues(pool.name) if queue.forge in state.forges
        ]
        ranked = reading.rank(pool)
        found.append(
            {
                "name": pool.name,
                "labels": list(pool.labels),
                "gpu": pool.gpu_model,
                "gpu_count": pool.gpu_count,
                "market": pool.market.value,
                "from": list(pool.from_),
                "waiting": sum(demand.waiting for demand in demands),
                "running": sum(demand.running for demand in demands),
                "known": all(demand.known for demand in demands),
                "instances": dict(sorted(collections.Counter(row.state.value for row in members).items())),
                "live": len(members),
                "max_instances": pool.limits.instances,
                "warm": schedule.target(pool.warm, wall),
                "drained": reading.state.durable.drained(pool.name),
                "open_offers": sum(one.open for one in ranked),
                "offers": len(ranked),
                "held_back": list(reading.loop.notes.get(pool.name, ())),
            }
        )
    ghosts = {row.pool for row in state.rows.instances.values() if row.live} - set(state.config.pools)
    return {"pools": found, "retired": sorted(ghosts)}


def offer_list(reading: read_model.ReadModel, pool: str) -> documents.Offers:
    """Return the offers of a pool in the order they are tried, each open or with why not and until when.

    Raises :class:`errors.Refused` (404) for an unknown pool.
    """
    settings = lookup.known_pool(reading.state.config, pool)
    now = reading.state.clock.now()
    lifetime = settings.lifetime
    problems = []
    for name in settings.from_:
        provider = reading.state.providers.get(name)
        if provider is None:
            problems.append(f"provider {name} is not running")
        elif provider.problem:
            problems.append(f"provider {name}: {provider.problem}")
        elif not provider.known_offers(settings):
            problems.append(f"provider {name} offers no machine that fits the pool")
    return {
        "pool": pool,
        "order": settings.order.value,
        "market": settings.market.value,
        "drained": reading.state.durable.drained(pool),
        "now": now,
        "offers": [
            {
                "place": place,
                "offer": one.offer.key,
                "provider": one.offer.provider,
                "region": one.offer.region,
                "zone": one.offer.zone,
                "machine_type": one.offer.machine_type,
                "market": one.offer.market.value,
                "gpus": one.offer.gpus,
                "cpus": one.offer.cpus,
                "image": one.offer.image,
                "price": one.offer.price,
                "price_source": one.offer.price_source,
                "dollars_at_most": round(one.offer.price * lifetime / 3600.0, 4),
                "open": one.open,
                "refusal": one.refusal,
                "until": one.until,
            }
            for place, one in enumerate(reading.rank(settings), start=1)
        ],
        "problems": problems,
        "held_back": list(reading.loop.notes.get(pool, ())),
    }
