"""Azure keeps the contract, over a simulated Resource Manager that is validated against the SDK's own types."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from provisioners import azure, base, testing
from tests.clouds import azure as clouds_azure
from tests.clouds import wire
from tests.support import clocks


class Told(azure.Azure):
    """Notes the deadline of each instance, which the daemon's boot script would tell it."""

    deadlines: dict[str, float]

    async def create(self, wanted: base.CreateRequest) -> base.InstanceView:
        self.deadlines[wanted.name] = wanted.deadline
        return await super().create(wanted)


class AzureHarness:
    """One simulated subscription."""

    shape = base.Shape(gpu="t4", gpu_count=1, markets=(base.Market.SPOT, base.Market.ON_DEMAND))
    misspelt = ("region", "regions")

    def __init__(self, directory: str, *, itself: bool = False, **more: Any) -> None:
        self._clock = clocks.SteppingClock()
        self._deadlines: dict[str, float] = {}
        self.arm = clouds_azure.Arm(self._clock.now, random.Random(7), boot=(3.0, 10.0))
        identity = {"identity": self.arm.add_identity()} if itself else {}
        self.options = clouds_azure.mount_options(self.arm, "eastus", "westus", **identity, **more)
        self.context = base.Context(
            name="az", controller="acme-ci", directory=directory, now=self._clock.now, sleep=self._clock.sleep
        )

    def make(self) -> base.Provisioner:
        made = Told(self.context, self.options, clouds_azure.mount(self.arm, self.context, self.options))
        made.deadlines = self._deadlines
        return made

    async def settle(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self._end_what_is_due()

    def _end_what_is_due(self) -> None:
        """Do what the agent on each machine does at its deadline, by the requests that its command makes."""
        for one in self.arm.instances:
            if one.state == "running" and self._deadlines[one.tags[base.TAG_INSTANCE]] <= self._clock.now():
                identities = (one.body.get("identity") or {}).get("userAssignedIdentities")
                if identities:
                    self._delete_itself(one, next(iter(identities)))

    def _delete_itself(self, one: clouds_azure.Instance, identity: str) -> None:
        guest = self.arm.guest(one.name)
        path = f"/metadata/identity/oauth2/token?api-version=2018-02-01&msi_res_id={quote(identity, safe='')}"
        told = guest(wire.Request("GET", f"http://169.254.169.254{path}", {"Metadata": "true"}))
        token = json.loads(told.body)["access_token"]
        url = f"https://management.azure.com{self.arm.id_of(one)}?api-version=2024-07-01&forceDeletion=true"
        assert guest(wire.Request("DELETE", url, {"Authorization": f"Bearer {token}"})).status == 202


class TestAzure(testing.ProvisionerContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> AzureHarness:
        return AzureHarness(str(tmp_path))


class TestAzureWithAnIdentityAndAnAddress(testing.ProvisionerContract):
    @pytest.fixture
    def harness(self) -> AzureHarness:
        return AzureHarness("", itself=True, public_address=True)
