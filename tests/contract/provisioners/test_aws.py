"""Amazon EC2 keeps the contract: the real SDK over a simulated cloud, in process."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from provisioners import aws, base, testing
from provisioners.offload import Offload
from tests.clouds import aws as clouds_aws
from tests.support import clocks


class AwsHarness:
    """One simulated account with two regions."""

    shape = base.Shape(gpu="t4", gpu_count=1, markets=(base.Market.SPOT, base.Market.ON_DEMAND))
    misspelt = ("region", "regions")

    def __init__(self, directory: str) -> None:
        self.clock = clocks.SteppingClock(1_795_600_000.0)
        self.cloud = clouds_aws.Ec2(self.clock.now, random.Random(7))
        self.guest = clouds_aws.Guest(self.cloud)
        self.options: dict[str, Any] = {
            "regions": {
                "us-east-1": {"subnets": [self.cloud.subnet("us-east-1a"), self.cloud.subnet("us-east-1b")]},
                "us-west-2": {"subnets": [self.cloud.subnet("us-west-2a")]},
            }
        }
        self.context = base.Context(
            name="aws",
            controller="acme-ci",
            directory=directory,
            now=self.clock.now,
            sleep=self.clock.sleep,
            offload=lambda width: Offload(0),
        )

    def make(self) -> aws.Aws:
        return aws.Aws(self.context, self.options, clouds_aws.mount(self.cloud.handle))

    async def settle(self, seconds: float) -> None:
        await self.clock.sleep(seconds)
        self.guest.watch()


class TestAws(testing.ProvisionerContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> Iterator[AwsHarness]:
        made = AwsHarness(str(tmp_path))
        yield made
        made.cloud.close()


class TestAwsWithoutDirectory(testing.ProvisionerContract):
    @pytest.fixture
    def harness(self) -> Iterator[AwsHarness]:
        made = AwsHarness("")
        yield made
        made.cloud.close()
