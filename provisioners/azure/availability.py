"""Sizes with their zones, and versions of images, that a region has for the subscription."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from provisioners import base
from provisioners.azure import calls, error_scopes, errors, images, settings
from provisioners.cloud_common import cache

log = logging.getLogger(__name__)

FILE = "azure-facts.json"
#: Where the versions of images were until 0.1.
_OLDER_FILE = "azure.json"
#: Seconds for which the sizes of a region are taken as known.
_SIZES_FRESH_S = 3600.0


@dataclass(frozen=True, slots=True)
class Size:
    """One size in one region, as far as it is available to the subscription."""

    #: Empty: the size is sold without zones only.
    zones: frozenset[str]
    #: Why the subscription cannot have it at all; empty when it can.
    restricted: str = ""
    spot: bool = True


def _older(kept: Any) -> cache.Answers:
    return {f"image:{place}": (version, at) for place, (version, at) in kept["images"].items()}


class Availability:
    """Availability in the subscription: sizes are kept for an hour, in memory; versions of images for a day."""

    def __init__(self, calls: calls.Calls, chosen: settings.Settings, context: base.Context) -> None:
        self._calls = calls
        self._chosen = chosen
        self._context = context
        self._sizes = cache.Cache("", "", now=context.now)
        self._versions = cache.Cache(context.directory, FILE, now=context.now, older=_older, older_file=_OLDER_FILE)

    async def sizes(self, region: str) -> Mapping[str, Size] | None:
        """Return the sizes by name; None when Azure does not say, and then nothing is ruled out."""
        try:
            return await self._sizes.get(
                "sizes",
                region,
                lambda: self._ask_sizes(region),
                fresh_s=_SIZES_FRESH_S,
                first_retry_s=cache.RETRY_S,
            )
        except base.ProvisionError:
            return None

    async def image(self, region: str, image: str) -> str:
        """Return an image with a concrete version; as it is written where that cannot be looked up."""
        urn = images.urn(image)
        if urn is None or not images.floating(image):
            return image
        try:
            version = await self._versions.get(
                "image", f"{region} {image}", lambda: self._ask_version(region, urn), first_retry_s=cache.RETRY_S
            )
        except base.ProvisionError:
            return image
        return f"{urn.publisher}:{urn.offer}:{urn.sku}:{version}"

    async def _ask_sizes(self, region: str) -> Mapping[str, Size]:
        try:
            listed = await self._calls.skus(self._chosen.subscription, region)
            return {str(sku["name"]): read(sku, region) for sku in listed}
        except errors.HEARD as error:
            log.warning("%s: the sizes of %s could not be listed: %s", self._context.name, region, error)
            raise self._failed(error) from error

    async def _ask_version(self, region: str, urn: images.Urn) -> str:
        try:
            newest = images.newest(await self._calls.image_versions(self._chosen.subscription, region, urn))
        except errors.HEARD as error:
            log.warning("%s: the versions of %s in %s could not be listed: %s", self._context.name, urn, region, error)
            raise self._failed(error) from error
        if newest is None:
            raise base.ProvisionError(base.Kind.CONFIG, f"{region} has no version of {urn}", code="ImageNotFound")
        return newest

    def _failed(self, error: BaseException) -> base.ProvisionError:
        return errors.classify(error, error_scopes.Target(self._context.name, self._chosen.subscription))


def read(sku: Mapping[str, Any], region: str) -> Size:
    """Return one entry of the list of sizes."""
    zones: set[str] = set()
    for info in sku.get("locationInfo") or ():
        if str(info.get("location", "")).lower() == region:
            zones |= {str(zone) for zone in info.get("zones") or ()}
    restricted = ""
    for one in sku.get("restrictions") or ():
        info = one.get("restrictionInfo") or {}
        if one.get("type") == "Location":
            restricted = str(one.get("reasonCode") or "restricted")
        elif one.get("type") == "Zone":
            zones -= {str(zone) for zone in info.get("zones") or ()}
    able = {str(one.get("name")): str(one.get("value")) for one in sku.get("capabilities") or ()}
    return Size(frozenset(zones), restricted, spot=able.get("LowPriorityCapable", "True") == "True")
