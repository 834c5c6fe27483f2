"""Everything of ours in the account: instances and orphaned resources, region by region."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

from provisioners import base
from provisioners.aws import calls, rates
from provisioners.aws import instances as aws_instances
from provisioners.aws import tags as aws_tags

log = logging.getLogger(__name__)

#: Handles that DescribeInstanceStatus takes in one call.
_CHECKED = 100
VOLUME, INTERFACE, SPOT_REQUEST, ADDRESS = "volume", "network-interface", "spot-request", "address"


class Lister:
    """Lists by the controller's tag."""

    def __init__(self, calls: calls.Calls, *, provider: str, account: str, controller: str) -> None:
        self._calls = calls
        self._provider = provider
        self._account = account
        self._ours = {"Name": f"tag:{base.TAG_CONTROLLER}", "Values": [controller]}

    async def owned(self, regions: Iterable[str], also: frozenset[base.Scope]) -> base.Listing:
        """List those regions, and those of scopes that have rows."""
        wanted = dict.fromkeys(regions)
        failures: dict[str, str] = {}
        for scope in sorted(also):
            if scope.provider == self._provider and scope.account == self._account and scope.region:
                wanted[scope.region] = None
            elif scope.provider == self._provider:
                failures[scope] = f"it belongs to the account {scope.account}, this provider has {self._account}"
        listings = await asyncio.gather(*(self._region(region) for region in wanted))
        found: list[base.InstanceView] = []
        residues: list[base.Residue] = []
        complete: set[base.Scope] = set()
        for region, (there, left, problem) in zip(wanted, listings, strict=True):
            scope = base.Scope.of(self._provider, self._account, region)
            if problem:
                failures[scope] = problem
                continue
            complete.add(scope)
            found += there
            residues += left
        return base.Listing(tuple(found), frozenset(complete), tuple(residues), failures)

    async def _region(self, region: str) -> tuple[list[base.InstanceView], list[base.Residue], str]:
        try:
            instances = aws_instances.instances_of(
                {
                    "Reservations": await self._calls.pages(
                        "DescribeInstances", region, "Reservations", Filters=[self._ours]
                    )
                }
            )
        except base.ProvisionError as error:
            return [], [], str(error)
        running = [one["InstanceId"] for one in instances if one["State"]["Name"] == "running"]
        health, residues = await asyncio.gather(self._health(region, running), self._residues(region, instances))
        there = [
            aws_instances.view(self._provider, self._account, region, one, healthy=health.get(one["InstanceId"]))
            for one in instances
        ]
        return there, residues, ""

    async def _health(self, region: str, ids: list[str]) -> dict[str, bool | None]:
        """Instance -> verdict of EC2's status checks; without verdicts where EC2 gives none."""
        found: dict[str, bool | None] = {}
        for start in range(0, len(ids), _CHECKED):
            try:
                answer = await self._calls.call(
                    "DescribeInstanceStatus", region, InstanceIds=ids[start : start + _CHECKED]
                )
            except base.ProvisionError as error:
                log.info("no status checks from %s: %s", region, error)
                return found
            found.update(
                {one["InstanceId"]: aws_instances.health_of(one) for one in answer.get("InstanceStatuses", [])}
            )
        return found

    # -- orphaned resources -------------------------------------------------------------------------------

    async def _residues(self, region: str, instances: list[dict[str, Any]]) -> list[base.Residue]:
        found = await asyncio.gather(
            self._volumes(region),
            self._interfaces(region),
            self._spot_requests(region, instances),
            self._addresses(region),
        )
        return [one for part in found for one in part]

    async def _asked(self, operation: str, region: str, key: str, *filters: dict[str, Any]) -> list[dict[str, Any]]:
        """A listing of side resources; one that fails is tried again the next time and hides no instance."""
        given = [self._ours, *filters]
        try:
            if operation == "DescribeAddresses":
                answer = await self._calls.call(operation, region, Filters=given)
                addresses: list[dict[str, Any]] = answer.get(key, [])
                return addresses
            return await self._calls.pages(operation, region, key, size=500, Filters=given)
        except base.ProvisionError as error:
            log.warning("orphaned resources in %s could not be listed: %s", region, error)
            return []

    async def _volumes(self, region: str) -> list[base.Residue]:
        free = {"Name": "status", "Values": ["available"]}
        return [
            self._residue(VOLUME, region, one["VolumeId"], one, zone=one["AvailabilityZone"], at=one.get("CreateTime"))
            for one in await self._asked("DescribeVolumes", region, "Volumes", free)
        ]

    async def _interfaces(self, region: str) -> list[base.Residue]:
        free = {"Name": "status", "Values": ["available"]}
        return [
            self._residue(INTERFACE, region, one["NetworkInterfaceId"], one, zone=one.get("AvailabilityZone", ""))
            for one in await self._asked("DescribeNetworkInterfaces", region, "NetworkInterfaces", free)
        ]

    async def _spot_requests(self, region: str, instances: list[dict[str, Any]]) -> list[base.Residue]:
        alive = {one["InstanceId"] for one in instances if one["State"]["Name"] not in ("terminated", "shutting-down")}
        living = {"Name": "state", "Values": ["open", "active"]}
        return [
            self._residue(
                SPOT_REQUEST,
                region,
                one["SpotInstanceRequestId"],
                one,
                zone=one.get("LaunchedAvailabilityZone", ""),
                at=one.get("CreateTime"),
            )
            for one in await self._asked("DescribeSpotInstanceRequests", region, "SpotInstanceRequests", living)
            if one.get("InstanceId", "") not in alive
        ]

    async def _addresses(self, region: str) -> list[base.Residue]:
        return [
            self._residue(ADDRESS, region, one["AllocationId"], one)
            for one in await self._asked("DescribeAddresses", region, "Addresses")
            if "AllocationId" in one and not one.get("AssociationId")
        ]

    def _residue(
        self, kind: str, region: str, id: str, resource: dict[str, Any], *, zone: str = "", at: object = None
    ) -> base.Residue:
        # EC2 does not say since when interfaces and addresses exist: two sightings have to do.
        return base.Residue(
            kind=kind,
            ref=f"{region}/{id}",
            scope=base.Scope.of(self._provider, self._account, region, zone or base.ANY),
            tags=aws_tags.of(resource),
            created_at=aws_instances.seconds(at),
        )


async def remove(calls_: calls.Calls, residue: base.Residue) -> None:
    """Remove a side resource; not found is success.  Raises :class:`base.ProvisionError`."""
    region, _, id = residue.ref.partition("/")
    known: dict[str, tuple[str, dict[str, Any]]] = {
        VOLUME: ("DeleteVolume", {"VolumeId": id}),
        INTERFACE: ("DeleteNetworkInterface", {"NetworkInterfaceId": id}),
        SPOT_REQUEST: ("CancelSpotInstanceRequests", {"SpotInstanceRequestIds": [id]}),
        ADDRESS: ("ReleaseAddress", {"AllocationId": id}),
    }
    operation, parameters = known.get(residue.kind, ("", {}))
    if not operation:
        raise base.ProvisionError(base.Kind.CONFIG, f"{residue.ref}: a {residue.kind} cannot be removed here")
    try:
        await calls_.call(operation, region, group=rates.Group.CHANGE, **parameters)
    except base.ProvisionError as error:
        if error.kind is not base.Kind.NOT_FOUND:
            raise
