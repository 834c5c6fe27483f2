"""The commands about money: ``cost`` of instances, and ``prices`` of offers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from runnerd.cli import client, options, render
from runnerd.cli.exits import CommandFailed, Exit

if TYPE_CHECKING:
    from runnerd.admin import documents

#: The groupings of costs; the same as :class:`runnerd.store.By`, which is slow to import.
BY = ("pool", "provider", "repo", "day", "market", "region")
#: Seconds that a refresh may take: a cloud's price list has some hundred pages.
REFRESH_TIMEOUT_S = 1800.0


@click.command()
@click.option("--by", type=click.Choice(BY), default="pool", show_default=True, help="Grouping of the sums.")
@click.option("--since", type=options.Moment(), help="Start, such as 7d (ago) or a UTC day; default: the oldest row.")
@click.option("--until", type=options.Moment(), help="End, in the same form; default: now, plus committed cost.")
@click.option("--offline", is_flag=True, help="Read the database directly, without the daemon.")
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
    """Show the cost of instances, so far and committed.

    Cost runs from running to gone, at the price fixed at launch; committed is the rest until the deadline.
    """
    if since is not None and until is not None and until <= since:
        raise click.UsageError("--until must be later than --since")
    if offline:
        # Imported here, because only --offline needs the configuration and the database.
        from runnerd import config
        from runnerd.cli import offline as state
        from runnerd.views import costs

        settings = config.load(options.config_path(config_file), reveal=False)
        answer = state.read(settings, lambda connection: costs.read(connection, by, since, until))
    else:
        try:
            # As text, because the client omits 0.
            span = {key: f"{at:.3f}" for key, at in (("since", since), ("until", until)) if at is not None}
            answer = client.connect(socket_file, config_file).get("/v1/cost", by=by, **span)
        except CommandFailed as error:
            if error.exit is Exit.UNREACHABLE:
                raise CommandFailed(f"{error}; --offline reads the database directly", exit=error.exit) from error
            raise
    render.show(answer, as_json, render.cost)


@click.group()
def prices() -> None:
    """Show or refresh the prices of offers."""


@prices.command()
@click.argument("pool", required=False)
@click.option("--provider", help="Only prices of this provider.")
@options.remote
def show(
    pool: str | None, provider: str | None, socket_file: str | None, config_file: str | None, as_json: bool
) -> None:
    """List the prices of all offers, or of those of POOL, each with its source and date."""
    answer = client.connect(socket_file, config_file).get("/v1/prices", pool=pool, provider=provider)
    render.show(answer, as_json, render.prices)


@prices.command()
@click.option("--provider", help="Only this provider.")
@options.remote
def refresh(provider: str | None, socket_file: str | None, config_file: str | None, as_json: bool) -> None:
    """Refresh the providers' price lists.  Without a daemon, the next start uses them."""
    try:
        remote = client.connect(socket_file, config_file, timeout=REFRESH_TIMEOUT_S)
        answer = remote.post("/v1/prices/refresh", provider=provider or "")
    except CommandFailed as error:
        if not isinstance(error.__cause__, FileNotFoundError | ConnectionRefusedError):
            raise
        answer = _refresh_offline(config_file, provider)
    render.show(answer, as_json, render.renewal)
    click.get_current_context().exit(Exit.PROBLEMS if answer["errors"] else Exit.OK)


def _refresh_offline(config_file: str | None, provider: str | None) -> documents.Renewal:
    # Imported here, because only a refresh without the daemon needs the daemon's modules.
    from runnerd import config
    from runnerd.cli import pricing

    settings = config.load(options.config_path(config_file), reveal=False)
    return asyncio.run(pricing.refresh(settings, provider or ""))
