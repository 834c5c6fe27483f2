"""What a person sees: the story above, and below it one line per job that changes in place.

Where the output is no terminal there is no place to change: then a job's line is printed anew when it gets further,
and never otherwise.  Colours are for terminals alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich import console, live, table, text

from runnerd.demo import progress

_STYLES = {
    progress.Step.QUEUED: "dim",
    progress.Step.BOOTING: "yellow",
    progress.Step.READY: "yellow",
    progress.Step.RUNNING: "cyan",
    progress.Step.ENDED: "cyan",
    progress.Step.REPORTED: "green",
    progress.Step.GONE: "green",
}
_FORGES = {"github": "GitHub", "gitlab": "GitLab"}


class Board:
    """Writes the story; `elapsed` is seconds since its start."""

    def __init__(self, out: console.Console, elapsed: Callable[[], float]) -> None:
        self._out = out
        self._elapsed = elapsed
        self._told: dict[int, progress.Step] = {}
        self._lines: Sequence[progress.Line] = ()
        self._live: live.Live | None = None

    def say(self, words: str, style: str = "") -> None:
        """A line of the story, with its time."""
        line = text.Text(f"{self._elapsed():5.1f} s  ", style="dim")
        line.append(words, style=style)
        self._out.print(line, soft_wrap=True)

    def plain(self, words: str = "", style: str = "") -> None:
        """A line without time."""
        self._out.print(text.Text(words, style=style), soft_wrap=True)

    def facts(self, rows: Sequence[tuple[str, str]]) -> None:
        """A small table without lines."""
        for name, value in rows:
            line = text.Text(f"  {name:<12}", style="bold")
            line.append(value, style="not bold")
            self._out.print(line, soft_wrap=True)

    def jobs(self, lines: Sequence[progress.Line]) -> None:
        """Show where the jobs are now."""
        self._lines = lines
        if self._out.is_terminal:
            if self._live is None:
                self._live = live.Live(console=self._out, auto_refresh=False, get_renderable=self._table)
                self._live.start()
            self._live.refresh()
            return
        for one in lines:
            known = self._told.get(one.job.id)
            if known is None or one.step > known:
                self._told[one.job.id] = one.step
                self.say(f"{one.job.title:<19}{_FORGES[one.job.forge]}  {one.text}")

    def settle(self) -> None:
        """The jobs' lines stay as they are; what follows comes below them."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _table(self) -> table.Table:
        found = table.Table.grid(padding=(0, 2))
        for _ in range(3):
            found.add_column(no_wrap=True)
        found.add_column(no_wrap=True, overflow="ellipsis")
        for one in self._lines:
            style = _STYLES[one.step] if one.job.conclusion in ("", "success") else "red"
            mark = {progress.Step.QUEUED: "·", progress.Step.GONE: "✓"}.get(one.step, "▸")
            if one.job.conclusion not in ("", "success"):
                mark = "✗"
            found.add_row(
                text.Text(f"  {mark}", style), one.job.title, _FORGES[one.job.forge], text.Text(one.text, style)
            )
        return found
