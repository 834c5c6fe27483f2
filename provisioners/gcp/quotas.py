"""The project's ceilings as ``regions.get`` and ``projects.get`` have them, each with the offers that it governs.

The newest GPU families (H100 on demand, H200, B200, RTX PRO 6000) have their quota in Cloud Quotas only, one for each
family and region, which these calls do not have; an error that names one still blocks what it governs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from google.cloud import compute_v1

from provisioners import base
from provisioners.gcp import families
from provisioners.gcp.error_scopes import Target
from provisioners.support import numbers

_SPOT = "PREEMPTIBLE_"
_CONSOLE = "https://console.cloud.google.com/iam-admin/quotas?project={project}"


def remedy(project: str) -> str:
    """Return where a quota is raised."""
    return f"raise it at {_CONSOLE.format(project=project)}"


def of_region(quotas: Iterable[compute_v1.Quota], target: Target, region: str, *, as_of: float) -> list[base.Quota]:
    """The quotas of a region that govern machine types of the catalogue, and the number of instances.

    Where the project has no preemptible quota of a kind, spot instances count against the plain one ("Allocation
    quotas"), which then governs both markets.
    """
    # A ceiling that is no number is not known.
    known = {one.metric: one for one in quotas if numbers.real(one.limit, low=-numbers.LARGEST) is not None}
    found: list[base.Quota] = []
    for metric, quota in sorted(known.items()):
        plain = metric.removeprefix(_SPOT)
        unit = unit_of(plain)
        if unit is None:
            continue
        types = families.governed(target.catalog, plain)
        if not types and plain != "INSTANCES":
            continue
        if metric != plain:
            if quota.limit <= 0:
                continue
            market = base.Market.SPOT.value
        else:
            preemptible = known.get(f"{_SPOT}{metric}")
            only = preemptible is not None and preemptible.limit > 0
            market = base.Market.ON_DEMAND.value if only else base.ANY
        pattern = base.OfferPattern.of(
            target.provider, target.project, region, machine_type=base.alternatives(types), market=market
        )
        found.append(_quota(f"{metric} in {region}", quota, pattern, unit, target.project, as_of))
    return found


def of_project(quotas: Iterable[compute_v1.Quota], target: Target, *, as_of: float) -> list[base.Quota]:
    """The quotas that hold over all regions."""
    found: list[base.Quota] = []
    for quota in quotas:
        if quota.metric == "GPUS_ALL_REGIONS":
            pattern = target.gpus()
            found.append(_quota(quota.metric, quota, pattern, base.Unit.GPUS, target.project, as_of))
        elif quota.metric == "CPUS_ALL_REGIONS":
            pattern = target.everywhere()
            found.append(_quota(quota.metric, quota, pattern, base.Unit.VCPUS, target.project, as_of))
    return found


def unit_of(metric: str) -> base.Unit | None:
    """Return what a metric counts; None for one that counts nothing an offer has."""
    if metric.startswith("COMMITTED_") or metric.endswith("_VWS_GPUS"):
        return None
    if metric.endswith("_GPUS") or metric == "GPUS_ALL_REGIONS":
        return base.Unit.GPUS
    if metric == "CPUS" or metric.endswith("_CPUS"):
        return base.Unit.VCPUS
    return base.Unit.INSTANCES if metric == "INSTANCES" else None


def zero(found: Iterable[base.Quota], keys: Mapping[str, str]) -> list[tuple[base.Quota, str]]:
    """The quotas of zero that govern one of those offers (key -> place), each with the place."""
    hits: list[tuple[base.Quota, str]] = []
    for quota in found:
        if quota.limit <= 0:
            hits += [(quota, place) for key, place in keys.items() if quota.pattern.matches(key)]
    return hits


def _quota(
    name: str, quota: compute_v1.Quota, pattern: base.OfferPattern, unit: base.Unit, project: str, as_of: float
) -> base.Quota:
    return base.Quota(name, pattern, unit, quota.limit, quota.usage, as_of, remedy(project))
