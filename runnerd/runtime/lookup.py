"""Find what a person names: a pool of the configuration, an instance in memory or in the store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from runnerd import config, errors, model


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
