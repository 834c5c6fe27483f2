"""The options of a Google Cloud provider and of the pools that buy there, read and checked without I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from provisioners import base, catalogue, options
from provisioners.cloud_common import settings
from provisioners.gcp import images

COMPUTE = "https://compute.googleapis.com"
RESOURCE_MANAGER = "https://cloudresourcemanager.googleapis.com"
IAM = "https://iam.googleapis.com"
CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"

_PROJECT = re.compile(r"(?:[-a-z0-9.]{1,253}:)?[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?\Z")
_ZONE = re.compile(r"[a-z]\Z")
_TAG = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?\Z")
_NETWORK = re.compile(
    r"(?:(?:https://[^/]+/compute/[a-z0-9]+/)?projects/[^/\s]+/(?:global|regions/[a-z0-9-]+)/)?"
    r"(?:networks/|subnetworks/|global/networks/)?[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?\Z"
)
_ACCOUNT = re.compile(r"(?:default|[A-Za-z0-9._-]+@[A-Za-z0-9.-]+)\Z")
_METADATA_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")
_RESOURCE_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,255}\Z")
_URL = re.compile(r"https?://[^/\s]+\Z")

#: What a boot disk may be.
DISK_TYPES = ("pd-standard", "pd-balanced", "pd-ssd", "pd-extreme", "hyperdisk-balanced", "hyperdisk-extreme")
#: Metadata items that are runnerd's own.
OWN_ITEMS = frozenset({"user-data", "startup-script", "startup-script-url", "shutdown-script", "runnerd-tags"})
#: Bytes of a boot disk where no option gives a size; GPU images alone take 50.
DISK = 100 * 2**30


@dataclass(frozen=True, slots=True)
class Launch:
    """The options of a launch that a pool may choose; the rest is as the provider has it."""

    #: As written; empty for the default of the kind of machine.
    image: str = ""
    network: str = ""
    #: By region; the empty key is for every region that has none of its own.
    subnetworks: Mapping[str, str] = field(default_factory=dict)
    #: Empty for what the machine type takes.
    disk_type: str = ""
    #: Bytes, where the pool asks for no size.
    disk: int = DISK
    public_address: bool = True
    network_tags: tuple[str, ...] = ()
    #: Empty: the instance gets no identity at all.
    service_account: str = ""
    scopes: tuple[str, ...] = (CLOUD_PLATFORM,)
    boot: images.Boot = images.Boot.AUTO
    #: Further metadata items.
    metadata: Mapping[str, str] = field(default_factory=dict)
    #: Tags of Resource Manager (not labels) for instances and disks: IAM conditions look at those.
    resource_tags: Mapping[str, str] = field(default_factory=dict)

    def subnetwork(self, region: str) -> str:
        """The subnetwork there, empty for the network's own."""
        return self.subnetworks.get(region) or self.subnetworks.get("", "")


@dataclass(frozen=True, slots=True)
class Region:
    """A region to buy in."""

    name: str
    #: Full names in the operator's order; empty for every zone of the region.
    zones: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of a provider."""

    project: str
    regions: Mapping[str, Region]
    launch: Launch = Launch()
    #: A reference to a service account's key file; empty for the application default credentials.
    credentials: str = ""
    #: A service account to act as.
    impersonate: str = ""
    #: Seconds of notice before a spot instance is preempted; 0 for Google's default.
    preemption_notice: int = 0
    markets: tuple[base.Market, ...] = tuple(base.Market)
    overrides: catalogue.Overrides = field(default_factory=catalogue.Overrides)
    endpoint: str = COMPUTE
    resource_manager: str = RESOURCE_MANAGER
    iam: str = IAM
    ca: str = ""


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """A pool's options for this provider."""

    #: How the pool's instances are launched.
    launch: Launch
    #: Empty for every configured region.
    regions: tuple[str, ...] = ()


def read(given: Mapping[str, Any], catalog: catalogue.Catalog) -> tuple[Settings, list[str]]:
    """The settings and every problem in them."""
    reader = options.Reader(given)
    project = reader.text("project")
    if not project:
        reader.complain("project", "is required: the id of the project that instances are made in")
    elif not _PROJECT.match(project):
        reader.complain("project", f'"{project}" is not a project id')
    subnetworks: dict[str, str] = {}
    regions = dict(_regions(reader, catalog, subnetworks))
    if not regions and not reader.problems:
        reader.complain("regions", "is required: at least one region, such as {us-central1: {zones: all}}")
    impersonate = reader.text("impersonate")
    if impersonate and "@" not in impersonate:
        reader.complain("impersonate", f'"{impersonate}" is not the address of a service account')
    launch = _launch(reader, Launch(), catalog)
    chosen = Settings(
        project=project,
        regions=regions,
        launch=replace(launch, subnetworks={**launch.subnetworks, **subnetworks}),
        credentials=reader.secret("credentials"),
        impersonate=impersonate,
        preemption_notice=int(reader.seconds("preemption_notice", 0)),
        markets=settings.read_markets(reader),
        overrides=catalog.read_overrides(reader, "prices"),
        endpoint=_url(reader, "endpoint", COMPUTE),
        resource_manager=_url(reader, "resource_manager", RESOURCE_MANAGER),
        iam=_url(reader, "iam", IAM),
        ca=reader.text("ca"),
    )
    reader.done()
    return chosen, reader.problems


def read_pool(given: Mapping[str, Any], launch: Launch, catalog: catalogue.Catalog) -> tuple[PoolOptions, list[str]]:
    """Return a pool's options over what its provider launches with, and every problem in them."""
    reader = options.Reader(given)
    found = PoolOptions(launch=_launch(reader, launch, catalog), regions=settings.read_pool_regions(reader, catalog))
    reader.done()
    return found, reader.problems


def _regions(
    reader: options.Reader, catalog: catalogue.Catalog, subnetworks: dict[str, str]
) -> list[tuple[str, Region]]:
    found: list[tuple[str, Region]] = []
    for name, entry in reader.named("regions"):
        if catalog.regions and name not in catalog.regions:
            entry.complain("", f"no such region{catalog.nearest_region(name)}")
        subnetwork = entry.text("subnetwork")
        if subnetwork:
            _network(entry, "subnetwork", subnetwork)
            subnetworks[name] = subnetwork
        zones: list[str] = []
        if entry.raw("zones") not in (None, "all"):
            for zone in entry.texts("zones"):
                full = f"{name}-{zone}" if _ZONE.match(zone) else zone
                if not (full.startswith(f"{name}-") and _ZONE.match(full[len(name) + 1 :])):
                    entry.complain("zones", f'"{zone}" is not a zone of {name}: write a letter, {name}-a, or all')
                zones.append(full)
        entry.done()
        found.append((name, Region(name, tuple(dict.fromkeys(zones)))))
    return found


def _launch(reader: options.Reader, default: Launch, catalog: catalogue.Catalog) -> Launch:
    image = reader.text("image", default.image)
    if image and images.parse(image) is None:
        reader.complain("image", f'"{image}" is neither family:PROJECT/FAMILY nor projects/PROJECT/global/images/NAME')
    network = reader.text("network", default.network)
    _network(reader, "network", network)
    tags = reader.texts("network_tags", default.network_tags)
    for tag in tags:
        if not _TAG.match(tag):
            reader.complain("network_tags", f'"{tag}" is not a network tag: a-z, 0-9 and dash, a letter first')
    account = reader.text("service_account", default.service_account)
    if account and not _ACCOUNT.match(account):
        reader.complain("service_account", f'"{account}" is not the address of a service account')
    scopes = reader.texts("scopes", default.scopes)
    if reader.has("scopes") and not account:
        reader.complain("scopes", "says what a service account may do: name a service_account too")
    disk = reader.size("disk", default.disk)
    if disk < 10 * 2**30:
        reader.complain("disk", "a boot disk has at least 10GiB")
    return replace(
        default,
        image=image,
        network=network,
        subnetworks=_subnetworks(reader, default, catalog),
        disk_type=reader.text("disk_type", default.disk_type, choices=DISK_TYPES),
        disk=disk,
        public_address=reader.flag("public_address", default.public_address),
        network_tags=tags,
        service_account=account,
        scopes=scopes,
        boot=images.Boot(reader.text("boot", default.boot.value, choices=[one.value for one in images.Boot])),
        metadata=_metadata(reader, default),
        resource_tags=_resource_tags(reader, default),
    )


def _subnetworks(reader: options.Reader, default: Launch, catalog: catalogue.Catalog) -> Mapping[str, str]:
    """One for every region as a text, or one for each as a map."""
    if not reader.has("subnetwork"):
        reader.raw("subnetwork")
        return default.subnetworks
    if not isinstance(reader.raw("subnetwork"), Mapping):
        text = reader.text("subnetwork")
        _network(reader, "subnetwork", text)
        return {"": text}
    inner = reader.inner("subnetwork")
    found: dict[str, str] = {}
    for region in inner.given:
        if catalog.regions and region not in catalog.regions:
            inner.complain(str(region), f"no such region{catalog.nearest_region(str(region))}")
        found[str(region)] = inner.text(str(region))
        _network(inner, str(region), found[str(region)])
    return {**default.subnetworks, **found}


def _metadata(reader: options.Reader, default: Launch) -> Mapping[str, str]:
    if not reader.has("metadata"):
        reader.raw("metadata")
        return default.metadata
    inner = reader.inner("metadata")
    found: dict[str, str] = {}
    for key in inner.given:
        if key in OWN_ITEMS:
            inner.complain(str(key), "is runnerd's own")
        elif not _METADATA_KEY.match(str(key)):
            inner.complain(str(key), "a metadata key has letters, digits, dash and underscore, at most 128")
        found[str(key)] = inner.text(str(key))
    return {**default.metadata, **found}


def _resource_tags(reader: options.Reader, default: Launch) -> Mapping[str, str]:
    if not reader.has("resource_tags"):
        reader.raw("resource_tags")
        return default.resource_tags
    inner = reader.inner("resource_tags")
    found: dict[str, str] = {}
    for key in inner.given:
        found[str(key)] = inner.text(str(key))
        if not (_RESOURCE_TAG.match(str(key)) and _RESOURCE_TAG.match(found[str(key)])):
            inner.complain(str(key), "write tagKeys/123: tagValues/456, or PARENT/KEY: VALUE")
    return found


def _network(reader: options.Reader, key: str, value: str) -> None:
    if value and not _NETWORK.match(value):
        reader.complain(key, f'"{value}" is neither a name nor projects/PROJECT/.../NAME')


def _url(reader: options.Reader, key: str, default: str) -> str:
    value = reader.text(key, default).rstrip("/")
    if not _URL.match(value):
        reader.complain(key, f'"{value}" is not an address such as https://HOST')
        return default
    return value
