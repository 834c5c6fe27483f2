"""The command ``demo``."""

from __future__ import annotations

import click

from runnerd.demo import main as program


@click.command()
@click.option("--once", is_flag=True, help="Exit when the demo finishes; status 0 only if all checks pass.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on the last line of standard output.")
@click.option("--directory", type=click.Path(file_okay=False), help="Directory for all files (default: .demo).")
def demo(once: bool, as_json: bool, directory: str | None) -> None:
    """Run a demo with simulated forges and clouds on this host."""
    given = [*(["--once"] if once else []), *(["--json"] if as_json else [])]
    click.get_current_context().exit(program.main([*given, *(["--directory", directory] if directory else [])]))
