"""Quotas of a project and capacity of its zones."""

from __future__ import annotations

from typing import Any

from tests.clouds.gcp import hardware, launch
from tests.clouds.gcp.project import Project

#: Quota metric -> limit in each region.
QUOTAS = {
    "INSTANCES": 2000.0,
    "CPUS": 20000.0,
    "N2_CPUS": 5000.0,
    "T2A_CPUS": 2000.0,
    "C3_CPUS": 2000.0,
    "IN_USE_ADDRESSES": 5000.0,
    "NVIDIA_T4_GPUS": 400.0,
    "NVIDIA_L4_GPUS": 400.0,
    "NVIDIA_V100_GPUS": 64.0,
    "NVIDIA_P100_GPUS": 64.0,
    "NVIDIA_A100_GPUS": 64.0,
    "NVIDIA_A100_80GB_GPUS": 64.0,
    "PREEMPTIBLE_NVIDIA_T4_GPUS": 400.0,
    "PREEMPTIBLE_NVIDIA_L4_GPUS": 400.0,
    "PREEMPTIBLE_NVIDIA_V100_GPUS": 0.0,
    "PREEMPTIBLE_CPUS": 0.0,
}


def refusal(project: Project, plan: launch.Plan, zone: str) -> tuple[str, dict[str, Any]]:
    """The code, and the quota, by which a launch fails for want of something."""
    region = zone.rpartition("-")[0]
    spot = plan.market == "spot"
    family = hardware.FAMILIES.get(plan.accelerator, "")
    wants: list[tuple[str, str, float]] = []
    if plan.accelerator:
        wants.append(("", "GPUS_ALL_REGIONS", float(plan.accelerators)))
        metric = hardware.METRICS.get(plan.accelerator, "")
        if metric:
            wants.append((region, metric_of(project, region, metric, spot), float(plan.accelerators)))
        elif family:
            wants.append((region, f"GPUS-PER-GPU-FAMILY {family}", float(plan.accelerators)))
    cpu = hardware.CPU_METRICS.get(plan.kind.series, "CPUS")
    wants.append((region, metric_of(project, region, cpu, spot), float(plan.kind.cpus)))
    wants.append((region, "INSTANCES", 1.0))
    for where, metric, count in wants:
        most = limit(project, where, metric)
        if most is not None and used(project, where, metric) + count > most:
            words = f"Quota '{metric}' exceeded.  Limit: {most:.1f} " + (
                f"in region {where}." if where else "globally."
            )
            name = f"{metric.replace('_', '-')}-per-project{'-region' if where else ''}"
            dimensions = {"region": where} if where else {}
            if metric.startswith("GPUS-PER"):
                name, dimensions = "GPUS-PER-GPU-FAMILY-per-project-region", {"region": where, "gpu_family": family}
                words = f"Quota 'GPUS_PER_GPU_FAMILY' exceeded.  Limit: {most:.1f} in region {where}."
            service = f"compute.googleapis.com/{metric.partition(' ')[0].lower().replace('-', '_')}"
            told = {"metricName": service, "limitName": name, "dimensions": dimensions, "limit": most}
            return "QUOTA_EXCEEDED", {**told, "message": words}
    for what, count in ((plan.kind.name, 1), (plan.accelerator, plan.accelerators)):
        room = project.capacity.get((zone, what), project.capacity.get(("*", what)))
        if room is not None and _taken(project, zone, what) + count > room:
            return "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", {}
    return "", {}


def metric_of(project: Project, region: str, metric: str, spot: bool) -> str:
    """Spot counts against a preemptible quota where the project has one."""
    return f"PREEMPTIBLE_{metric}" if spot and limit(project, region, f"PREEMPTIBLE_{metric}") else metric


def limit(project: Project, region: str, metric: str) -> float | None:
    """Return the limit of a quota, None where there is none; the region of a project's quota is empty."""
    found = project.limits.get((region, metric))
    return found if found is not None else (QUOTAS.get(metric) if region else None)


def used(project: Project, region: str, metric: str) -> float:
    """Return how much of it is in use."""
    found = 0.0
    for one in project._instances.values():
        if region not in ("", one.region) or (one.failed and one.status != "PROVISIONING"):
            continue
        gpu = (
            hardware.METRICS.get(one.accelerator, "") or f"GPUS-PER-GPU-FAMILY {hardware.FAMILIES.get(one.accelerator)}"
        )
        cpu = hardware.CPU_METRICS.get(one.kind().series, "CPUS")
        if metric == "INSTANCES":
            found += 1
        elif one.status in ("STOPPED", "TERMINATED"):
            continue
        elif metric == "GPUS_ALL_REGIONS" or (
            one.accelerator and metric == metric_of(project, one.region, gpu, one.spot)
        ):
            found += one.accelerators
        elif metric == metric_of(project, one.region, cpu, one.spot):
            found += one.kind().cpus
    return found


def _taken(project: Project, zone: str, what: str) -> int:
    alive = [
        one
        for one in project._instances.values()
        if one.zone == zone and not one.failed and one.status not in ("STOPPED", "TERMINATED")
    ]
    return sum(1 for one in alive if one.type == what) + sum(
        one.accelerators for one in alive if one.accelerator == what
    )
