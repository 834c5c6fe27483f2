"""Find what a name means: a pool of the configuration, instances and jobs in memory or in the store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from runnerd import config, errors, model


class Jobs(Protocol):
    """The store, for finding jobs that are no longer in memory."""

    async def job(self, name: str) -> list[model.Job]: ...


class Instances(Protocol):
    """The store, for finding instances that are no longer in memory."""

    async def instance(self, id: str) -> model.Instance | None: ...


def known_pool(settings: config.Config, name: str) -> config.Pool:
    """Return the configured pool of that name.  Raises :class:`errors.Refused` (404)."""
    found = settings.pools.get(name)
    if found is None:
        raise errors.Refused(f'there is no pool "{name}"; pools are {", ".join(settings.pools)}', status=404)
    return found


def unknown_provider(name: str, known: Iterable[str]) -> errors.Refused:
    """Return the refusal (404) for a provider that is not among the known ones."""
    return errors.Refused(f'there is no provider "{name}"; providers are {", ".join(known)}', status=404)


async def find_instance(
    instances: Mapping[model.InstanceId, model.Instance], history: Instances, name: str
) -> model.Instance | None:
    """Return the instance of that id or of that provider's handle, live or closed."""
    if not name:
        return None
    live = instances.get(model.InstanceId(name)) or next((row for row in instances.values() if row.ref == name), None)
    return live or await history.instance(name)


async def find_jobs(jobs: Mapping[model.JobKey, model.Job], history: Jobs, name: str) -> list[model.Job]:
    """Return the jobs that a name may mean: by key, forge id, run, name or ``repo/name``; newest first."""
    known = jobs.get(model.JobKey(name))
    if known is not None:
        return [known]
    found = await history.job(name)
    if not found and name:
        found = [row for row in jobs.values() if name in (f"{row.repo}/{row.name}", row.url)]
        found.sort(key=lambda row: -row.queued_at)
    # Memory is never behind the store, and it is what the planner acts on.
    return [jobs.get(row.key, row) for row in found]
