"""The commands that have the daemon do something: reload, drain, undrain, reap, hold, sweep."""

from __future__ import annotations

import asyncio
import time

import click

from runnerd.cli import client, options, render
from runnerd.cli.exits import Exit


@click.command()
@options.remote
def reload(socket_file: str | None, config_file: str | None, as_json: bool) -> None:
    """Have the daemon read its configuration again; a bad one changes nothing."""
    found = client.connect(socket_file, config_file).post("/v1/reload")
    render.show(found, as_json, lambda found: click.echo("\n".join(found["done"])))


@click.command()
@click.argument("pool")
@options.remote
def drain(pool: str, socket_file: str | None, config_file: str | None, as_json: bool) -> None:
    """Buy nothing new for POOL; jobs that run go on.  Survives restarts."""
    found = client.connect(socket_file, config_file).post(f"/v1/pools/{client.segment(pool)}/drain")
    render.show(found, as_json, render.say)


@click.command()
@click.argument("pool")
@options.remote
def undrain(pool: str, socket_file: str | None, config_file: str | None, as_json: bool) -> None:
    """Let POOL take work again."""
    found = client.connect(socket_file, config_file).post(f"/v1/pools/{client.segment(pool)}/undrain")
    render.show(found, as_json, render.say)


@click.command()
@click.argument("instance")
@click.option("--force", is_flag=True, help="Also when a job runs on it; the job is lost.")
@options.remote
def reap(instance: str, socket_file: str | None, config_file: str | None, as_json: bool, force: bool) -> None:
    """End INSTANCE.  One that has a job is refused, unless --force."""
    found = client.connect(socket_file, config_file).post(f"/v1/instances/{client.segment(instance)}/reap", force=force)
    render.show(found, as_json, render.say)


@click.command()
@click.argument("instance")
@click.option("--for", "seconds", type=options.Duration(), help="How long, for example 2h.")
@click.option("--release", is_flag=True, help="Hold it no more.")
@options.remote
def hold(
    instance: str,
    socket_file: str | None,
    config_file: str | None,
    as_json: bool,
    seconds: float | None,
    release: bool,
) -> None:
    """Keep INSTANCE from being ended for idleness, age or max_job, to look at it."""
    if release == (seconds is not None):
        raise click.UsageError("say either --for DURATION or --release")
    if not release and not seconds:
        raise click.UsageError("--for must be longer than 0; --release ends a hold")
    found = client.connect(socket_file, config_file).post(
        f"/v1/instances/{client.segment(instance)}/hold", seconds=0 if release else seconds
    )
    render.show(found, as_json, render.say)


@click.command()
@click.option("--once", is_flag=True, help="Without the daemon, from the configuration alone.")
@click.option("--dry-run", is_flag=True, help="Only list.")
@options.remote
def sweep(socket_file: str | None, config_file: str | None, as_json: bool, once: bool, dry_run: bool) -> None:
    """List what carries our tags at the providers, and what of it has no row.

    The daemon takes in what has no row and ends it through its gate.  With --once only what is past the deadline in
    its own tags is ended, and what is left over without an instance, and only while a forge's clock agrees with this
    host's.
    """
    if once:
        # Imported here, because only a sweep without the daemon needs what the daemon is made of.
        from runnerd import config
        from runnerd.cli import sweeping

        # Secrets are read where they are used: the host of a sweep need not have those of the forges.
        settings = config.load(options.config_path(config_file), reveal=False)
        found = asyncio.run(sweeping.once(settings, dry_run=dry_run))
    else:
        found = client.connect(socket_file, config_file).post("/v1/sweep", dry_run=dry_run)
    render.show(found, as_json, lambda found: render.sweep(found, now=time.time()))
    if not once and not dry_run and found["unaccounted"] and not as_json:
        click.echo(f"{found['unaccounted']} without a row: the daemon takes them in with its next listing")
    wrong = found["incomplete"] or (found["state_read"] and found["unaccounted"])
    wrong = wrong or found.get("failed") or found.get("held_back")
    click.get_current_context().exit(Exit.PROBLEMS if wrong else Exit.OK)
