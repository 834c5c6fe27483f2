"""One life of the daemon: every way out of the process is a seam that a crash can close.

A crash lets nothing run on: after it, each seam the dead daemon's tasks reach never returns, so no ``finally`` and no
``except`` can still change the world.  That is what kill -9 does, at any await that has an effect.
"""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Callable
from email.utils import formatdate
from typing import Any, TypeVar

from provisioners import base
from provisioners.offload import Offload
from runnerd import errors, store
from runnerd.kit import http
from runnerd.simulator import app as simulator
from runnerd.simulator import http as simulated
from tests.support import virtual

T = TypeVar("T")


class Life:
    """From a start to a crash or a stop."""

    def __init__(self, *, crash_at: int | None = None) -> None:
        self.alive = True
        self.crossings = 0
        self.crash_at = crash_at
        self.crashed = asyncio.Event()
        self.last = ""
        #: When it was killed; 0 while it lives.
        self.died_at = 0.0

    async def cross(self, what: str) -> None:
        """Pass a seam, or die there."""
        self.crossings += 1
        if self.alive and self.crossings == self.crash_at:
            self.last = what
            self.die()
        if not self.alive:
            await asyncio.get_running_loop().create_future()

    def die(self) -> None:
        """The process is killed."""
        if self.alive:
            self.died_at = virtual.EPOCH + asyncio.get_running_loop().time()
        self.alive = False
        self.crashed.set()


class Clock(virtual.Clock):
    """A clock whose sleeps end with the life."""

    def __init__(self, loop: asyncio.AbstractEventLoop, life: Life) -> None:
        super().__init__(loop)
        self._life = life

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        if not self._life.alive:
            await asyncio.get_running_loop().create_future()


class Transport:
    """HTTP answered in process by the simulator."""

    def __init__(
        self,
        life: Life,
        app: simulator.App,
        rng: random.Random,
        latency: tuple[float, float],
        date: Callable[[], float],
    ) -> None:
        self._date = date
        self._life = life
        self._app = app
        self._rng = rng
        self._latency = latency

    async def send(self, request: http.Request) -> http.Response:
        what = f"{request.method} {request.url.split('?')[0][-60:]}"
        await self._life.cross(f"before {what}")
        try:
            async with asyncio.timeout(request.timeout):
                await asyncio.sleep(self._rng.uniform(*self._latency))
                answer = await self._app.handle(
                    simulated.request(
                        request.method, request.url, headers=dict(request.headers), body=request.body or b""
                    )
                )
        except simulated.ConnectionDropped as error:
            await self._life.cross(f"lost {what}")
            raise errors.TransportError(str(error)) from error
        except TimeoutError as error:
            await self._life.cross(f"timeout {what}")
            raise errors.TransportError("no answer in time") from error
        await self._life.cross(f"after {what}")
        headers = {name.lower(): value for name, value in answer.headers.items()}
        headers.setdefault("date", formatdate(self._date(), usegmt=True))
        return http.Response(answer.status, headers, answer.body)

    async def close(self) -> None:
        return None


class Store(store.Store):
    """The real store with a seam on both sides of each commit."""

    life: Life

    async def write(self, *changes: Any) -> None:
        await self.life.cross("before commit")
        await super().write(*changes)
        await self.life.cross("after commit")


class Executor(Offload):
    """The executor of blocking SDK calls: each is a request and its answer, with latency and a seam on both sides.

    A crash between two calls of one method lands here.
    """

    def __init__(self, life: Life, rng: random.Random, latency: tuple[float, float]) -> None:
        super().__init__(0)
        self._life = life
        self._rng = rng
        self._latency = latency

    async def __call__(self, work: Callable[[], T]) -> T:
        await self._life.cross("before an SDK call")
        await asyncio.sleep(self._rng.uniform(*self._latency) / 2)
        await self._life.cross("sending an SDK call")
        try:
            return work()
        finally:
            # An error is an answer, too: it is heard after a while, or never.
            await asyncio.sleep(self._rng.uniform(*self._latency) / 2)
            await self._life.cross("after an SDK call")


class Provisioner:
    """A provisioner with a seam on both sides of each call, and eyes on what it is asked to do and what comes of it."""

    def __init__(
        self,
        inner: base.Provisioner,
        life: Life,
        *,
        on_call: Callable[[str, Any], None],
        on_answer: Callable[[str, Any, base.ProvisionError | None], None],
    ) -> None:
        self._inner = inner
        self._life = life
        self._on_call = on_call
        self._on_answer = on_answer

    @property
    def traits(self) -> base.Traits:
        return self._inner.traits

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if not inspect.iscoroutinefunction(method):
            return method

        async def call(*arguments: Any) -> Any:
            argument = arguments[0] if arguments else None
            await self._life.cross(f"before {name}")
            if self._life.alive and arguments:
                self._on_call(name, argument)
            try:
                result = await method(*arguments)
            except base.ProvisionError as error:
                if self._life.alive:
                    self._on_answer(name, argument, error)
                raise
            if self._life.alive:
                self._on_answer(name, argument, None)
            await self._life.cross(f"after {name}")
            return result

        return call
