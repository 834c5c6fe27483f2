"""What every unit test stands on: no network beyond this host, nothing of the caller's environment, a clock by hand."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.support import clocks, fakes

#: Prefixes of variables that would change what the code under test does.
_FOREIGN = ("RUNNERD_", "GITHUB_", "GITLAB_", "CI_", "ACTIONS_", "AWS_", "GOOGLE_", "AZURE_", "RUNNER_")
_ALSO = frozenset(
    {"CI", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"}
)
_connect = socket.socket.connect


def _guarded(self: socket.socket, address: Any) -> None:
    if self.family in (socket.AF_INET, socket.AF_INET6):
        host = str(address[0])
        if not (host.startswith("127.") or host in ("::1", "localhost", "0.0.0.0")):
            raise AssertionError(f"a unit test reached for {host}; only loopback is allowed")
    _connect(self, address)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only loopback, and an environment without the caller's own CI."""
    monkeypatch.setattr(socket.socket, "connect", _guarded)
    for name in list(os.environ):
        if name in _ALSO or name.startswith(_FOREIGN):
            monkeypatch.delenv(name)


@pytest.fixture
def clock() -> clocks.ManualClock:
    return clocks.ManualClock()


@pytest.fixture
def place(tmp_path: Path, clock: clocks.ManualClock) -> fakes.Place:
    """A runtime whose provider, forge and store are scripted."""
    return fakes.place(tmp_path, clock)


@pytest.fixture
def book() -> fakes.Book:
    return fakes.Book()
