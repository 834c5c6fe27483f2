"""An event loop on virtual time: when nothing is ready, the clock jumps to the next timer."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

#: Where virtual time starts: a Monday morning, so that days and schedules mean something.
EPOCH = 1_790_000_000.0


class Deadlock(RuntimeError):
    """Nothing is ready and no timer is set: the tasks wait for each other."""


class _Selector(selectors.SelectSelector):
    """Never blocks; tells the loop how far to jump."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise Deadlock
        if timeout > 0:
            self.now += timeout
        return []


class Loop(asyncio.SelectorEventLoop):
    """The loop; ``time()`` is virtual."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


class Clock:
    """The clock of a virtual loop, of the running one by default; ``jump`` moves the wall clock alone."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = loop
        self.jump = 0.0
        self._anchor = 0.0

    def now(self) -> float:
        return self._time() + self._anchor

    def wall(self) -> float:
        return self._time() + self.jump

    def _time(self) -> float:
        return EPOCH + (self._loop or asyncio.get_running_loop()).time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def reanchor(self) -> None:
        self._anchor = self.jump


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a fresh virtual loop."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(main)
