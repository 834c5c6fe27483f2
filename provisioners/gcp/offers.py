"""What could be bought for a shape: machine types of the catalogue times zones times markets."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from provisioners import base, catalogue
from provisioners.gcp import images, request, settings
from provisioners.gcp.availability import Availability


async def find(
    shape: base.Shape,
    launch: settings.Launch,
    *,
    provider: str,
    chosen: settings.Settings,
    book: catalogue.Book,
    available: Availability,
) -> list[base.Offer]:
    """By market as asked, region as written, machine type (as the pool names them, else cheapest first), zone.

    A zone that is known not to have a type is left out; while nobody answers, the zones that the operator wrote down
    are taken at their word.
    """
    fitting = order(book.fitting(shape), shape)
    if not fitting:
        return []
    places = [(region, await zones(region, available)) for region in chosen.regions.values()]
    asked = list(dict.fromkeys(zone for _, names in places for zone in names))
    sold = dict(zip(asked, await asyncio.gather(*(has(zone, available) for zone in asked)), strict=True))
    links: dict[images.Reference, str] = {}
    found: list[base.Offer] = []
    for market in shape.markets:
        for region, names in places:
            for machine in fitting:
                price = book.price(machine.name, region=region.name, market=market, overrides=chosen.overrides)
                if price is None:
                    continue
                reference = image_of(launch, machine)
                if reference not in links:
                    links[reference] = await available.image(reference)
                for zone in names:
                    if not sells(sold[zone], machine):
                        continue
                    found.append(
                        machine.offer(
                            price,
                            provider=provider,
                            account=chosen.project,
                            region=region.name,
                            zone=zone,
                            market=market,
                            image=links[reference],
                        )
                    )
    return found


def order(fitting: Sequence[catalogue.Machine], shape: base.Shape) -> list[catalogue.Machine]:
    """Machines in the order in which the pool names their types."""
    places = {name: index for index, name in enumerate(shape.types)}
    return sorted(fitting, key=lambda one: places.get(one.name, places.get(one.type_name, len(places))))


def image_of(launch: settings.Launch, machine: catalogue.Machine) -> images.Reference:
    """What a machine boots from."""
    chosen = images.parse(launch.image) if launch.image else None
    return chosen or images.default(gpu=machine.gpu_count > 0, arch=machine.arch)


async def zones(region: settings.Region, available: Availability) -> tuple[str, ...]:
    """The zones to buy in."""
    return region.zones or await available.zones(region.name)


async def has(zone: str, available: Availability) -> tuple[frozenset[str] | None, frozenset[str] | None]:
    """The machine types and accelerators of a zone; None where nobody tells now."""
    try:
        return await available.machine_types(zone), await available.accelerators(zone)
    except base.ProvisionError as error:
        if error.kind in (base.Kind.AUTH, base.Kind.CONFIG):
            raise
        return None, None


def sells(sold: tuple[frozenset[str] | None, frozenset[str] | None], machine: catalogue.Machine) -> bool:
    """True unless the zone is known not to have it."""
    types, accelerators = sold
    if types is not None and machine.type_name not in types:
        return False
    return not machine.accelerator or accelerators is None or machine.accelerator in accelerators


def why_none(shape: base.Shape, *, chosen: settings.Settings, book: catalogue.Book, available: Availability) -> str:
    """Plain words on why there is no offer; empty where there should be some."""
    told = book.why_none(shape, regions=tuple(chosen.regions), overrides=chosen.overrides)
    if told:
        return told
    named: Mapping[str, frozenset[str] | None] = {
        zone: available.known_types(zone) for region in chosen.regions.values() for zone in region.zones
    }
    if not named or any(types is None for types in named.values()):
        return ""
    fitting = [one.name for one in book.fitting(shape)]
    if any(request.split(name)[0] in (types or ()) for name in fitting for types in named.values()):
        return ""
    return (
        f"none of the zones {', '.join(named)} has {' or '.join(fitting[:3])}: name other zones or write `zones: all`"
    )
