"""The order of offers: one for the three clouds, so that one configuration means the same on each."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from provisioners import base
from tests.unit.provisioners.cloud_common.three_clouds import CLOUDS, Cloud

SPOT, ON_DEMAND = base.Market.SPOT, base.Market.ON_DEMAND
#: Market, and the places of region, machine type and zone in the options.
Row = tuple[str, int, int, int]


@pytest.fixture(params=CLOUDS, ids=lambda cloud: str(cloud.name))
def cloud(request: pytest.FixtureRequest) -> Cloud:
    found: Cloud = request.param
    return found


async def order(
    cloud: Cloud,
    *,
    prices: tuple[float, float] = (0.5, 0.9),
    named: tuple[int, ...] = (),
    markets: tuple[base.Market, ...] = (SPOT, ON_DEMAND),
    regional: Mapping[int, tuple[float, float]] | None = None,
) -> list[Row]:
    """Return the order of the two types at these prices; ``named`` are the types as the pool lists them."""
    written: dict[str, object] = dict(zip(cloud.types, prices, strict=True))
    regions = list(cloud.places)
    for region, own in (regional or {}).items():
        written[regions[region]] = dict(zip(cloud.types, own, strict=True))
    provider = await cloud.provider(prices=written)
    types = tuple(cloud.types[place] for place in named)
    offers = await provider.offers(base.Shape(gpu="t4", gpu_count=1, types=types, markets=markets))
    return [
        (
            offer.market.value,
            regions.index(offer.region),
            cloud.types.index(offer.machine_type),
            cloud.places[offer.region].index(offer.zone),
        )
        for offer in offers
        if offer.machine_type in cloud.types
    ]


async def test_markets_come_as_the_pool_lists_them(cloud: Cloud) -> None:
    assert [row[0] for row in await order(cloud)] == ["spot"] * 8 + ["on-demand"] * 8
    turned = await order(cloud, markets=(ON_DEMAND, SPOT))
    assert [row[0] for row in turned] == ["on-demand"] * 8 + ["spot"] * 8


async def test_within_a_market_regions_come_as_the_provider_lists_them_at_any_price(cloud: Cloud) -> None:
    rows = await order(cloud, markets=(ON_DEMAND,), regional={1: (0.1, 0.2)})
    assert [row[1] for row in rows] == [0] * 4 + [1] * 4


@pytest.mark.parametrize(
    ("prices", "named", "places"),
    [
        pytest.param((0.5, 0.9), (), [(0, 0), (0, 1), (1, 0), (1, 1)], id="the-cheaper-type-first"),
        pytest.param((0.9, 0.5), (), [(1, 0), (1, 1), (0, 0), (0, 1)], id="the-larger-type-where-it-is-cheaper"),
        pytest.param((0.5, 0.9), (1, 0), [(1, 0), (1, 1), (0, 0), (0, 1)], id="types-as-the-pool-names-them"),
        pytest.param((0.9, 0.5), (0, 1), [(0, 0), (0, 1), (1, 0), (1, 1)], id="as-named-at-any-price"),
        pytest.param((0.5, 0.5), (), [(0, 0), (1, 0), (0, 1), (1, 1)], id="at-one-price-by-zone"),
    ],
)
async def test_within_a_region_types_come_as_named_then_by_price_then_by_zone(
    cloud: Cloud, prices: tuple[float, float], named: tuple[int, ...], places: list[tuple[int, int]]
) -> None:
    rows = await order(cloud, prices=prices, named=named, markets=(ON_DEMAND,))
    assert [row[1:] for row in rows] == [(region, *place) for region in (0, 1) for place in places]
