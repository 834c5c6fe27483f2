"""Machines without processes: one crowd of simulated agents plays the guests of a cloud.

For bursts, where two hundred interpreters on a small host would measure the host.
"""

from __future__ import annotations

import json
import os
import re
import socket
from pathlib import Path

from tests.bench import crowd

_TOKEN = re.compile(rb'"token": "([^"]+)"')
_BUNDLE = re.compile(rb"\b([0-9a-f]{64})\b")


class Players:
    """The guests of clouds whose daemon listens at ``url`` for agents."""

    def __init__(self, url: str, path: Path) -> None:
        self.crowd = crowd.Crowd(url, path)
        self.crowd.start()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(str(path))
        self._running: set[str] = set()

    @property
    def running(self) -> frozenset[str]:
        return frozenset(self._running)

    def start(self, ref: str, user_data: bytes, *, name: str, gpus: tuple[str, int] = ("", 0)) -> None:
        """Let somebody play this machine's agent."""
        token = _TOKEN.search(user_data)
        assert token is not None, user_data
        # The hash is the script's last argument; the token before it may look like one.
        line = json.dumps([name, token[1].decode(), _BUNDLE.findall(user_data)[-1].decode()])
        self._socket.sendall(os.fsencode(line + "\n"))
        self._running.add(ref)

    def end(self, refs: frozenset[str]) -> None:
        """Forget machines; their players hear of it from the daemon."""
        self._running -= refs

    def off(self) -> list[str]:
        """Nobody switches a machine off."""
        return []

    def console(self, ref: str) -> str:
        return ""

    def close(self) -> None:
        self._socket.close()
        self.crowd.stop()
