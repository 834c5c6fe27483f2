"""Token buckets: the documented rates of an API, and the backoff that it asks for.

SDK retries are off everywhere; a throttled call pauses its bucket, which then holds all callers back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

#: Seconds too short to wait for: a clock of unix time as a float does not advance by less.
_TINY_S = 1e-6
#: Seconds between checks that a waiting call is still wanted.
_POLL_S = 1.0


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
        """The end of the backoff that the provider asked for, in the clock's seconds."""
        return self._paused_until

    def pause(self, seconds: float) -> None:
        """Grant no call for that many seconds: the provider asked for a backoff."""
        self._paused_until = max(self._paused_until, self._now() + seconds)

    async def take(self, *, unless: Callable[[], bool] = lambda: False) -> bool:
        """Wait for the right to send one call.

        False, at the cost of nothing, as soon as it is this caller's turn and ``unless`` says that the call is not
        wanted any more: a caller that waits in vain holds no other caller back.
        """
        async with self._turn:
            while True:
                if unless():
                    return False
                now = self._now()
                self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)
                self._at = now
                wait = max(self._paused_until - now, (1.0 - self._tokens) / self._rate)
                if wait <= _TINY_S:
                    self._tokens -= 1.0
                    return True
                await self._sleep(min(wait, _POLL_S))

    def give_back(self) -> None:
        """Return the right to a call that is not sent after all."""
        self._tokens = min(self._burst, self._tokens + 1.0)
