"""The listeners' surroundings as fixtures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from runnerd import assets
from runnerd.web import public
from tests.support import clocks, fakes
from tests.unit.web import web_daemon


@pytest.fixture
def running(place: fakes.Place) -> web_daemon.Daemon:
    """A daemon that has started."""
    return web_daemon.daemon(place)


@pytest.fixture
def alive() -> set[str]:
    """Instances whose upload addresses are good."""
    return {"vm-1"}


@pytest.fixture
def images(tmp_path: Path, clock: clocks.ManualClock, place: fakes.Place, alive: set[str]) -> assets.Assets:
    return web_daemon.store(tmp_path / "assets", clock, alive=alive, place=place, max_bytes=4096, total_bytes=20_000)


@pytest.fixture
async def world(running: web_daemon.Daemon, clock: clocks.ManualClock, images: assets.Assets) -> AsyncIterator[Any]:
    """A client of the public listener."""
    application = public.Public(running.served, now=clock.now, assets=images)
    async with web_daemon.served(application.app) as client:
        client.public = application  # type: ignore[attr-defined]
        yield client
        await application.close()
