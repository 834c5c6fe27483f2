"""The commands about money: ``cost``, what instances have cost, and ``prices``, what they would cost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from runnerd.cli import client, options, render
from runnerd.cli.exits import CommandFailed, Exit

if TYPE_CHECKING:
    from runnerd.admin import documents

#: What costs are summed by; the same as :class:`runnerd.store.By`, which takes long to import.
BY = ("pool", "provider", "repo", "day", "market", "region")
#: Seconds that a renewal may take: a cloud's price list has some hundred pages.
RENEWAL = 1800.0


@click.command()
@click.option("--by", type=click.Choice(BY), default="pool", show_default=True, help="What is summed by.")
@click.option("--since", type=options.Moment(), help="From 7d ago, or from a day of UTC; as far back as rows are kept.")
@click.option("--until", type=options.Moment(), help="Up to then; what is promised beyond now counts without it.")
@click.option("--offline", is_flag=True, help="Read the state itself, without the daemon.")
@options.remote
def cost(
    socket_file: str | None,
    config_file: str | None,
    as_json: bool,
    by: str,
    since: float | None,
    until: float | None,
    offline: bool,
) -> None:
    """What instances cost: from running to gone at the price fixed at their launch, and what is promised beyond."""
    if since is not None and until is not None and until <= since:
        raise click.UsageError("--until must be later than --since")
    if offline:
        # Imported here, because only a look past the daemon needs the configuration and the database.
        from runnerd import config
        from runnerd.cli import offline as state
        from runnerd.views import costs

        settings = config.load(options.config_path(config_file), reveal=False)
        found = state.read(settings, lambda connection: costs.read(connection, by, since, until))
    else:
        try:
            # As text, because the client leaves out what is 0.
            span = {key: f"{at:.3f}" for key, at in (("since", since), ("until", until)) if at is not None}
            found = client.connect(socket_file, config_file).get("/v1/cost", by=by, **span)
        except CommandFailed as error:
            if error.exit is Exit.UNREACHABLE:
                raise CommandFailed(f"{error}; --offline reads the state itself", exit=error.exit) from error
            raise
    render.show(found, as_json, render.cost)


@click.group()
def prices() -> None:
    """What instances would cost, and where those prices come from."""


@prices.command()
@click.argument("pool", required=False)
@click.option("--provider", help="Only those of this provider.")
@options.remote
def show(
    pool: str | None, provider: str | None, socket_file: str | None, config_file: str | None, as_json: bool
) -> None:
    """The prices of all offers, or of those of POOL, each with its source and day."""
    found = client.connect(socket_file, config_file).get("/v1/prices", pool=pool, provider=provider)
    render.show(found, as_json, render.prices)


@prices.command()
@click.option("--provider", help="Only this provider.")
@options.remote
def refresh(provider: str | None, socket_file: str | None, config_file: str | None, as_json: bool) -> None:
    """Ask the providers' price lists anew.  Works without the daemon too, which then takes them at its start."""
    try:
        remote = client.connect(socket_file, config_file, timeout=RENEWAL)
        found = remote.post("/v1/prices/refresh", provider=provider or "")
    except CommandFailed as error:
        if not isinstance(error.__cause__, FileNotFoundError | ConnectionRefusedError):
            raise
        found = _alone(config_file, provider)
    render.show(found, as_json, render.renewal)
    click.get_current_context().exit(Exit.PROBLEMS if found["errors"] else Exit.OK)


def _alone(config_file: str | None, provider: str | None) -> documents.Renewal:
    # Imported here, because only a renewal without the daemon needs what the daemon is made of.
    from runnerd import config
    from runnerd.cli import pricing

    settings = config.load(options.config_path(config_file), reveal=False)
    return asyncio.run(pricing.refresh(settings, provider or ""))
