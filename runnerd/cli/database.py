"""The commands about the state database: ``db upgrade``."""

from __future__ import annotations

import click

from runnerd import config, store
from runnerd.cli import options, render, run


@click.group()
def db() -> None:
    """Maintain the state database."""


@db.command()
@options.local
def upgrade(config_file: str | None, as_json: bool) -> None:
    """Migrate the database schema to this version, after a backup.  The daemon does so itself and must not run."""
    settings = config.load(options.config_path(config_file))
    if settings.database is None:
        run.make_state(settings.state)
    applied = store.migrate(settings.database_url)
    if as_json:
        render.document({"applied": applied, "current": store.current(settings.database_url)})
    else:
        click.echo(f"applied {', '.join(applied)}" if applied else "the schema is up to date")
