"""Clocks that a test turns.  The clock of a virtual loop is in :mod:`tests.support.virtual`."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable
from typing import TypeVar

from tests.support import virtual

T = TypeVar("T")

#: A Monday morning.
START = virtual.EPOCH


class ManualClock:
    """A clock that stands still until a test turns it."""

    def __init__(self) -> None:
        self.time = START
        #: What the wall clock is off.
        self.jump = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._serial = 0

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return self.time + self.jump

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._serial += 1
        heapq.heappush(self._sleepers, (self.time + seconds, self._serial, future))
        await future

    async def advance(self, seconds: float) -> None:
        """Let time pass, waking sleepers in order."""
        until = self.time + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= until:
            at, _, future = heapq.heappop(self._sleepers)
            self.time = max(self.time, at)
            if not future.done():
                future.set_result(None)
            await settle()
        self.time = until
        await settle()

    async def finish(self, work: Awaitable[T], *, within: float = 3600.0) -> T:
        """Turn the clock until the work is done."""
        task = asyncio.ensure_future(work)
        until = self.time + within
        for _ in range(10_000):
            await settle()
            if task.done():
                break
            live = [one for one in self._sleepers if not one[2].done()]
            if not live or live[0][0] > until:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                raise AssertionError("the work waits for something that does not come")
            await self.advance(min(one[0] for one in live) - self.time)
        return await task


class SteppingClock:
    """A clock that each sleep moves on: of several sleepers each moves it, which only makes it later."""

    def __init__(self, start: float = START) -> None:
        self.time = start

    def now(self) -> float:
        return self.time

    wall = now

    async def sleep(self, seconds: float) -> None:
        # Others may run first, as in real time.
        await asyncio.sleep(0)
        self.time += seconds


async def settle(turns: int = 30) -> None:
    """Let every task run as far as it can without time."""
    for _ in range(turns):
        await asyncio.sleep(0)
