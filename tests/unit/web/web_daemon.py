"""A daemon as the listeners see it: real core on scripted surroundings, and raw sockets for clients that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from provisioners.offload import Offload
from runnerd import assets, model, read_model
from runnerd.bootstrap import agent_archive
from runnerd.reconcile import loop
from tests.support import clocks, fakes, rooms

KEY = b"the key of the store of images"
PNG = b"\x89PNG\r\n\x1a\n" + b"pixels" * 50
SVG = b'<?xml version="1.0"?>\n<!-- drawn --><svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


class State:
    """What the listeners ask of the store."""

    def __init__(self) -> None:
        self.broken: Exception | None = None
        self.probes = 0
        self.trail_rows: list[tuple[int, model.Event]] = []
        self.where = "state/runnerd.db"

    async def probe(self) -> None:
        self.probes += 1
        if self.broken is not None:
            raise self.broken

    async def trail(self, **asked: Any) -> list[tuple[int, model.Event]]:
        if self.broken is not None:
            raise self.broken
        return self.trail_rows


@dataclasses.dataclass
class Daemon:
    """A daemon that has started, with what it hands to the listeners."""

    place: fakes.Place
    controller: loop.Controller
    store: State
    progress: read_model.Progress
    reading: read_model.ReadModel
    hooks: read_model.Hooks
    served: read_model.Served


def daemon(place: fakes.Place) -> Daemon:
    made = loop.Controller(place.runtime, bundle=lambda: "0" * 64, assign=fakes.assign)
    made.last_pass_at = place.clock.now()
    state = State()
    reading, hooks = rooms.shown(place, made, history=state)
    served = read_model.Served(
        reading.progress,
        agent_archive.Bundle(b"PK the agent", "a" * 64),
        tokens=place.runtime.tokens,
        agents=made.agents,
        forges=place.runtime.forges,
        reading=reading,
    )
    return Daemon(place, made, state, reading.progress, reading, hooks, served)


def store(
    folder: Path, clock: clocks.ManualClock, *, alive: set[str], place: fakes.Place, **changes: Any
) -> assets.Assets:
    settings = place.runtime.config.assets.model_copy(update=changes)
    return assets.Assets(
        settings,
        folder,
        KEY,
        clock.now,
        public_url="https://runnerd.example",
        alive=lambda id: id in alive,
        offload=Offload(0),
        alarms=place.runtime.alarms,
    )


@contextlib.asynccontextmanager
async def served(app: web.Application) -> AsyncIterator[TestClient[Any, Any]]:
    async with TestClient(TestServer(app)) as client:
        yield client


async def raw(port: int, data: bytes, *, wait: float = 5.0) -> bytes:
    """Send bytes as they are and read the first line that comes back; empty when the connection ends without one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        await writer.drain()
        async with asyncio.timeout(wait):
            return await reader.readline()
    except ConnectionError:
        return b""
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
