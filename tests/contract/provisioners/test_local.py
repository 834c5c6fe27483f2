"""Processes of this host keep the contract."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from provisioners import base, local, testing


class LocalHarness:
    """A directory of instances."""

    shape = base.Shape(gpu="t4", gpu_count=1)
    options: Mapping[str, Any] = {"gpu": "t4", "slots": 3, "grace": "2s"}
    misspelt = ("slot", "slots")

    def __init__(self, directory: Path) -> None:
        self.context = base.Context(
            name="beside", controller="acme-ci", directory=str(directory), now=time.time, sleep=asyncio.sleep
        )

    def make(self) -> base.Provisioner:
        return local.Local(self.context, self.options)

    async def settle(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class TestLocal(testing.ProvisionerContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> LocalHarness:
        return LocalHarness(tmp_path)
