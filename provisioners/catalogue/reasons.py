"""Explanations of why no machine of a cloud serves a shape, with the nearest thing that exists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from provisioners import base, options
from provisioners.catalogue.machine import Machine

_GIB = 2**30


def unfit(machines: Iterable[Machine], shape: base.Shape, *, elsewhere: Sequence[str]) -> str:
    """Plain words for a shape that none of the machines fits; ``elsewhere`` are clouds that sell the GPU."""
    left = list(machines)
    if shape.types:
        known = {name for machine in left for name in (machine.name, machine.type_name)}
        for name in shape.types:
            if name not in known:
                return f'no machine type "{name}"{options.nearest(name, known)}'
        left = [machine for machine in left if {machine.name, machine.type_name} & set(shape.types)]
    where = f"of {options.listed(shape.types)}" if shape.types else "here"
    if shape.gpu:
        left, why = _with_gpu(left, shape, where, elsewhere)
        if why:
            return why
        what = where if shape.types else f"with {shape.gpu_count or 1} x {shape.gpu}"
    else:
        left = [machine for machine in left if not machine.gpu or shape.types]
        what = where if shape.types else "without a GPU"
    return _too_small(left, shape, what)


def _with_gpu(
    machines: list[Machine],
    shape: base.Shape,
    where: str,
    elsewhere: Sequence[str],
) -> tuple[list[Machine], str]:
    whole = [machine for machine in machines if machine.gpu_count]
    models = sorted({machine.gpu for machine in whole})
    if shape.gpu not in models:
        here = f"; GPUs {where}: {', '.join(models)}" if models else ""
        if any(machine.gpu == shape.gpu for machine in machines):
            return (
                [],
                f"machines {where} have only a share of one {shape.gpu}; leave the gpu out to get them{here}",
            )
        if elsewhere:
            return [], f'no machine {where} has the GPU "{shape.gpu}", which {options.listed(elsewhere)} sells{here}'
        hint = "" if shape.types else options.nearest(shape.gpu, models)
        return [], f'no machine {where} has the GPU "{shape.gpu}"{hint}{"" if "known:" in hint else here}'
    left = [machine for machine in whole if machine.gpu == shape.gpu]
    counts = sorted({machine.gpu_count for machine in left})
    wanted = shape.gpu_count or 1
    left = [machine for machine in left if machine.gpu_count == wanted or (shape.types and machine.gpu_count > wanted)]
    why = "" if left else f"no machine {where} has {wanted} x {shape.gpu}; they come with {options.listed(counts)}"
    return left, why


def _too_small(machines: list[Machine], shape: base.Shape, what: str) -> str:
    archs = sorted({machine.arch for machine in machines})
    left = [machine for machine in machines if machine.arch == shape.arch]
    if not left:
        return f"no machine {what} is {shape.arch}; they are {options.listed(archs)}" if archs else f"no machine {what}"
    most = max(machine.cpus for machine in left)
    if most < shape.cpus:
        return f"no machine {what} has {shape.cpus} vCPUs; the largest has {most}"
    largest = max(machine.memory for machine in left if machine.cpus >= shape.cpus)
    if largest < shape.memory:
        beside = f"{shape.cpus} vCPUs and " if shape.cpus else ""
        return f"no machine {what} has {beside}{_gib(shape.memory)} of memory; the largest has {_gib(largest)}"
    return f"no machine {what} has {shape.cpus} vCPUs together with {_gib(shape.memory)} of memory"


def _gib(size: int) -> str:
    return f"{size / _GIB:,.1f}".removesuffix(".0") + " GiB"
