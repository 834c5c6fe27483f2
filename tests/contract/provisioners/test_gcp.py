"""Google Cloud keeps the contract, over a simulated Compute Engine that is held to the official schema."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from provisioners import base, gcp, offload, testing
from tests.clouds import gcp as clouds_gcp

OPTIONS = clouds_gcp.options(network_tags=["ci"], prices={"g2-standard-4": 0.7})


class Harness:
    """One simulated project."""

    shape = base.Shape(gpu="t4", gpu_count=1, markets=(base.Market.SPOT, base.Market.ON_DEMAND))
    options = OPTIONS
    misspelt = ("region", "regions")

    def __init__(self, directory: str) -> None:
        self.seconds = 1_780_000_000.0
        self.cloud = clouds_gcp.Gce(now=lambda: self.seconds, rng=random.Random(3))
        self.cloud.visibility_delay = 20.0
        self.context = base.Context(
            name="google",
            controller="acme-ci",
            directory=directory,
            now=lambda: self.seconds,
            sleep=self.sleep,
            offload=lambda width: offload.Offload(0),
        )

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def make(self) -> base.Provisioner:
        return gcp.Gcp(self.context, self.options, clouds_gcp.mount(self.cloud, self.options))

    async def settle(self, seconds: float) -> None:
        # A run time limit takes up to 30 seconds to take effect, and no instance runs for less than a minute.
        self.seconds += max(seconds, 2.0)


class TestGcp(testing.ProvisionerContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> Harness:
        return Harness(str(tmp_path))


class TestGcpWithoutDirectory(testing.ProvisionerContract):
    @pytest.fixture
    def harness(self) -> Harness:
        return Harness("")
