"""The provisioners of the three clouds, each over its simulated cloud with the same two regions of two zones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from provisioners import base, catalogue
from tests.clouds.azure import lab
from tests.unit.provisioners.aws import aws_world
from tests.unit.provisioners.gcp import gcp_world


@dataclass(frozen=True)
class Cloud:
    """A cloud as a test sees it; nothing is started before a provider is made."""

    name: str
    #: Region -> its zones as offers name them, in the order in which the options name them: neither by name nor price.
    places: Mapping[str, tuple[str, str]]
    #: Two machine types with one T4, the cheaper first.
    types: tuple[str, str]
    make: Callable[[Mapping[str, tuple[str, str]], dict[str, Any]], Any]

    async def provider(self, **options: Any) -> Any:
        """Return a started provider with these options beside its regions."""
        made = self.make(self.places, options)
        await made.start()
        return made

    def problems(self, pool: bool, **options: Any) -> list[str]:
        """Return the problems of a pool's options, or of a provider's."""
        made = self.make(self.places, {})
        return type(made).validate_pool(options) if pool else type(made).validate({**made.written, **options})

    @property
    def book(self) -> catalogue.Catalog:
        return catalogue.load(self.name)


def _aws(places: Mapping[str, tuple[str, str]], options: dict[str, Any]) -> Any:
    from provisioners import aws
    from tests.clouds import aws as clouds_aws

    world = aws_world.World()
    regions = {region: {"subnets": [world.cloud.subnet(zone) for zone in zones]} for region, zones in places.items()}
    written = {"regions": regions, **options}
    made = aws.Aws(world.context(), written, clouds_aws.mount(world.cloud.handle))
    return _with(made, written)


def _gcp(places: Mapping[str, tuple[str, str]], options: dict[str, Any]) -> Any:
    regions = {region: {"zones": list(zones)} for region, zones in places.items()}
    world = gcp_world.World(regions=regions, **options)
    return _with(world.provisioner, world.options)


def _azure(places: Mapping[str, tuple[str, str]], options: dict[str, Any]) -> Any:
    one = lab.Lab(*places)
    written: dict[str, Any] = {**one.options, **options}
    written["regions"] = {
        region: {**written["regions"][region], "zones": list(zones)} for region, zones in places.items()
    }
    return _with(one.make(**written), written)


def _with(provisioner: base.Provisioner, written: dict[str, Any]) -> Any:
    """Return the provisioner with the options that it was made with."""
    provisioner.written = written  # type: ignore[attr-defined]
    return provisioner


CLOUDS = (
    Cloud(
        "aws",
        {"us-west-2": ("us-west-2b", "us-west-2a"), "us-east-1": ("us-east-1b", "us-east-1a")},
        ("g4dn.xlarge", "g4dn.2xlarge"),
        _aws,
    ),
    Cloud(
        "gcp",
        {"us-central1": ("us-central1-b", "us-central1-a"), "europe-west4": ("europe-west4-c", "europe-west4-b")},
        ("n1-standard-4+nvidia-tesla-t4x1", "n1-standard-8+nvidia-tesla-t4x1"),
        _gcp,
    ),
    Cloud(
        "azure",
        {"westeurope": ("2", "1"), "eastus": ("2", "1")},
        ("Standard_NC4as_T4_v3", "Standard_NC8as_T4_v3"),
        _azure,
    ),
)
