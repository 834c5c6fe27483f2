"""The account's vCPU quotas, and how much of them the whole account uses.

Service Quotas has the ceilings; running instances are counted from DescribeInstances, because the usage in CloudWatch
is minutes old.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from provisioners import base, catalogue
from provisioners.aws import calls, families, instances, rates
from provisioners.aws.settings import Settings
from provisioners.cloud_common import regions
from provisioners.support import numbers

log = logging.getLogger(__name__)

#: States that count against a quota.
_COUNTED = ("pending", "running")


def remedy(region: str, code: str) -> str:
    """Return where the quota is raised."""
    return f"raise it: https://{region}.console.aws.amazon.com/servicequotas/home/services/ec2/quotas/{code}"


async def read(
    calls_: calls.Calls, catalog: catalogue.Catalog, settings: Settings, *, provider: str, now: Callable[[], float]
) -> list[base.Quota]:
    """The quotas of all configured regions; a region that could not be read is left out.

    Raises :class:`base.ProvisionError` when none could be read.
    """
    answers, failures = await regions.ask_each(
        settings.regions,
        lambda region: _region(calls_, catalog, settings, region, provider=provider, now=now),
    )
    for region, error in failures.items():
        log.info("%s: the quotas of %s could not be read: %s", provider, region, error)
    if failures and not answers:
        raise next(iter(failures.values()))
    return [quota for quotas in answers.values() for quota in quotas]


async def ceilings(calls_: calls.Calls, region: str) -> dict[str, float]:
    """Service Quotas' code -> value in vCPUs, for the groups that are known."""
    known = {group.code for group in families.GROUPS}
    rows = await calls_.pages(
        "ListServiceQuotas",
        region,
        "Quotas",
        service="service-quotas",
        group=rates.Group.QUOTAS,
        size=100,
        ServiceCode="ec2",
    )
    values = {row["QuotaCode"]: numbers.real(row.get("Value")) for row in rows if row.get("QuotaCode") in known}
    # A ceiling that is no number is not known.
    return {code: value for code, value in values.items() if value is not None}


async def _region(
    calls_: calls.Calls,
    catalog: catalogue.Catalog,
    settings: Settings,
    region: str,
    *,
    provider: str,
    now: Callable[[], float],
) -> list[base.Quota]:
    limits = await ceilings(calls_, region)
    reservations = await calls_.pages(
        "DescribeInstances",
        region,
        "Reservations",
        Filters=[{"Name": "instance-state-name", "Values": list(_COUNTED)}],
    )
    used: dict[str, float] = {}
    for one in instances.instances_of({"Reservations": reservations}):
        market = base.Market.SPOT if one.get("InstanceLifecycle") == "spot" else base.Market.ON_DEMAND
        code = families.group_of(one["InstanceType"], market).code
        used[code] = used.get(code, 0.0) + _cpus(one, catalog)
    asked_at = now()
    return [
        base.Quota(
            name=f"{group.name} in {region} ({group.code})",
            pattern=base.OfferPattern.of(
                provider, settings.account, region, machine_type=group.pattern, market=group.market.value
            ),
            unit=base.Unit.VCPUS,
            limit=limits[group.code],
            used=used.get(group.code, 0.0),
            as_of=asked_at,
            remedy=remedy(region, group.code),
        )
        for group in families.GROUPS
        if group.code in limits
    ]


def _cpus(instance: dict[str, Any], catalog: catalogue.Catalog) -> float:
    machine = catalog.machines.get(instance["InstanceType"])
    if machine is not None:
        return float(machine.cpus)
    options = instance.get("CpuOptions", {})
    return float(options.get("CoreCount", 0) * options.get("ThreadsPerCore", 1))
