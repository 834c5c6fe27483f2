"""The reasons for which a job fails: those that a server of a version knows, and those that it retries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runnerd.simulator.gitlab import settings

#: Reasons that are never retried by themselves (lib/gitlab/ci/build/auto_retry.rb).
NEVER_RETRIED = frozenset(
    {"ci_quota_exceeded", "no_matching_runner", "missing_dependency_failure", "forward_deployment_failure"}
)
_REASONS_ALWAYS = [
    "unknown_failure",
    "script_failure",
    "api_failure",
    "stuck_or_timeout_failure",
    "runner_system_failure",
    "missing_dependency_failure",
    "runner_unsupported",
    "stale_schedule",
    "job_execution_timeout",
    "archived_failure",
    "unmet_prerequisites",
    "scheduler_failure",
    "data_integrity_failure",
    "forward_deployment_failure",
    "user_blocked",
    "project_deleted",
    "ci_quota_exceeded",
    "pipeline_loop_detected",
    "no_matching_runner",
    "builds_disabled",
    "environment_creation_failure",
    "deployment_rejected",
    "job_canceled",
]
_REASONS_19_0 = [
    "stuck_pending_with_matching_runners",
    "stuck_pending_no_matching_runners",
    "no_updates_running",
    "no_updates_canceling",
    "server_timeout_running",
    "server_timeout_canceling",
]
_REASONS_19_1 = ["runner_configuration_error", "runner_external_dependency_failure", "runner_interrupted"]


def failure_reasons(config: settings.Settings) -> list[str]:
    """The reasons that a server of this version knows and declares to runners."""
    reasons = list(_REASONS_ALWAYS)
    if config.version_numbers >= (19, 0):
        reasons += _REASONS_19_0
    if config.version_numbers >= (19, 1):
        reasons += _REASONS_19_1
    return reasons


def retries_allowed(retry: Mapping[str, Any], reason: str, exit_code: int | None) -> int:
    """Return how many attempts may follow automatically: the `retry:` keyword, and two for scheduler failures.

    `when` and `exit_codes` are alternatives; the old stuck_or_timeout_failure stands for its four successors.
    """
    if reason in NEVER_RETRIED:
        return 0
    silent = 2 if reason == "scheduler_failure" else 0
    when = retry.get("when", ["always"])
    chosen = {when} if isinstance(when, str) else set(when)
    if "stuck_or_timeout_failure" in chosen:
        chosen |= {name for name in _REASONS_19_0 if name.startswith(("stuck_", "no_updates_"))}
    if chosen & {"always", reason} or (exit_code is not None and exit_code in retry.get("exit_codes", ())):
        return max(silent, int(retry.get("max", 0)))
    return silent
