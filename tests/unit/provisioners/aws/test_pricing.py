"""The Price List API's answers are read for what they are, page by page, and never half believed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from provisioners import base, catalogue
from provisioners.aws import pricing

NOW = 1_795_651_200.0  # 2026-11-26
OD = base.Market.ON_DEMAND


def item(
    machine_type: str,
    dollars: str | None,
    *,
    unit: str = "Hrs",
    currency: str = "USD",
    term: str = "OnDemand",
    **attributes: str,
) -> str:
    """One product as the service gives it: a JSON text."""
    told = {
        "regionCode": "eu-west-1",
        "instanceType": machine_type,
        "operatingSystem": "Linux",
        "tenancy": "Shared",
        "preInstalledSw": "NA",
        "capacitystatus": "Used",
        "location": "EU (Ireland)",
        "vcpu": "4",
    }
    terms = {
        "ABC.JRTCKXETXF": {
            "offerTermCode": "JRTCKXETXF",
            "sku": "ABC",
            "effectiveDate": "2026-11-01T00:00:00Z",
            "priceDimensions": {
                "ABC.JRTCKXETXF.6YS6EN2CT7": {
                    "unit": unit,
                    "endRange": "Inf",
                    "beginRange": "0",
                    "description": f"${dollars} per On Demand Linux {machine_type} Instance Hour",
                    "appliesTo": [],
                    "pricePerUnit": {} if dollars is None else {currency: dollars},
                }
            },
            "termAttributes": {},
        }
    }
    return json.dumps(
        {
            "product": {"productFamily": "Compute Instance", "attributes": told | attributes, "sku": "ABC"},
            "serviceCode": "AmazonEC2",
            "terms": {term: terms},
            "version": "20261101000000",
            "publicationDate": "2026-11-01T00:00:00Z",
        }
    )


#: Enough of a region for an answer that is whole.
REGION = [item(f"g4dn.{size}", price) for size, price in (("xlarge", "0.5870000000"), ("2xlarge", "0.8380000000"))]
REGION += [item(name, "1.0000000000") for name in ("m7i.large", "m7g.large", "c7i.large", "g6.xlarge", "t3.large")]
REGION += [item(f"g5.{size}", "2.0000000000") for size in ("xlarge", "2xlarge", "4xlarge", "8xlarge")]
REGION += [item(f"g4dn.{size}", "4.0000000000") for size in ("4xlarge", "8xlarge", "12xlarge")]


class Pages:
    """Answers of ``get_products``, region by region, and what was asked."""

    def __init__(self, by_region: Mapping[str, list[Any]]) -> None:
        self.by_region = {region: list(pages) for region, pages in by_region.items()}
        self.asked: list[dict[str, Any]] = []

    async def __call__(self, request: dict[str, Any]) -> Mapping[str, Any]:
        self.asked.append(request)
        region = next(one["Value"] for one in request["Filters"] if one["Field"] == "regionCode")
        answer = self.by_region[region].pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


def refresh(
    pages: Pages, directory: Path | str, book: catalogue.Catalog | None = None, *regions: str
) -> tuple[catalogue.Catalog, list[base.Finding]]:
    book = book or catalogue.load("aws")
    findings = asyncio.run(
        pricing.refresh(
            book,
            regions=regions or list(pages.by_region),
            directory=str(directory),
            now=NOW,
            place="providers.aws",
            get_products=pages,
        )
    )
    return book, findings


def dollars(book: catalogue.Catalog, name: str, region: str = "eu-west-1") -> str:
    found = book.price(name, region=region, market=OD)
    assert found is not None
    return f"{found.dollars:g} {found}"


def test_all_pages_of_a_region_are_read_and_kept(tmp_path: Path) -> None:
    pages = Pages({"eu-west-1": [{"PriceList": REGION[:5], "NextToken": "more"}, {"PriceList": REGION[5:]}]})
    book, findings = refresh(pages, tmp_path)
    assert [finding.level for finding in findings] == [base.Level.OK]
    assert findings[0].place == "providers.aws"
    assert f"eu-west-1: {len(REGION)} prices on demand of 2026-11-26" in findings[0].message
    assert [request.get("NextToken") for request in pages.asked] == [None, "more"]
    assert dollars(book, "g4dn.xlarge") == "0.587 price list 2026-11-26"
    later = catalogue.load("aws")
    assert later.load_renewed(str(tmp_path)) == ""
    assert dollars(later, "g4dn.2xlarge") == "0.838 price list 2026-11-26"


def test_the_request_and_the_answer_are_of_the_services_own_shape() -> None:
    client = boto3.client(
        "pricing",
        region_name=pricing.ENDPOINT_REGION,
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )

    async def get_products(request: dict[str, Any]) -> Mapping[str, Any]:
        return client.get_products(**request)

    with Stubber(client) as stub:
        stub.add_response("get_products", {"PriceList": REGION, "NextToken": "t"}, pricing.request("eu-west-1"))
        stub.add_response("get_products", {"PriceList": []}, pricing.request("eu-west-1", "t"))
        book = catalogue.load("aws")
        asyncio.run(
            pricing.refresh(
                book, regions=["eu-west-1"], directory="", now=NOW, place="providers.aws", get_products=get_products
            )
        )
        stub.assert_no_pending_responses()
    assert dollars(book, "g4dn.xlarge") == "0.587 price list 2026-11-26"


def test_the_endpoint_regions_are_those_of_the_service() -> None:
    assert set(pricing.ENDPOINT_REGIONS) == set(boto3.session.Session().get_available_regions("pricing"))


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(item("g4dn.xlarge", "9.9", operatingSystem="Windows"), id="windows"),
        pytest.param(item("g4dn.xlarge", "9.9", tenancy="Dedicated"), id="dedicated"),
        pytest.param(item("g4dn.xlarge", "9.9", preInstalledSw="SQL Web"), id="with a database"),
        pytest.param(item("g4dn.xlarge", "0.0", capacitystatus="AllocatedCapacityReservation"), id="a reservation"),
        pytest.param(item("g4dn.xlarge", "0.0", capacitystatus="UnusedCapacityReservation"), id="an unused one"),
        pytest.param(item("g4dn.xlarge", "9.9", regionCode="eu-west-2"), id="another region"),
        pytest.param(item("g4dn.xlarge", "9.9", term="Reserved"), id="a reserved term only"),
        pytest.param(item("g4dn.xlarge", "900", unit="Quantity"), id="an upfront fee"),
        pytest.param(item("x99.nothing", "1.0"), id="a type that we do not list"),
        pytest.param("{}", id="empty"),
        pytest.param("not json", id="no json"),
        pytest.param("[]", id="a list"),
        pytest.param('{"product": null, "terms": {}}', id="no product"),
    ],
)
def test_what_is_not_a_plain_linux_instance_is_passed_over(odd: str) -> None:
    book, findings = refresh(Pages({"eu-west-1": [{"PriceList": [odd, *REGION, odd]}]}), "")
    assert dollars(book, "g4dn.xlarge") == "0.587 price list 2026-11-26"
    assert not any("not taken over" in finding.message for finding in findings)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        pytest.param(item("g4dn.xlarge", "-0.5"), "g4dn.xlarge on-demand at -0.5 dollars", id="negative"),
        pytest.param(item("g4dn.xlarge", "0.0000000000"), "g4dn.xlarge on-demand at 0 dollars", id="zero"),
        pytest.param(item("g4dn.xlarge", "nan"), "g4dn.xlarge at 'nan'", id="not a number"),
        pytest.param(
            item("g4dn.xlarge", "52.6"), "at 52.6 dollars, where 0.5865 is known (catalogue 2025-08)", id="jump up"
        ),
        pytest.param(item("g4dn.xlarge", "0.0052"), "at 0.0052 dollars, where 0.5865 is known", id="jump down"),
        pytest.param(item("g4dn.xlarge", "3.7", currency="CNY"), "g4dn.xlarge in CNY, not in dollars", id="currency"),
        pytest.param(item("g4dn.xlarge", None), "g4dn.xlarge in no currency, not in dollars", id="no price"),
        pytest.param(item("g4dn.xlarge", "cheap"), "g4dn.xlarge at 'cheap'", id="words"),
    ],
)
def test_a_price_that_cannot_be_meant_is_told_and_left_out(bad: str, said: str) -> None:
    others = [text for text in REGION if '"g4dn.xlarge"' not in text]
    book, findings = refresh(Pages({"eu-west-1": [{"PriceList": [*others, bad]}]}), "")
    warnings = [finding for finding in findings if "not taken over" in finding.message]
    assert len(warnings) == 1 and said in warnings[0].message and warnings[0].remedy
    assert dollars(book, "g4dn.xlarge").endswith("catalogue 2025-08")
    assert dollars(book, "g4dn.2xlarge").endswith("price list 2026-11-26")


def test_a_region_that_fails_keeps_what_it_had_and_the_others_are_renewed(tmp_path: Path) -> None:
    refresh(Pages({"eu-west-1": [{"PriceList": REGION}]}), tmp_path)
    paris = [text.replace("eu-west-1", "eu-west-3").replace("0.8380000000", "0.9") for text in REGION]
    pages = Pages(
        {
            "eu-west-1": [{"PriceList": [item("g4dn.xlarge", "0.4")], "NextToken": "t"}, OSError("connection reset")],
            "eu-west-3": [{"PriceList": paris}],
        }
    )
    book, findings = refresh(pages, tmp_path)
    failed = [finding for finding in findings if finding.level is base.Level.ERROR]
    assert len(failed) == 1
    assert "eu-west-1: prices stay as they were: OSError: connection reset" in failed[0].message
    assert dollars(book, "g4dn.xlarge") == "0.587 price list 2026-11-26"
    assert dollars(book, "g4dn.2xlarge", "eu-west-3") == "0.9 price list 2026-11-26"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        pytest.param({"PriceList": []}, "holds no price of any machine type", id="empty"),
        pytest.param({}, "holds no price of any machine type", id="nothing at all"),
        pytest.param({"PriceList": REGION[:2]}, "partial, with 2 of", id="in part"),
        pytest.param(PermissionError("AccessDeniedException"), "AccessDeniedException", id="refused"),
    ],
)
def test_an_answer_that_is_not_whole_leaves_the_old_file_untouched(tmp_path: Path, answer: Any, said: str) -> None:
    refresh(Pages({"us-east-1": [{"PriceList": [text.replace("eu-west-1", "us-east-1") for text in WHOLE]}]}), tmp_path)
    before = (tmp_path / "prices.json").read_bytes()
    if isinstance(answer, dict):
        answer = json.loads(json.dumps(answer).replace("eu-west-1", "us-east-1"))
    _, findings = refresh(Pages({"us-east-1": [answer]}), tmp_path)
    assert findings[0].level is base.Level.ERROR and said in findings[0].message
    assert (tmp_path / "prices.json").read_bytes() == before


#: Every type that us-east-1 has, at its own price.
WHOLE = [
    item(name, f"{price.dollars:.10f}")
    for name in catalogue.load("aws").machines
    if (price := catalogue.load("aws").price(name, region="us-east-1", market=OD))
]


def test_an_answer_without_end_is_given_up() -> None:
    endless = [{"PriceList": REGION, "NextToken": "again"}] * 300
    pages = Pages({"eu-west-1": endless})
    book, findings = refresh(pages, "")
    assert "does not end after 200 pages" in findings[0].message
    assert len(pages.asked) == 200
    assert dollars(book, "g4dn.xlarge").endswith("catalogue 2025-08")


def test_being_cancelled_is_no_failed_answer(tmp_path: Path) -> None:
    with pytest.raises(asyncio.CancelledError):
        refresh(Pages({"eu-west-1": [asyncio.CancelledError()]}), tmp_path)
    assert list(tmp_path.iterdir()) == []
