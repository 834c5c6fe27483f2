"""The commands that show the daemon's state: status, jobs, instances, pools, offers, explain, events, logs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import click

from runnerd.cli import client, options, render
from runnerd.cli.exits import CommandFailed, Exit

Command = TypeVar("Command", bound=Callable[..., Any])


@click.command()
@options.remote
def status(socket_file: str | None, config_file: str | None, as_json: bool) -> None:
    """Show pools, forges, providers, budgets and alarms at a glance."""
    render.show(client.connect(socket_file, config_file).get("/v1/status"), as_json, render.status)


def _listing(command: Command) -> Command:
    every = click.option("--all", "every", is_flag=True, help="Include those that ended long ago.")
    state = click.option("--state", help="Only those in this state.")
    pool = click.option("--pool", help="Only those of this pool.")
    limit = click.option("--limit", type=click.IntRange(1, 5000), default=500, show_default=True)
    return state(pool(every(limit(options.remote(command)))))


@click.command()
@_listing
def jobs(
    socket_file: str | None,
    config_file: str | None,
    as_json: bool,
    state: str | None,
    pool: str | None,
    every: bool,
    limit: int,
) -> None:
    """List jobs that wait, run, or ended within the last hour."""
    answer = client.connect(socket_file, config_file).get(
        "/v1/jobs", state=state, pool=pool, all=1 if every else None, limit=limit
    )
    render.show(answer, as_json, render.jobs)


@click.command()
@_listing
def instances(
    socket_file: str | None,
    config_file: str | None,
    as_json: bool,
    state: str | None,
    pool: str | None,
    every: bool,
    limit: int,
) -> None:
    """List live instances with their state and cost."""
    answer = client.connect(socket_file, config_file).get(
        "/v1/instances", state=state, pool=pool, all=1 if every else None, limit=limit
    )
    render.show(answer, as_json, render.instances)


@click.command()
@options.remote
def pools(socket_file: str | None, config_file: str | None, as_json: bool) -> None:
    """List pools with demand, supply and what holds them back."""
    render.show(client.connect(socket_file, config_file).get("/v1/pools"), as_json, render.pools)


@click.command()
@click.argument("pool")
@options.remote
def offers(pool: str, socket_file: str | None, config_file: str | None, as_json: bool) -> None:
    """List the offers of POOL in the order in which they are tried."""
    answer = client.connect(socket_file, config_file).get(f"/v1/pools/{client.segment(pool)}/offers")
    render.show(answer, as_json, render.offers)


@click.command()
@click.argument("job")
@options.remote
def explain(job: str, socket_file: str | None, config_file: str | None, as_json: bool) -> None:
    """Explain why JOB waits and what happens next, or how it ended.  JOB is an id, key, run or name."""
    answer = client.connect(socket_file, config_file).get("/v1/explain", job=job)
    if "ambiguous" in answer:
        if as_json:
            render.document(answer)
        else:
            render.ambiguous(answer["ambiguous"])
        raise CommandFailed(f'"{job}" matches {len(answer["ambiguous"])} jobs; give the id of one', exit=Exit.NOT_FOUND)
    render.show(answer, as_json, render.explain)


@click.command()
@click.option("--follow", "-f", is_flag=True, help="Keep printing new events.")
@click.option("--subject", help="Only events of one kind of subject: instance, job, pool, offer, ...")
@click.option("--id", "id_", help="Only events of the subject with this id.")
@click.option("--since", type=options.Duration(), help="Only events of that last period, for example 2h.")
@click.option("--limit", type=click.IntRange(1, 2000), default=50, show_default=True)
@options.remote
def events(
    socket_file: str | None,
    config_file: str | None,
    as_json: bool,
    follow: bool,
    subject: str | None,
    id_: str | None,
    since: float | None,
    limit: int,
) -> None:
    """Print the audit trail, oldest first."""
    remote = client.connect(socket_file, config_file)
    query = {"subject": subject, "id": id_, "since": time.time() - since if since else None, "limit": limit}
    if not follow:
        render.show(remote.get("/v1/events", **query), as_json, lambda answer: render.events(answer["events"]))
        return
    for answer in remote.follow("/v1/events", **query):
        for line in answer["events"]:
            if as_json:
                render.line(line)
            else:
                render.events([line])
        sys.stdout.flush()


@click.command()
@click.argument("name", metavar="JOB|INSTANCE")
@options.remote
def logs(name: str, socket_file: str | None, config_file: str | None, as_json: bool) -> None:
    """Print an instance's events, console output and agent diagnostics."""
    render.show(client.connect(socket_file, config_file).get("/v1/logs", name=name), as_json, render.logs)
