"""What can be bought: the catalogue in the configured regions, less what Azure says the subscription cannot have."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from provisioners import base, catalogue
from provisioners.azure import client, errors, images, memory, settings

log = logging.getLogger(__name__)

#: Seconds for which a region's sizes are believed, and until they are asked for again after a failure.
_FRESH, _AGAIN = 3600.0, 300.0


@dataclass(frozen=True, slots=True)
class Sold:
    """One size in one region, as the subscription may have it."""

    #: Empty: the size is sold without zones only.
    zones: frozenset[str]
    #: Why not at all; empty when it is sold.
    refused: str = ""
    spot: bool = True


class Shelf:
    """The sizes of each region, asked for at most once an hour."""

    def __init__(self, calls: client.Clients, chosen: settings.Settings, context: base.Context) -> None:
        self._calls = calls
        self._chosen = chosen
        self._context = context
        self._sold: dict[str, tuple[float, Mapping[str, Sold]]] = {}
        self._tried: dict[str, float] = {}
        #: Several pools ask at once, and one answer is for all of them.
        self._turn = asyncio.Lock()

    async def sold(self, region: str) -> Mapping[str, Sold] | None:
        """By size; None when Azure does not tell, and then nothing is ruled out."""
        async with self._turn:
            return await self._ask(region)

    async def _ask(self, region: str) -> Mapping[str, Sold] | None:
        at, found = self._sold.get(region, (0.0, None))
        now = self._context.now()
        if found is not None and now - at < _FRESH:
            return found
        if now - self._tried.get(region, -_AGAIN) < _AGAIN:
            return found
        self._tried[region] = now
        try:
            listed = await self._calls.skus(self._chosen.subscription, region)
            fresh = {str(one["name"]): read(one, region) for one in listed}
        except errors.HEARD as error:
            log.warning("%s: the sizes of %s are not told: %s", self._context.name, region, error)
            return found
        self._sold[region] = (now, fresh)
        return fresh


def read(sku: Mapping[str, Any], region: str) -> Sold:
    """One entry of the list of sizes."""
    zones: set[str] = set()
    for info in sku.get("locationInfo") or ():
        if str(info.get("location", "")).lower() == region:
            zones |= {str(zone) for zone in info.get("zones") or ()}
    refused = ""
    for one in sku.get("restrictions") or ():
        info = one.get("restrictionInfo") or {}
        if one.get("type") == "Location":
            refused = str(one.get("reasonCode") or "restricted")
        elif one.get("type") == "Zone":
            zones -= {str(zone) for zone in info.get("zones") or ()}
    able = {str(one.get("name")): str(one.get("value")) for one in sku.get("capabilities") or ()}
    return Sold(frozenset(zones), refused, spot=able.get("LowPriorityCapable", "True") == "True")


def offers(
    shape: base.Shape,
    *,
    provider: str,
    chosen: settings.Settings,
    book: catalogue.Book,
    sold: Mapping[str, Mapping[str, Sold] | None],
    known: memory.Memory,
    image: str = "",
) -> list[base.Offer]:
    """In the operator's order of regions, then by price.

    ``sold`` is by region, None where it is not told; ``image`` is the pool's, empty for the provider's.
    """
    found: list[base.Offer] = []
    for region in chosen.regions.values():
        for machine in book.fitting(shape):
            there = sold.get(region.name)
            entry = there.get(machine.name) if there is not None else None
            if there is not None and (entry is None or entry.refused):
                continue
            for market in shape.markets:
                price = book.price(machine.name, region=region.name, market=market, overrides=chosen.prices)
                if price is None or (market is base.Market.SPOT and entry is not None and not entry.spot):
                    continue
                boots = image or chosen.image or images.default(machine.gpu_count, machine.arch)
                for zone in region.offered_zones:
                    if entry is not None and zone != settings.NO_ZONE and zone not in entry.zones:
                        continue
                    found.append(
                        machine.offer(
                            price,
                            provider=provider,
                            account=chosen.subscription,
                            region=region.name,
                            zone=zone,
                            market=market,
                            image=concrete(boots, known.version(region.name, boots)[0]),
                        )
                    )
    return found


def concrete(image: str, version: str) -> str:
    """An image with the version that was looked up for it."""
    urn = images.urn(image)
    if urn is None or not version or not images.floating(image):
        return image
    return f"{urn.publisher}:{urn.offer}:{urn.sku}:{version}"
