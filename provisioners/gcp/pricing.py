"""Google Cloud prices, on demand and spot, composed from the price list of the Cloud Billing API.

The list has no machine types: it has SKUs for the cores, the memory, the GPUs and the local disks of a family, each for
some regions and one usage (``OnDemand``, ``Preemptible``, which spot is, or a commitment).  The purpose of a SKU is in
its description alone: ``N1 Predefined Instance Core running in Americas``, ``Nvidia L4 GPU attached to Spot
Preemptible VMs running in Iowa``.  (Cloud Billing API, ``services.skus.list``.)
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from provisioners import base
from provisioners.catalogue import Catalog, Machine, renewal
from provisioners.support import numbers

#: The SKUs of Compute Engine.
ADDRESS = "https://cloudbilling.googleapis.com/v1/services/6F81-5844-456A/skus"
SOURCE = "Cloud Billing price list"

_PAGE_SIZE = 5000
#: Compute Engine has some 40,000 SKUs.
_MOST_PAGES = 60
#: Local disks are priced by the month of this many hours.
_HOURS_PER_MONTH = 730

_MARKETS = {"OnDemand": base.Market.ON_DEMAND, "Preemptible": base.Market.SPOT}

#: Start of a machine type's name -> how the descriptions of its cores and memory begin; the longest start counts.
_FAMILIES = {
    "a2-": ("A2 Instance",),
    "a3-": ("A3 Instance",),
    "a3-megagpu-": ("A3Plus Instance",),
    "a3-ultragpu-": ("A3Ultra Instance",),
    "a4-": ("A4 Instance",),
    "c2-": ("Compute optimized", "Compute optimized Instance"),
    "c2d-": ("C2D AMD Instance",),
    "c3-": ("C3 Instance",),
    "c3d-": ("C3D Instance",),
    "c4-": ("C4 Instance",),
    "c4a-": ("C4A Arm Instance",),
    "c4d-": ("C4D Instance",),
    "e2-": ("E2 Instance",),
    "g2-": ("G2 Instance",),
    "g4-": ("G4 Instance",),
    "n1-": ("N1 Predefined Instance",),
    "n2-": ("N2 Instance",),
    "n2d-": ("N2D AMD Instance",),
    "n4-": ("N4 Instance",),
    "t2a-": ("T2A Arm Instance",),
    "t2d-": ("T2D AMD Instance",),
}

#: Accelerator, or start of the name of a type with built-in GPUs -> how the description of one GPU begins.
_GPUS = {
    "nvidia-tesla-p100": ("Nvidia Tesla P100 GPU",),
    "nvidia-tesla-p4": ("Nvidia Tesla P4 GPU",),
    "nvidia-tesla-t4": ("Nvidia Tesla T4 GPU",),
    "nvidia-tesla-v100": ("Nvidia Tesla V100 GPU",),
    "a2-highgpu-": ("Nvidia Tesla A100 GPU",),
    "a2-megagpu-": ("Nvidia Tesla A100 GPU",),
    "a2-ultragpu-": ("Nvidia Tesla A100 80GB GPU",),
    "a3-highgpu-": ("Nvidia H100 80GB GPU",),
    "a3-megagpu-": ("Nvidia H100 80GB Mega GPU", "Nvidia H100 80GB Plus GPU"),
    "a3-ultragpu-": ("Nvidia H200 141GB GPU", "H200 141GB GPU"),
    "a4-highgpu-": ("Nvidia B200 GPU", "B200 GPU"),
    "g2-": ("Nvidia L4 GPU",),
    "g4-": ("RTX 6000 96GB",),
}
_DISK = "SSD backed Local Storage"

#: The shapes of descriptions that count.  Capacity bought ahead has SKUs of its own that read almost alike; taking one
#: for the list price would make a machine look half as dear as it is.
_BOUGHT_AHEAD = re.compile(r"\b(Calendar|DWS|Flex|Reserved|Commitment|Sole Tenancy|Custom)\b", re.IGNORECASE)
_CORE = re.compile(r"(?P<spot>Spot Preemptible )?(?P<what>.+ (?:Core|Ram)) running in .+\Z")
_GPU = re.compile(r"(?P<what>.+?)(?P<spot> attached to Spot Preemptible VMs)? running in .+\Z")
_DISKS = re.compile(rf"(?P<what>{_DISK})(?P<spot> attached to Spot Preemptible VMs)?(?: in .+)?\Z")

Get = Callable[[str], Awaitable[Mapping[str, Any]]]


@dataclass(slots=True)
class Parts:
    """Prices of the parts of machines per hour: (region, market, what) -> dollars."""

    dollars: dict[tuple[str, base.Market, str], float] = field(default_factory=dict)

    def add(self, region: str, market: base.Market, what: str, dollars: float) -> None:
        """Take down a part's price; of two for the same part the higher one counts."""
        key = (region, market, what)
        self.dollars[key] = max(dollars, self.dollars.get(key, 0.0))

    def compose(self, machine: Machine, region: str, market: base.Market) -> float | None:
        """Return the price of that machine there, None when one of its parts has no price."""
        families = _FAMILIES.get(_longest(machine.type_name, _FAMILIES), ())
        amounts: list[tuple[float, list[str]]] = [
            (machine.cpus, [f"{family} Core" for family in families]),
            (machine.memory / 2**30, [f"{family} Ram" for family in families]),
        ]
        if machine.gpu_count:
            model = machine.accelerator or _longest(machine.type_name, _GPUS)
            amounts.append((machine.gpu_count, list(_GPUS.get(model, ()))))
        if machine.scratch:
            # A disk of 375 GiB is called one of 375 GB.
            amounts.append((machine.scratch / 10**9, [_DISK]))
        total = 0.0
        for amount, names in amounts:
            found = [self.dollars[key] for name in names if (key := (region, market, name)) in self.dollars]
            if not found:
                return None
            total += amount * max(found)
        return total


def _longest(name: str, starts: Collection[str]) -> str:
    return max((start for start in starts if name.startswith(start)), key=len, default="")


def _wanted() -> frozenset[str]:
    parts = {f"{family} {unit}" for families in _FAMILIES.values() for family in families for unit in ("Core", "Ram")}
    return frozenset(parts | {name for names in _GPUS.values() for name in names} | {_DISK})


_WANTED = _wanted()


def address(token: str = "", *, base_address: str = ADDRESS) -> str:
    """The address of one page of the list."""
    query = {"currencyCode": "USD", "pageSize": str(_PAGE_SIZE)} | ({"pageToken": token} if token else {})
    return f"{base_address}?{urllib.parse.urlencode(query)}"


def parts_on(page: Mapping[str, Any]) -> Iterator[tuple[str, base.Market, str, float | None, str]]:
    """Region, market, part, dollars per hour and what is wrong with it, for each part on the page."""
    for sku in page.get("skus") or ():
        if not isinstance(sku, Mapping):
            continue
        market = _MARKETS.get(str((sku.get("category") or {}).get("usageType")))
        what = _part(str(sku.get("description") or ""), market)
        if market is None or what not in _WANTED:
            continue
        dollars, problem = _per_hour(sku, by_month=what == _DISK)
        for region in sku.get("serviceRegions") or ():
            yield str(region), market, what, dollars, problem


def _part(description: str, market: base.Market | None) -> str:
    if _BOUGHT_AHEAD.search(description):
        return ""
    for shape in (_CORE, _DISKS, _GPU):
        match = shape.match(description)
        if match is not None:
            # A description that contradicts the usage is one that is not understood.
            return match["what"] if bool(match["spot"]) == (market is base.Market.SPOT) else ""
    return ""


def _per_hour(sku: Mapping[str, Any], *, by_month: bool) -> tuple[float | None, str]:
    """Dollars for one unit and hour; None, and why, where that cannot be read."""
    try:
        # The newest comes last; without a time range there is but one.
        expression = sku["pricingInfo"][-1]["pricingExpression"]
        unit = str(expression["usageUnit"])
        rates = [rate["unitPrice"] for rate in expression["tieredRates"]]
        dollars = max(_figure(rate, "units") + _figure(rate, "nanos") / 1e9 for rate in rates)
        currencies = {str(rate.get("currencyCode") or "USD") for rate in rates}
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return None, "with a price that cannot be read"
    if currencies != {"USD"}:
        return None, f"in {', '.join(sorted(currencies))}, not in dollars"
    if unit not in (("GiBy.mo", "GBy.mo") if by_month else ("h", "GiBy.h", "GBy.h")):
        return None, f"by {unit}"
    return dollars / _HOURS_PER_MONTH if by_month else dollars, ""


def _figure(rate: Mapping[str, Any], key: str) -> float:
    return numbers.must(rate.get(key) or 0, low=-numbers.LARGEST)


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

    ``get`` fetches an address with the caller's credential and returns its JSON, or raises for anything else.  The
    list has all regions, so that a failure is one of all.
    """
    round_ = renewal.Renewal(catalog, regions=regions, source=SOURCE, now=now, place=place)
    try:
        parts = await _ask(round_, get, base_address)
    except Exception as error:
        for region in round_.regions:
            round_.failed(region, f"{type(error).__name__}: {error}")
        return round_.finish(directory)
    for region in round_.regions:
        for machine in catalog.machines.values():
            for market in base.Market:
                dollars = parts.compose(machine, region, market)
                if dollars is not None:
                    round_.quote(region, machine.name, market, dollars)
    return round_.finish(directory)


async def _ask(round_: renewal.Renewal, get: Get, base_address: str) -> Parts:
    parts, token = Parts(), ""
    for _ in range(_MOST_PAGES):
        page = await get(address(token, base_address=base_address))
        if not isinstance(page.get("skus"), list):
            raise ValueError("the answer has no list of SKUs")
        for region, market, what, dollars, problem in parts_on(page):
            if dollars is None or dollars <= 0:
                round_.refuse(region, f"{what} {market} {problem or f'at {dollars:g} dollars'}")
            else:
                parts.add(region, market, what, dollars)
        token = str(page.get("nextPageToken") or "")
        if not token:
            return parts
    raise ValueError(f"the answer does not end after {_MOST_PAGES} pages")
