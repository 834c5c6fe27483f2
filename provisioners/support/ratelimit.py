"""Token buckets: how fast an API may be called, as its documentation says, and pauses that it asks for.

SDK retries are off everywhere; whoever is throttled is told so by one bucket, which then holds all callers back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

#: Seconds that are no wait: a clock that tells unix time as a float does not move by less.
_TINY = 1e-6
#: Seconds between looks whether a call that waits is still wanted.
_LOOK = 1.0


class Bucket:
    """``burst`` calls at once, ``rate`` per second in the long run, none while paused; first come, first served."""

    def __init__(
        self,
        *,
        rate: float,
        burst: float,
        now: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._now = now
        self._sleep = sleep
        self._rate = rate
        self._burst = float(burst)
        self._tokens = float(burst)
        self._at = now()
        self._paused_until = 0.0
        self._turn = asyncio.Lock()

    @property
    def paused_until(self) -> float:
        """When the pause that the provider asked for ends."""
        return self._paused_until

    def pause(self, seconds: float) -> None:
        """The provider asked to be left alone for that long."""
        self._paused_until = max(self._paused_until, self._now() + seconds)

    async def take(self, *, unless: Callable[[], bool] = lambda: False) -> bool:
        """Wait for the right to send one call.

        False, at the cost of nothing, as soon as it is this caller's turn and ``unless`` says that the call is not
        wanted any more: whoever waits for what is not to be had keeps nobody else waiting.
        """
        async with self._turn:
            while True:
                if unless():
                    return False
                now = self._now()
                self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)
                self._at = now
                wait = max(self._paused_until - now, (1.0 - self._tokens) / self._rate)
                if wait <= _TINY:
                    self._tokens -= 1.0
                    return True
                await self._sleep(min(wait, _LOOK))

    def give_back(self) -> None:
        """The call that was granted is not sent after all."""
        self._tokens = min(self._burst, self._tokens + 1.0)
