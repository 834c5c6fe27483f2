"""Where and from what instances are launched: zones of subnets, images, which types a zone has."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from provisioners import base, catalogue
from provisioners.aws import calls, facts
from provisioners.aws.settings import Image

log = logging.getLogger(__name__)

#: Seconds for which a parameter's or a pattern's image, and what zones have, are taken as known.
FRESH = 86400.0
#: Values of a filter that EC2 takes in one call.
_VALUES = 200
#: Ubuntu with NVIDIA's driver, docker and the container toolkit: AWS Deep Learning Base AMI.
_GPU = "/aws/service/deeplearning/ami/{arch}/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id"
#: Canonical's Ubuntu.
_CPU = "/aws/service/canonical/ubuntu/server/24.04/stable/current/{arch}/hvm/ebs-gp3/ami-id"
_CANONICAL = {"x86_64": "amd64", "arm64": "arm64"}


def default_image(machine: catalogue.Machine) -> Image:
    """What a machine boots where the operator names nothing."""
    if machine.gpu_count:
        return Image(parameter=_GPU.format(arch=machine.arch))
    return Image(parameter=_CPU.format(arch=_CANONICAL.get(machine.arch, machine.arch)))


class Places:
    """Asks once and remembers."""

    def __init__(self, calls: calls.Calls, facts: facts.Facts, *, now: Callable[[], float]) -> None:
        self._calls = calls
        self._facts = facts
        self._now = now
        self._turn = asyncio.Lock()

    async def zones(self, region: str, subnets: Iterable[str]) -> dict[str, str]:
        """Subnet -> zone, without those that do not exist.  Raises :class:`base.ProvisionError`."""
        wanted = list(subnets)
        async with self._turn:
            known = self._facts.zones.setdefault(region, {})
            missing = [one for one in wanted if one not in known]
            if missing:
                found = await self._calls.pages(
                    "DescribeSubnets", region, "Subnets", Filters=[{"Name": "subnet-id", "Values": missing}]
                )
                known.update({one["SubnetId"]: one["AvailabilityZone"] for one in found})
                if found:
                    self._facts.save()
        return {one: known[one] for one in wanted if one in known}

    async def image(self, region: str, image: Image, arch: str) -> facts.Ami:
        """The image that the operator means, resolved at most once a day.  Raises :class:`base.ProvisionError`."""
        async with self._turn:
            if image.id:
                return await self._ami(region, image.id)
            key = f"{image} {arch}"
            known = self._facts.images.setdefault(region, {})
            id, at = known.get(key, ("", 0.0))
            if id and self._now() - at < FRESH:
                return await self._ami(region, id)
            try:
                resolved = await self._resolve(region, image, arch)
            except base.ProvisionError as error:
                if not id:
                    raise
                log.warning("%s in %s cannot be resolved anew, %s is used on: %s", image, region, id, error)
                resolved = id
            ami = await self._ami(region, resolved)
            known[key] = (resolved, self._now())
            self._facts.save()
            return ami

    async def ami(self, region: str, id: str) -> facts.Ami:
        """What is known of an image.  Raises :class:`base.ProvisionError`."""
        async with self._turn:
            return await self._ami(region, id)

    async def offered(self, region: str, types: Iterable[str]) -> Mapping[str, frozenset[str]] | None:
        """Machine type -> zones that have it, as of the last day; None when it cannot be told."""
        wanted = sorted(set(types))
        async with self._turn:
            known, at = self._facts.offered.get(region, ({}, 0.0))
            if self._now() - at >= FRESH or any(one not in known for one in wanted):
                asked = sorted({*wanted, *known})
                try:
                    answer = await self._ask_offered(region, asked)
                except base.ProvisionError as error:
                    log.warning("which types zones of %s have cannot be told: %s", region, error)
                    return None
                known = answer
                self._facts.offered[region] = (known, self._now())
                self._facts.save()
        return {one: frozenset(known[one]) for one in wanted if one in known}

    async def _ask_offered(self, region: str, types: list[str]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {one: [] for one in types}
        for start in range(0, len(types), _VALUES):
            rows = await self._calls.pages(
                "DescribeInstanceTypeOfferings",
                region,
                "InstanceTypeOfferings",
                LocationType="availability-zone",
                Filters=[{"Name": "instance-type", "Values": types[start : start + _VALUES]}],
            )
            for row in rows:
                found.setdefault(row["InstanceType"], []).append(row["Location"])
        return found

    async def _resolve(self, region: str, image: Image, arch: str) -> str:
        if image.parameter:
            answer = await self._calls.call(
                "GetParameter", region, service="ssm", group=calls.Group.SSM, Name=image.parameter
            )
            return str(answer["Parameter"]["Value"])
        images = await self._calls.pages(
            "DescribeImages",
            region,
            "Images",
            Owners=[image.owner],
            Filters=[
                {"Name": "name", "Values": [image.pattern]},
                {"Name": "state", "Values": ["available"]},
                {"Name": "architecture", "Values": [arch]},
            ],
        )
        if not images:
            raise base.ProvisionError(
                base.Kind.CONFIG, f"no {arch} image in {region} is {image}", code="InvalidAMIID.NotFound"
            )
        newest = max(images, key=lambda one: (one.get("CreationDate", ""), one["ImageId"]))
        self._keep(region, newest)
        return str(newest["ImageId"])

    async def _ami(self, region: str, id: str) -> facts.Ami:
        found = self._facts.amis.get(region, {}).get(id)
        if found is None:
            answer = await self._calls.call("DescribeImages", region, ImageIds=[id])
            if not answer["Images"]:
                raise base.ProvisionError(
                    base.Kind.CONFIG, f"there is no image {id} in {region}", code="InvalidAMIID.NotFound"
                )
            found = self._keep(region, answer["Images"][0])
            self._facts.save()
        return found

    def _keep(self, region: str, image: Mapping[str, Any]) -> facts.Ami:
        root = str(image.get("RootDeviceName") or "/dev/sda1")
        disks = {one.get("DeviceName"): one.get("Ebs", {}) for one in image.get("BlockDeviceMappings", [])}
        ami = facts.Ami(
            id=image["ImageId"],
            root_device=root,
            size=int(disks.get(root, {}).get("VolumeSize") or 0),
            arch=str(image.get("Architecture", "")),
            name=str(image.get("Name", "")),
        )
        self._facts.amis.setdefault(region, {})[ami.id] = ami
        return ami
