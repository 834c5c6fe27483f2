"""The demo's output: messages above, and below them one line per job that changes in place.

Where the output is not a terminal, a job's line is printed again each time that the job advances.  Colours are for
terminals only.
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


class Terminal:
    """Writes messages and the jobs' lines; `elapsed` returns the seconds since the start."""

    def __init__(self, out: console.Console, elapsed: Callable[[], float]) -> None:
        self._out = out
        self._elapsed = elapsed
        self._printed: dict[int, progress.Step] = {}
        self._lines: Sequence[progress.Line] = ()
        self._live: live.Live | None = None

    def say(self, message: str, style: str = "") -> None:
        """Print a message with its time."""
        line = text.Text(f"{self._elapsed():5.1f} s  ", style="dim")
        line.append(message, style=style)
        self._out.print(line, soft_wrap=True)

    def plain(self, message: str = "", style: str = "") -> None:
        """Print a message without time."""
        self._out.print(text.Text(message, style=style), soft_wrap=True)

    def facts(self, rows: Sequence[tuple[str, str]]) -> None:
        """Print names and values in two columns."""
        for name, value in rows:
            line = text.Text(f"  {name:<12}", style="bold")
            line.append(value, style="not bold")
            self._out.print(line, soft_wrap=True)

    def jobs(self, lines: Sequence[progress.Line]) -> None:
        """Show the current state of the jobs."""
        self._lines = lines
        if self._out.is_terminal:
            if self._live is None:
                self._live = live.Live(console=self._out, auto_refresh=False, get_renderable=self._table)
                self._live.start()
            self._live.refresh()
            return
        for line in lines:
            known = self._printed.get(line.job.id)
            if known is None or line.step > known:
                self._printed[line.job.id] = line.step
                self.say(f"{line.job.title:<19}{_FORGES[line.job.forge]}  {line.text}")

    def settle(self) -> None:
        """Freeze the jobs' lines; further output comes below them."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _table(self) -> table.Table:
        rows = table.Table.grid(padding=(0, 2))
        for _ in range(3):
            rows.add_column(no_wrap=True)
        rows.add_column(no_wrap=True, overflow="ellipsis")
        for line in self._lines:
            style = _STYLES[line.step] if line.job.conclusion in ("", "success") else "red"
            mark = {progress.Step.QUEUED: "·", progress.Step.GONE: "✓"}.get(line.step, "▸")
            if line.job.conclusion not in ("", "success"):
                mark = "✗"
            rows.add_row(
                text.Text(f"  {mark}", style), line.job.title, _FORGES[line.job.forge], text.Text(line.text, style)
            )
        return rows
