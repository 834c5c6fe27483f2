"""The commands that change something: reload, drain, undrain, reap, hold, sweep."""

from __future__ import annotations

import asyncio
import time

import click

from runnerd.cli import client, options, render
from runnerd.cli.exits import Exit


@click.command()
@options.remote
def reload(socket_file: str | None, config_file: str | None, as_json: bool) -> None:
    """Reload the configuration; an invalid one changes nothing."""
    answer = client.connect(socket_file, config_file).post("/v1/reload")
    render.show(answer, as_json, lambda answer: click.echo("\n".join(answer["done"])))


@click.command()
@click.argument("pool")
@options.remote
def drain(pool: str, socket_file: str | None, config_file: str | None, as_json: bool) -> None:
    """Stop buying for POOL; running jobs continue.  Survives restarts."""
    answer = client.connect(socket_file, config_file).post(f"/v1/pools/{client.segment(pool)}/drain")
    render.show(answer, as_json, render.say)


@click.command()
@click.argument("pool")
@options.remote
def undrain(pool: str, socket_file: str | None, config_file: str | None, as_json: bool) -> None:
    """Resume buying for POOL."""
    answer = client.connect(socket_file, config_file).post(f"/v1/pools/{client.segment(pool)}/undrain")
    render.show(answer, as_json, render.say)


@click.command()
@click.argument("instance")
@click.option("--force", is_flag=True, help="Even if a job is running; the job is lost.")
@options.remote
def reap(instance: str, socket_file: str | None, config_file: str | None, as_json: bool, force: bool) -> None:
    """End INSTANCE.  Refused while a job runs on it, unless --force is given."""
    answer = client.connect(socket_file, config_file).post(
        f"/v1/instances/{client.segment(instance)}/reap", force=force
    )
    render.show(answer, as_json, render.say)


@click.command()
@click.argument("instance")
@click.option("--for", "seconds", type=options.Duration(), help="Duration of the hold, for example 2h.")
@click.option("--release", is_flag=True, help="End the hold.")
@options.remote
def hold(
    instance: str,
    socket_file: str | None,
    config_file: str | None,
    as_json: bool,
    seconds: float | None,
    release: bool,
) -> None:
    """Keep INSTANCE alive for inspection.  It is not ended for idleness, age or max_job meanwhile."""
    if release == (seconds is not None):
        raise click.UsageError("give either --for DURATION or --release")
    if not release and not seconds:
        raise click.UsageError("--for must be longer than 0; --release ends a hold")
    answer = client.connect(socket_file, config_file).post(
        f"/v1/instances/{client.segment(instance)}/hold", seconds=0 if release else seconds
    )
    render.show(answer, as_json, render.say)


@click.command()
@click.option("--once", is_flag=True, help="Work without the daemon, from the configuration.")
@click.option("--dry-run", is_flag=True, help="List only; end nothing.")
@options.remote
def sweep(socket_file: str | None, config_file: str | None, as_json: bool, once: bool, dry_run: bool) -> None:
    """List instances and resources with our tags at the providers.

    The daemon adopts those without a row and ends them after its termination check.  With --once, instances past the
    deadline in their tags and orphaned resources are ended, provided that a forge's clock agrees with this host's.
    """
    if once:
        # Imported here, because only a sweep without the daemon needs the daemon's modules.
        from runnerd import config
        from runnerd.cli import sweeping

        # Secrets are read where they are used: the host of a sweep may lack those of the forges.
        settings = config.load(options.config_path(config_file), reveal=False)
        answer = asyncio.run(sweeping.once(settings, dry_run=dry_run))
    else:
        answer = client.connect(socket_file, config_file).post("/v1/sweep", dry_run=dry_run)
    render.show(answer, as_json, lambda answer: render.sweep(answer, now=time.time()))
    if not once and not dry_run and answer["unaccounted"] and not as_json:
        click.echo(f"{answer['unaccounted']} without a row: the daemon adopts them with its next listing")
    wrong = bool(answer["incomplete"]) or (answer["state_read"] and answer["unaccounted"] > 0)
    wrong = wrong or answer.get("failed", 0) + answer.get("held_back", 0) > 0
    click.get_current_context().exit(Exit.PROBLEMS if wrong else Exit.OK)
