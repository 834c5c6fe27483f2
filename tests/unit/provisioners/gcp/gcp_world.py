"""A provisioner over a simulated Compute Engine in virtual time."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

from provisioners import base, gcp, offload
from provisioners.base import Market
from provisioners.gcp import availability
from tests.clouds import gcp as clouds_gcp

#: Half past a minute, so that a pause to the next one is neither nothing nor all of it.
START = 1_780_000_030.0
#: A T4 by market, and the file of a provider that knows what the usual zones have: it is large to read, and most tests
#: are not about it.
_OFFERS: dict[Market, base.Offer] = {}
_facts: list[str] = []


class World:
    """One controller in one simulated project."""

    def __init__(self, directory: str = "", **options: Any) -> None:
        self.seconds = START
        self.cloud = clouds_gcp.Gce(now=lambda: self.seconds, rng=random.Random(11))
        self.options = clouds_gcp.options(**options)
        self.secrets: dict[str, str] = {}
        self.context = base.Context(
            name="google",
            controller="acme-ci",
            directory=directory,
            now=lambda: self.seconds,
            sleep=self.sleep,
            offload=lambda width: offload.Offload(0),
            secret=lambda reference: self.secrets[reference],
        )
        self.provisioner = self.restarted()
        self._numbers = 0

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.seconds += seconds

    def restarted(self) -> gcp.Gcp:
        """A provisioner as after a restart of the daemon."""
        self.clients = clouds_gcp.mount(self.cloud, self.options, secret=self.context.secret)
        self.provisioner = gcp.Gcp(self.context, self.options, self.clients)
        return self.provisioner

    @property
    def sent(self) -> list[Any]:
        """Every request that left."""
        adapter = self.clients._adapter
        assert isinstance(adapter, clouds_gcp.Adapter)
        return adapter.sent

    def calls(self, method: str) -> int:
        """How many calls of a method the cloud saw."""
        return sum(one[0] == f"compute.{method}" for one in self.cloud.log)

    async def offer(self, shape: base.Shape | None = None, **options: Any) -> base.Offer:
        wanted = shape or base.Shape("t4", 1, types=("n1-standard-4",))
        return (await self.provisioner.offers(wanted, options))[0]

    async def usual(self, market: Market = Market.ON_DEMAND) -> base.Offer:
        """A T4 in us-central1-a, found out once for all worlds."""
        if market not in _OFFERS:
            shape = base.Shape("t4", 1, types=("n1-standard-4",), markets=(market,))
            _OFFERS[market] = (await World().provisioner.offers(shape))[0]
        return _OFFERS[market]

    async def request(self, offer: base.Offer | None = None, **fields: Any) -> base.CreateRequest:
        self._numbers += 1
        name = fields.pop("name", f"ci-{self._numbers}")
        tags = {
            base.TAG_CONTROLLER: "acme-ci",
            base.TAG_INSTANCE: name,
            base.TAG_POOL: "gpu",
            base.TAG_ATTEMPT: f"{name}-a{self._numbers}",
            "runnerd-repo": "Acme/Research",
        }
        given = {
            "key": f"key-{self._numbers}",
            "name": name,
            "offer": offer or await self.usual(),
            "user_data": "#!/bin/sh\nexec true\n",
            "tags": tags,
            "deadline": self.seconds + 7200.0,
            "lifetime": 7200.0,
            **fields,
        }
        return base.CreateRequest(**given)

    async def created(self, market: Market = Market.ON_DEMAND) -> base.InstanceView:
        """A running instance."""
        view = await self.provisioner.create(await self.request(await self.usual(market)))
        self.seconds += 20
        self.cloud.tick()
        return view


async def know_zones(directory: Path) -> None:
    """Leave a provider there the machine types and accelerators of the usual zones, as from an earlier start."""
    kept = directory / availability.FILE
    if not _facts:
        await World(str(directory)).offer()
        document = json.loads(kept.read_text())
        known = {key: one for key, one in document["answers"].items() if key.startswith(("types:", "accel"))}
        _facts.append(json.dumps({**document, "answers": known}))
    kept.write_text(_facts[0])
