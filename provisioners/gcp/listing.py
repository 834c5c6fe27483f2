"""An aggregated list as a listing: what was seen, and of which zones it may be concluded that this is all: pure.

An aggregated list answers 200 also where it could not look into a zone; it says so in ``unreachables`` or in a
warning, and then absence proves nothing there.  A zone that the answer does not even name is not concluded upon
either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.cloud import compute_v1

from provisioners.gcp import instances as gcp_instances

#: Scopes without anything in them carry this warning: they were looked into.
_EMPTY = "NO_RESULTS_ON_PAGE"
_PARTIAL = ("UNREACHABLE", "PARTIAL_SUCCESS", "LIST_OVERHEAD_QUOTA_EXCEED")


@dataclass(slots=True)
class Seen:
    """What an aggregated list of instances told."""

    instances: list[compute_v1.Instance] = field(default_factory=list)
    #: Zones that were named.
    zones: set[str] = field(default_factory=set)
    #: Zone -> why it is not complete.
    unseen: dict[str, str] = field(default_factory=dict)
    #: Why nothing at all is complete; empty where it may be.
    broken: str = ""


def read(pages: Iterable[Any]) -> Seen:
    """All pages of ``instances.aggregatedList`` together."""
    seen = Seen()
    for page in pages:
        for scope, part in page.items.items():
            zone = gcp_instances.last(scope)
            seen.zones.add(zone)
            seen.instances += list(part.instances)
            if part.warning.code and part.warning.code != _EMPTY:
                seen.unseen[zone] = f"{part.warning.code}: {part.warning.message or 'the list is not complete'}"
        for scope in page.unreachables:
            seen.unseen[gcp_instances.last(scope)] = "UNREACHABLE: the zone did not answer"
        code = page.warning.code
        if code and code != _EMPTY:
            named = [
                gcp_instances.last(one.value) for one in page.warning.data if one.key in ("scope", "zone", "location")
            ]
            for zone in named:
                seen.unseen.setdefault(zone, f"{code}: {page.warning.message}")
            if not named and not list(page.unreachables) and code in _PARTIAL:
                seen.broken = f"{code}: {page.warning.message or 'the list is not complete'}"
    return seen


def judge(seen: Seen, wanted: Iterable[str]) -> tuple[frozenset[str], Mapping[str, str]]:
    """Of the wanted scopes, and the zones of the wanted regions, those that are complete, and why others are not."""
    complete: set[str] = set()
    failures: dict[str, str] = {}
    for scope in wanted:
        root, _, zone = scope.rpartition("/")
        region = root.rpartition("/")[2]
        if seen.broken:
            failures[scope] = seen.broken
        elif zone != "*":
            _judge_zone(seen, scope, zone, complete, failures)
        else:
            inside = {one for one in seen.zones | seen.unseen.keys() if gcp_instances.region_of(one) == region}
            for one in inside:
                _judge_zone(seen, f"{root}/{one}", one, complete, failures)
            missing = sorted(inside & seen.unseen.keys())
            if missing:
                failures[scope] = f"{', '.join(missing)}: {seen.unseen[missing[0]]}"
            elif not inside:
                failures[scope] = f"the answer names no zone of {region}"
            else:
                complete.add(scope)
    return frozenset(complete), failures


def _judge_zone(seen: Seen, scope: str, zone: str, complete: set[str], failures: dict[str, str]) -> None:
    if zone in seen.unseen:
        failures[scope] = seen.unseen[zone]
    elif zone not in seen.zones:
        failures[scope] = "the answer does not name the zone"
    else:
        complete.add(scope)
