"""A provider over a simulated Azure on a clock by hand, for tests."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from provisioners import azure, base
from tests.clouds.azure.cloud import Arm
from tests.clouds.azure.mount import mount
from tests.clouds.azure.mount import options as mount_options
from tests.support import clocks

T4 = "Standard_NC4as_T4_v3"
SPOT, ON_DEMAND = base.Market.SPOT, base.Market.ON_DEMAND
SHAPE = base.Shape(gpu="t4", gpu_count=1, markets=(SPOT, ON_DEMAND))


class Lab:
    """One subscription and a provider that buys in it."""

    def __init__(self, *regions: str, directory: str = "", seed: int = 7, **options: Any) -> None:
        self.clock = clocks.SteppingClock()
        self.arm = Arm(self.clock.now, random.Random(seed))
        self.context = base.Context(
            name="az", controller="acme-ci", directory=directory, now=self.clock.now, sleep=self.clock.sleep
        )
        self.options: Mapping[str, Any] = mount_options(self.arm, *(regions or ("eastus", "westus")), **options)
        self.provisioner = self.make()
        self._number = 0

    def make(self, **options: Any) -> azure.Azure:
        """Another provider over the same subscription, as after a restart, with other options where given."""
        given = {**self.options, **options}
        return azure.Azure(self.context, given, mount(self.arm, self.context, given))

    def request(
        self,
        *,
        key: str = "",
        region: str = "eastus",
        zone: str = "1",
        machine_type: str = T4,
        market: base.Market = ON_DEMAND,
        tags: Mapping[str, str] | None = None,
        **more: Any,
    ) -> base.CreateRequest:
        """A request of an attempt of its own."""
        self._number += 1
        name, key = str(more.pop("name", f"i-{self._number}")), key or f"attempt-{self._number}"
        offer = base.Offer("az", self.arm.subscription, region, zone, machine_type, market, 0.5, gpus=1, cpus=4)
        fields: dict[str, Any] = {
            "user_data": "#!/bin/sh\nexec sleep 600\n",
            "deadline": self.clock.now() + 900,
            "tags": {
                base.TAG_CONTROLLER: "acme-ci",
                base.TAG_INSTANCE: name,
                base.TAG_POOL: "gpu-t4",
                base.TAG_ATTEMPT: key,
                **(tags or {}),
            },
        }
        return base.CreateRequest(key=key, name=name, offer=offer, **{**fields, **more})

    def puts(self) -> list[str]:
        """Return how each PUT of a machine was answered."""
        return [told for operation, told in self.arm.calls if operation == "create"]
