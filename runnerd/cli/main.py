"""The command line.

Most commands ask the running daemon over its Unix socket; ``run``, ``check``, ``config``, ``schema``, ``db``,
``sweep --once`` and ``cost --offline`` need only the configuration.  Modules are imported inside commands, because
``runnerd --help`` should not wait for a web server.  Errors are a few lines on standard error with an exit status that
says their kind, never a trace.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

import runnerd
from runnerd import errors
from runnerd.cli import accounts, exits, options
from runnerd.cli.exits import CommandFailed, Exit
from runnerd.kit import display

Command = TypeVar("Command", bound=Callable[..., Any])


class Commands(click.Group):
    """A group that turns errors into words and exit statuses."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except errors.ConfigInvalid as error:
            for problem in error.problems:
                click.echo(str(problem), err=True)
            count = len(error.problems)
            click.echo(f"runnerd: {count} {'problem' if count == 1 else 'problems'} in the configuration", err=True)
            ctx.exit(Exit.USAGE)
        except errors.RunnerdError as error:
            click.echo(f"runnerd: {error}", err=True)
            ctx.exit(exits.of(error))
        except BrokenPipeError:
            # The reader has seen enough; the interpreter must not complain at its end either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(Exit.OK)
        except (KeyboardInterrupt, click.Abort):
            ctx.exit(Exit.INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except Exception as error:
            if os.environ.get("RUNNERD_DEBUG"):
                raise
            click.echo(
                f"runnerd: a fault of runnerd itself: {type(error).__name__}: {error}; "
                "RUNNERD_DEBUG=1 shows where. Please report it",
                err=True,
            )
            ctx.exit(Exit.INTERNAL)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(runnerd.__version__, prog_name="runnerd")
def cli() -> None:
    """Rents a GPU machine for each CI job of GitHub and GitLab, and gives it back."""


# -- the daemon ----------------------------------------------------------------------------------------------------


@cli.command()
@options.config_option
def run(config_file: str | None) -> None:
    """Be the daemon, until SIGTERM.  SIGHUP reads the configuration again."""
    from runnerd.cli import run as process

    click.get_current_context().exit(process.run(Path(config_file or options.DEFAULT_CONFIG)))


@cli.command()
@options.local
def check(config_file: str | None, as_json: bool) -> None:
    """Try configuration, forges, providers and pools without buying anything.  Works without the daemon."""
    import asyncio

    from runnerd.cli import check as checking
    from runnerd.cli import render

    file = Path(config_file or options.DEFAULT_CONFIG)
    try:
        settings = options.load(config_file)
    except errors.ConfigInvalid as error:
        if not file.exists():
            raise
        found = [
            {"level": "error", "place": str(problem).partition(": ")[0], "message": str(problem).partition(": ")[2],
             "remedy": ""}
            for problem in error.problems
        ]  # fmt: skip
    else:
        found = asyncio.run(checking.check(settings))
    bad = sum(each["level"] == "error" for each in found)
    warned = sum(each["level"] == "warning" for each in found)
    if as_json:
        render.document({"findings": found, "errors": bad, "warnings": warned})
    else:
        render.findings(found)
        click.echo(f"{display.count(bad, 'error')}, {display.count(warned, 'warning')}")
    click.get_current_context().exit(Exit.PROBLEMS if bad else Exit.OK)


@cli.command()
@options.remote
def reload(socket_file: str | None, config_file: str | None, as_json: bool) -> None:
    """Have the daemon read its configuration again; a bad one changes nothing."""
    found = options.ask(socket_file, config_file).post("/v1/reload")
    options.show(found, as_json, lambda found: click.echo("\n".join(found["done"])))


# -- looking -------------------------------------------------------------------------------------------------------


@cli.command()
@options.remote
def status(socket_file: str | None, config_file: str | None, as_json: bool) -> None:
    """The daemon at a glance: pools, forges, providers, budgets, alarms."""
    from runnerd.cli import render

    options.show(options.ask(socket_file, config_file).get("/v1/status"), as_json, render.status)


def _listing(command: Command) -> Command:
    every = click.option("--all", "every", is_flag=True, help="Also those that are long over.")
    state = click.option("--state", help="Only those in this state.")
    pool = click.option("--pool", help="Only those of this pool.")
    limit = click.option("--limit", type=click.IntRange(1, 5000), default=500, show_default=True)
    return state(pool(every(limit(options.remote(command)))))


@cli.command()
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
    """Jobs that wait, run, or ended within the last hour."""
    from runnerd.cli import render

    found = options.ask(socket_file, config_file).get(
        "/v1/jobs", state=state, pool=pool, all=1 if every else None, limit=limit
    )
    options.show(found, as_json, render.jobs)


@cli.command()
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
    """Instances that live, with what they do and cost."""
    from runnerd.cli import render

    found = options.ask(socket_file, config_file).get(
        "/v1/instances", state=state, pool=pool, all=1 if every else None, limit=limit
    )
    options.show(found, as_json, render.instances)


@cli.command()
@options.remote
def pools(socket_file: str | None, config_file: str | None, as_json: bool) -> None:
    """Pools with demand, supply and what holds them back."""
    from runnerd.cli import render

    options.show(options.ask(socket_file, config_file).get("/v1/pools"), as_json, render.pools)


@cli.command()
@click.argument("pool")
@options.remote
def offers(pool: str, socket_file: str | None, config_file: str | None, as_json: bool) -> None:
    """The offers of POOL in the order they are tried: open, or why not and until when."""
    from runnerd.cli import render

    found = options.ask(socket_file, config_file).get(f"/v1/pools/{options.quoted(pool)}/offers")
    options.show(found, as_json, render.offers)


@cli.command()
@click.argument("job")
@options.remote
def explain(job: str, socket_file: str | None, config_file: str | None, as_json: bool) -> None:
    """Why JOB waits and what is tried next, or what became of it.  JOB is an id, key, run or name."""
    from runnerd.cli import render

    found = options.ask(socket_file, config_file).get("/v1/explain", job=job)
    if "ambiguous" in found:
        if as_json:
            render.document(found)
        else:
            render.ambiguous(found["ambiguous"])
        raise CommandFailed(f'"{job}" means {len(found["ambiguous"])} jobs; name one by its id', exit=Exit.NOT_FOUND)
    options.show(found, as_json, render.explain)


@cli.command()
@click.option("--follow", "-f", is_flag=True, help="Go on with what happens.")
@click.option("--subject", help="Only about one kind of thing: instance, job, pool, offer, ...")
@click.option("--id", "id_", help="Only about one of them.")
@click.option("--since", type=options.Duration(), help="Only of the last so long, for example 2h.")
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
    """The audit trail, oldest first."""
    import time

    from runnerd.cli import render

    remote = options.ask(socket_file, config_file)
    query = {"subject": subject, "id": id_, "since": time.time() - since if since else None, "limit": limit}
    if not follow:
        options.show(remote.get("/v1/events", **query), as_json, lambda found: render.events(found["events"]))
        return
    for answer in remote.follow("/v1/events", **query):
        for line in answer["events"]:
            if as_json:
                render.line(line)
            else:
                render.events([line])
        sys.stdout.flush()


@cli.command()
@click.argument("name", metavar="JOB|INSTANCE")
@options.remote
def logs(name: str, socket_file: str | None, config_file: str | None, as_json: bool) -> None:
    """What an instance printed: its steps, its console, its agent's last words."""
    from runnerd.cli import render

    options.show(options.ask(socket_file, config_file).get("/v1/logs", name=name), as_json, render.logs)


# -- ordering ------------------------------------------------------------------------------------------------------


@cli.command()
@click.argument("pool")
@options.remote
def drain(pool: str, socket_file: str | None, config_file: str | None, as_json: bool) -> None:
    """Buy nothing new for POOL; jobs that run go on.  Survives restarts."""
    found = options.ask(socket_file, config_file).post(f"/v1/pools/{options.quoted(pool)}/drain")
    options.show(found, as_json, options.say)


@cli.command()
@click.argument("pool")
@options.remote
def undrain(pool: str, socket_file: str | None, config_file: str | None, as_json: bool) -> None:
    """Let POOL take work again."""
    found = options.ask(socket_file, config_file).post(f"/v1/pools/{options.quoted(pool)}/undrain")
    options.show(found, as_json, options.say)


@cli.command()
@click.argument("instance")
@click.option("--force", is_flag=True, help="Also when a job runs on it; the job is lost.")
@options.remote
def reap(instance: str, socket_file: str | None, config_file: str | None, as_json: bool, force: bool) -> None:
    """End INSTANCE.  One that has a job is refused, unless --force."""
    found = options.ask(socket_file, config_file).post(f"/v1/instances/{options.quoted(instance)}/reap", force=force)
    options.show(found, as_json, options.say)


@cli.command()
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
    found = options.ask(socket_file, config_file).post(
        f"/v1/instances/{options.quoted(instance)}/hold", seconds=0 if release else seconds
    )
    options.show(found, as_json, options.say)


@cli.command()
@click.option("--once", is_flag=True, help="Without the daemon, from the configuration alone.")
@click.option("--dry-run", is_flag=True, help="Only list.")
@options.remote
def sweep(socket_file: str | None, config_file: str | None, as_json: bool, once: bool, dry_run: bool) -> None:
    """List what carries our tags at the providers, and what of it has no row.

    The daemon takes in what has no row and ends it through its gate.  With --once only what is past the deadline in
    its own tags is ended, and what is left over without an instance, and only while a forge's clock agrees with this
    host's.
    """
    import asyncio
    import time

    from runnerd.cli import render

    if once:
        from runnerd.cli import sweeping

        # Secrets are read where they are used: the host of a sweep need not have those of the forges.
        found = asyncio.run(sweeping.once(options.load(config_file, reveal=False), dry_run=dry_run))
    else:
        found = options.ask(socket_file, config_file).post("/v1/sweep", dry_run=dry_run)
    options.show(found, as_json, lambda found: render.sweep(found, now=time.time()))
    if not once and not dry_run and found["unaccounted"] and not as_json:
        click.echo(f"{found['unaccounted']} without a row: the daemon takes them in with its next listing")
    wrong = found["incomplete"] or (found["state_read"] and found["unaccounted"])
    wrong = wrong or found.get("failed") or found.get("held_back")
    click.get_current_context().exit(Exit.PROBLEMS if wrong else Exit.OK)


# -- the configuration and the state -------------------------------------------------------------------------------


@cli.group()
def config_group() -> None:
    """The configuration."""


cli.add_command(config_group, "config")


@config_group.command("show")
@click.argument("pool", required=False)
@options.local
def config_show(pool: str | None, config_file: str | None, as_json: bool) -> None:
    """The whole configuration, or POOL, with defaults filled in and secrets as references."""
    from runnerd import config
    from runnerd.cli import render

    settings = options.load(config_file, reveal=False)
    if pool is not None and pool not in settings.pools:
        known = ", ".join(settings.pools)
        raise CommandFailed(f'there is no pool "{pool}"; pools are {known}', exit=Exit.NOT_FOUND)
    if as_json:
        render.document(config.dump(settings, pool))
    else:
        click.echo(config.show(settings, pool), nl=False)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Accepted for uniformity: the schema is JSON anyway.")
def schema(as_json: bool) -> None:
    """The JSON Schema of the configuration file, for editors."""
    import json

    from runnerd import config

    click.echo(json.dumps(config.json_schema(), indent=None if as_json else 2))


@cli.group()
def db() -> None:
    """The durable state."""


@db.command()
@options.local
def upgrade(config_file: str | None, as_json: bool) -> None:
    """Bring the state's schema to this version, after a backup.  The daemon must not run; it does this itself."""
    from runnerd import store
    from runnerd.cli import render
    from runnerd.cli import run as process

    settings = options.load(config_file)
    if settings.database is None:
        process.make_state(settings.state)
    applied = store.migrate(settings.database_url)
    if as_json:
        render.document({"applied": applied, "current": store.current(settings.database_url)})
    else:
        click.echo(f"applied {', '.join(applied)}" if applied else "the schema is as it should be")


cli.add_command(accounts.cost)
cli.add_command(accounts.prices)


# -- the rest ------------------------------------------------------------------------------------------------------


@cli.command()
@click.option("--once", is_flag=True, help="Leave when the story is told; status 0 only if all is well.")
@click.option("--json", "as_json", is_flag=True, help="The last line of standard output is a JSON object.")
@click.option("--directory", type=click.Path(file_okay=False), help="Where everything is kept (.demo).")
def demo(once: bool, as_json: bool, directory: str | None) -> None:
    """Both forges and two clouds, simulated, on this host: see it work in about a minute."""
    from runnerd.demo import main as story

    given = [*(["--once"] if once else []), *(["--json"] if as_json else [])]
    click.get_current_context().exit(story.main([*given, *(["--directory", directory] if directory else [])]))


@cli.command()
@options.json_option
def version(as_json: bool) -> None:
    """The version of runnerd and what it runs on."""
    import platform

    found = {"version": runnerd.__version__, "python": platform.python_version(), "system": platform.platform()}
    options.show(found, as_json, lambda found: click.echo(f"runnerd {found['version']}, Python {found['python']}"))


def main() -> None:
    """The entry point of the ``runnerd`` script."""
    cli(prog_name="runnerd")
