"""The findings of one run of ``runnerd check`` for a cloud."""

from __future__ import annotations

from provisioners import base
from provisioners.base import Finding, Level


class Findings:
    """Findings in the order in which they were made; the same finding counts once."""

    def __init__(self, provider: str) -> None:
        #: Where a finding belongs that names no other place.
        self.place = f"providers.{provider}"
        self.found: list[Finding] = []
        #: The number of findings so far that were no success, and of those the errors; the same one counts each time.
        self.problems = 0
        self.errors = 0

    def ok(self, message: str, *, place: str = "") -> None:
        """Note something that works."""
        self.add(Level.OK, message, place=place)

    def warning(self, message: str, remedy: str = "", *, place: str = "") -> None:
        """Note something that works and may not for long, or that could not be tried."""
        self.add(Level.WARNING, message, remedy, place=place)

    def error(self, message: str, remedy: str = "", *, place: str = "") -> None:
        """Note something that keeps instances from being bought."""
        self.add(Level.ERROR, message, remedy, place=place)

    def add(self, level: Level, message: str, remedy: str = "", *, place: str = "") -> None:
        """Note a finding."""
        self.problems += level is not Level.OK
        self.errors += level is Level.ERROR
        finding = Finding(level, place or self.place, message, remedy)
        if finding not in self.found:
            self.found.append(finding)


def pool_of(sample: base.CreateRequest) -> str:
    """Return the place of findings about a sample: its pool."""
    return f"pools.{sample.tags.get(base.TAG_POOL, sample.name)}"
