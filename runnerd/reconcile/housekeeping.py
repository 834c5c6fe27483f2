"""Hourly upkeep: prune old rows, forget old jobs and costs, close forges that are no longer needed."""

from __future__ import annotations

from runnerd import config, errors
from runnerd.runtime import shared

#: Seconds between two rounds.
INTERVAL_S = 3600.0
#: Seconds for which rows are kept after they are closed.
KEEP_S = 30 * 86400.0
#: Seconds for which a job that is over stays in memory.
KEEP_JOBS_S = 86400.0
#: Seconds for which the costs of closed instances are counted: the longest month and a day.
KEEP_COSTS_S = 32 * 86400.0


async def run(runtime: shared.Runtime) -> None:
    """Keep house until cancelled."""
    while True:
        await runtime.clock.sleep(INTERVAL_S)
        try:
            await runtime.rows.prune(before=runtime.clock.now() - KEEP_S)
            runtime.rows.forget_jobs(before=runtime.clock.now() - KEEP_JOBS_S)
            await close_retired_forges(runtime)
            horizon = costs_from(runtime.config, runtime.clock.wall())
            if horizon:
                runtime.rows.tally.forget(before=horizon)
        except errors.StoreError as error:
            runtime.alarms.ring("daemon", "store", "prune-failed", str(error))


async def close_retired_forges(runtime: shared.Runtime) -> None:
    """Close forges that left the configuration, once no runner of ours may be there any more."""
    needed = {row.queue.forge for row in runtime.rows.registrations.values()}
    for name in set(runtime.forges) - set(runtime.config.forges) - needed:
        await runtime.forges.pop(name).close()


def costs_from(settings: config.Config, wall: float) -> float:
    """Return the time from which budgets count costs; 0 for all time."""
    limits = [settings.limits, *(pool.limits for pool in settings.pools.values())]
    limits += [provider.limits for provider in settings.providers.values()]
    limits += [team.limits for team in settings.teams.values()]
    return 0.0 if any(limit.dollars_total is not None for limit in limits) else wall - KEEP_COSTS_S
