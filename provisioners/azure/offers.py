"""What can be bought: the catalogue in the configured regions, less what Azure says the subscription cannot have."""

from __future__ import annotations

from provisioners import base, catalogue
from provisioners.azure import availability, images, settings


async def find(
    shape: base.Shape,
    pool: settings.PoolSettings,
    *,
    provider: str,
    chosen: settings.Settings,
    book: catalogue.Book,
    available: availability.Availability,
) -> list[base.Offer]:
    """Return the offers, in the operator's order of regions, then by price."""
    found: list[base.Offer] = []
    fitting = book.fitting(shape)
    for region in chosen.regions.values() if fitting else ():
        sizes = await available.sizes(region.name)
        for machine in fitting:
            size = sizes.get(machine.name) if sizes is not None else None
            if sizes is not None and (size is None or size.restricted):
                continue
            image = pool.image or chosen.image or images.default(machine.gpu_count, machine.arch)
            concrete = await available.image(region.name, image)
            for market in shape.markets:
                price = book.price(machine.name, region=region.name, market=market, overrides=chosen.prices)
                if price is None or (market is base.Market.SPOT and size is not None and not size.spot):
                    continue
                for zone in region.offered_zones:
                    if size is not None and zone != settings.NO_ZONE and zone not in size.zones:
                        continue
                    found.append(
                        machine.offer(
                            price,
                            provider=provider,
                            account=chosen.subscription,
                            region=region.name,
                            zone=zone,
                            market=market,
                            image=concrete,
                        )
                    )
    return found
