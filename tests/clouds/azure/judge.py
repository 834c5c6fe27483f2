"""Refusals of requests for a machine that Azure's schema allows."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from tests.clouds import faults
from tests.clouds.azure import answers, schema, sizes, state

if TYPE_CHECKING:
    from tests.clouds.azure.cloud import Arm

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9_])?\Z")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z")
_NOTICES = {f"PT{minutes}M" for minutes in range(5, 16)}
_QUOTA = (
    "Operation could not be completed as it results in exceeding approved {name} quota. Additional details - "
    "Deployment Model: Resource Manager, Location: {region}, Current Limit: {limit}, Current Usage: {used}, "
    "Additional Required: {more}, (Minimum) New Limit Required: {total}. Submit a request for Quota increase at "
    "https://aka.ms/ProdportalCRP/ by specifying parameters listed in the 'Details' section for deployment to succeed."
)


def call_of(body: Mapping[str, Any]) -> faults.Call:
    """A creation as faults match it."""
    properties = body.get("properties") or {}
    return faults.Call(
        "create",
        str(body.get("location", "")),
        str((body.get("zones") or ["-"])[0]),
        str((properties.get("hardwareProfile") or {}).get("vmSize", "")),
        "spot" if properties.get("priority") == "Spot" else "on-demand",
    )


def image(cloud: Arm, part: Mapping[str, str]) -> sizes.Image:
    """A marketplace image by publisher, offer and sku."""
    key = (part["publisher"].lower(), part["offer"].lower(), part["sku"].lower())
    found = cloud.images.get(key)
    if found is None:
        message = f"Artifact: VMImage was not found: {':'.join(key)}."
        raise state.Refused(404, "NotFound", message)
    return found


def check(cloud: Arm, name: str, body: Any, version: str) -> None:
    """Raise what Azure would refuse; the order is its own as far as it is known."""
    problems = schema.request_problems(body, "VirtualMachine")
    if problems:
        message = f"The request content was invalid: {'; '.join(problems)}"
        raise state.Refused(400, "InvalidRequestContent", message)
    region = body["location"]
    if region not in cloud.regions:
        message = f"The provided location '{region}' is not available for resource type 'virtualMachines'."
        raise state.Refused(400, "LocationNotAvailableForResourceType", message)
    _names(name, body)
    _tags(body.get("tags", {}))
    properties = body["properties"]
    _system(properties)
    _market(properties)
    _network(cloud, region, properties["networkProfile"])
    _security(properties, version)
    for identity in (body.get("identity") or {}).get("userAssignedIdentities") or {}:
        _exists(cloud, identity, None)
    size = _size(cloud, region, body)
    _image(cloud, size, body)
    _quota(cloud, region, size, "spot" if properties.get("priority") == "Spot" else "on-demand")


def _invalid(message: str, code: str = "InvalidParameter", status: int = 400) -> state.Refused:
    return state.Refused(status, code, message)


def _names(name: str, body: Mapping[str, Any]) -> None:
    if not _NAME.match(name):
        raise _invalid(f"'{name}' is not a valid name of a virtual machine.")
    host = body["properties"]["osProfile"].get("computerName", "")
    if not _HOST.match(host):
        raise _invalid(f"Linux host name '{host}' is invalid.")


def _tags(tags: Mapping[str, str]) -> None:
    if len(tags) > 50:
        raise _invalid("A resource can have at most 50 tags.", "InvalidTags")
    for key, value in tags.items():
        if not key or len(key) > 512 or len(value) > 256 or set(key) & set("<>%&\\?/"):
            raise _invalid(f"The tag '{key}' is invalid.", "InvalidTagNameCharacters")


def _system(properties: Mapping[str, Any]) -> None:
    profile = properties["osProfile"]
    try:
        data = base64.b64decode(profile.get("customData", ""), validate=True)
    except (binascii.Error, ValueError):
        raise _invalid("Custom data in OSProfile must be in Base64 encoding.") from None
    if len(data) > 65535:
        raise _invalid("Custom data in OSProfile must be at most 65535 bytes.")
    linux = profile.get("linuxConfiguration", {})
    keys = linux.get("ssh", {}).get("publicKeys", [])
    if not linux.get("disablePasswordAuthentication") and not profile.get("adminPassword"):
        raise _invalid("Authentication using either SSH or by user name and password must be enabled.")
    if linux.get("disablePasswordAuthentication") and not keys:
        raise _invalid("SSH public keys are required when password authentication is disabled.")
    for key in keys:
        try:
            serialization.load_ssh_public_key(key["keyData"].encode())
        except (ValueError, UnsupportedAlgorithm):
            raise _invalid("The value of parameter linuxConfiguration.ssh.publicKeys.keyData is invalid.") from None
        if key["path"] != f"/home/{profile['adminUsername']}/.ssh/authorized_keys":
            raise _invalid("Destination path for SSH public keys is limited to authorized_keys of the user.")
    notice = properties.get("scheduledEventsProfile", {}).get("terminateNotificationProfile", {})
    if notice.get("enable") and notice.get("notBeforeTimeout") not in _NOTICES:
        raise _invalid("notBeforeTimeout must be between 5 and 15 minutes.")


def _market(properties: Mapping[str, Any]) -> None:
    spot = properties.get("priority") == "Spot"
    if spot and "terminateNotificationProfile" in properties.get("scheduledEventsProfile", {}):
        raise _invalid("Terminate notification is not supported for Azure Spot virtual machines.")
    if not spot and ("evictionPolicy" in properties or "billingProfile" in properties):
        raise _invalid("Eviction policy and billing profile are for Azure Spot virtual machines.")
    if spot and properties.get("billingProfile", {}).get("maxPrice", -1) not in (-1, -1.0):
        raise _invalid("This simulation sells spot machines at the market's price only (maxPrice -1).")


def _network(cloud: Arm, region: str, profile: Mapping[str, Any]) -> None:
    interfaces = profile.get("networkInterfaceConfigurations") or []
    if not interfaces:
        raise _invalid("A virtual machine needs at least one network interface.", "NetworkProfileMissing")
    if "networkApiVersion" not in profile:
        raise _invalid("networkApiVersion is required with networkInterfaceConfigurations.")
    for interface in interfaces:
        _tags(interface.get("tags", {}))
        properties = interface["properties"]
        if "networkSecurityGroup" in properties:
            _exists(cloud, properties["networkSecurityGroup"]["id"], region)
        for address in properties["ipConfigurations"]:
            _exists(cloud, address["properties"].get("subnet", {}).get("id", ""), region)
            public = address["properties"].get("publicIPAddressConfiguration")
            if public is not None:
                _tags(public.get("tags", {}))
                static = public["properties"].get("publicIPAllocationMethod") == "Static"
                if public.get("sku", {}).get("name") != "Standard" or not static:
                    raise _invalid("Basic public addresses are retired: use the Standard SKU, Static.")


def _exists(cloud: Arm, resource: str, region: str | None) -> None:
    where = cloud.resources.get(resource.lower())
    if where is None or (region is not None and where != region):
        message = f"Resource {resource} referenced by resource was not found in {region or 'any region'}."
        raise _invalid(message, "InvalidResourceReference")


def _security(properties: Mapping[str, Any], version: str) -> None:
    profile = properties.get("securityProfile", {})
    if profile.get("securityType") == "Standard":
        if version < "2025-11-01":
            raise _invalid("The value of parameter securityProfile.securityType is invalid.")
        if "uefiSettings" in profile:
            raise _invalid("Use of UEFI settings is not supported when security type is 'Standard'.")


def _size(cloud: Arm, region: str, body: Mapping[str, Any]) -> sizes.Size:
    name = body["properties"]["hardwareProfile"]["vmSize"]
    size = cloud.sizes.get(name)
    if size is None:
        raise _invalid(f"The value {name} provided for the VM size is not valid.")
    zones = body.get("zones") or []
    if len(zones) > 1 or any(zone not in cloud.regions[region] for zone in zones):
        raise _invalid(f"The zones {zones} are not valid in '{region}'.", "InvalidAvailabilityZone")
    gone = any(
        one.size == name and one.region == region and (not one.zones or set(zones) & set(one.zones))
        for one in cloud.restrictions
    )
    if gone or any(zone not in size.zones for zone in zones):
        message = (
            f"The requested VM size for resource '{name}' is currently not available in location '{region}' "
            f"zones '{','.join(zones)}' for subscription '{cloud.subscription}'."
        )
        raise _invalid(message, "SkuNotAvailable", 409)
    return size


def _image(cloud: Arm, size: sizes.Size, body: Mapping[str, Any]) -> None:
    storage = body["properties"]["storageProfile"]
    reference = storage["imageReference"]
    if storage["osDisk"].get("deleteOption") not in ("Delete", "Detach", None):
        raise _invalid("deleteOption is invalid.")
    if "id" in reference:
        if reference["id"].lower() not in cloud.resources:
            raise _invalid(f"The image '{reference['id']}' was not found.", "GalleryImageNotFound", 404)
        return
    try:
        found = image(cloud, reference)
    except state.Refused:
        message = f"The platform image '{':'.join(map(str, reference.values()))}' is not available."
        raise _invalid(message, "PlatformImageNotFound", 404) from None
    if reference["version"] != "latest" and reference["version"] not in found.versions:
        raise _invalid(f"The version {reference['version']} was not found.", "ImageNotFound", 404)
    if found.arch != size.arch:
        raise _invalid(f"Cannot create a VM of size '{size.name}' because of its CPU architecture '{size.arch}'.")
    if storage["osDisk"].get("diskSizeGB", 10**6) < found.gigabytes:
        raise _invalid(f"The specified disk size is smaller than the image's {found.gigabytes} GB.")
    plan = body.get("plan")
    asked = (plan["publisher"], plan["product"], plan["name"]) if plan else None
    if found.plan != asked:
        raise _invalid("The plan does not belong to the image.", "VMMarketplaceInvalidInput")
    if found.plan is not None and found.plan not in cloud.accepted:
        message = "You have not accepted the legal terms on this subscription."
        raise _invalid(message, "MarketplacePurchaseEligibilityFailed")


def _quota(cloud: Arm, region: str, size: sizes.Size, market: str) -> None:
    if market == "spot":
        rows = [("lowPriorityCores", "LowPriorityCores", cloud.cores(region, market="spot"))]
    else:
        rows = [
            ("cores", "Total Regional Cores", cloud.cores(region)),
            (size.family, f"{size.family} Cores", cloud.cores(region, family=size.family)),
        ]
    for name, label, used in rows:
        limit = answers.limit(cloud, region, name)
        if used + size.cores > limit:
            message = _QUOTA.format(
                name=label, region=region, limit=limit, used=used, more=size.cores, total=used + size.cores
            )
            raise _invalid(message, "OperationNotAllowed", 409)
