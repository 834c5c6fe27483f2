"""Fixtures of the GitLab client's tests."""

from __future__ import annotations

import asyncio
import collections.abc
import random
from collections.abc import Mapping

import pytest

from runnerd.forges.gitlab import rest
from tests.support import virtual
from tests.support.virtual import Loop as VirtualLoop
from tests.unit.forges.gitlab.gl_lab import (
    TOKEN,
    URL,
    Server,
)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, collections.abc.Callable[[], asyncio.AbstractEventLoop]]:
    return {"virtual": VirtualLoop}


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def clock() -> virtual.Clock:
    return virtual.Clock()


@pytest.fixture
def counted() -> list[tuple[str, int]]:
    return []


@pytest.fixture
async def client(server: Server, clock: virtual.Clock, counted: list[tuple[str, int]]) -> rest.Rest:
    return rest.Rest(
        "gl",
        URL,
        lambda: TOKEN,
        clock=clock,
        transport=server,
        rng=random.Random(1),
        per_minute=60,
        on_request=lambda endpoint, status: counted.append((endpoint, status)),
    )
