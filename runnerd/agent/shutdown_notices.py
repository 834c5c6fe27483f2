"""Notices that the machine goes away: a spot interruption, a shutdown.

A source has a method ``poll``; those of the clouds are in ``cloud_notices``.  Here are a file, which any script can
write, and the signals that the agent receives when its machine shuts down.  The agent's report does not prove a
preemption; the daemon asks the cloud.
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

log = logging.getLogger("agent.shutdown_notices")


@dataclass(frozen=True)
class Notice:
    """The machine goes at ``at`` (monotonic seconds; 0 for any moment)."""

    text: str
    at: float = 0.0

    def act_at(self, reserve: float) -> float:
        """Return when the runner must be stopped, so that ``reserve`` seconds are left for it to fail its job."""
        return self.at - reserve


class Source(abc.ABC):
    """A source of notices."""

    @abc.abstractmethod
    def poll(self) -> Notice | None:
        """Return the notice, if there is one; must not block for more than a few seconds."""

    def stop(self) -> None:  # noqa: B027 - most have nothing to stop
        """Stop; the source is not polled any more."""


class File(Source):
    """A file whose appearance is the notice: empty, plain text, or ``{"seconds": 120, "reason": "..."}``."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path

    def poll(self) -> Notice | None:
        """Return the notice, with its time counted from now."""
        try:
            with open(self._path, encoding="utf-8", errors="replace") as file:
                text = file.read(4096).strip()
        except FileNotFoundError:
            return None
        except OSError as error:
            # The file exists, so a notice was intended: a read error must not lose it.
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
    """The signals by which a shutdown of the machine, or a person, ends the agent."""

    def __init__(self) -> None:
        # Its put is reentrant, so a signal handler may call it.
        self._got: queue.SimpleQueue[int] = queue.SimpleQueue()

    def install(self) -> None:
        """Handle SIGTERM, SIGINT and SIGHUP of this process; to be called from the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._take)

    def _take(self, number: int, frame: object) -> None:
        self._got.put(number)

    def poll(self) -> Notice | None:
        try:
            number = self._got.get_nowait()
        except queue.Empty:
            return None
        return Notice(f"the agent was sent {signal.Signals(number).name}")


class Watch:
    """Polls the sources from a thread of its own; each source reports at most one notice."""

    def __init__(
        self, sources: typing.Sequence[Source], on_notice: typing.Callable[[Notice], None], *, interval: float = 0.2
    ) -> None:
        self._sources, self._on_notice, self._interval = sources, on_notice, interval
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
        waiting = list(self._sources)
        failed: set[int] = set()
        while waiting and not self._stop.is_set():
            for source in list(waiting):
                try:
                    notice = source.poll()
                except Exception:
                    # Polled again, but logged once and not five times a second.
                    if id(source) not in failed:
                        log.exception("a source of notices failed")
                    failed.add(id(source))
                    continue
                if notice is not None:
                    waiting.remove(source)
                    self._on_notice(notice)
            self._stop.wait(self._interval)
