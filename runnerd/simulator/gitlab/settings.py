"""The settings of a GitLab that an administrator could make, plus the constants of the product, in one value.

Defaults are those of GitLab.com or of the product where known. A test shortens the times; nothing else here may change
what the protocol means.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """All times in seconds, all rates per minute (0 = unlimited)."""

    version: str = "19.3.1-ee"
    #: How long Workhorse holds `POST /jobs/request` (`-apiCiLongPollingDuration`).
    long_poll: float = 50.0
    #: How long a runner queue value is kept before the request goes through to the database again.
    queue_value_ttl: float = 3600.0
    #: Whether a runner that declares `two_phase_job_commit` gets its job as pending until it acknowledges.
    two_phase_commit: bool = True
    #: How long an assigned job waits for the acknowledgement (RUNNER_ACK_QUEUE_EXPIRY_TIME).
    acknowledge_within: float = 120.0
    #: Cap on registered runners (GitLab.com: 50 free, 1,000 paid).
    runners_per_group: int = 50
    runners_per_project: int = 50
    #: Liveness: online below the first, stale from the second on.
    online_within: float = 2 * 3600.0
    stale_after: float = 7 * 86400.0
    #: Period of the sweep for stuck jobs (`stuck_ci_jobs_worker`, hourly by default).
    sweep_every: float = 3600.0
    pending_without_runner: float = 3600.0
    pending_with_runner: float = 24 * 3600.0
    running_without_update: float = 1800.0
    #: Grace beyond the timeout of a job before the server ends it.
    beyond_timeout: float = 900.0
    job_timeout: int = 3600
    trace_update_interval: int = 3
    #: How long a final update may wait for the rest of the log before it is taken anyway.
    trace_grace: float = 300.0
    rate_authenticated_api: int = 2000
    rate_project_jobs: int = 600
    rate_group_projects: int = 600
    rate_project: int = 400
    rate_notes_create: int = 60
    rate_jobs_request: int = 2000
    rate_jobs_trace: int = 200
    rate_jobs_endpoints: int = 200
    #: RateLimit-* headers on answers that were not refused, as GitLab.com sends them.
    rate_headers_always: bool = True
    #: Groups that exist from the start.
    groups: tuple[str, ...] = ("acme",)
    #: Every project has a masked CI/CD variable REPO_TOKEN, as a person would set it for CML.
    repo_token: bool = True
    hook_timeout: float = 10.0
    #: Consecutive failures before a hook is disabled for a while, and for good.
    hook_failures_temporary: int = 4
    hook_failures_permanent: int = 40

    @property
    def version_numbers(self) -> tuple[int, int]:
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)


def changed(settings: Settings, data: Mapping[str, Any]) -> Settings:
    """Return the settings with some replaced. Raises ValueError naming an unknown name or a wrong type."""
    fields = {field.name: getattr(settings, field.name) for field in dataclasses.fields(Settings)}
    values: dict[str, Any] = {}
    for name, value in data.items():
        if name not in fields:
            raise ValueError(f"unknown setting {name!r}; known: {', '.join(sorted(fields))}")
        old = fields[name]
        if isinstance(old, bool) != isinstance(value, bool):
            raise ValueError(f"{name} must be like {old!r}, not {value!r}")
        if isinstance(old, tuple):
            value = tuple(value) if isinstance(value, list) else (value,)
        elif isinstance(old, float) and isinstance(value, int):
            value = float(value)
        if not isinstance(value, type(old)):
            raise ValueError(f"{name} must be like {old!r}, not {value!r}")
        values[name] = value
    return dataclasses.replace(settings, **values)
