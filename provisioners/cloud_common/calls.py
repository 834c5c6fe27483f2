"""Calls of a blocking SDK: each waits for its rate limit, runs on a thread, and fails in the contract's terms."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

from provisioners import base
from provisioners.offload import Offload
from provisioners.support import ratelimit

_T = TypeVar("_T")

#: Seconds of backoff after throttling that names no time, first and at most.
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 1.0, 30.0


class Threads:
    """Threads for blocking calls, created when they are first needed."""

    def __init__(self, context: base.Context, width: int) -> None:
        self._context = context
        self._width = width
        self._offload: Offload | None = None

    def open(self) -> None:
        """Create the threads."""
        if self._offload is None:
            self._offload = self._context.offload(self._width)

    def close(self) -> None:
        """Release the threads; calls under way end by themselves."""
        if self._offload is not None:
            self._offload.close(wait=False)
            self._offload = None

    async def __call__(self, work: Callable[[], _T]) -> _T:
        """Run blocking work; raise what it raises."""
        self.open()
        assert self._offload is not None
        return await self._offload(work)


class RateLimits:
    """The rate limits of one provider by group of calls, with the backoff of groups that are throttled."""

    def __init__(self, context: base.Context) -> None:
        self._context = context
        self._buckets: dict[Hashable, ratelimit.Bucket] = {}
        self._backoff: dict[Hashable, float] = {}

    def bucket(self, group: Hashable, *, rate: float, burst: float) -> ratelimit.Bucket:
        """Return the bucket of a group, created when it is first needed."""
        found = self._buckets.get(group)
        if found is None:
            found = self._buckets[group] = ratelimit.Bucket(
                rate=rate, burst=burst, now=self._context.now, sleep=self._context.sleep
            )
        return found

    def throttled(self, group: Hashable, error: base.ProvisionError) -> None:
        """Hold the calls of a group back, for as long as the error says, else longer from time to time."""
        if not error.retry_after:
            last = self._backoff.get(group, _FIRST_BACKOFF_S / 2)
            error.retry_after = self._backoff[group] = min(_LONGEST_BACKOFF_S, 2 * last)
        if group in self._buckets:
            self._buckets[group].pause(error.retry_after)

    def answered(self, group: Hashable) -> None:
        """Note a call that was not throttled."""
        self._backoff.pop(group, None)


async def run(
    threads: Threads,
    work: Callable[[], _T],
    *,
    limits: RateLimits,
    group: Hashable,
    classify: Callable[[Exception], base.ProvisionError],
    expected: tuple[type[Exception], ...] = (Exception,),
) -> _T:
    """Run one call on a thread and return its answer.

    Raises :class:`base.ProvisionError` for the ``expected`` exceptions; others are defects and pass through.
    """
    try:
        answer = await threads(work)
    except expected as error:
        failed = classify(error)
        if failed.kind is base.Kind.THROTTLED:
            limits.throttled(group, failed)
        raise failed from error
    limits.answered(group)
    return answer
