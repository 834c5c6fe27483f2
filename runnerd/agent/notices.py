"""Notices that the machine will be taken away: a spot interruption, a shutdown.

A source is one thing with a method ``look``; those of the clouds are in ``preemption``.  Here are a file, which any
script can write, and the signal that the agent itself gets when its machine shuts down.  The agent's word is no proof
of a preemption; the daemon asks the cloud.
"""

from __future__ import annotations

import abc
import json
import logging
import math
import pathlib
import queue
import signal
import threading
import time
import typing
from dataclasses import dataclass

log = logging.getLogger("agent.notices")


@dataclass(frozen=True)
class Notice:
    """The machine goes at ``at`` (monotonic seconds; 0 for any moment)."""

    text: str
    at: float = 0.0

    def act_at(self, reserve: float) -> float:
        """When the runner must be told, so that ``reserve`` seconds are left for a fast failure."""
        return self.at - reserve


class Source(abc.ABC):
    """Where a notice may come from."""

    @abc.abstractmethod
    def look(self) -> Notice | None:
        """The notice, if there is one; must not block for more than a few seconds."""

    def stop(self) -> None:  # noqa: B027 - most have nothing to stop
        """Nobody will look any more."""


class File(Source):
    """A file whose appearance is the notice: empty, plain text, or ``{"seconds": 120, "reason": "..."}``."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path

    def look(self) -> Notice | None:
        """The notice, with its time counted from now."""
        try:
            with open(self._path, encoding="utf-8", errors="replace") as file:
                text = file.read(4096).strip()
        except FileNotFoundError:
            return None
        except OSError as error:
            # It is there, and somebody meant it: the reader's trouble must not lose the warning.
            return Notice(f"{self._path}: {error.strerror}")
        try:
            read = json.loads(text)
            seconds = float(read["seconds"])
            reason = str(read.get("reason") or "notice")
        except (ValueError, TypeError, KeyError, AttributeError):
            return Notice(text[:200] or "notice")
        if not math.isfinite(seconds) or seconds <= 0:
            return Notice(reason[:200])
        return Notice(reason[:200], at=time.monotonic() + seconds)


class Signals(Source):
    """The signals by which a machine that shuts down, or a person, tells the agent itself to end."""

    def __init__(self) -> None:
        # Its put may interrupt anything, itself included: the one thing that a signal handler can safely do.
        self._got: queue.SimpleQueue[int] = queue.SimpleQueue()

    def install(self) -> None:
        """Take SIGTERM, SIGINT and SIGHUP of this process; from the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._take)

    def _take(self, number: int, frame: object) -> None:
        self._got.put(number)

    def look(self) -> Notice | None:
        try:
            number = self._got.get_nowait()
        except queue.Empty:
            return None
        return Notice(f"the agent was sent {signal.Signals(number).name}")


class Watch:
    """Looks at the sources from a thread of its own; each is told of once."""

    def __init__(
        self, sources: typing.Sequence[Source], tell: typing.Callable[[Notice], None], *, every: float = 0.2
    ) -> None:
        self._sources, self._tell, self._every = sources, tell, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="notices", daemon=True)

    def start(self) -> None:
        if self._sources:
            self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        for source in self._sources:
            source.stop()

    def _run(self) -> None:
        silent = list(self._sources)
        failed: set[int] = set()
        while silent and not self._stop.is_set():
            for source in list(silent):
                try:
                    found = source.look()
                except Exception:
                    # Asked again, but not told of five times a second.
                    if id(source) not in failed:
                        log.exception("a source of notices failed")
                    failed.add(id(source))
                    continue
                if found is not None:
                    silent.remove(source)
                    self._tell(found)
            self._stop.wait(self._every)
