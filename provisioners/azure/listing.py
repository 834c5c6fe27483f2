"""Everything of ours: machines with their power states, and parts without a machine."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from provisioners import base, catalogue
from provisioners.azure import calls as azure_calls
from provisioners.azure import error_scopes, errors, instances, launch, names, role_assignments, settings
from provisioners.azure import resource_groups as durable_groups

log = logging.getLogger(__name__)

#: Seconds for which a machine's power state is believed, and how many are asked for in one listing.
_FRESH, _LOOKS = 60.0, 100

Wire = Mapping[str, Any]


class Lister:
    """Lists the resource groups that hold ours."""

    def __init__(
        self,
        context: base.Context,
        chosen: settings.Settings,
        calls: azure_calls.Calls,
        catalog: catalogue.Catalog,
        resource_groups: durable_groups.ResourceGroups,
    ) -> None:
        self._context = context
        self._chosen = chosen
        self._calls = calls
        self._catalog = catalog
        self._resource_groups = resource_groups
        #: Machine's ref -> (its instance view, when it was asked for).
        self._power: dict[str, tuple[Wire, float]] = {}

    async def owned(self, wanted: frozenset[base.Scope]) -> base.Listing:
        """List the scopes; a region is complete when every group of ours in its subscription could be read."""
        found: list[base.InstanceView] = []
        left: list[base.Residue] = []
        failures: dict[str, str] = {}
        places = self._places(wanted)
        broken: set[str] = set()
        for subscription, group in places:
            try:
                listed = await self._calls.machines(subscription, group)
                found += await self._views(subscription, group, listed)
            except errors.HEARD as error:
                broken.add(subscription)
                failed = errors.classify(error, error_scopes.Target(self._context.name, subscription))
                failures |= {scope: f"{group}: {failed}" for scope in wanted if scope.account == subscription}
                log.warning("%s: listing %s failed: %s", self._context.name, group, failed)
                continue
            try:
                residues = await self._residues(subscription, group, listed)
            except errors.HEARD as error:
                # The machines are listed all the same; this name is no scope of any machine.
                failed = errors.classify(error, error_scopes.Target(self._context.name, subscription))
                failures[f"{self._context.name}/{subscription}/{group}/parts"] = str(failed)
                log.warning("%s: the parts in %s cannot be listed: %s", self._context.name, group, failed)
                continue
            left += residues
            if not listed and not residues and (subscription, group) != places[0]:
                self._resource_groups.forget_settled(subscription, group)
        asked = {subscription for subscription, _ in places} - broken
        complete = {
            base.Scope.of(self._context.name, scope.account, scope.region) for scope in wanted if scope.account in asked
        }
        return base.Listing(tuple(found), frozenset(complete), tuple(left), failures)

    def _places(self, wanted: frozenset[base.Scope]) -> list[tuple[str, str]]:
        """The resource groups to look in: the configured one first, and every other that held ours."""
        here = (self._chosen.subscription, self._chosen.resource_group)
        subscriptions = {scope.account for scope in wanted}
        others = {place for place in self._resource_groups.bought_at if place[0] in subscriptions and place != here}
        return [here, *sorted(others)]

    async def _views(self, subscription: str, group: str, listed: Sequence[Wire]) -> list[base.InstanceView]:
        ours = [vm for vm in listed if (vm.get("tags") or {}).get(base.TAG_CONTROLLER) == self._context.controller]
        first = [(self._view(vm, subscription, group), vm) for vm in ours]
        seen = await self._power_of(subscription, group, first)
        return [self._view(vm, subscription, group, seen[view.ref]) if view.ref in seen else view for view, vm in first]

    def _view(self, vm: Wire, subscription: str, group: str, statuses: Wire | None = None) -> base.InstanceView:
        return instances.machine(
            vm,
            provider=self._context.name,
            subscription=subscription,
            group=group,
            catalog=self._catalog,
            statuses=statuses,
            now=self._context.now(),
        )

    async def _power_of(
        self, subscription: str, group: str, found: Sequence[tuple[base.InstanceView, Wire]]
    ) -> dict[str, Wire]:
        """Instance views, which a list lacks, of the machines that may have stopped or failed.

        Failed ones are asked for first, then those whose view is the oldest.
        """
        asking: list[tuple[bool, float, str]] = []
        for view, vm in found:
            failed = instances.failed(vm)
            if failed or view.status is base.InstanceStatus.RUNNING:
                asking.append((not failed, self._power[view.ref][1] if view.ref in self._power else 0.0, view.ref))
        refs = {ref for _, _, ref in asking}
        prefix = f"{subscription}/{group}/"
        for gone in [ref for ref in self._power if ref.startswith(prefix) and ref not in refs]:
            del self._power[gone]
        now = self._context.now()
        for settled, at, ref in sorted(asking)[:_LOOKS]:
            parts = names.parse(ref)
            if parts is None or (settled and now - at < _FRESH):
                continue
            try:
                statuses = await self._calls.instance_view(subscription, group, parts.vm)
            except errors.HEARD as error:
                log.info("%s: the power state of %s could not be read: %s", self._context.name, parts.vm, error)
                break
            if statuses is not None:
                self._power[ref] = (statuses, now)
        return {ref: self._power[ref][0] for ref in refs if ref in self._power}

    async def _residues(self, subscription: str, group: str, listed: Sequence[Wire]) -> list[base.Residue]:
        found = list(
            instances.residues(
                provider=self._context.name,
                subscription=subscription,
                controller=self._context.controller,
                machines=frozenset(str(vm.get("name", "")).lower() for vm in listed),
                interfaces=await self._calls.network(subscription, group, "networkInterfaces"),
                addresses=await self._calls.network(subscription, group, "publicIPAddresses"),
                disks=await self._calls.disks(subscription, group),
            )
        )
        if self._chosen.identity == settings.SYSTEM:
            found += await self._grants(subscription, group, listed)
        return found

    async def _grants(self, subscription: str, group: str, listed: Sequence[Wire]) -> list[base.Residue]:
        """Grant machines the missing right to delete themselves; return the rights that outlived their machine."""
        controller = self._context.controller
        all_ = {names.machine_path(subscription, group, str(vm.get("name", ""))): vm for vm in listed}
        ours = [(path, vm) for path, vm in all_.items() if instances.ours(vm, controller)]
        granted = await self._calls.assignments(subscription, group)
        for machine, principal in role_assignments.missing(ours, granted, controller):
            await launch.grant(self._calls, self._chosen, self._context, machine, principal)
        return list(
            role_assignments.left(
                granted,
                frozenset(path.lower() for path in all_),
                provider=self._context.name,
                subscription=subscription,
                controller=controller,
            )
        )
