"""The configuration: one YAML file, read into typed and frozen models."""

from __future__ import annotations

from runnerd.config.difference import ConfigChange, Difference, compare
from runnerd.config.dumping import dump, show
from runnerd.config.editor_schema import json_schema
from runnerd.config.forges import (
    Acquire,
    AnyForge,
    Audit,
    Forge,
    GitHubApp,
    GitHubForge,
    GitLabForge,
    Mode,
    Retry,
    RunnerRecords,
)
from runnerd.config.limits import Limits, OnReached
from runnerd.config.loader import from_mapping, load
from runnerd.config.plugins import Provisioners, provisioner_class, provisioner_types
from runnerd.config.pools import (
    Allow,
    Bootstrap,
    Defaults,
    MarketChoice,
    Order,
    Overlap,
    Pool,
    Provider,
    Runner,
    RunnerCommand,
    Team,
    matches,
)
from runnerd.config.reference_page import reference
from runnerd.config.schema import (
    RUNNER_COMMANDS,
    Assets,
    AssetsTo,
    Config,
    Listen,
    Log,
    LogFormat,
    LogLevel,
    Reconcile,
    Start,
)
from runnerd.config.warnings import warnings_of

__all__ = [
    "RUNNER_COMMANDS",
    "Acquire",
    "Allow",
    "AnyForge",
    "Assets",
    "AssetsTo",
    "Audit",
    "Bootstrap",
    "Config",
    "ConfigChange",
    "Defaults",
    "Difference",
    "Forge",
    "GitHubApp",
    "GitHubForge",
    "GitLabForge",
    "Limits",
    "Listen",
    "Log",
    "LogFormat",
    "LogLevel",
    "MarketChoice",
    "Mode",
    "OnReached",
    "Order",
    "Overlap",
    "Pool",
    "Provider",
    "Provisioners",
    "Reconcile",
    "Retry",
    "Runner",
    "RunnerCommand",
    "RunnerRecords",
    "Start",
    "Team",
    "compare",
    "dump",
    "from_mapping",
    "json_schema",
    "load",
    "matches",
    "provisioner_class",
    "provisioner_types",
    "reference",
    "show",
    "warnings_of",
]
