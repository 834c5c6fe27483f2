"""A provider of Amazon EC2 over a simulated account, on a clock that passes only when somebody sleeps."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from provisioners import aws, base
from provisioners.offload import Offload
from tests.clouds import aws as clouds_aws
from tests.support import clocks

T4 = base.Shape(gpu="t4", gpu_count=1, markets=(base.Market.SPOT, base.Market.ON_DEMAND))
#: A day of the catalog's prices.
START = 1_795_600_000.0
SCRIPT = "#!/bin/sh\nexec sleep 600\n"


class World:
    """An account and who uses it."""

    def __init__(self, directory: str = "", **cloud: Any) -> None:
        self.clock = clocks.SteppingClock(START)
        self.cloud = clouds_aws.Ec2(self.clock.now, random.Random(11), **cloud)
        self.directory = directory
        self.secrets: dict[str, str] = {}
        self.options: dict[str, Any] = {
            "regions": {
                "us-east-1": {"subnets": [self.cloud.subnet("us-east-1a"), self.cloud.subnet("us-east-1b")]},
                "us-west-2": {"subnets": [self.cloud.subnet("us-west-2a")]},
            }
        }

    def context(self, name: str = "aws") -> base.Context:
        return base.Context(
            name=name,
            controller="acme-ci",
            directory=self.directory,
            now=self.clock.now,
            sleep=self.clock.sleep,
            offload=lambda width: Offload(0),
            secret=self.secrets.__getitem__,
        )

    async def provider(self, name: str = "aws", **options: Any) -> aws.Aws:
        """A started provider; several share the account."""
        made = aws.Aws(self.context(name), {**self.options, **options}, clouds_aws.mount(self.cloud.handle))
        await made.start()
        return made

    def settle(self, seconds: float = 200.0) -> None:
        self.clock.time += seconds
        self.cloud.tick()

    def fail(self, **fault: Any) -> clouds_aws.Fault:
        made = clouds_aws.Fault(**fault)
        self.cloud.faults.append(made)
        return made

    def vpc(self, region: str) -> str:
        return str(self.cloud.account.backend(region).get_default_vpc().id)

    def sent(self, operation: str) -> int:
        """How many calls of an operation arrived."""
        return sum(one.operation == operation for one in self.cloud.calls)


async def request(provider: aws.Aws, key: str = "attempt-1", **changes: Any) -> base.CreateRequest:
    """A request for the first offer, or as changed; ``shape`` and ``nth`` choose the offer."""
    shape, nth = changes.pop("shape", T4), changes.pop("nth", 0)
    offer = (await _offers(provider, shape, changes.get("options", {})))[nth]
    offer = replace(offer, **changes.pop("offer", {}))
    tags = {
        base.TAG_CONTROLLER: "acme-ci",
        base.TAG_INSTANCE: f"i-{key}",
        base.TAG_POOL: "gpu-t4",
        base.TAG_ATTEMPT: key,
    }
    given = {"user_data": SCRIPT, "tags": tags, "deadline": 2e9, **changes}
    return base.CreateRequest(key=key, name=f"i-{key}", offer=offer, **given)


#: What a provider with the usual options sells, and what it offers, by shape.
_usual: dict[base.Shape, tuple[Any, list[base.Offer]]] = {}


async def _offers(provider: aws.Aws, shape: base.Shape, options: dict[str, Any]) -> list[base.Offer]:
    """A provider's offers.  The usual ones are found out once, in a world apart: most tests are not about them."""
    if shape not in _usual:
        apart = World()
        other = await apart.provider()
        _usual[shape] = _sale(other), await other.offers(shape)
        apart.cloud.close()
    sale, offers = _usual[shape]
    alike = _sale(provider) == sale and not {"image", "regions", "subnets"} & options.keys()
    return offers if alike else await provider.offers(shape, options)


def _sale(provider: aws.Aws) -> Any:
    """All of a provider's options that its offers depend on."""
    chosen = provider._settings
    regions = [(one.name, one.subnets, one.launch.image) for one in chosen.regions.values()]
    return provider._context.name, chosen.account, chosen.markets, chosen.prices, regions
