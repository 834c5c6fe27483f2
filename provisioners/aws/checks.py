"""``runnerd check`` for AWS: everything that can be tested without buying an instance.

Permissions are tested with ``DryRun``, which Amazon answers before it does anything: ``DryRunOperation`` means allowed.
The calls that end instances cannot be tested this way: the policy of docs/aws.md allows them for runnerd's instances
only, and there may be none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from provisioners import base, catalogue, options
from provisioners.aws import availability, calls, errors, families, images, permissions, quotas, rates, request, tags
from provisioners.aws.settings import Region, Settings
from provisioners.base import Finding, Level
from provisioners.cloud_common import checks

#: Stands in for the one-time token, which is not longer.
_TOKEN = "x" * 64
#: Free addresses below which a subnet is nearly full.
_FEW = 8
_POLICY = "give the credentials the policy of docs/aws.md"


@dataclass(slots=True)
class Examination:
    """One run of the check."""

    context: base.Context
    settings: Settings
    catalog: catalogue.Catalog
    calls: calls.Calls
    available: availability.Availability
    #: The parameters that a request is sent with; raises :class:`base.ProvisionError`.
    body: Callable[[base.CreateRequest], Any]
    findings: checks.Findings
    #: Region -> quotas, None where they could not be read.
    _ceilings: dict[str, dict[str, float] | None] = field(default_factory=dict)

    async def run(self, samples: Sequence[base.CreateRequest]) -> list[Finding]:
        """Return all findings."""
        if await self._credentials():
            usable = [region for region in self.settings.regions.values() if await self._region(region)]
            names = {region.name for region in usable}
            for sample in samples:
                if sample.offer.region in names:
                    await self._sample(sample)
        return self.findings.found

    def _failed(self, what: str, error: base.ProvisionError, *, place: str = "", level: Level = Level.ERROR) -> None:
        """Note a call that failed, with the missing permission where Amazon names it."""
        action = errors.denied_action(error)
        if action:
            self.findings.add(level, f"{what}: the credentials lack {action}", _POLICY, place=place)
        elif error.kind is base.Kind.AUTH:
            self.findings.add(level, f"{what}: {error}", "check the credentials (docs/aws.md)", place=place)
        elif error.kind in (base.Kind.TRANSIENT, base.Kind.THROTTLED):
            self.findings.add(
                level, f"{what}: {error}", "try again; if it persists, check network and endpoint", place=place
            )
        else:
            self.findings.add(level, f"{what}: {error}", "correct the provider's options", place=place)

    async def _credentials(self) -> bool:
        try:
            who = await self.calls.call("GetCallerIdentity", service="sts", group=rates.Group.STS)
        except base.ProvisionError as error:
            self._failed("credentials", error)
            return False
        account, expected = str(who["Account"]), self.settings.expected_account
        if expected and account != expected:
            self.findings.error(
                f"the credentials belong to account {account}, but account {expected} is configured",
                "correct account, or use credentials (or role_arn) of that account",
            )
            return False
        self.findings.ok(f"credentials of {who['Arn']}")
        return True

    # -- regions ----------------------------------------------------------------------------------------------------

    async def _region(self, region: Region) -> bool:
        """Try a region; return False when nothing else about it needs to be tried."""
        try:
            subnets = await self.calls.pages("DescribeSubnets", region.name, "Subnets")
        except base.ProvisionError as error:
            self._failed(f"{region.name}", error)
            return False
        before = self.findings.errors
        there = {one["SubnetId"]: one for one in subnets}
        for subnet in region.subnets:
            if subnet not in there:
                hint = options.nearest(subnet, there)
                self.findings.error(f"{region.name} has no subnet {subnet}{hint}", "correct regions.*.subnets")
            elif int(there[subnet].get("AvailableIpAddressCount", _FEW)) < _FEW:
                left = there[subnet]["AvailableIpAddressCount"]
                remedy = "add another subnet of that zone, or a larger one"
                self.findings.warning(f"{subnet} in {region.name} has only {left} free addresses", remedy)
        networks = {there[one].get("VpcId", "") for one in region.subnets if one in there}
        await self._groups(region.name, region.launch.security_groups, networks)
        await self._permissions(region.name)
        if region.launch.image is not None:
            await self._image(region.name, region.launch.image)
        await self._quotas(region.name)
        if self.findings.errors == before:
            zones = {there[one]["AvailabilityZone"] for one in region.subnets}
            self.findings.ok(f"{region.name}: network, permissions and image are usable in {', '.join(sorted(zones))}")
        return True

    async def _groups(self, region: str, groups: Sequence[str], networks: set[str]) -> None:
        if not groups:
            return
        try:
            rows = await self.calls.pages("DescribeSecurityGroups", region, "SecurityGroups")
        except base.ProvisionError as error:
            self._failed(f"security groups of {region}", error, level=Level.WARNING)
            return
        there = {one["GroupId"]: one for one in rows}
        for group in groups:
            if group not in there:
                hint = options.nearest(group, there)
                self.findings.error(f"{region} has no security group {group}{hint}", "correct security_groups")
            elif networks - {there[group].get("VpcId", "")}:
                self.findings.error(
                    f"the security group {group} belongs to {there[group].get('VpcId')}, but the subnets of "
                    f"{region} belong to {', '.join(sorted(networks))}",
                    "use groups and subnets of one VPC; set security_groups for each region",
                )

    async def _permissions(self, region: str) -> None:
        """Name every action that is missing, not the first only."""
        for operation, parameters in permissions.READS:
            answer = await self._try(operation, region, parameters)
            if answer is not None:
                self._failed(f"{operation} in {region}", answer)

    async def _try(self, operation: str, region: str, parameters: Mapping[str, Any]) -> base.ProvisionError | None:
        """Return why a call would be refused; None when it would not."""
        group = rates.Group.TRIAL if operation == "RunInstances" else rates.Group.READ
        try:
            await self.calls.call(operation, region, group=group, **parameters, DryRun=True)
        except base.ProvisionError as error:
            return None if error.code == "DryRunOperation" else error
        return None

    async def _image(self, region: str, image: images.Image, arch: str = "") -> None:
        try:
            ami = await self.available.image(region, image, arch or "x86_64")
        except base.ProvisionError as error:
            if image.pattern and not arch:
                # The pools' samples say for which architecture the pattern is used.
                return
            self._failed(f"the image {image} in {region}", error)
            return
        self.findings.ok(f"the image {image} in {region} is {ami.id} ({ami.name or 'without a name'}, {ami.arch})")

    async def _quotas(self, region: str) -> None:
        try:
            limits = await quotas.ceilings(self.calls, region)
        except base.ProvisionError as error:
            self._ceilings[region] = None
            self._failed(f"the quotas of {region} could not be read", error, level=Level.WARNING)
            return
        self._ceilings[region] = limits
        none = [
            group
            for group in families.GROUPS
            if group.market in self.settings.markets and group.code in limits and limits[group.code] <= 0
        ]
        for group in none:
            self.findings.warning(
                f"the quota {group.name} is 0 in {region}: no such instance can be launched",
                quotas.remedy(region, group.code),
            )

    # -- pools ------------------------------------------------------------------------------------------------------

    async def _sample(self, sample: base.CreateRequest) -> None:
        """Try what one pool would send."""
        offer, place = sample.offer, checks.pool_of(sample)
        before = self.findings.errors
        for problem in _problems(sample):
            self.findings.error(problem, "shorten or rename it in the configuration", place=place)
        for tag in tags.unusual(sample.tags):
            self.findings.warning(
                f'the tag "{tag}" has characters that EC2 accepts but billing and other services do not',
                "use letters, digits, spaces and + - = . _ : / @",
                place=place,
            )
        machine = self.catalog.machines.get(offer.machine_type)
        if machine is not None:
            await self._architecture(sample, machine, place)
            self._ceiling(offer, machine, place)
        sold = await self.available.types(offer.region, [offer.machine_type])
        if sold is not None and offer.zone not in sold.get(offer.machine_type, ()):
            zones = ", ".join(sorted(sold.get(offer.machine_type, ()))) or "no zone"
            self.findings.error(
                f"{offer.zone} has no {offer.machine_type}; in {offer.region} it is sold in {zones}",
                "add a subnet in such a zone, or choose another type",
                place=place,
            )
        if self.findings.errors > before:
            return
        try:
            body = await self.body(sample)
        except base.ProvisionError as error:
            self._failed(f"{offer.machine_type} in {offer.zone}", error, place=place)
            return
        refused = await self._try("RunInstances", offer.region, body)
        if refused is not None:
            self._failed(f"a launch of {offer.machine_type} in {offer.zone} would be refused", refused, place=place)
        else:
            self.findings.ok(
                f"{offer.machine_type} in {offer.zone} could be launched (tested with a dry run)",
                place=place,
            )

    async def _architecture(self, sample: base.CreateRequest, machine: catalogue.Machine, place: str) -> None:
        try:
            ami = await self.available.ami(sample.offer.region, sample.offer.image)
        except base.ProvisionError as error:
            self._failed(f"the image {sample.offer.image} in {sample.offer.region}", error, place=place)
            return
        if ami.arch and ami.arch != machine.arch:
            self.findings.error(
                f"the image {ami.id} is for {ami.arch}, but {machine.name} is {machine.arch}",
                "set an image of that architecture for the pool",
                place=place,
            )

    def _ceiling(self, offer: base.Offer, machine: catalogue.Machine, place: str) -> None:
        limits = self._ceilings.get(offer.region)
        group = families.group_of(offer.machine_type, offer.market)
        if not limits or group.code not in limits or limits[group.code] >= machine.cpus:
            return
        limit = f"the quota {group.name} in {offer.region} is {limits[group.code]:g}"
        self.findings.error(
            f"{limit}, but one {machine.name} has {machine.cpus} vCPUs",
            quotas.remedy(offer.region, group.code),
            place=place,
        )


def _problems(sample: base.CreateRequest) -> list[str]:
    """Return what would be refused of a sample once its token is in its place."""
    full = sample.user_data.replace(base.TOKEN_PLACEHOLDER, _TOKEN)
    found = tags.problems(sample.tags)
    size = len(full.encode())
    if size > request.USER_DATA_LIMIT:
        found.append(f"the boot script has {size} bytes with its token; Amazon accepts {request.USER_DATA_LIMIT}")
    return found
