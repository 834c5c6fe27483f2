"""Machine prices are composed of what the Cloud Billing list says of cores, memory, GPUs and disks."""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from provisioners import base, catalogue
from provisioners.gcp import pricing

NOW = 1_795_651_200.0  # 2026-11-26
OD, SPOT = base.Market.ON_DEMAND, base.Market.SPOT


def sku(
    description: str,
    dollars: float,
    *,
    usage: str = "OnDemand",
    unit: str = "h",
    regions: tuple[str, ...] = ("us-central1",),
    currency: str = "USD",
    **changed: Any,
) -> dict[str, Any]:
    """One SKU as the service gives it: whole dollars as text, the rest in billionths."""
    nanos = round(dollars * 1e9)
    return {
        "name": "services/6F81-5844-456A/skus/0012-AB12-CD34",
        "skuId": "0012-AB12-CD34",
        "description": description,
        "category": {
            "serviceDisplayName": "Compute Engine",
            "resourceFamily": "Compute",
            "resourceGroup": "CPU",
            "usageType": usage,
        },
        "serviceRegions": list(regions),
        "pricingInfo": [
            {
                "summary": "",
                "pricingExpression": {
                    "usageUnit": unit,
                    "displayQuantity": 1,
                    "tieredRates": [
                        {
                            "startUsageAmount": 0,
                            "unitPrice": {
                                "currencyCode": currency,
                                "units": str(nanos // 10**9),
                                "nanos": nanos % 10**9,
                            },
                        }
                    ],
                },
                "currencyConversionRate": 1,
                "effectiveTime": "2026-11-25T00:00:00Z",
            }
        ],
        "serviceProviderName": "Google",
    } | changed


def part(family: str, core: float, ram: float, where: str = "Americas") -> list[dict[str, Any]]:
    """Cores and memory of a family, on demand and spot (at 40 %)."""
    return [
        sku(f"{family} Core running in {where}", core),
        sku(f"{family} Ram running in {where}", ram, unit="GiBy.h"),
        sku(f"Spot Preemptible {family} Core running in {where}", core * 0.4, usage="Preemptible"),
        sku(f"Spot Preemptible {family} Ram running in {where}", ram * 0.4, usage="Preemptible", unit="GiBy.h"),
    ]


def gpu(model: str, dollars: float) -> list[dict[str, Any]]:
    spot = f"{model} attached to Spot Preemptible VMs running in Americas"
    return [sku(f"{model} running in Americas", dollars), sku(spot, dollars * 0.4, usage="Preemptible")]


#: The list prices of us-central1, as far as these tests go.
SKUS = [
    *part("N1 Predefined Instance", 0.031611, 0.004237),
    *part("E2 Instance", 0.02181159, 0.00292353),
    *part("N2 Instance", 0.031611, 0.004237),
    *part("N2D AMD Instance", 0.027502, 0.003686),
    *part("N4 Instance", 0.02987, 0.00339),
    *part("C2D AMD Instance", 0.029563, 0.003959),
    *part("C3 Instance", 0.03398, 0.004456),
    *part("C3D Instance", 0.029563, 0.003959),
    *part("C4 Instance", 0.034655, 0.003938),
    *part("C4A Arm Instance", 0.0308, 0.0035),
    *part("C4D Instance", 0.0312, 0.0036),
    *part("T2A Arm Instance", 0.02564, 0.00348),
    *part("T2D AMD Instance", 0.027502, 0.003686),
    *part("Compute optimized", 0.033982, 0.00455),
    *part("G2 Instance", 0.024988, 0.002927),
    *part("A2 Instance", 0.031611, 0.004237),
    *part("A3 Instance", 0.02926, 0.002558),
    *gpu("Nvidia Tesla T4 GPU", 0.35),
    *gpu("Nvidia Tesla V100 GPU", 2.48),
    *gpu("Nvidia Tesla P100 GPU", 1.46),
    *gpu("Nvidia Tesla P4 GPU", 0.60),
    *gpu("Nvidia L4 GPU", 0.560040),
    *gpu("Nvidia Tesla A100 GPU", 2.933908),
    *gpu("Nvidia Tesla A100 80GB GPU", 3.927776),
    *gpu("Nvidia H100 80GB GPU", 9.796551),
    sku("SSD backed Local Storage", 0.08, unit="GiBy.mo"),
    sku("SSD backed Local Storage attached to Spot Preemptible VMs", 0.048, usage="Preemptible", unit="GiBy.mo"),
]


class Service:
    """The list in pages of a given size."""

    def __init__(self, skus: list[Any], *, size: int = 20, broken: Any = None) -> None:
        self.skus = skus
        self.size = size
        self.broken = broken
        self.asked: list[dict[str, list[str]]] = []

    async def get(self, url: str) -> Mapping[str, Any]:
        assert url.startswith("https://cloudbilling.googleapis.com/v1/services/6F81-5844-456A/skus?")
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(url).query)
        self.asked.append(query)
        start = int(query.get("pageToken", ["0"])[0])
        if start and self.broken is not None:
            if isinstance(self.broken, BaseException):
                raise self.broken
            return self.broken
        end = start + self.size
        return {"skus": self.skus[start:end], "nextPageToken": str(end) if end < len(self.skus) else ""}


def refresh(
    service: Service, directory: Path | str = "", regions: tuple[str, ...] = ("us-central1",)
) -> tuple[catalogue.Catalog, list[base.Finding]]:
    book = catalogue.load("gcp")
    findings = asyncio.run(
        pricing.refresh(
            book, regions=regions, directory=str(directory), now=NOW, place="providers.gcp", get=service.get
        )
    )
    return book, findings


def renewed(book: catalogue.Catalog, name: str, market: base.Market = OD) -> float | None:
    """The renewed price, None where there is none."""
    found = book.price(name, region="us-central1", market=market)
    return found.dollars if found is not None and found.source == "price list" else None


@pytest.mark.parametrize(
    ("name", "on_demand"),
    [
        pytest.param("n1-standard-4", 0.190, id="cores and memory"),
        pytest.param("n1-standard-4+nvidia-tesla-t4x1", 0.540, id="with an accelerator"),
        pytest.param("n1-standard-8+nvidia-tesla-v100x2", 0.380 + 4.96, id="with two"),
        pytest.param("g2-standard-4", 0.707, id="a built-in gpu"),
        pytest.param("g2-standard-96", 8.003, id="eight of them"),
        pytest.param("a2-highgpu-1g", 3.673, id="a100 of 40 gb"),
        pytest.param("a2-ultragpu-1g", 5.069, id="a100 of 80 gb with its local disk"),
        pytest.param("c2-standard-4", 4 * 0.033982 + 16 * 0.00455, id="a family with a name of its own"),
        pytest.param("t2a-standard-4", 4 * 0.02564 + 16 * 0.00348, id="arm"),
    ],
)
def test_a_price_is_the_sum_of_its_parts(name: str, on_demand: float) -> None:
    book, findings = refresh(Service(SKUS))
    assert [finding.level for finding in findings] == [base.Level.OK, base.Level.WARNING], findings
    assert renewed(book, name) == pytest.approx(on_demand, abs=0.006)
    spot = renewed(book, name, SPOT)
    assert spot is not None and 0.39 * on_demand < spot < 0.42 * on_demand


def test_what_is_composed_matches_what_ships(tmp_path: Path) -> None:
    """The shipped prices come from elsewhere: the composition agrees with them where the list prices are the same."""
    shipped = catalogue.load("gcp")
    book, _ = refresh(Service(SKUS), tmp_path)
    compared = 0
    for name in book.machines:
        family = name.split("-", maxsplit=1)[0]
        known = shipped.price(name, region="us-central1", market=OD)
        composed = renewed(book, name)
        if family in ("n1", "n2", "g2", "a2", "e2", "t2d") and composed and known and known.source == "catalogue":
            compared += 1
            assert composed == pytest.approx(known.dollars, rel=0.02), name
    assert compared > 60


@pytest.mark.parametrize("missing", ["G2 Instance Core", "G2 Instance Ram", "Nvidia L4 GPU"])
def test_a_machine_with_an_unpriced_part_has_no_price(missing: str) -> None:
    book, _ = refresh(Service([one for one in SKUS if missing not in one["description"]]))
    assert renewed(book, "g2-standard-4") is None
    assert renewed(book, "n1-standard-4") is not None


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(
            sku("Commitment v1: Nvidia L4 GPU in Americas for 1 Year", 9.0, usage="Commit1Yr"), id="commitment"
        ),
        pytest.param(sku("Nvidia L4 GPU running in Americas", 9.0, usage="Commit3Yr"), id="committed usage"),
        pytest.param(
            sku("Nvidia L4 GPU attached to DWS Defined Duration VMs running in Americas", 9.0), id="bought ahead"
        ),
        pytest.param(sku("Nvidia L4 GPU in Calendar mode running in Americas", 9.0), id="calendar mode"),
        pytest.param(sku("Reserved Nvidia L4 GPU running in Americas", 9.0), id="reserved"),
        pytest.param(sku("G2 Instance Core running in Tokyo", 9.0, regions=("asia-northeast1",)), id="another region"),
        pytest.param(sku("G2 Sole Tenancy Instance Core running in Americas", 9.0), id="sole tenancy"),
        pytest.param(sku("G2 Custom Instance Core running in Americas", 9.0), id="custom shapes"),
        pytest.param(
            sku("Nvidia L4 GPU attached to Spot Preemptible VMs running in Americas", 9.0), id="a contradiction"
        ),
        pytest.param(sku("Spot Preemptible G2 Instance Core running in Americas", 9.0), id="another contradiction"),
        pytest.param(sku("Licensing Fee for Something on L4 running in Americas", 9.0), id="a licence"),
        pytest.param(None, id="null"),
        pytest.param({}, id="empty"),
        pytest.param({"description": None, "category": None}, id="nulls"),
    ],
)
def test_a_sku_of_something_else_is_passed_over(odd: Any) -> None:
    book, findings = refresh(Service([odd, *SKUS, odd]))
    assert renewed(book, "g2-standard-4") == pytest.approx(0.707, abs=0.001)
    assert renewed(book, "g2-standard-4", SPOT) == pytest.approx(0.283, abs=0.001)
    assert not any("not taken over" in finding.message for finding in findings)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        pytest.param(sku("G2 Instance Core running in Americas", 0.0), "at 0 dollars", id="zero"),
        pytest.param(sku("G2 Instance Core running in Americas", -0.5), "at -0.5 dollars", id="negative"),
        pytest.param(sku("G2 Instance Core running in Americas", 0.02, currency="EUR"), "in EUR", id="euros"),
        pytest.param(sku("G2 Instance Core running in Americas", 0.02, unit="mo"), "by mo", id="by the month"),
        pytest.param(
            sku("G2 Instance Core running in Americas", 0.02, pricingInfo=[]), "a price that cannot be read", id="none"
        ),
        pytest.param(
            sku("G2 Instance Core running in Americas", 0.02, pricingInfo=[{"pricingExpression": {}}]),
            "a price that cannot be read",
            id="no expression",
        ),
    ],
)
def test_a_part_whose_price_cannot_be_meant_is_told(bad: dict[str, Any], said: str) -> None:
    kept = [one for one in SKUS if one["description"] != bad["description"]]
    book, findings = refresh(Service([*kept, bad]))
    assert any("not taken over: G2 Instance Core on-demand" in one.message and said in one.message for one in findings)
    assert renewed(book, "g2-standard-4") is None


def test_a_jump_of_the_sum_is_told_and_left_out() -> None:
    dear = [one for one in SKUS if "Nvidia L4 GPU running" not in one["description"]]
    book, findings = refresh(Service([*dear, sku("Nvidia L4 GPU running in Americas", 56.0)]))
    assert any("not taken over: g2-standard-4 on-demand at 56." in finding.message for finding in findings), findings
    assert renewed(book, "g2-standard-4") is None


def test_all_pages_are_asked_for() -> None:
    service = Service(SKUS, size=7)
    _, findings = refresh(service)
    assert findings[0].level is base.Level.OK
    assert [query.get("pageToken") for query in service.asked][:3] == [None, ["7"], ["14"]]
    assert {query["currencyCode"][0] for query in service.asked} == {"USD"}


def test_one_list_serves_all_regions_and_a_region_without_prices_keeps_what_it_has(tmp_path: Path) -> None:
    both = [one | {"serviceRegions": ["us-central1", "us-east1"]} for one in SKUS]
    service = Service(both, size=1000)
    book, findings = refresh(service, tmp_path, ("us-central1", "us-east1", "europe-west4"))
    assert len(service.asked) == 1
    assert [(finding.level.value, finding.message.split(":")[0]) for finding in findings] == [
        ("error", "europe-west4"),
        ("ok", "us-central1"),
        ("ok", "us-east1"),
    ]
    price = book.price("g2-standard-4", region="europe-west4", market=OD)
    assert price is not None and price.source == "catalogue"


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        pytest.param(TimeoutError("no answer in 30 s"), "TimeoutError: no answer in 30 s", id="lost on the way"),
        pytest.param({"error": {"code": 403}}, "the answer has no list of SKUs", id="an error's body"),
        pytest.param({"skus": [], "nextPageToken": "20"}, "does not end after 60 pages", id="a page without end"),
        pytest.param({"skus": []}, "the answer is partial", id="an early end"),
    ],
)
def test_an_answer_that_is_not_whole_leaves_everything_as_it_was(tmp_path: Path, broken: Any, said: str) -> None:
    refresh(Service(SKUS), tmp_path)
    before = (tmp_path / "prices.json").read_bytes()
    _, findings = refresh(Service(SKUS, size=8, broken=broken), tmp_path)
    assert findings[0].level is base.Level.ERROR and said in findings[0].message
    assert (tmp_path / "prices.json").read_bytes() == before


def test_every_machine_type_belongs_to_a_family_of_the_list() -> None:
    """A type in the catalogue that the composition does not know would lose its price on a refresh."""
    for machine in catalogue.load("gcp").machines.values():
        everything = pricing.Parts()
        for name in pricing._WANTED:
            everything.add("us-central1", OD, name, 1.0)
        assert everything.compose(machine, "us-central1", OD), machine.name
