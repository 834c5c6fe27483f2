"""Which machine types one quota of Compute Engine counts together, as patterns over their names."""

from __future__ import annotations

from provisioners import catalogue

_CPUS = "_CPUS"


def gpu_types(catalog: catalogue.Catalog) -> tuple[str, ...]:
    """Patterns for every type with GPUs; whole families where all their types have some, to keep it short."""
    families: dict[str, set[bool]] = {}
    for machine in catalog.machines.values():
        if not machine.accelerator:
            families.setdefault(machine.name.partition("-")[0], set()).add(bool(machine.gpu_count))
    found = {f"{name}-*" for name, kinds in families.items() if kinds == {True}}
    for machine in catalog.machines.values():
        if machine.accelerator:
            found.add("*+*")
        elif machine.gpu_count and f"{machine.name.partition('-')[0]}-*" not in found:
            found.add(machine.name)
    return tuple(sorted(found))


def governed(catalog: catalogue.Catalog, metric: str, *, family: str = "") -> tuple[str, ...]:
    """Patterns for the machine types that a quota counts; none where it counts something that every type uses."""
    if family or metric.endswith("_GPUS"):
        metric = f"{family}_GPUS" if family else metric
        gpus = [one for one in catalog.machines.values() if one.gpu_count]
        model = metric.removeprefix("NVIDIA_").removesuffix("_GPUS").lower().replace("_", "-")
        counted = [one for one in gpus if one.family == metric]
        counted = counted or [one for one in gpus if model in (one.gpu, f"{one.gpu}-mega")]
        # Many types take the same accelerator; one pattern stands for them.
        return tuple(sorted({f"*+{one.accelerator}x*" if one.accelerator else one.name for one in counted}))
    if metric == "CPUS":
        # What attaches GPUs to a general type takes its vCPUs from there as well.
        return tuple(
            one.name for one in catalog.machines.values() if one.family == metric or one.name.startswith("n1-")
        )
    if metric.endswith(_CPUS) and metric != "CPUS_ALL_REGIONS":
        prefix = f"{metric.removesuffix(_CPUS).lower()}-"
        return tuple(one.name for one in catalog.machines.values() if one.name.startswith(prefix))
    return ()
