"""An aggregated list as a listing: what was seen, and of which zones it may be concluded that this is all: pure.

An aggregated list answers 200 also where it could not look into a zone; it says so in ``unreachables`` or in a
warning, and then absence proves nothing there.  A zone that the answer does not even name is not concluded upon
either.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from google.cloud import compute_v1

from provisioners import base, catalogue
from provisioners.gcp import end_reasons, instances, names, pending_launches, rates, tags
from provisioners.gcp.calls import Calls
from provisioners.gcp.client import TIMEOUT_S
from provisioners.gcp.operations import Operations

#: Scopes without anything in them carry this warning: they were looked into.
_EMPTY = "NO_RESULTS_ON_PAGE"
_PARTIAL = ("UNREACHABLE", "PARTIAL_SUCCESS", "LIST_OVERHEAD_QUOTA_EXCEED")
#: Pages of 500 of a list at most.
_PAGES = 200
#: Stopped instances for which one listing looks up whether their launch failed.
_EXPLAINED = 20


@dataclass(slots=True)
class Seen:
    """The content of an aggregated list of instances."""

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
            zone = names.last(scope)
            seen.zones.add(zone)
            seen.instances += list(part.instances)
            if part.warning.code and part.warning.code != _EMPTY:
                seen.unseen[zone] = f"{part.warning.code}: {part.warning.message or 'the list is not complete'}"
        for scope in page.unreachables:
            seen.unseen[names.last(scope)] = "UNREACHABLE: the zone did not answer"
        code = page.warning.code
        if code and code != _EMPTY:
            named = [names.last(one.value) for one in page.warning.data if one.key in ("scope", "zone", "location")]
            for zone in named:
                seen.unseen.setdefault(zone, f"{code}: {page.warning.message}")
            if not named and not list(page.unreachables) and code in _PARTIAL:
                seen.broken = f"{code}: {page.warning.message or 'the list is not complete'}"
    return seen


def judge(seen: Seen, wanted: Iterable[base.Scope]) -> tuple[frozenset[base.Scope], Mapping[str, str]]:
    """Of the wanted scopes, and the zones of the wanted regions, those that are complete, and why others are not."""
    complete: set[base.Scope] = set()
    failures: dict[str, str] = {}
    for scope in wanted:
        region, zone = scope.region, scope.zone
        if seen.broken:
            failures[scope] = seen.broken
        elif zone != base.ANY:
            _judge_zone(seen, scope, zone, complete, failures)
        else:
            inside = {one for one in seen.zones | seen.unseen.keys() if names.region_of(one) == region}
            for one in inside:
                _judge_zone(seen, scope.in_zone(one), one, complete, failures)
            missing = sorted(inside & seen.unseen.keys())
            if missing:
                failures[scope] = f"{', '.join(missing)}: {seen.unseen[missing[0]]}"
            elif not inside:
                failures[scope] = f"the answer names no zone of {region}"
            else:
                complete.add(scope)
    return frozenset(complete), failures


def _judge_zone(seen: Seen, scope: base.Scope, zone: str, complete: set[base.Scope], failures: dict[str, str]) -> None:
    if zone in seen.unseen:
        failures[scope] = seen.unseen[zone]
    elif zone not in seen.zones:
        failures[scope] = "the answer does not name the zone"
    else:
        complete.add(scope)


class Lister:
    """Lists by the controller's label."""

    def __init__(
        self,
        context: base.Context,
        catalog: catalogue.Catalog,
        calls: Calls,
        operations: Operations,
        unsettled: pending_launches.Launches,
    ) -> None:
        self._context = context
        self._catalog = catalog
        self._calls = calls
        self._operations = operations
        self._unsettled = unsettled

    async def owned(self, wanted: frozenset[base.Scope], *, home: str) -> base.Listing:
        """List the scopes.  Raises :class:`base.ProvisionError` where the project ``home`` cannot be listed."""
        found: list[base.InstanceView] = []
        residues: list[base.Residue] = []
        complete: set[base.Scope] = set()
        failures: dict[str, str] = {}
        for project in sorted({one.account for one in wanted}):
            scopes = {one for one in wanted if one.account == project}
            try:
                seen = await self._seen(project)
            except base.ProvisionError as error:
                if project == home:
                    raise
                failures |= dict.fromkeys(scopes, f"{error}")
                continue
            mine = await self._mine(seen.instances, project)
            found += mine
            whole, why = judge(seen, scopes | {one.scope for one in mine})
            complete |= whole
            failures |= why
            try:
                residues += await self._residues(project)
            except base.ProvisionError as error:
                failures[f"{self._context.name}/{project}/disks and addresses/*"] = str(error)
        found += await self._unsettled.failed({one.ref for one in found})
        return base.Listing(tuple(found), frozenset(complete), tuple(residues), failures)

    async def _seen(self, project: str) -> Seen:
        def ask() -> Seen:
            call = compute_v1.AggregatedListInstancesRequest(
                project=project, filter=tags.owned(self._context.controller), max_results=500
            )
            pager = self._calls.clients.instances.aggregated_list(request=call, retry=None, timeout=TIMEOUT_S)
            return read(itertools.islice(pager.pages, _PAGES))

        return await self._calls(rates.Group.LIST, ask, self._calls.target(project=project))

    async def _mine(self, listed: Sequence[compute_v1.Instance], project: str) -> list[base.InstanceView]:
        """Return ours among those with our label: labels are coarser than tags."""
        found: list[base.InstanceView] = []
        explained = 0
        for one in listed:
            if instances.tags(one).get(base.TAG_CONTROLLER) != self._context.controller:
                continue
            stopped = instances.STATUSES.get(one.status) is base.InstanceStatus.STOPPED
            explain = stopped and explained < _EXPLAINED
            explained += explain
            found.append(await self.view(one, project, explain=explain))
        return found

    async def _residues(self, project: str) -> list[base.Residue]:
        clients, name, owned = self._calls.clients, self._context.name, tags.owned(self._context.controller)

        def disks() -> list[base.Residue]:
            call = compute_v1.AggregatedListDisksRequest(project=project, filter=owned, max_results=500)
            pages = clients.disks.aggregated_list(request=call, retry=None, timeout=TIMEOUT_S).pages
            parts = [part for page in itertools.islice(pages, _PAGES) for part in page.items.values()]
            found = [one for part in parts for one in part.disks if not one.users]
            return [instances.disk(one, provider=name, project=project) for one in found]

        def addresses() -> list[base.Residue]:
            call = compute_v1.AggregatedListAddressesRequest(project=project, filter=owned, max_results=500)
            pages = clients.addresses.aggregated_list(request=call, retry=None, timeout=TIMEOUT_S).pages
            parts = [part for page in itertools.islice(pages, _PAGES) for part in page.items.values()]
            found = [one for part in parts for one in part.addresses if not one.users]
            return [instances.address(one, provider=name, project=project) for one in found]

        place = self._calls.target(project=project)
        return [
            *await self._calls(rates.Group.LIST, disks, place),
            *await self._calls(rates.Group.LIST, addresses, place),
        ]

    async def view(self, found: compute_v1.Instance, project: str, *, explain: bool = True) -> base.InstanceView:
        """Return an instance; with ``explain``, and why its launch failed where it stopped without ever running."""
        view = instances.instance(found, provider=self._context.name, project=project, catalog=self._catalog)
        ref = names.parse(view.ref)
        if not explain or ref is None or view.status is not base.InstanceStatus.STOPPED:
            return view
        failure = end_reasons.failure(await self._operations.of(ref), ref, self._calls.target_of(view))
        return replace(view, status=base.InstanceStatus.FAILED, failure=failure) if failure is not None else view
