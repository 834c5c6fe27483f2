"""Azure prices, on demand and spot, from the Retail Prices API, which needs no credential.

One row is one meter.  A machine type (``armSkuName``) has several: Linux and Windows (by ``productName``), on
demand, Spot and Low Priority (by ``skuName``).  (Azure documentation, "Azure Retail Prices overview".)
"""

from __future__ import annotations

import datetime
import urllib.parse
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from typing import Any

from provisioners import base
from provisioners.catalogue import Catalog, renewal
from provisioners.support import numbers

ADDRESS = "https://prices.azure.com/api/retail/prices"
SOURCE = "Azure Retail Prices API"

_VERSION = "2023-01-01-preview"
#: So many machine types are asked for at once: their rows fit on one page and the address stays short.
_AT_ONCE = 12
#: A page has 100 rows or more, a machine type about six in a region.
_MOST_PAGES = 40

Get = Callable[[str], Awaitable[Mapping[str, Any]]]


def address(region: str, machine_types: Collection[str], *, base_address: str = ADDRESS) -> str:
    """The address of the first page of those machine types' meters in that region."""
    names = " or ".join(f"armSkuName eq '{name}'" for name in machine_types)
    where = f"serviceName eq 'Virtual Machines' and priceType eq 'Consumption' and armRegionName eq '{region}'"
    return f"{base_address}?{urllib.parse.urlencode({'api-version': _VERSION, '$filter': f'{where} and ({names})'})}"


def rows(page: Mapping[str, Any], region: str, *, now: float) -> Iterator[tuple[str, base.Market, float | None, str]]:
    """Machine type, market, dollars per hour and what is wrong with it, for each Linux meter of that region."""
    day = datetime.datetime.fromtimestamp(now, datetime.UTC).isoformat()
    for row in page.get("Items") or ():
        if not isinstance(row, Mapping):
            continue
        machine_type, product, sku = (str(row.get(key) or "") for key in ("armSkuName", "productName", "skuName"))
        names = f"{product} {sku} {row.get('meterName') or ''}"
        if any(
            word in names for word in ("Windows", "Low Priority", "Cloud Services", "CloudServices", "Dedicated Host")
        ):
            continue
        if not machine_type or row.get("armRegionName") != region or row.get("type", "Consumption") != "Consumption":
            continue
        if row.get("unitOfMeasure") != "1 Hour" or str(row.get("effectiveStartDate") or "") > day:
            continue
        market = base.Market.SPOT if "Spot" in names.split() else base.Market.ON_DEMAND
        if row.get("currencyCode") != "USD":
            yield machine_type, market, None, f"in {row.get('currencyCode')}, not in dollars"
            continue
        price = row.get("retailPrice")
        dollars = None if isinstance(price, str) else numbers.real(price, low=-numbers.LARGEST)
        yield machine_type, market, dollars, "" if dollars is not None else f"at {price!r}"


async def refresh(
    catalog: Catalog,
    *,
    regions: Collection[str],
    directory: str,
    now: float,
    place: str,
    get: Get,
    base_address: str = ADDRESS,
) -> list[base.Finding]:
    """Renew the on-demand and spot prices of those regions; what came of it.

    ``get`` fetches an address and returns its JSON, or raises for anything but a good answer.
    """
    round_ = renewal.Renewal(catalog, regions=regions, source=SOURCE, now=now, place=place)
    for region in round_.regions:
        found: dict[tuple[str, base.Market], float] = {}
        try:
            for machine_types in _groups(sorted(catalog.machines)):
                await _ask(round_, region, found, get, machine_types=machine_types, now=now, base_address=base_address)
        except Exception as error:
            round_.failed(region, f"{type(error).__name__}: {error}")
        for (machine_type, market), dollars in found.items():
            round_.quote(region, machine_type, market, dollars)
    return round_.finish(directory)


def _groups(names: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), _AT_ONCE):
        yield names[start : start + _AT_ONCE]


async def _ask(
    round_: renewal.Renewal,
    region: str,
    found: dict[tuple[str, base.Market], float],
    get: Get,
    *,
    machine_types: Collection[str],
    now: float,
    base_address: str,
) -> None:
    origin = urllib.parse.urlsplit(base_address)
    following = address(region, machine_types, base_address=base_address)
    for _ in range(_MOST_PAGES):
        page = await get(following)
        if not isinstance(page.get("Items"), list):
            raise ValueError("the answer has no list of items")
        for machine_type, market, dollars, problem in rows(page, region, now=now):
            if dollars is None or dollars <= 0:
                round_.refuse(region, f"{machine_type} {market} {problem or f'at {dollars:g} dollars'}")
            else:
                # A licence in the price makes it higher, and not every such meter says so in its name.
                key = (machine_type, market)
                found[key] = min(dollars, found.get(key, dollars))
        following = str(page.get("NextPageLink") or "")
        if not following:
            return
        link = urllib.parse.urlsplit(following)
        # The service gives its own port in the link; another host would have other prices.
        if (link.scheme, link.hostname) != (origin.scheme, origin.hostname):
            raise ValueError(f"the next page is said to be at {link.scheme}://{link.netloc}")
    raise ValueError(f"the answer does not end after {_MOST_PAGES} pages")
