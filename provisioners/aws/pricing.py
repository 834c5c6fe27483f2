"""AWS on-demand prices, from the Price List API; spot prices come from the spot price history while running.

The Price List API (``pricing:GetProducts``) answers in a few regions only, for all regions; each item of a page is a
JSON text with the product's attributes and its terms (AWS Billing user guide, "Finding services and products with the
AWS Price List Query API").
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from typing import Any

from provisioners import base
from provisioners.catalogue import Catalog, renewal
from provisioners.support import numbers

#: Where the Price List API has an endpoint: for a client whose own region is not among them, the first.
ENDPOINT_REGIONS = ("us-east-1", "eu-central-1", "ap-south-1")
ENDPOINT_REGION = ENDPOINT_REGIONS[0]
SOURCE = "AWS Price List API"

#: What makes a product a plain Linux instance: attribute -> value.  ``Used`` leaves capacity reservations out.
_PLAIN = {
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
}
#: A region has some 1,400 products of that kind, a page 100.
_MOST_PAGES = 200

GetProducts = Callable[[dict[str, Any]], Awaitable[Mapping[str, Any]]]


def request(region: str, token: str = "") -> dict[str, Any]:
    """The arguments of ``get_products`` for one page of that region's instances."""
    fields = {"regionCode": region, **_PLAIN}
    body: dict[str, Any] = {
        "ServiceCode": "AmazonEC2",
        "FormatVersion": "aws_v1",
        "MaxResults": 100,
        "Filters": [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in fields.items()],
    }
    return body | {"NextToken": token} if token else body


def on_demand(page: Mapping[str, Any], region: str) -> Iterator[tuple[str, float | None, str]]:
    """Machine type, dollars per hour and what is wrong with it, for each plain instance of that region on the page."""
    for text in page.get("PriceList") or ():
        try:
            item = numbers.loads(text) if isinstance(text, str) else text
            attributes = item["product"]["attributes"]
            machine_type = attributes["instanceType"]
            terms = item["terms"].get("OnDemand") or {}
        except (ValueError, KeyError, TypeError, AttributeError):
            # Other products (dedicated hosts, reservations) have other shapes; what is missing shows in the counts.
            continue
        if any(attributes.get(field, value) != value for field, value in _PLAIN.items()):
            continue
        if attributes.get("regionCode", region) != region:
            continue
        yield from _prices(str(machine_type), terms)


def _prices(machine_type: str, terms: Mapping[str, Any]) -> Iterator[tuple[str, float | None, str]]:
    for term in terms.values():
        for dimension in (term.get("priceDimensions") or {}).values():
            unit, rates = dimension.get("unit"), dimension.get("pricePerUnit") or {}
            if unit != "Hrs":
                continue
            if "USD" not in rates:
                yield machine_type, None, f"in {', '.join(rates) or 'no currency'}, not in dollars"
                continue
            dollars = numbers.real(rates["USD"], low=-numbers.LARGEST)
            yield machine_type, dollars, "" if dollars is not None else f"at {rates['USD']!r}"


async def refresh(
    catalog: Catalog,
    *,
    regions: Collection[str],
    directory: str,
    now: float,
    place: str,
    get_products: GetProducts,
) -> list[base.Finding]:
    """Renew the on-demand prices of those regions; what came of it.

    ``get_products`` sends one request as :func:`request` makes it and returns the page as the SDK gives it.
    """
    round_ = renewal.Renewal(catalog, regions=regions, source=SOURCE, now=now, place=place)
    for region in round_.regions:
        try:
            await _ask(round_, region, get_products)
        except Exception as error:
            round_.failed(region, f"{type(error).__name__}: {error}")
    return round_.finish(directory)


async def _ask(round_: renewal.Renewal, region: str, get_products: GetProducts) -> None:
    token = ""
    for _ in range(_MOST_PAGES):
        page = await get_products(request(region, token))
        for machine_type, dollars, problem in on_demand(page, region):
            if dollars is None:
                round_.refuse(region, f"{machine_type} {problem}")
            else:
                round_.quote(region, machine_type, base.Market.ON_DEMAND, dollars)
        token = str(page.get("NextToken") or "")
        if not token:
            return
    round_.failed(region, f"the answer does not end after {_MOST_PAGES} pages")
