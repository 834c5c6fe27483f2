"""The no-op cloud of the benchmark: the simulated one, which hands each boot script to whoever plays the agents.

It is installed as a third party's would be, by an entry point, so the daemon under test is unchanged.  What it adds
to a create call is one line written to a socket.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from provisioners import base, fake

#: The provider type under which it is installed.
TYPE = "bench"
_TOKEN = re.compile(r'"token": "([^"]+)"')
_BUNDLE = re.compile(r"\b([0-9a-f]{64})\b")


def install(directory: Path) -> Path:
    """Write the metadata of an installed package with the entry point; the directory belongs on PYTHONPATH."""
    home = directory / "installed"
    info = home / "runnerd_bench_cloud-0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: runnerd-bench-cloud\nVersion: 0\n")
    (info / "entry_points.txt").write_text(f"[runnerd.provisioners]\n{TYPE} = {__name__}:Bench\n")
    return home


class Bench(fake.Fake):
    """A simulated cloud with an extra option, ``hand_to``: the Unix socket that gets a line for each create."""

    def __init__(self, context: base.Context, options: Mapping[str, Any]) -> None:
        super().__init__(context, {key: value for key, value in options.items() if key != "hand_to"})
        self._path = str(options.get("hand_to", ""))
        self._socket: socket.socket | None = None

    @classmethod
    def validate(cls, options: Mapping[str, Any]) -> list[str]:
        return super().validate({key: value for key, value in options.items() if key != "hand_to"})

    async def create(self, request: base.CreateRequest) -> base.InstanceView:
        view = await super().create(request)
        token = _TOKEN.search(request.user_data)
        # The hash is the script's last argument; the token before it may look like one.
        bundles = _BUNDLE.findall(request.user_data)
        if token is None or not bundles:
            raise RuntimeError("the boot script holds no token, or no hash of the agent")
        line = json.dumps([view.name, token[1], bundles[-1]])
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.connect(self._path)
        # A few hundred bytes that the other side always reads: this does not block in practice.
        self._socket.sendall(os.fsencode(line + "\n"))
        return view

    async def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        await super().close()
