"""What there is: the whole at a glance, jobs, instances, pools and the offers of a pool."""

from __future__ import annotations

import collections
from typing import Any

import runnerd
from provisioners import base
from runnerd import errors, model, read_model
from runnerd.config import schedule
from runnerd.runtime import lookup
from runnerd.views import documents, facts

#: A job that ended is listed without being asked for by name for so long, in seconds.
LATELY = 3600.0
#: Entries of a list at most.
MOST = 5000


def status(reading: read_model.ReadModel) -> documents.Status:
    """The daemon at a glance: what works, what does not, what is spent."""
    state, loop = reading.state, reading.loop
    now = state.clock.now()
    rows = state.rows
    states = collections.Counter(row.state.value for row in rows.instances.values() if row.live)
    jobs = collections.Counter(row.state.value for row in rows.jobs.values())
    return {
        "controller": state.config.controller,
        "version": runnerd.__version__,
        "now": now,
        "started_at": reading.progress.started_at,
        "stopping": reading.progress.stopping,
        "store": reading.history.where,
        "reload_ok": reading.progress.reload_ok,
        "deadlines_held": state.hold,
        "reconcile": {
            "passes": loop.passes,
            "failures": loop.failures,
            "last_at": loop.last_pass_at,
            "seconds": loop.pass_seconds,
        },
        "jobs": {state.value: jobs[state.value] for state in model.JobState},
        "instances": dict(sorted(states.items())),
        "pools": pools(reading)["pools"],
        "forges": [_forge(reading, name) for name in state.forges],
        "providers": [_provider(reading, name) for name in state.providers],
        "budgets": _budgets(reading),
        "alarms": [facts.alarm(one) for one in sorted(state.alarms.open.values(), key=lambda one: one.since)],
    }


def _forge(reading: read_model.ReadModel, name: str) -> documents.Forge:
    state = reading.state
    forge = state.forges[name]
    settings = state.config.forges.get(name)
    found: list[documents.Queue] = []
    for spec in state.specs:
        if spec.queue.forge != name:
            continue
        demand, health = forge.demand(spec.queue), forge.health(spec.queue)
        found.append(
            {
                "queue": str(spec.queue),
                "pool": spec.queue.pool,
                "scope": spec.queue.scope,
                "waiting": demand.waiting,
                "running": demand.running,
                "known": demand.known,
                "as_of": demand.as_of,
                "headroom": forge.headroom(spec.queue),
                "ok": health.ok,
                "problem": health.problem,
                "register_after": health.register_after,
            }
        )
    return {"name": name, "type": settings.type if settings else "", "queues": found}


def _provider(reading: read_model.ReadModel, name: str) -> documents.Provider:
    provider = reading.state.providers[name]
    live = [row for row in reading.state.rows.instances.values() if row.provider == name and row.live]
    return {
        "name": name,
        "type": provider.settings.type,
        "retired": provider.retired,
        "problem": provider.problem,
        "listed_at": provider.listed_at,
        "paused_until": provider.paused_until,
        "instances": len(live),
        "max_instances": provider.settings.limits.instances,
        "blocked": sum(
            1
            for block in reading.state.rows.blocks.values()
            if block.until > reading.state.clock.now() and base.OfferPattern(block.pattern).matches_provider(name)
        ),
    }


def _budgets(reading: read_model.ReadModel) -> list[documents.Budget]:
    settings = reading.state.config
    levels = [("all", "")]
    levels += [("pool", name) for name in settings.pools]
    levels += [("provider", name) for name in settings.providers]
    levels += [("team", name) for name in settings.teams]
    found: list[documents.Budget] = []
    for level, name in levels:
        for window, used in reading.totals(level, name):
            found.append(
                {
                    "level": level,
                    "name": name,
                    "window": window.name,
                    "limit": window.dollars,
                    "committed": round(used, 6),
                    "left": round(window.dollars - used, 6),
                }
            )
    return found


async def jobs(
    reading: read_model.ReadModel, *, state: str = "", pool: str = "", every: bool = False, limit: int = 500
) -> documents.Jobs:
    """Jobs, newest first: those that are not over and those that ended lately, or ``every`` one in the state."""
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
            and (row.state is not model.JobState.COMPLETED or now - row.finished_at < LATELY)
        ]
        found.sort(key=lambda row: (-row.queued_at, row.key))
    return {"jobs": [facts.job(row, now) for row in found[:limit]], "now": now, "more": len(found) > limit}


async def instances(
    reading: read_model.ReadModel, *, state: str = "", pool: str = "", every: bool = False, limit: int = 500
) -> documents.Instances:
    """Instances, newest first: those that live, or ``every`` one in the state."""
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
        "instances": [facts.instance(row, reading) for row in found[:limit]],
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
    """Every pool with its demand, its supply and what holds it back."""
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
    """The offers of a pool in the order they are tried, each open or with why not and until when.

    Raises :class:`errors.Refused` (404) for an unknown pool.
    """
    settings = lookup.known_pool(reading.state.config, pool)
    now = reading.state.clock.now()
    lifetime = settings.lifetime
    problems = []
    for name in settings.from_:
        provider = reading.state.providers.get(name)
        if provider is None:
            problems.append(f"provider {name} is not there")
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
