"""The daemon at a glance: health, supply, spending and alarms."""

from __future__ import annotations

import collections

import runnerd
from provisioners import base
from runnerd import model, read_model
from runnerd.views import documents, entries, lists


def status(reading: read_model.ReadModel) -> documents.Status:
    """Return the daemon at a glance: health, supply, spending and alarms."""
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
        "pools": lists.pools(reading)["pools"],
        "forges": [_forge(reading, name) for name in state.forges],
        "providers": [_provider(reading, name) for name in state.providers],
        "budgets": _budgets(reading),
        "alarms": [entries.alarm(one) for one in sorted(state.alarms.open.values(), key=lambda one: one.since)],
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
