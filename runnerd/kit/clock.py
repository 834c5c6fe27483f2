"""Time, as one object that is passed in.

Logic never asks the operating system for the time: it takes a :class:`Clock`, so that the simulation can run days
in milliseconds.  Two readings exist because they fail differently.  ``now`` is *steady*: wall time at start plus the
monotonic seconds since, so a wall clock that jumps by a day cannot make an instance look a day old.  ``wall`` is
civil time, for schedules, budgets by day and signed tokens.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

#: Seconds by which wall and steady time may differ before destructive deadlines are suspended.
TOLERANCE_S = 60.0


class Clock(Protocol):
    """The interface to time for the rest of runnerd."""

    def now(self) -> float:
        """Return steady unix seconds, which never jump while the process lives."""
        ...

    def wall(self) -> float:
        """Return the host's civil unix seconds, which may jump."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait that long."""
        ...


class SystemClock:
    """The host's clocks."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        return time.monotonic() + self._offset

    def wall(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def reanchor(self) -> None:
        """Adopt the wall clock's time from now on; only after a second clock has confirmed it."""
        self._offset = time.time() - time.monotonic()


def drift(clock: Clock) -> float:
    """Return the seconds by which the wall clock has drifted from steady time since the start."""
    return clock.wall() - clock.now()


async def sleep_or_wake(clock: Clock, seconds: float, wake: asyncio.Event) -> bool:
    """Wait until ``wake`` is set or the time is over; return True for the event, and clear it."""
    if not wake.is_set():
        waiter = asyncio.ensure_future(wake.wait())
        sleeper = asyncio.ensure_future(clock.sleep(max(0.0, seconds)))
        try:
            await asyncio.wait({waiter, sleeper}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
            sleeper.cancel()
    woken = wake.is_set()
    wake.clear()
    return woken
