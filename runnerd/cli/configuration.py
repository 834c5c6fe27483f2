"""The commands about the configuration file: ``config show`` and ``schema``."""

from __future__ import annotations

import json

import click

from runnerd import config
from runnerd.cli import options, render
from runnerd.cli.exits import CommandFailed, Exit


@click.group("config")
def group() -> None:
    """Show the configuration."""


@group.command()
@click.argument("pool", required=False)
@options.local
def show(pool: str | None, config_file: str | None, as_json: bool) -> None:
    """Print the whole configuration, or POOL, with defaults filled in and secrets as references."""
    settings = config.load(options.config_path(config_file), reveal=False)
    if pool is not None and pool not in settings.pools:
        known = ", ".join(settings.pools)
        raise CommandFailed(f'there is no pool "{pool}"; pools are {known}', exit=Exit.NOT_FOUND)
    if as_json:
        render.document(config.dump(settings, pool))
    else:
        click.echo(config.show(settings, pool), nl=False)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="On one line; the schema is always JSON.")
def schema(as_json: bool) -> None:
    """Print the JSON Schema of the configuration file, for editors."""
    click.echo(json.dumps(config.json_schema(), indent=None if as_json else 2))
