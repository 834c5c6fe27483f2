"""Availability at Compute Engine: the machine types and accelerators that its zones have."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from provisioners import base, catalogue
from provisioners.cloud_common import offers
from provisioners.gcp import images, request, settings
from provisioners.gcp.availability import Availability, ZoneTypes


class Offers(offers.Offers[settings.PoolOptions]):
    """The offers of one project."""

    def __init__(
        self, provider: str, chosen: settings.Settings, catalog: catalogue.Catalog, available: Availability
    ) -> None:
        super().__init__(
            provider,
            chosen.project,
            regions=chosen.regions,
            markets=chosen.markets,
            catalog=catalog,
            overrides=chosen.overrides,
        )
        self._settings = chosen
        self._available = available

    async def stock(
        self,
        region: str,
        machines: Sequence[catalogue.Machine],
        markets: Sequence[base.Market],
        pool: settings.PoolOptions,
    ) -> offers.Stock:
        zones = self._settings.regions[region].zones or await self._available.zones(region)
        types = await asyncio.gather(*(self._available.types(zone) for zone in zones))
        return Stock(dict(zip(zones, types, strict=True)), pool.launch, self._available)

    def why_unsold(
        self, machines: Sequence[catalogue.Machine], regions: Sequence[str], pool: settings.PoolOptions
    ) -> str:
        zones = [zone for region in regions for zone in self._settings.regions[region].zones]
        known = [self._available.known_types(zone) for zone in zones]
        if not known or any(types is None for types in known):
            return ""
        names = [machine.name for machine in machines]
        if any(request.split(name)[0] in (types or ()) for name in names for types in known):
            return ""
        return (
            f"none of the zones {', '.join(zones)} has {' or '.join(names[:3])}: name other zones or write `zones: all`"
        )


class Stock(offers.Stock):
    """A region of Compute Engine.

    While its zones do not say what they have, the zones that the operator wrote down are taken at their word.
    """

    def __init__(self, types: Mapping[str, ZoneTypes], launch: settings.Launch, available: Availability) -> None:
        #: In the operator's order of zones.
        self._types = types
        self._launch = launch
        self._available = available

    @property
    def zones(self) -> Sequence[str]:
        return tuple(self._types)

    def sells(self, machine: catalogue.Machine, zone: str, market: base.Market) -> bool:
        return self._types[zone].has(machine)

    async def image(self, machine: catalogue.Machine) -> str:
        chosen = images.parse(self._launch.image) if self._launch.image else None
        return await self._available.image(chosen or images.default(gpu=machine.gpu_count > 0, arch=machine.arch))
