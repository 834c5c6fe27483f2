"""Refusals of inserts that the schema of Compute Engine allows."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.clouds.gcp import hardware
from tests.clouds.gcp.refusals import Refused

_LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}\Z")
_LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}\Z")
_TAG = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?\Z")
_LINK = re.compile(r"(?:https://[^/]+/compute/v1/)?(?:projects/(?P<project>[^/]+)/)?(?P<rest>.+)\Z")
#: Bytes.
_VALUE, _ALL = 262144, 512 * 1024
#: Seconds.
_SHORTEST, _LONGEST = 30, 120 * 86400


@dataclass(frozen=True, slots=True)
class Plan:
    """A launch that may be carried out."""

    kind: hardware.Kind
    accelerator: str
    accelerators: int
    market: str
    image: hardware.Image
    disk_type: str
    disk_size: int
    #: When the run time limit takes effect; 0 for never.
    limit_at: float
    #: What happens then, and on a preemption.
    action: str


@dataclass(frozen=True, slots=True)
class World:
    """The state of a project that a launch is checked against."""

    project: str
    zone: str
    now: float
    images: Callable[[str, str, bool], hardware.Image | None]
    #: Machine types and accelerators of the zone.
    types: frozenset[str]
    accelerators: frozenset[str]
    networks: Mapping[str, bool]
    #: region/name
    subnetworks: frozenset[str]
    service_accounts: frozenset[str]
    external_addresses: bool

    @property
    def region(self) -> str:
        return self.zone.rpartition("-")[0]


def invalid(field: str, value: Any, why: str) -> Refused:
    return Refused("invalid", f"Invalid value for field 'resource.{field}': '{value}'. {why}")


def judge(body: Mapping[str, Any], world: World) -> Plan:
    """The plan of a launch.  Raises :class:`Refused`."""
    if "name" not in body:
        raise Refused("required", "Invalid value for field 'resource.name': ''. The resource name is required.")
    kind = _kind(body, world)
    accelerator, count = _accelerators(body, kind, world)
    _labels(body.get("labels", {}), "labels")
    _metadata(body)
    _network(body, world)
    for index, tag in enumerate(body.get("tags", {}).get("items", [])):
        if not _TAG.match(tag):
            raise invalid(f"tags.items[{index}]", tag, "Must be a match of regex")
    for account in body.get("serviceAccounts", []):
        email = account.get("email", "")
        if email != "default" and email not in world.service_accounts:
            raise Refused("forbidden", f"The user does not have access to service account '{email}'.", details=())
    market, limit_at, action = _scheduling(body.get("scheduling", {}), bool(accelerator), world)
    image, disk_type, size = _disk(body, kind, world)
    return Plan(kind, accelerator, count, market, image, disk_type, size, limit_at, action)


def rest(link: str, world: World) -> str:
    """A link without host and project, which must be ours."""
    match = _LINK.match(link)
    assert match is not None
    if match["project"] and match["project"] != world.project:
        raise Refused("notFound", f"The resource '{link}' was not found")
    return match["rest"]


def _kind(body: Mapping[str, Any], world: World) -> hardware.Kind:
    link = body.get("machineType", "")
    prefix = f"zones/{world.zone}/machineTypes/"
    found = rest(link, world) if link else ""
    if not found.startswith(prefix):
        raise invalid("machineType", link, f"Machine type must be in zone {world.zone}.")
    name = found.removeprefix(prefix)
    if name not in world.types:
        raise invalid(
            "machineType",
            f"https://compute.googleapis.com/compute/v1/projects/{world.project}/{found}",
            f"Machine type with name '{name}' does not exist in zone '{world.zone}'.",
        )
    return hardware.KINDS[name]


def _accelerators(body: Mapping[str, Any], kind: hardware.Kind, world: World) -> tuple[str, int]:
    wanted = body.get("guestAccelerators", [])
    if not wanted:
        return kind.accelerator, kind.count
    if kind.accelerator:
        raise Refused(
            "badRequest", f"[{kind.name}, {kind.accelerator}] features are not compatible for creating instance."
        )
    if kind.series != "n1":
        raise Refused("badRequest", f"Machine type {kind.name} does not support guest accelerators.")
    if len(wanted) > 1:
        raise invalid("guestAccelerators", len(wanted), "Only one accelerator type may be attached.")
    prefix = f"zones/{world.zone}/acceleratorTypes/"
    link = rest(wanted[0].get("acceleratorType", ""), world)
    name, count = link.removeprefix(prefix), wanted[0].get("acceleratorCount", 0)
    if not link.startswith(prefix) or name not in world.accelerators:
        raise Refused("notFound", f"The resource 'projects/{world.project}/{link}' was not found")
    if count not in hardware.ATTACHED.get(name, ()):
        raise invalid("guestAccelerators[0].acceleratorCount", count, f"Not supported for {name}.")
    return name, count


def _labels(labels: Mapping[str, str], where: str) -> None:
    if len(labels) > 64:
        raise invalid(where, len(labels), "At most 64 labels are allowed.")
    for key, value in labels.items():
        if not _LABEL_KEY.match(key):
            raise invalid(where, key, "Label key must start with a lowercase letter and match [a-z0-9_-]{1,63}")
        if not _LABEL_VALUE.match(value):
            raise invalid(f"{where}.{key}", value, "Label value must match [a-z0-9_-]{0,63}")


def _metadata(body: Mapping[str, Any]) -> None:
    items = body.get("metadata", {}).get("items", [])
    keys = [one.get("key", "") for one in items]
    if len(set(keys)) != len(keys):
        raise invalid("metadata", "", "Metadata has duplicate keys.")
    for index, one in enumerate(items):
        size = len(one.get("value", "").encode())
        if size > _VALUE:
            raise invalid(f"metadata.items[{index}].value", "", f"Value is too large: maximum size {_VALUE} bytes.")
    if sum(len(one.get("key", "").encode()) + len(one.get("value", "").encode()) for one in items) >= _ALL:
        raise invalid("metadata", "", "Metadata has exceeded the limit of 512 KB.")


def _network(body: Mapping[str, Any], world: World) -> None:
    interfaces = body.get("networkInterfaces", [])
    if len(interfaces) != 1:
        raise Refused("required", "Invalid value for field 'resource.networkInterfaces': ''. At least one is required.")
    one = interfaces[0]
    if one.get("subnetwork"):
        match = re.fullmatch(r"regions/([^/]+)/subnetworks/([^/]+)", rest(one["subnetwork"], world))
        if match is None or match[1] != world.region or f"{match[1]}/{match[2]}" not in world.subnetworks:
            raise invalid(
                "networkInterfaces[0].subnetwork",
                one["subnetwork"],
                "The referenced subnetwork resource cannot be found.",
            )
    else:
        name = rest(one.get("network", ""), world).removeprefix("global/networks/")
        if name not in world.networks:
            raise invalid(
                "networkInterfaces[0].network", one.get("network"), "The referenced network resource cannot be found."
            )
        if not world.networks[name] and not any(sub.startswith(f"{world.region}/") for sub in world.subnetworks):
            raise Refused("badRequest", "Subnetwork should be specified for custom subnetmode network")
    if one.get("accessConfigs") and not world.external_addresses:
        raise Refused(
            "conditionNotMet",
            f"Constraint constraints/compute.vmExternalIpAccess violated for project {world.project}. "
            "Add instance to the constraint to use external IP with it.",
        )


def _scheduling(sent: Mapping[str, Any], gpu: bool, world: World) -> tuple[str, float, str]:
    model = sent.get("provisioningModel", "STANDARD")
    spot = model == "SPOT"
    if sent.get("onHostMaintenance", "MIGRATE") != "TERMINATE" and (gpu or spot):
        what = "Instances with guest accelerators do not" if gpu else "Spot instances do not"
        raise Refused("badRequest", f"{what} support live migration. Use onHostMaintenance: TERMINATE.")
    if spot and sent.get("automaticRestart", True):
        raise invalid(
            "scheduling.automaticRestart", "true", "Scheduling must have automatic restart be false for SPOT."
        )
    if sent.get("preemptionNoticeDuration") and not spot:
        raise invalid("scheduling.preemptionNoticeDuration", "", "Only Spot VMs have a preemption notice.")
    duration, time = sent.get("maxRunDuration"), sent.get("terminationTime")
    if duration and time:
        raise invalid("scheduling", "", "Only one of maxRunDuration and terminationTime may be set.")
    limit_at = 0.0
    if duration:
        limit_at = world.now + int(duration.get("seconds", 0))
    elif time:
        try:
            limit_at = datetime.datetime.fromisoformat(time).timestamp()
        except ValueError:
            raise invalid("scheduling.terminationTime", time, "Must be a valid RFC3339 value.") from None
    if limit_at and not _SHORTEST <= limit_at - world.now <= _LONGEST:
        raise invalid("scheduling", time or duration, "The time limit must be within 30 seconds and 120 days.")
    action = sent.get("instanceTerminationAction", "STOP")
    if "instanceTerminationAction" in sent and not (spot or limit_at):
        raise invalid("scheduling.instanceTerminationAction", action, "Needs a Spot VM or a run time limit.")
    return "spot" if spot else "on-demand", limit_at, action


def _disk(body: Mapping[str, Any], kind: hardware.Kind, world: World) -> tuple[hardware.Image, str, int]:
    disks = body.get("disks", [])
    if len(disks) != 1 or not disks[0].get("boot"):
        raise Refused("required", "Invalid value for field 'resource.disks': ''. A boot disk is required.")
    sent = disks[0].get("initializeParams", {})
    source = sent.get("sourceImage", "")
    match = re.fullmatch(r"(?:https://[^/]+/compute/v1/)?projects/([^/]+)/global/images/(family/)?([^/]+)", source)
    image = world.images(match[1], match[3], bool(match[2])) if match else None
    if image is None:
        raise Refused("notFound", f"The resource '{source}' was not found")
    if image.arm != kind.arm:
        raise Refused(
            "badRequest", f"The architecture of {kind.name} does not match the one of the image {image.name}."
        )
    size = int(sent.get("diskSizeGb", image.size))
    if size < image.size:
        raise invalid(
            "disks[0].initializeParams.diskSizeGb",
            size,
            f"Requested disk size cannot be smaller than the image size ({image.size} GB)",
        )
    default = f"zones/{world.zone}/diskTypes/pd-standard"
    link = rest(sent.get("diskType", default), world)
    name = link.removeprefix(f"zones/{world.zone}/diskTypes/")
    if name not in hardware.DISK_TYPES:
        raise Refused("notFound", f"The resource 'projects/{world.project}/{link}' was not found")
    if not hardware.takes(kind, name):
        raise Refused("badRequest", f"[{kind.name}, {name}] features are not compatible for creating instance.")
    _labels(sent.get("labels", {}), "disks[0].initializeParams.labels")
    return image, name, size
