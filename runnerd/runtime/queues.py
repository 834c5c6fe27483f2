"""The queues of a configuration: each pool at each scope of each forge that it serves."""

from __future__ import annotations

from collections.abc import Mapping

from runnerd import config, model
from runnerd.forges import base as forges


def queue_specs(settings: config.Config, known: Mapping[str, forges.Forge]) -> tuple[forges.QueueSpec, ...]:
    """Return every queue with what its forge must know of the pool."""
    specs = []
    for pool in settings.pools.values():
        for name, forge in known.items():
            if name not in settings.forges or (pool.forges and name not in pool.forges):
                continue
            kind = settings.forges[name]
            for scope in forge.scopes():
                specs.append(
                    forges.QueueSpec(
                        queue=model.Queue(name, scope, pool.name),
                        labels=pool.labels,
                        runner_group=kind.runner_group if isinstance(kind, config.GitHubForge) else "",
                        repos=pool.allow.repos,
                        untagged=pool.untagged,
                        protected_only=pool.allow.protected_only,
                        public=pool.allow.public,
                        forks=pool.allow.forks,
                        max_job=pool.max_job,
                    )
                )
    return tuple(specs)
