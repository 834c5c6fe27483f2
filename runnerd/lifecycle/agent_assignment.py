"""The assignment of an agent: what it is to prove, run and obey, composed from its pool, provider and forges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from runnerd import config, model
from runnerd.runtime import shared

#: What holds for an instance whose pool left the configuration.
_MAX_JOB_S, _IDLE_S = 12 * 3600.0, 600.0
#: Seconds past the pool's idle time until an agent without a job acts by itself: the daemon comes first.
_UNCLAIMED_SLACK_S = 60.0
#: Types of providers whose instances are processes beside the daemon.
_BESIDE_DAEMON = frozenset({"local", "fake"})


@dataclass(frozen=True, slots=True)
class Assignment:
    """The orders of one agent."""

    #: GPUs that must be there; -1 for no preflight (instances without hardware of their own).
    gpus: int
    gpu: str
    #: Seconds that a job may run.
    max_job: float
    #: Seconds until an agent that never got a job asks the daemon, and ends itself if it hears nothing.
    unclaimed: float
    #: Kind of runner -> command line.
    commands: Mapping[str, tuple[str, ...]]
    #: Environment of every runner.
    environment: Mapping[str, str]
    user: str = ""


def compose(runtime: shared.Runtime, row: model.Instance, *, asset_url: str = "") -> Assignment:
    """Compose the assignment of an instance's agent; ``asset_url`` is where its job uploads images of reports."""
    settings = runtime.config
    pool = settings.pools.get(row.pool)
    beside_daemon = _beside_daemon(runtime, row.provider)
    commands = dict(config.RUNNER_COMMANDS)
    environment: dict[str, str] = {}
    if pool is not None and row.provider in settings.providers:
        for name, forge in settings.forges.items():
            start = settings.start(pool.name, provider=row.provider, forge=name)
            commands[forge.type] = start.command
            environment.update(start.env)
    if asset_url:
        # The operator's own choice of a place wins.
        environment.setdefault("CML_ASSET_URL", asset_url)
    return Assignment(
        gpus=-1 if beside_daemon else row.gpus,
        gpu=pool.gpu_model if pool else "",
        max_job=pool.max_job if pool else _MAX_JOB_S,
        unclaimed=(pool.idle if pool else _IDLE_S) + _UNCLAIMED_SLACK_S,
        commands=commands,
        environment=environment,
        user=pool.user if pool and not beside_daemon else "",
    )


def _beside_daemon(runtime: shared.Runtime, name: str) -> bool:
    """Return True when a provider's instances are processes on this host, without hardware of their own to prove."""
    provider = runtime.providers.get(name)
    if provider is not None:
        return provider.provisioner.traits.beside_daemon
    # Agents speak as soon as the listeners are open, which is before the providers are started.
    known = runtime.config.providers.get(name)
    return known is not None and known.type in _BESIDE_DAEMON
