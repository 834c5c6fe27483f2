"""Simulated clouds over sockets, with machines behind their instances.

They live in one thread of the test's process, beside the daemon and the simulated forges.  What they see of the daemon
is what the real ones would: requests of the real SDKs with credentials that are checked.  A test reaches into them
through :meth:`Clouds.do` alone, because they are not made for several threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from runnerd.simulator import certificates
from tests.clouds import registry, wire
from tests.clouds.adapter import VM, CloudAdapter

T = TypeVar("T")

#: Seconds between looks at what is due in the clouds, and between looks at the machines.
_TICK, _LOOK = 0.05, 0.15


class Guests(Protocol):
    """The guests of the instances: real machines, or one process that plays all of them."""

    @property
    def running(self) -> frozenset[str]: ...

    def start(self, ref: str, user_data: bytes, *, name: str, gpus: tuple[str, int] = ("", 0)) -> None: ...

    def end(self, refs: frozenset[str]) -> None: ...

    def off(self) -> list[str]: ...

    def console(self, ref: str) -> str: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class Create:
    """A create call as its cloud saw it."""

    cloud: str
    #: The name of the instance that it is for.
    instance: str
    region: str
    #: Unix seconds.
    began: float
    ended: float = 0.0
    #: Status of the answer; 0 when it was lost.
    status: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """An answer by which a cloud told for certain that an instance will not be."""

    cloud: str
    instance: str
    at: float


@dataclass(slots=True)
class Clouds:
    """Clouds and what runs in them."""

    directory: Path
    guests: Guests
    seed: int = 0
    #: Which clouds there are.
    names: tuple[str, ...] = registry.NAMES
    throttled: bool = True
    adapters: dict[str, CloudAdapter] = field(default_factory=dict)
    #: Every create call so far.
    creates: list[Create] = field(default_factory=list)
    failures: dict[tuple[str, str], Failure] = field(default_factory=dict)
    #: Every instance whose machine ever booted: its reference -> its name.
    boots: dict[str, str] = field(default_factory=dict)
    #: Called in the clouds' thread when a create call has arrived (False) and when it was carried out (True), before
    #: its answer leaves.
    on_create: Callable[[Create, bool], None] = lambda create, done: None
    #: What broke in here: always a fault of a simulation, or of a request that it does not know.
    problems: list[str] = field(default_factory=list)
    _loop: asyncio.AbstractEventLoop | None = None
    _stopping: asyncio.Event | None = None
    _ready: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    # -- life --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Serve; returns when all of them do."""
        self._thread = threading.Thread(target=self._run, name="clouds", daemon=True)
        self._thread.start()
        assert self._ready.wait(60), "the clouds are not up"
        assert not self.problems, self.problems

    def stop(self) -> None:
        """End everything that runs in them, and serve no more."""
        if self._thread is not None and self._loop is not None and self._stopping is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(60)
            assert not self._thread.is_alive(), "the clouds do not stop"
        self.guests.close()

    def do(self, call: Callable[[], T]) -> T:
        """Return the result of a call that is made between two requests."""
        assert self._loop is not None and not self._loop.is_closed(), "they are not up"

        async def made() -> T:
            return call()

        return asyncio.run_coroutine_threadsafe(made(), self._loop).result(30)

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception:
            self.problems.append(traceback.format_exc())
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        ca, tls = certificates.make(self.directory / "clouds-ca", ["127.0.0.1"])
        rng = random.Random(self.seed)
        async with contextlib.AsyncExitStack() as stack:
            for name in self.names:
                seed = random.Random(rng.getrandbits(64))
                made = registry.ADAPTERS[name].quick(time.time, seed, throttled=self.throttled)
                self.adapters[name] = made
                made.url = await stack.enter_async_context(
                    wire.serve(self._handler(made), tls=tls if made.tls else None)
                )
                made.ca = str(ca) if made.tls else ""
            self._ready.set()
            looks = asyncio.create_task(self._live())
            await self._stopping.wait()
            looks.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await looks
        for made in self.adapters.values():
            made.close()

    # -- requests ----------------------------------------------------------------------------------------------

    def _handler(self, adapter: CloudAdapter) -> wire.Handler:
        def handle(request: wire.Request) -> wire.Answer:
            try:
                return self._handle(adapter, request)
            except wire.Lost:
                raise
            except Exception:
                self.problems.append(f"{adapter.name}: {request.method} {request.url}\n{traceback.format_exc()}")
                raise

        return handle

    def _handle(self, adapter: CloudAdapter, request: wire.Request) -> wire.Answer:
        asked = adapter.creates(request)
        if asked is None:
            answer = adapter.handle(request)
            self._note_failure(adapter, request, answer)
            return answer
        instance, region = asked
        create = Create(adapter.name, instance, region, began=time.time())
        self.creates.append(create)
        self.on_create(create, False)
        try:
            answer = adapter.handle(request)
            create.status = answer.status
        finally:
            create.ended = time.time()
            self.on_create(create, True)
        self._note_failure(adapter, request, answer)
        return answer

    def _note_failure(self, adapter: CloudAdapter, request: wire.Request, answer: wire.Answer) -> None:
        if answer.status == 429 or b"RequestLimitExceeded" in answer.body:
            # It says nothing of the place: the same is tried again when the pause is over.
            return
        for mark, name in adapter.refused(request, answer):
            # It may be told more than once.
            self.failures.setdefault((adapter.name, mark), Failure(adapter.name, name, time.time()))

    # -- instances ---------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        last = 0.0
        while True:
            for adapter in self.adapters.values():
                adapter.tick()
            now = time.monotonic()
            if now - last >= _LOOK:
                last = now
                try:
                    await self._look()
                except Exception:
                    self.problems.append(traceback.format_exc())
            await asyncio.sleep(_TICK)

    async def _look(self) -> None:
        """Boot what has started to run, end what has not, and tell the clouds what their guests did."""
        now = time.time()
        seen = {vm.uid: vm for vm in self._vms()}
        on = {uid for uid, vm in seen.items() if vm.running(now)}
        fresh = [seen[uid] for uid in sorted(on - self.boots.keys())]
        self.boots |= {vm.uid: vm.name for vm in fresh}
        stale = self.guests.running - on

        def act() -> tuple[list[str], dict[str, str]]:
            # The last words first: what a machine printed is not lost with it.
            printed = {uid: self.guests.console(uid) for uid in self.guests.running}
            self.guests.end(frozenset(stale))
            for vm in fresh:
                self.guests.start(vm.uid, vm.raw_user_data, name=vm.name, gpus=vm.gpus)
            return self.guests.off(), printed

        off, printed = await asyncio.to_thread(act)
        for uid, text in printed.items():
            if uid in seen:
                seen[uid].show_console(text)
        for uid in off:
            if uid in seen:
                seen[uid].power_off(time.time())

    def _vms(self) -> Iterator[VM]:
        for adapter in self.adapters.values():
            yield from adapter.vms()

    # -- what is there -----------------------------------------------------------------------------------------

    def left(self) -> list[str]:
        """Everything that costs in any of the clouds, instances and what belongs to them."""
        return self.do(lambda: [f"{one.name}: {words}" for one in self.adapters.values() for words in one.costing()])

    def keys(self) -> Mapping[str, list[str]]:
        """Cloud -> the idempotency key of every instance that it ever made."""
        return self.do(lambda: {one.name: one.keys() for one in self.adapters.values()})

    def story(self, lines: int = 60) -> str:
        """Return what a person needs after a failure."""
        parts = [f"--- clouds: problems\n{problem}" for problem in self.problems]
        with contextlib.suppress(Exception):
            parts += self.do(lambda: [f"--- {one.name}\n{one.story(lines)}" for one in self.adapters.values()])
        return "\n".join(parts)
