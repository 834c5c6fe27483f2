"""The Retail Prices API's meters are told apart: Linux from Windows, spot from low priority, hours from other units."""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from provisioners import base, catalogue
from provisioners.azure import pricing

NOW = 1_795_651_200.0  # 2026-11-26
OD, SPOT = base.Market.ON_DEMAND, base.Market.SPOT


def meter(name: str, dollars: Any, *, sku: str = "", product: str = "", **changed: Any) -> dict[str, Any]:
    """One row of the answer."""
    short = name.removeprefix("Standard_").replace("_", " ")
    return {
        "currencyCode": "USD",
        "tierMinimumUnits": 0.0,
        "retailPrice": dollars,
        "unitPrice": dollars,
        "armRegionName": "westeurope",
        "location": "EU West",
        "effectiveStartDate": "2026-06-01T00:00:00Z",
        "meterId": "0084b086-37bf-4bee-b27f-6eb0f9ee4954",
        "meterName": f"{short}{sku}",
        "productName": product or "Virtual Machines NCasT4 v3 Series",
        "skuName": f"{short}{sku}",
        "serviceName": "Virtual Machines",
        "unitOfMeasure": "1 Hour",
        "type": "Consumption",
        "isPrimaryMeterRegion": True,
        "armSkuName": name,
    } | changed


T4 = "Standard_NC4as_T4_v3"


class Service:
    """Answers as the service would for the machine types that it is asked for."""

    def __init__(self, *extra: dict[str, Any], change: Callable[[str, dict[str, Any]], Any] | None = None) -> None:
        self.extra = extra
        self.change = change or (lambda _url, page: page)
        self.asked: list[str] = []
        self.book = catalogue.load("azure")

    async def get(self, url: str) -> Mapping[str, Any]:
        self.asked.append(url)
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(url).query)
        condition = query["$filter"][0]
        rows = []
        for name in self.book.machines:
            if f"armSkuName eq '{name}'" not in condition:
                continue
            price = self.book.price(name, region="westeurope", market=OD)
            if price is None or not self.book.offered(name, "westeurope") or name == T4:
                continue
            rows.append(meter(name, price.dollars))
            rows.append(meter(name, price.dollars * 1.9, product="Virtual Machines Series Windows"))
        if f"'{T4}'" in condition:
            rows += [meter(T4, 0.7), meter(T4, 0.2, sku=" Spot"), *self.extra]
        answer = {"BillingCurrency": "USD", "Items": rows, "NextPageLink": None, "Count": len(rows)}
        page = self.change(url, answer)
        if isinstance(page, BaseException):
            raise page
        return page


def refresh(service: Service, directory: Path | str = "") -> tuple[catalogue.Catalog, list[base.Finding]]:
    book = catalogue.load("azure")
    findings = asyncio.run(
        pricing.refresh(
            book, regions=["westeurope"], directory=str(directory), now=NOW, place="providers.azure", get=service.get
        )
    )
    return book, findings


def dollars(book: catalogue.Catalog, market: base.Market = OD) -> str:
    found = book.price(T4, region="westeurope", market=market)
    assert found is not None
    return f"{found.dollars:g} {found}"


def test_both_markets_are_renewed_and_windows_is_not(tmp_path: Path) -> None:
    service = Service()
    book, findings = refresh(service, tmp_path)
    assert [finding.level for finding in findings] == [base.Level.OK]
    assert "1 spot prices of 2026-11-26, 1 of them changed" in findings[0].message
    assert dollars(book) == "0.7 price list 2026-11-26"
    assert dollars(book, SPOT) == "0.2 price list 2026-11-26"
    assert len(service.asked) <= len(book.machines) / 12 + 1
    for url in service.asked:
        assert url.startswith("https://prices.azure.com/api/retail/prices?") and len(url) < 2000
        assert " " not in url


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(meter(T4, 1.2, product="Virtual Machines NCasT4 v3 Series Windows"), id="windows"),
        pytest.param(meter(T4, 0.1, sku=" Low Priority"), id="low priority"),
        pytest.param(meter(T4, 0.3, product="NCasT4 v3 Series CloudServices"), id="cloud services"),
        pytest.param(meter(T4, 300, product="NCasT4 v3 Series Dedicated Host"), id="dedicated host"),
        pytest.param(meter(T4, 0.3, armRegionName="northeurope"), id="another region"),
        pytest.param(meter(T4, 0.3, type="DevTestConsumption"), id="for tests"),
        pytest.param(meter(T4, 3000.0, type="Reservation", unitOfMeasure="1 Hour"), id="a reservation"),
        pytest.param(meter(T4, 0.3, unitOfMeasure="1/Month"), id="by the month"),
        pytest.param(meter(T4, 0.3, effectiveStartDate="2027-01-01T00:00:00Z"), id="from next year on"),
        pytest.param(meter("", 0.3), id="no type"),
        pytest.param(meter("Standard_ZZ9", 0.3), id="a type that we do not list"),
        pytest.param(meter(T4, 1.25, product="Virtual Machines NCasT4 v3 Series Licensed"), id="an unmarked licence"),
        pytest.param(None, id="null"),
        pytest.param({}, id="empty"),
    ],
)
def test_a_meter_of_something_else_is_passed_over(odd: Any) -> None:
    book, findings = refresh(Service(odd))
    assert dollars(book) == "0.7 price list 2026-11-26"
    assert dollars(book, SPOT) == "0.2 price list 2026-11-26"
    assert not any("not taken over" in finding.message for finding in findings)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        pytest.param(meter(T4, 0.0), "on-demand at 0 dollars", id="zero"),
        pytest.param(meter(T4, -1.0), "on-demand at -1 dollars", id="negative"),
        pytest.param(meter(T4, 0.6, currencyCode="EUR"), "on-demand in EUR, not in dollars", id="euros"),
        pytest.param(meter(T4, "0.6"), "on-demand at '0.6'", id="text"),
        pytest.param(meter(T4, None), "on-demand at None", id="null"),
        pytest.param(meter(T4, True), "on-demand at True", id="truth"),
        pytest.param(meter(T4, 0.001, sku=" Spot"), "spot at 0.001 dollars, where 0.658 is known", id="jump down"),
    ],
)
def test_a_price_that_cannot_be_meant_is_told(bad: dict[str, Any], said: str) -> None:
    _, findings = refresh(Service(bad))
    assert [f"not taken over: {T4} {said}" in finding.message for finding in findings].count(True) == 1


def test_pages_are_followed() -> None:
    service = Service()

    async def get(url: str) -> Mapping[str, Any]:
        """Two pages of each answer; the link to the second names the port, as the service does."""
        page = await Service.get(service, url)
        half = len(page["Items"]) // 2
        if "$skip" in url:
            return {**page, "Items": page["Items"][half:]}
        link = url.replace(".com/", ".com:443/") + f"&$skip={half}"
        return {**page, "Items": page["Items"][:half], "NextPageLink": link}

    book = catalogue.load("azure")
    findings = asyncio.run(
        pricing.refresh(book, regions=["westeurope"], directory="", now=NOW, place="providers.azure", get=get)
    )
    assert findings[0].level is base.Level.OK
    assert dollars(book) == "0.7 price list 2026-11-26"
    assert dollars(book, SPOT) == "0.2 price list 2026-11-26"


def test_a_link_to_another_host_is_not_followed(tmp_path: Path) -> None:
    service = Service(change=lambda _url, page: page | {"NextPageLink": "https://prices.example.com/api?page=2"})
    book, findings = refresh(service, tmp_path)
    assert "the next page is said to be at https://prices.example.com" in findings[0].message
    assert dollars(book) == "0.658 catalogue 2026-06-18"
    assert list(tmp_path.iterdir()) == []
    assert not any("example.com" in url for url in service.asked)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(lambda _u, _p: OSError("503 Service Unavailable"), "503 Service Unavailable", id="an outage"),
        pytest.param(lambda _u, _p: {"error": {"code": "BadRequest"}}, "has no list of items", id="an error's body"),
        pytest.param(lambda _u, page: page | {"Items": []}, "holds no price of any machine type", id="empty"),
        pytest.param(lambda _u, page: page | {"Items": page["Items"][:1]}, "the answer is partial", id="in part"),
        pytest.param(
            lambda url, page: page | {"NextPageLink": url}, "does not end after 40 pages", id="a link to itself"
        ),
    ],
)
def test_an_answer_that_is_not_whole_leaves_everything_as_it_was(
    tmp_path: Path, change: Callable[[str, dict[str, Any]], Any], said: str
) -> None:
    refresh(Service(), tmp_path)
    before = (tmp_path / "prices.json").read_bytes()
    _, findings = refresh(Service(change=change), tmp_path)
    assert findings[0].level is base.Level.ERROR and said in findings[0].message
    assert (tmp_path / "prices.json").read_bytes() == before
