"""The provider's `markets` and the pool's `regions`: the same on each cloud."""

from __future__ import annotations

import pytest

from provisioners import base
from tests.support.tree import ROOT
from tests.unit.provisioners.cloud_common.three_clouds import CLOUDS, Cloud

BOTH = (base.Market.SPOT, base.Market.ON_DEMAND)


@pytest.fixture(params=CLOUDS, ids=lambda cloud: str(cloud.name))
def cloud(request: pytest.FixtureRequest) -> Cloud:
    found: Cloud = request.param
    return found


def shape(cloud: Cloud, *markets: base.Market) -> base.Shape:
    return base.Shape(gpu="t4", gpu_count=1, types=cloud.types, markets=markets or BOTH)


@pytest.mark.parametrize("market", BOTH)
async def test_a_provider_is_used_in_its_markets_only(cloud: Cloud, market: base.Market) -> None:
    provider = await cloud.provider(markets=[market.value])
    assert {offer.market for offer in await provider.offers(shape(cloud))} == {market}


async def test_without_markets_a_provider_is_used_in_both(cloud: Cloud) -> None:
    provider = await cloud.provider()
    assert {offer.market for offer in await provider.offers(shape(cloud))} == set(BOTH)


async def test_a_pool_of_another_market_gets_nothing_and_is_told_why(cloud: Cloud) -> None:
    provider = await cloud.provider(markets=["spot"])
    wanted = shape(cloud, base.Market.ON_DEMAND)
    assert await provider.offers(wanted) == []
    assert provider.why_none(wanted) == "the pool buys on-demand, the provider is set to spot"


async def test_a_pool_keeps_to_its_regions(cloud: Cloud) -> None:
    first, second = cloud.places
    provider = await cloud.provider()
    assert {offer.region for offer in await provider.offers(shape(cloud))} == {first, second}
    assert {offer.region for offer in await provider.offers(shape(cloud), {"regions": [second]})} == {second}


async def test_a_pool_whose_regions_are_not_configured_gets_nothing_and_is_told_why(cloud: Cloud) -> None:
    other = min(cloud.book.regions - set(cloud.places))
    provider = await cloud.provider()
    assert await provider.offers(shape(cloud), {"regions": [other]}) == []
    assert (
        provider.why_none(shape(cloud), {"regions": [other]})
        == f"the pool wants {other}; configured: {', '.join(cloud.places)}"
    )


@pytest.mark.parametrize(
    ("pool", "options", "problem"),
    [
        pytest.param(False, {"markets": ["spots"]}, 'markets: "spots" is not known; did you mean "spot"?', id="market"),
        pytest.param(True, {"regions": ["nowhere-1"]}, 'regions: no such region "nowhere-1"', id="region"),
    ],
)
def test_a_name_that_does_not_exist_is_refused(
    cloud: Cloud, pool: bool, options: dict[str, list[str]], problem: str
) -> None:
    (found,) = cloud.problems(pool, **options)
    assert found.startswith(problem)


async def test_a_pool_with_regions_can_be_launched(cloud: Cloud) -> None:
    region = next(iter(cloud.places))
    options = {"regions": [region]}
    provider = await cloud.provider()
    (offer, *_) = await provider.offers(shape(cloud), options)
    tags = {base.TAG_CONTROLLER: "acme-ci", base.TAG_INSTANCE: "ci-1", base.TAG_ATTEMPT: "attempt-1"}
    request = base.CreateRequest("attempt-1", "ci-1", offer, "#!/bin/sh\n", tags, 2e9, lifetime=900.0, options=options)
    assert (await provider.create(request)).scope == offer.scope


def test_both_options_are_on_the_page_of_the_cloud(cloud: Cloud) -> None:
    text = (ROOT / "docs" / f"{cloud.name}.md").read_text()
    assert "| `markets` | both |" in text
    assert "only these of the provider's" in text
