"""The options that commands share, and their value types.

Imports nothing slow: each command pays only for what it uses.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from provisioners.support import units

Command = TypeVar("Command", bound=Callable[..., Any])

#: The configuration file when no option and no variable names one.
DEFAULT_CONFIG = "/etc/runnerd/runnerd.yaml"


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases of click only
    """``30s``, ``10m``, ``1h30m``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            return units.duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Moment(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases of click only
    """``7d`` ago, or a day or minute of UTC: ``2026-11-01``, ``2026-11-01T12:30``; unix seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            moment = datetime.datetime.fromisoformat(value)
        except ValueError:
            try:
                return time.time() - units.duration(value)
            except ValueError:
                self.fail(f'"{value}" is neither a duration such as 7d nor a day such as 2026-11-01', param, ctx)
        return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()


def config_option(command: Command) -> Command:
    """Add the option for the configuration file."""
    return click.option(
        "--config",
        "config_file",
        envvar="RUNNERD_CONFIG",
        type=click.Path(dir_okay=False),
        help=f"Configuration file (default: RUNNERD_CONFIG, then {DEFAULT_CONFIG}).",
    )(command)


def json_option(command: Command) -> Command:
    """Add the option for JSON output."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(command)


def remote(command: Command) -> Command:
    """Add the options of a command that asks the daemon."""
    socket = click.option(
        "--socket",
        "socket_file",
        type=click.Path(),
        help="The daemon's socket (default: `listen.socket` of the file).",
    )
    return socket(config_option(json_option(command)))


def local(command: Command) -> Command:
    """Add the options of a command that reads the configuration."""
    return config_option(json_option(command))


def config_path(config_file: str | None) -> Path:
    """Return the configuration file that a command reads: the one that was named, or the default."""
    return Path(config_file or DEFAULT_CONFIG)
