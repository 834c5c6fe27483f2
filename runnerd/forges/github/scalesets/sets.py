"""The scale set that a queue uses: its name and its labels, as they should be.

A set is known by runner group and name.  runnerd never deletes one: that would leave its live runners looping for
ever (slang #11067).  Pure: :mod:`.ensuring` finds, creates and changes the sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runnerd.forges import base
from runnerd.forges.github.scalesets.service import ScaleSet

#: Labels that say nothing about the pool, and so make poor names for a set.
GENERIC = frozenset(
    {"self-hosted", "linux", "windows", "macos", "x64", "x86", "arm", "arm64", "gpu", "docker", "runnerd"}
)


def names(specs: Sequence[base.QueueSpec], former: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the name of each pool's set, by pool.

    A set's name is a label too, so it should be one that the pool has: the pool's own name if it is among its labels,
    else the first label that is neither generic nor shared with another pool of the forge.  Only when no such label
    is left the pool's name is used, and becomes one more label that jobs may ask for.  A name that was chosen before
    (``former``, by pool) stays as long as it is valid, since another name is another set beside the old one.
    """
    chosen: dict[str, str] = {}
    taken: set[str] = set()
    for spec in specs:
        pool, name = spec.queue.pool, (former or {}).get(spec.queue.pool, "")
        held = {pool.lower(), *(label.lower() for label in spec.labels)}
        others = {
            label.lower() for other in specs if other.queue.pool != pool for label in (other.queue.pool, *other.labels)
        }
        if name and name.lower() in held and name.lower() not in others | taken | GENERIC:
            chosen[pool] = name
            taken.add(name.lower())
    for spec in specs:
        pool = spec.queue.pool
        if pool in chosen:
            continue
        others = {label.lower() for other in specs if other.queue.pool != pool for label in other.labels}
        if pool.lower() in {label.lower() for label in spec.labels}:
            name = pool
        else:
            own = (
                label
                for label in spec.labels
                if label.lower() not in GENERIC and label.lower() not in others and label.lower() not in taken
            )
            name = next(own, pool)
        chosen[pool] = name
        taken.add(name.lower())
    return chosen


def labels(spec: base.QueueSpec, name: str) -> tuple[str, ...]:
    """Return the labels to send: the name first, since a set with labels is routed by its name only if it is one."""
    rest = [label for label in spec.labels if label.lower() != name.lower()]
    return (name, *rest)


def missing(wanted: Sequence[str], scale_set: ScaleSet) -> list[str]:
    """Return the wanted labels that the set lacks."""
    held = {label.lower() for label in held_labels(scale_set)}
    return [label for label in wanted if label.lower() not in held]


def surplus(wanted: Sequence[str], scale_set: ScaleSet) -> list[str]:
    """Return the labels that the set has and should not have."""
    asked = {label.lower() for label in wanted}
    return [label for label in held_labels(scale_set) if label.lower() not in asked]


def held_labels(scale_set: ScaleSet) -> list[str]:
    """Return the labels of a set; its name where it has none, since it is then routed by its name."""
    labels = scale_set.get("labels")
    held = (
        [str(label["name"]) for label in labels if isinstance(label, dict) and label.get("name")]
        if isinstance(labels, list)
        else []
    )
    return held or [str(scale_set.get("name") or "")]
