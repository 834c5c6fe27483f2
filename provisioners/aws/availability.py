"""Zones of subnets, images, and the machine types of each zone: asked once and cached."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from provisioners import base
from provisioners.aws import calls, images, rates
from provisioners.cloud_common import cache

log = logging.getLogger(__name__)

FILE = "aws-facts.json"
#: Seconds for which a parameter's or a pattern's image, and what zones have, are taken as known.
FRESH_S = 86400.0
#: Values of a filter that EC2 takes in one call.
_VALUES = 200


def older(kept: Any) -> cache.Answers:
    """Return the answers of the file as it was until 0.1: a request that is sent again needs no question first."""
    if kept["format"] != 1:
        return {}
    found: cache.Answers = {}
    for region, zones in kept["zones"].items():
        found |= {f"zone:{region}/{subnet}": (zone, 0.0) for subnet, zone in zones.items()}
    for region, resolved in kept["images"].items():
        found |= {f"image:{region}/{image}": (id, at) for image, (id, at) in resolved.items()}
    for region, amis in kept["amis"].items():
        found |= {f"ami:{region}/{id}": (asdict(images.Ami(**ami)), 0.0) for id, ami in amis.items()}
    return found | {f"types:{region}": (types, at) for region, (types, at) in kept["offered"].items()}


class Availability:
    """Availability of zones, images and machine types in the account."""

    def __init__(self, calls: calls.Calls, cache: cache.Cache) -> None:
        self._calls = calls
        self._cache = cache
        self._turn = asyncio.Lock()

    async def zones(self, region: str, subnets: Iterable[str]) -> dict[str, str]:
        """Return subnet -> zone, without subnets that do not exist.  Raises :class:`base.ProvisionError`."""
        wanted = list(subnets)
        async with self._turn:
            known = {subnet: self._zone(region, subnet) for subnet in wanted}
            missing = [subnet for subnet, zone in known.items() if zone is None]
            if missing:
                found = await self._calls.pages(
                    "DescribeSubnets", region, "Subnets", Filters=[{"Name": "subnet-id", "Values": missing}]
                )
                self._cache.put("zone", {f"{region}/{one['SubnetId']}": one["AvailabilityZone"] for one in found})
                known = {subnet: self._zone(region, subnet) for subnet in wanted}
        return {subnet: zone for subnet, zone in known.items() if zone is not None}

    def _zone(self, region: str, subnet: str) -> str | None:
        zone: str | None = self._cache.fresh("zone", f"{region}/{subnet}", fresh_s=math.inf)
        return zone

    async def image(self, region: str, image: images.Image, arch: str) -> images.Ami:
        """Return the image that the operator means, looked up once a day.  Raises :class:`base.ProvisionError`."""
        if image.id:
            return await self.ami(region, image.id)
        id = await self._cache.get("image", f"{region}/{image} {arch}", lambda: self._resolve(region, image, arch))
        return await self.ami(region, id)

    async def ami(self, region: str, id: str) -> images.Ami:
        """Return what is known of an image.  Raises :class:`base.ProvisionError`."""
        kept = await self._cache.get("ami", f"{region}/{id}", lambda: self._ask_ami(region, id), fresh_s=math.inf)
        return images.Ami(**kept)

    async def types(self, region: str, types: Iterable[str]) -> Mapping[str, frozenset[str]] | None:
        """Return machine type -> zones that have it, as of the last day; None when EC2 does not say."""
        wanted = sorted(set(types))
        async with self._turn:
            known: dict[str, list[str]] = self._cache.fresh("types", region, fresh_s=FRESH_S) or {}
            if any(one not in known for one in wanted):
                asked = sorted({*wanted, *(self._cache.fresh("types", region, fresh_s=math.inf) or ())})
                try:
                    known = await self._ask_types(region, asked)
                except base.ProvisionError as error:
                    log.warning("the machine types of the zones of %s could not be listed: %s", region, error)
                    return None
                self._cache.put("types", {region: known})
        return {one: frozenset(known[one]) for one in wanted if one in known}

    async def _ask_types(self, region: str, types: list[str]) -> dict[str, list[str]]:
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

    async def _resolve(self, region: str, image: images.Image, arch: str) -> str:
        if image.parameter:
            answer = await self._calls.call(
                "GetParameter", region, service="ssm", group=rates.Group.SSM, Name=image.parameter
            )
            return str(answer["Parameter"]["Value"])
        answered = await self._calls.pages(
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
        if not answered:
            raise base.ProvisionError(
                base.Kind.CONFIG, f"no {arch} image in {region} is {image}", code="InvalidAMIID.NotFound"
            )
        newest = max(answered, key=lambda one: (one.get("CreationDate", ""), one["ImageId"]))
        self._cache.put("ami", {f"{region}/{newest['ImageId']}": asdict(images.ami(newest))})
        return str(newest["ImageId"])

    async def _ask_ami(self, region: str, id: str) -> dict[str, Any]:
        answer = await self._calls.call("DescribeImages", region, ImageIds=[id])
        if not answer["Images"]:
            raise base.ProvisionError(
                base.Kind.CONFIG, f"there is no image {id} in {region}", code="InvalidAMIID.NotFound"
            )
        return asdict(images.ami(answer["Images"][0]))
