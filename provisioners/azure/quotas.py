"""Azure's quotas in the terms of the contract; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from provisioners import base, catalogue
from provisioners.support import numbers

#: Total of all sizes in a region, and of everything in the spot market there.
REGIONAL, SPOT = "cores", "lowPriorityCores"
#: Machines of any size in a region.
MACHINES = "virtualMachines"
REMEDY = "https://portal.azure.com/#view/Microsoft_Azure_Capacity/QuotaMenuBlade/~/myQuotas"


def read(
    usages: Iterable[Mapping[str, Any]],
    *,
    provider: str,
    subscription: str,
    region: str,
    catalog: catalogue.Catalog,
    now: float,
) -> Iterator[base.Quota]:
    """The quotas of one region that govern something in the catalogue."""
    sizes: dict[str, list[str]] = {}
    for machine in catalog.machines.values():
        if machine.family:
            sizes.setdefault(machine.family.lower(), []).append(machine.name)
    for usage in usages:
        name = str((usage.get("name") or {}).get("value", ""))
        governed = _governed(name, sizes)
        limit = numbers.real(usage.get("limit", 0), low=-numbers.LARGEST)
        # A ceiling that is no number is not known.
        if governed is None or limit is None:
            continue
        types, market = governed
        label = str((usage.get("name") or {}).get("localizedValue") or name)
        yield base.Quota(
            name=f"{label} in {region}",
            pattern=base.OfferPattern.of(provider, subscription, region, machine_type=types, market=market),
            unit=base.Unit.INSTANCES if name == MACHINES else base.Unit.VCPUS,
            limit=limit,
            used=numbers.real(usage.get("currentValue", 0)) or 0.0,
            as_of=now,
            remedy=REMEDY,
        )


def _governed(name: str, sizes: Mapping[str, list[str]]) -> tuple[str, str] | None:
    """The machine types and the market that a quota counts, as segments of a pattern."""
    if name == SPOT:
        return base.ANY, base.Market.SPOT.value
    if name == REGIONAL:
        # Spot cores are counted by themselves.
        return base.ANY, base.Market.ON_DEMAND.value
    if name == MACHINES:
        return base.ANY, base.ANY
    family = sizes.get(name.lower())
    return (base.alternatives(family), base.Market.ON_DEMAND.value) if family else None
