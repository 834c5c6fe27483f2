"""The command ``demo``."""

from __future__ import annotations

import click

from runnerd.demo import main as story


@click.command()
@click.option("--once", is_flag=True, help="Leave when the story is told; status 0 only if all is well.")
@click.option("--json", "as_json", is_flag=True, help="The last line of standard output is a JSON object.")
@click.option("--directory", type=click.Path(file_okay=False), help="Where everything is kept (.demo).")
def demo(once: bool, as_json: bool, directory: str | None) -> None:
    """Both forges and two clouds, simulated, on this host: see it work in about a minute."""
    given = [*(["--once"] if once else []), *(["--json"] if as_json else [])]
    click.get_current_context().exit(story.main([*given, *(["--directory", directory] if directory else [])]))
