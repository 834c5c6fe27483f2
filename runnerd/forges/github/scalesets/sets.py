"""Which scale set a queue uses: its name, its labels, and how both are made so.

A set is known by runner group and name.  It is never deleted here: deleting it leaves its live runners looping for
ever (slang #11067).  Labels of a set that exists are changed only by the holder of its session, so a set that another
program listens on is left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runnerd.forges import base

#: Labels that say nothing about the pool; poor names for a set.
GENERIC = frozenset(
    {"self-hosted", "linux", "windows", "macos", "x64", "x86", "arm", "arm64", "gpu", "docker", "runnerd"}
)


def names(specs: Sequence[base.QueueSpec], former: Mapping[str, str] | None = None) -> dict[str, str]:
    """The name of each pool's set, by pool.

    A set's name is a label too, so it should be one that the pool has: the pool's own name if it is among its labels,
    else the first label that is neither generic nor shared with another pool of the forge.  Only when no such label
    is left the pool's name is used, and becomes one more label that jobs may ask for.  A name that was chosen before
    (``former``, by pool) stays as long as it would do, since another name is another set beside the old one.
    """
    chosen: dict[str, str] = {}
    taken: set[str] = set()
    for spec in specs:
        pool, name = spec.queue.pool, (former or {}).get(spec.queue.pool, "")
        held = {pool.lower(), *(label.lower() for label in spec.labels)}
        rest = [other for other in specs if other.queue.pool != pool]
        others = {word.lower() for other in rest for word in (other.queue.pool, *other.labels)}
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
    """The labels to send: the name first, since a set with labels is not routed by its name unless it is one."""
    rest = [label for label in spec.labels if label.lower() != name.lower()]
    return (name, *rest)


def missing(wanted: Sequence[str], scale_set: Mapping[str, Any]) -> list[str]:
    """Labels that the set lacks."""
    held = {label.lower() for label in held_labels(scale_set)}
    return [label for label in wanted if label.lower() not in held]


def surplus(wanted: Sequence[str], scale_set: Mapping[str, Any]) -> list[str]:
    """Labels that the set has and should not."""
    asked = {label.lower() for label in wanted}
    return [label for label in held_labels(scale_set) if label.lower() not in asked]


def held_labels(scale_set: Mapping[str, Any]) -> list[str]:
    """The labels of a set as the service answers them.  A set without any is routed by its name."""
    found = scale_set.get("labels")
    held = (
        [str(label["name"]) for label in found if isinstance(label, dict) and label.get("name")]
        if isinstance(found, list)
        else []
    )
    return held or [str(scale_set.get("name") or "")]
