"""The options that commands share, and how they ask and answer.

Imports nothing that takes time: each command pays only for what it uses.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from runnerd import config
    from runnerd.cli import client

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_CONFIG = "/etc/runnerd/runnerd.yaml"


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases of click only
    """``30s``, ``10m``, ``1h30m``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from provisioners.support import units

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
        import datetime
        import time

        from provisioners.support import units

        if isinstance(value, float):
            return value
        try:
            found = datetime.datetime.fromisoformat(value)
        except ValueError:
            try:
                return time.time() - units.duration(value)
            except ValueError:
                self.fail(f'"{value}" is neither a time ago such as 7d nor a day such as 2026-11-01', param, ctx)
        return (found if found.tzinfo else found.replace(tzinfo=datetime.UTC)).timestamp()


def config_option(command: Command) -> Command:
    """The option that names the configuration."""
    return click.option(
        "--config",
        "config_file",
        envvar="RUNNERD_CONFIG",
        type=click.Path(dir_okay=False),
        help=f"The configuration file; RUNNERD_CONFIG, then {DEFAULT_CONFIG}.",
    )(command)


def json_option(command: Command) -> Command:
    """The option for programs."""
    return click.option("--json", "as_json", is_flag=True, help="JSON on standard output, for programs.")(command)


def remote(command: Command) -> Command:
    """The options of a command that asks the daemon."""
    socket = click.option(
        "--socket", "socket_file", type=click.Path(), help="The daemon's socket; else `listen.socket` of the file."
    )
    return socket(config_option(json_option(command)))


def local(command: Command) -> Command:
    """The options of a command that reads the configuration."""
    return config_option(json_option(command))


def ask(socket_file: str | None, config_file: str | None, *, timeout: float = 0.0) -> client.Client:
    """Who asks the daemon; 0 for the usual time."""
    from runnerd.cli import client

    return client.Client(client.socket_path(socket=socket_file, config=config_file), timeout=timeout or client.TIMEOUT)


def load(config_file: str | None, *, reveal: bool = True) -> config.Config:
    """The configuration.  Raises :class:`errors.ConfigInvalid`."""
    from runnerd import config

    return config.load(Path(config_file or DEFAULT_CONFIG), reveal=reveal)


def show(found: dict[str, Any], as_json: bool, text: Callable[[dict[str, Any]], None]) -> None:
    """A document as it is, or as text."""
    from runnerd.cli import render

    if as_json:
        render.document(found)
    else:
        text(found)


def say(found: dict[str, Any]) -> None:
    """The one sentence of an order's answer."""
    click.echo(found["message"])


def quoted(name: str) -> str:
    """A name as one segment of a path."""
    import urllib.parse

    return urllib.parse.quote(name, safe="")
