"""Whose price counts, what an estimate is, and how operators set their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from provisioners import base, catalogue, options
from provisioners.catalogue import renewed

OD, SPOT = base.Market.ON_DEMAND, base.Market.SPOT


def overrides(catalog: catalogue.Catalog, prices: Any) -> catalogue.Overrides:
    reader = options.Reader({"prices": prices})
    found = catalog.read_overrides(reader, "prices")
    reader.done()
    assert reader.problems == []
    return found


@pytest.fixture
def catalog() -> catalogue.Catalog:
    return catalogue.load("aws")


def test_the_order_is_operator_then_renewed_then_shipped_then_estimate(catalog: catalogue.Catalog) -> None:
    def price(region: str, own: catalogue.Overrides | None = None) -> str:
        found = catalog.price("g4dn.xlarge", region=region, market=OD, overrides=own)
        assert found is not None
        return f"{found.dollars:.3f} {found}"

    assert price("us-east-1") == "0.526 catalogue 2026-07-20"
    assert price("ca-west-1").endswith(" estimate 2025-08")
    catalog.use_renewed(
        renewed.Renewed({"us-east-1": renewed.Region("2026-11-01", "list", {"g4dn.xlarge": (0.5, None)})})
    )
    assert price("us-east-1") == "0.500 price list 2026-11-01"
    own = overrides(catalog, {"g4dn.xlarge": 0.41, "us-east-1": {"g4dn.xlarge": 0.4}})
    assert price("us-east-1", own) == "0.400 operator"
    assert price("eu-west-1", own) == "0.410 operator"


def test_an_estimate_is_the_highest_price_known_anywhere(catalog: catalogue.Catalog) -> None:
    known = [catalog.price("g5.xlarge", region=region, market=OD) for region in catalog.available_in("g5.xlarge")]
    found = catalog.price("g5.xlarge", region="il-central-1", market=OD)
    assert found is not None and found.source == "estimate"
    assert found.dollars == max(price.dollars for price in known if price)


def test_a_spot_price_that_nobody_tells_is_the_on_demand_price(catalog: catalogue.Catalog) -> None:
    found = catalog.price("g4dn.xlarge", region="us-east-1", market=SPOT)
    assert found == catalogue.Price(0.526, "estimate (on-demand price)", "2026-07-20")
    own = overrides(catalog, {"g4dn.xlarge": 0.3})
    ceiling = catalog.price("g4dn.xlarge", region="us-east-1", market=SPOT, overrides=own)
    assert ceiling == catalogue.Price(0.3, "estimate (on-demand price)")


def test_a_spot_price_that_is_told_counts_without_the_operators_on_demand_price() -> None:
    catalog = catalogue.load("gcp")
    own = overrides(catalog, {"g2-standard-4": 9.0})
    found = catalog.price("g2-standard-4", region="us-central1", market=SPOT, overrides=own)
    assert found is not None and (round(found.dollars, 3), found.source) == (0.397, "catalogue")


def test_a_type_that_is_not_sold_on_demand_has_no_price_there() -> None:
    catalog = catalogue.load("gcp")
    assert catalog.price("a4-highgpu-8g", region="us-central1", market=OD) is None
    found = catalog.price("a4-highgpu-8g", region="us-east1", market=SPOT)
    assert found is not None and found.source == "estimate"
    assert catalog.price("no-such-type", region="us-central1", market=OD) is None


def test_an_operators_price_makes_an_unpriced_type_buyable() -> None:
    catalog = catalogue.load("gcp")
    shape = base.Shape(gpu="b200", gpu_count=8)
    assert catalog.why_none(shape, regions=("us-central1",)) != ""
    assert catalog.why_none(shape, regions=("us-central1",), overrides=overrides(catalog, {"a4-highgpu-8g": 70})) == ""


def test_what_a_region_does_not_sell_is_told_only_where_its_list_is_whole() -> None:
    gcp, aws = catalogue.load("gcp"), catalogue.load("aws")
    assert gcp.offered("g2-standard-4", "us-central1")
    assert not gcp.offered("g2-standard-4", "europe-north2")
    assert gcp.offered("a3-ultragpu-8g", "us-central1"), "sold there for a price that is not known"
    price = gcp.price("a3-ultragpu-8g", region="us-central1", market=OD)
    assert price is not None and price.source == "estimate"
    assert not aws.offered("p3.2xlarge", "us-gov-east-1")
    assert aws.offered("m7i.large", "eu-west-1")
    aws.use_renewed(renewed.Renewed({"eu-west-1": renewed.Region("2026-11-01", "list", {"g4dn.xlarge": (0.5, None)})}))
    assert not aws.offered("m7i.large", "eu-west-1")
    assert aws.offered("g4dn.2xlarge", "eu-west-1"), "what shipped data knows there stays"


def test_markets_and_regions_may_be_mixed_with_plain_numbers(catalog: catalogue.Catalog) -> None:
    own = overrides(
        catalog,
        {
            "g4dn.xlarge": {"on-demand": 0.4, "spot": 0.15},
            "g5.xlarge": 0.9,
            "eu-west-1": {"g4dn.xlarge": {"spot": 0.2}, "g5.xlarge": 1},
        },
    )
    assert own.dollars("g4dn.xlarge", region="us-east-1", market=SPOT) == 0.15
    assert own.dollars("g4dn.xlarge", region="eu-west-1", market=SPOT) == 0.2
    assert own.dollars("g4dn.xlarge", region="eu-west-1", market=OD) == 0.4
    assert own.dollars("g5.xlarge", region="eu-west-1", market=OD) == 1.0
    assert own.dollars("g5.xlarge", region="eu-west-1", market=SPOT) is None


@pytest.mark.parametrize(
    ("prices", "problem"),
    [
        pytest.param(
            {"g4nd.xlarge": 1},
            'prices.g4nd.xlarge: no such machine type or region; did you mean "g4dn.xlarge"?',
            id="unknown type",
        ),
        pytest.param(
            {"eu-wst-1": {"g4dn.xlarge": 1}},
            'prices.eu-wst-1: no such machine type or region; did you mean "eu-west-1"?',
            id="unknown region",
        ),
        pytest.param(
            {"eu-west-1": {"g4nd.xlarge": 1}},
            'prices.eu-west-1.g4nd.xlarge: no such machine type; did you mean "g4dn.xlarge"?',
            id="unknown type in a region",
        ),
        pytest.param({"g4dn.xlarge": -1}, "prices.g4dn.xlarge: -1 is not within 0 to", id="negative"),
        pytest.param({"g4dn.xlarge": "cheap"}, 'prices.g4dn.xlarge: expected a number, not "cheap"', id="text"),
        pytest.param({"g4dn.xlarge": True}, "prices.g4dn.xlarge: expected a number", id="truth"),
        pytest.param({"g4dn.xlarge": None}, "prices.g4dn.xlarge: expected a number", id="nothing"),
        pytest.param(
            {"g4dn.xlarge": {"spto": 1}},
            'prices.g4dn.xlarge.spto: no such key; did you mean "spot"?',
            id="unknown market",
        ),
        pytest.param({"g4dn.xlarge": {"spot": "x"}}, "prices.g4dn.xlarge.spot: expected a number", id="spot as text"),
        pytest.param({"eu-west-1": 3}, "prices.eu-west-1: expected a map", id="a number for a region"),
        pytest.param({"eu-west-1": None}, "prices.eu-west-1: expected a map", id="nothing for a region"),
        pytest.param({7: 1}, "prices.7: expected the name of a machine type or a region", id="a number for a name"),
        pytest.param([1], "prices: expected a map, not a list", id="a list"),
    ],
)
def test_a_bad_price_is_complained_about_with_its_key(catalog: catalogue.Catalog, prices: Any, problem: str) -> None:
    reader = options.Reader({"prices": prices})
    catalog.read_overrides(reader, "prices")
    reader.done()
    assert len(reader.problems) == 1 and problem in reader.problems[0]


def test_no_prices_are_no_problem(catalog: catalogue.Catalog) -> None:
    assert overrides(catalog, None).prices == {}


def test_books_of_one_cloud_do_not_share_renewed_prices() -> None:
    one, other = catalogue.load("aws"), catalogue.load("aws")
    one.use_renewed(renewed.Renewed({"us-east-1": renewed.Region("2026-11-01", "list", {"g4dn.xlarge": (0.1, None)})}))
    price = other.price("g4dn.xlarge", region="us-east-1", market=OD)
    assert price is not None and price.dollars == 0.526


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("", "renewed prices are not used", id="empty"),
        pytest.param("[]", "renewed prices are not used", id="a list"),
        pytest.param('{"format": 2, "cloud": "aws", "regions": {}}', "format 2", id="of a later version"),
        pytest.param('{"format": 1, "cloud": "gcp", "regions": {}}', "written for gcp", id="of another cloud"),
        pytest.param(
            '{"format": 1, "cloud": "aws", "regions": {"us-east-1": {"as_of": "x", "source": "y",'
            ' "prices": {"g4dn.xlarge": [-1, null]}}}}',
            "-1 is not a price",
            id="a negative price",
        ),
        pytest.param(
            '{"format": 1, "cloud": "aws", "regions": {"us-east-1": {"prices": {"g4dn.xlarge": 1}}}}',
            "renewed prices are not used",
            id="without a day",
        ),
    ],
)
def test_a_damaged_file_of_renewed_prices_is_told_and_left(
    catalog: catalogue.Catalog, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "prices.json").write_text(text)
    assert said in catalog.load_renewed(str(tmp_path))
    price = catalog.price("g4dn.xlarge", region="us-east-1", market=OD)
    assert price is not None and price.source == "catalogue"


def test_no_directory_and_no_file_are_no_problem(catalog: catalogue.Catalog, tmp_path: Path) -> None:
    assert catalog.load_renewed("") == ""
    assert catalog.load_renewed(str(tmp_path / "missing")) == ""
