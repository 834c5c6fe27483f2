"""Blocking calls: classified failures, and backoff of the group that was throttled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from provisioners import base
from provisioners.cloud_common import calls
from provisioners.offload import Offload


class Refused(Exception):
    """An error of the SDK."""


class Clock:
    def __init__(self) -> None:
        self.seconds = 1_000_000.0

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.seconds += seconds

    def context(self) -> base.Context:
        return base.Context("cloud", "ci", "", now=lambda: self.seconds, sleep=self.sleep, offload=lambda _: Offload(0))


class Api:
    """One group of calls of a simulated API."""

    def __init__(self, clock: Clock, *, retry_after: float = 0.0) -> None:
        self.retry_after = retry_after
        self.threads = calls.Threads(clock.context(), 2)
        self.limits = calls.RateLimits(clock.context())

    async def call(self, work: Callable[[], int], group: str = "read") -> int:
        await self.limits.bucket(group, rate=10.0, burst=10).take()
        return await calls.run(
            self.threads, work, limits=self.limits, group=group, classify=self.classify, expected=(Refused,)
        )

    def classify(self, error: Exception) -> base.ProvisionError:
        return base.ProvisionError(base.Kind.THROTTLED, str(error), retry_after=self.retry_after)


def refuse() -> int:
    raise Refused("slow down")


def break_down() -> int:
    raise KeyError("a defect")


async def test_an_answer_is_returned_and_a_failure_is_classified() -> None:
    api = Api(Clock())
    assert await api.call(lambda: 7) == 7
    with pytest.raises(base.ProvisionError, match="slow down"):
        await api.call(refuse)


async def test_a_defect_is_not_hidden_as_a_failure() -> None:
    with pytest.raises(KeyError):
        await Api(Clock()).call(break_down)


async def test_a_throttled_group_is_held_back_for_the_time_that_the_answer_names() -> None:
    clock = Clock()
    api = Api(clock, retry_after=12.0)
    with pytest.raises(base.ProvisionError):
        await api.call(refuse)
    before = clock.seconds
    await api.call(lambda: 1, "write")
    assert clock.seconds == before
    await api.call(lambda: 1)
    assert clock.seconds == before + 12.0


async def test_without_a_time_the_backoff_doubles_until_a_call_is_answered() -> None:
    api = Api(Clock())
    waits = []
    for work in (refuse, refuse, refuse, lambda: 1, refuse):
        try:
            await api.call(work)
        except base.ProvisionError as error:
            waits.append(error.retry_after)
    assert waits == [1.0, 2.0, 4.0, 1.0]


async def test_threads_open_again_after_they_were_closed() -> None:
    api = Api(Clock())
    await api.call(lambda: 1)
    api.threads.close()
    assert await api.call(lambda: 2) == 2
