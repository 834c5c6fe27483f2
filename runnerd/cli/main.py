"""The command line: the table of all commands, and the handling of errors.

Most commands ask the running daemon over its Unix socket.  ``run``, ``demo``, ``check``, ``config``, ``schema``,
``db``, ``version``, ``sweep --once`` and ``cost --offline`` work without it, and so does ``prices refresh`` when no
daemon is running.  The module of a command is imported when the command is run, because ``runnerd --help`` and
``runnerd status`` should not wait for a web server.  Errors are a few lines on standard error with an exit status for
their kind, never a trace.
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
        "run": Entry("runnerd.cli.run", "command", "Run the daemon until SIGTERM."),
        "check": Entry(
            "runnerd.cli.check", "command", "Test configuration, forges, providers and pools; buys nothing."
        ),
        "reload": Entry(
            "runnerd.cli.operations",
            "reload",
            "Reload the configuration; an invalid one changes nothing.",
        ),
        "status": Entry(
            "runnerd.cli.inspection", "status", "Show pools, forges, providers, budgets and alarms at a glance."
        ),
        "jobs": Entry("runnerd.cli.inspection", "jobs", "List jobs that wait, run, or ended within the last hour."),
        "instances": Entry("runnerd.cli.inspection", "instances", "List live instances with their state and cost."),
        "pools": Entry("runnerd.cli.inspection", "pools", "List pools with demand, supply and what holds them back."),
        "offers": Entry(
            "runnerd.cli.inspection",
            "offers",
            "List the offers of POOL in the order in which they are tried.",
        ),
        "explain": Entry(
            "runnerd.cli.inspection", "explain", "Explain why JOB waits and what happens next, or how it ended."
        ),
        "events": Entry("runnerd.cli.inspection", "events", "Print the audit trail, oldest first."),
        "logs": Entry(
            "runnerd.cli.inspection",
            "logs",
            "Print an instance's events, console output and agent diagnostics.",
        ),
        "drain": Entry("runnerd.cli.operations", "drain", "Stop buying for POOL; running jobs continue."),
        "undrain": Entry("runnerd.cli.operations", "undrain", "Resume buying for POOL."),
        "reap": Entry("runnerd.cli.operations", "reap", "End INSTANCE."),
        "hold": Entry(
            "runnerd.cli.operations",
            "hold",
            "Keep INSTANCE alive for inspection.",
        ),
        "sweep": Entry(
            "runnerd.cli.operations", "sweep", "List instances and resources with our tags at the providers."
        ),
        "cost": Entry(
            "runnerd.cli.money",
            "cost",
            "Show the cost of instances, so far and committed.",
        ),
        "prices": Entry("runnerd.cli.money", "prices", "Show or refresh the prices of offers."),
        "config": Entry("runnerd.cli.configuration", "group", "Show the configuration."),
        "schema": Entry(
            "runnerd.cli.configuration", "schema", "Print the JSON Schema of the configuration file, for editors."
        ),
        "db": Entry("runnerd.cli.database", "db", "Maintain the state database."),
        "demo": Entry(
            "runnerd.cli.demo",
            "demo",
            "Run a demo with simulated forges and clouds on this host.",
        ),
    }
)


class Commands(lazy.LazyGroup):
    """A group that turns errors into messages and exit statuses."""

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
            # The reader has closed the pipe; the interpreter must not complain at exit either.
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
                f"runnerd: internal error: {type(error).__name__}: {error}; "
                "set RUNNERD_DEBUG=1 for a trace, and please report it",
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
    """Rent a GPU machine for each CI job of GitHub and GitLab, and return it afterwards."""


@cli.command()
@options.json_option
def version(as_json: bool) -> None:
    """Print the version of runnerd and of Python."""
    facts = {"version": runnerd.__version__, "python": platform.python_version(), "system": platform.platform()}
    render.show(facts, as_json, lambda facts: click.echo(f"runnerd {facts['version']}, Python {facts['python']}"))


def main() -> None:
    """The entry point of the ``runnerd`` script."""
    cli(prog_name="runnerd")
