"""The command line of the demo: options, output, and the handling of interrupts."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich import console

from runnerd.demo import scenario, terminal, workspace


def _print_next_steps(out: terminal.Terminal) -> None:
    program = Path(sys.executable).parent / "runnerd"
    name = shlex.quote(str(scenario.short(program))) if program.exists() else "runnerd"
    out.plain("\nNext, with your own GitHub:", "bold")
    out.plain("  write runnerd.yaml: ten lines, see docs/quickstart.md of the repository, section 2")
    out.plain("  export GITHUB_TOKEN=...                # with permission to manage self-hosted runners")
    out.plain(f"  {name} check --config runnerd.yaml")
    out.plain(f"  {name} run --config runnerd.yaml")


def play(*, once: bool, as_json: bool, directory: Path) -> int:
    """Run the demo and return the exit status: 0 when all checks pass, 1 when not, 130 when interrupted."""
    began = time.monotonic()
    out = terminal.Terminal(console.Console(stderr=as_json, highlight=False), lambda: time.monotonic() - began)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    out.plain("runnerd demo: six CI jobs, two forges, two clouds, and a daemon that is killed and restarted", "bold")
    out.plain(
        "Real: the daemon, its agents, the jobs, their reports. Simulated: GitHub, GitLab, clouds, GPUs, dollars."
    )
    out.plain()
    try:
        run = scenario.Scenario(workspace.prepare(directory), out)
    except workspace.Unusable as error:
        out.plain(f"The demo cannot start: {error}", "bold red")
        return 1
    status = 1
    try:
        status = _run(run, out, once=once, as_json=as_json)
    except KeyboardInterrupt:
        out.settle()
        # After a successful end an interrupt is the normal way to exit.
        status = 0 if run.results is not None and not run.results.problems else 130
        out.plain("\nending all processes ...")
    finally:
        # A second Ctrl-C must not leave processes running.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        run.end()
    return status


def _run(run: scenario.Scenario, out: terminal.Terminal, *, once: bool, as_json: bool) -> int:
    try:
        counted = run.run()
    except scenario.Failed as error:
        out.settle()
        out.plain(f"\nThe demo failed: {error}.", "bold red")
        run.print_logs(out)
        return 1
    out.plain("\nResult, counted from the records of the simulated forges and clouds:", "bold")
    out.facts(counted.rows())
    for problem in counted.problems:
        out.plain(f"  CHECK FAILED: {problem}", "bold red")
    if counted.reports:
        out.plain("\nOne of the reports:", "bold")
        out.plain(f"  {counted.reports[0]}")
    _print_next_steps(out)
    if as_json:
        print(json.dumps(counted.as_json()), flush=True)
    if not once:
        out.plain(
            "\nThe simulator and the daemon keep running so that you can open the report. Ctrl-C ends everything.",
            "bold",
        )
        try:
            run.linger()
        except scenario.Failed as error:
            out.plain(f"\n{error}", "bold red")
            run.print_logs(out)
            return 1
    return 1 if counted.problems else 0


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line of `runnerd demo` and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="runnerd demo", description="Run a demo with simulated forges and clouds on this host, in about a minute."
    )
    parser.add_argument(
        "--once", action="store_true", help="exit when the demo finishes; status 0 only if all checks pass"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the result as JSON on the last line of standard output"
    )
    parser.add_argument(
        "--directory", type=Path, default=Path(".demo"), help="directory for all files (default: .demo)"
    )
    options = parser.parse_args(argv)
    return play(once=options.once, as_json=options.json, directory=options.directory)
