"""The command line: the table of all commands, and the end of those that fail.

Most commands ask the running daemon over its Unix socket; ``run``, ``check``, ``config``, ``schema``, ``db``,
``sweep --once`` and ``cost --offline`` need only the configuration.  The module of a command is imported when the
command is run, because ``runnerd --help`` and ``runnerd status`` should not wait for a web server.  Errors are a few
lines on standard error with an exit status that says their kind, never a trace.
"""

from __future__ import annotations

import os
import platform
import sys
from types import MappingProxyType
from typing import Any

import click

import runnerd
from runnerd import errors
from runnerd.cli import exits, lazy, options, render
from runnerd.cli.exits import Exit
from runnerd.cli.lazy import Entry

#: All commands but ``version``, each with its module and its line in ``runnerd --help``.
TABLE = MappingProxyType(
    {
        "run": Entry("runnerd.cli.run", "command", "Be the daemon, until SIGTERM."),
        "check": Entry(
            "runnerd.cli.check", "command", "Try configuration, forges, providers and pools without buying anything."
        ),
        "reload": Entry(
            "runnerd.cli.operations",
            "reload",
            "Have the daemon read its configuration again; a bad one changes nothing.",
        ),
        "status": Entry(
            "runnerd.cli.inspection", "status", "The daemon at a glance: pools, forges, providers, budgets, alarms."
        ),
        "jobs": Entry("runnerd.cli.inspection", "jobs", "Jobs that wait, run, or ended within the last hour."),
        "instances": Entry("runnerd.cli.inspection", "instances", "Instances that live, with what they do and cost."),
        "pools": Entry("runnerd.cli.inspection", "pools", "Pools with demand, supply and what holds them back."),
        "offers": Entry(
            "runnerd.cli.inspection",
            "offers",
            "The offers of POOL in the order they are tried: open, or why not and until when.",
        ),
        "explain": Entry(
            "runnerd.cli.inspection", "explain", "Why JOB waits and what is tried next, or what became of it."
        ),
        "events": Entry("runnerd.cli.inspection", "events", "The audit trail, oldest first."),
        "logs": Entry(
            "runnerd.cli.inspection",
            "logs",
            "What an instance printed: its steps, its console, its agent's last words.",
        ),
        "drain": Entry("runnerd.cli.operations", "drain", "Buy nothing new for POOL; jobs that run go on."),
        "undrain": Entry("runnerd.cli.operations", "undrain", "Let POOL take work again."),
        "reap": Entry("runnerd.cli.operations", "reap", "End INSTANCE."),
        "hold": Entry(
            "runnerd.cli.operations",
            "hold",
            "Keep INSTANCE from being ended for idleness, age or max_job, to look at it.",
        ),
        "sweep": Entry(
            "runnerd.cli.operations", "sweep", "List what carries our tags at the providers, and what of it has no row."
        ),
        "cost": Entry(
            "runnerd.cli.money",
            "cost",
            "What instances cost: from running to gone at the price fixed at their launch, "
            "and what is promised beyond.",
        ),
        "prices": Entry("runnerd.cli.money", "prices", "What instances would cost, and where those prices come from."),
        "config": Entry("runnerd.cli.configuration", "group", "The configuration."),
        "schema": Entry(
            "runnerd.cli.configuration", "schema", "The JSON Schema of the configuration file, for editors."
        ),
        "db": Entry("runnerd.cli.database", "db", "The durable state."),
        "demo": Entry(
            "runnerd.cli.demo",
            "demo",
            "Both forges and two clouds, simulated, on this host: see it work in about a minute.",
        ),
    }
)


class Commands(lazy.LazyGroup):
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


@click.group(
    cls=Commands,
    table=TABLE,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(runnerd.__version__, prog_name="runnerd")
def cli() -> None:
    """Rents a GPU machine for each CI job of GitHub and GitLab, and gives it back."""


@cli.command()
@options.json_option
def version(as_json: bool) -> None:
    """The version of runnerd and what it runs on."""
    found = {"version": runnerd.__version__, "python": platform.python_version(), "system": platform.platform()}
    render.show(found, as_json, lambda found: click.echo(f"runnerd {found['version']}, Python {found['python']}"))


def main() -> None:
    """The entry point of the ``runnerd`` script."""
    cli(prog_name="runnerd")
