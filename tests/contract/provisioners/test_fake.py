"""The simulated cloud keeps the contract, in memory, on disk and with real processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from provisioners import base, fake, testing
from tests.support import clocks


class FakeHarness:
    """One simulated account."""

    shape = base.Shape(gpu="t4", gpu_count=1, markets=(base.Market.SPOT, base.Market.ON_DEMAND))
    misspelt = ("region", "regions")

    def __init__(self, options: Mapping[str, Any], directory: str, clock: clocks.SteppingClock | None) -> None:
        self.options = options
        self._cloud = None if directory else fake.FakeCloud()
        self._sleep = clock.sleep if clock else asyncio.sleep
        self.context = base.Context(
            name="sim",
            controller="acme-ci",
            directory=directory,
            now=clock.now if clock else time.time,
            sleep=self._sleep,
        )

    def make(self) -> base.Provisioner:
        return fake.Fake(self.context, self.options, self._cloud)

    async def settle(self, seconds: float) -> None:
        await self._sleep(seconds)


SLOW = {
    "regions": {"us-1": {"zones": ["a", "b"], "boot": [20, 60]}, "eu-1": {"price_factor": 1.1}},
    "create_latency": [0.5, 3],
    "call_latency": 0.2,
    "delete_latency": 5,
    "visibility_delay": [1, 30],
}


class TestFakeInMemory(testing.ProvisionerContract):
    @pytest.fixture
    def harness(self) -> FakeHarness:
        return FakeHarness(SLOW, "", clocks.SteppingClock(1_700_000_000.0))


class TestFakeOnDisk(testing.ProvisionerContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> FakeHarness:
        return FakeHarness({**SLOW, "log": "calls.jsonl"}, str(tmp_path), clocks.SteppingClock(1_700_000_000.0))


class TestFakeWithProcesses(testing.ProvisionerContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> FakeHarness:
        options = {"regions": {"us-1": {"boot": 0.1}}, "backing": "local", "grace": 2}
        return FakeHarness(options, str(tmp_path), None)
