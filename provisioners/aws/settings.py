"""The options of an ``aws`` provider and those that a pool may set for it, read and checked without I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from provisioners import base, catalogue, options
from provisioners.aws import images as aws_images
from provisioners.cloud_common import settings

_GIB = 2**30
_SUBNET = re.compile(r"subnet-[0-9a-z]{1,32}\Z")
_GROUP = re.compile(r"sg-[0-9a-z]{1,32}\Z")
_ROLE = re.compile(r"arn:(aws[a-z-]*):iam::(\d{12}):role/[\w+=,.@/-]{1,512}\Z")
_PROFILE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:instance-profile/[\w+=,.@/-]{1,512}\Z|[\w+=,.@-]{1,128}\Z")
_URL = re.compile(r"https?://[^\s/]+(/\S*)?\Z")
_DISKS = ("gp3", "gp2", "io2", "io1")
#: The services that an endpoint can be given for.
SERVICES = ("ec2", "sts", "ssm", "service-quotas", "pricing")


@dataclass(frozen=True, slots=True)
class Launch:
    """The options of a launch that do not come from its request."""

    #: None: by what the machine is.
    image: aws_images.Image | None = None
    security_groups: tuple[str, ...] = ()
    instance_profile: str = ""
    #: How many hops away the metadata service is answered; 1 keeps the instance's role from containers.
    hop_limit: int = 1
    #: None: as the subnet says.
    public_address: bool | None = None
    #: Bytes of boot disk for requests that do not say.
    disk: int = 100 * _GIB
    disk_type: str = "gp3"
    #: 0: what the type comes with.
    disk_iops: int = 0
    #: MiB per second; 0: what the type comes with.
    disk_throughput: int = 0
    #: Empty: the account's default key for disks.
    kms_key: str = ""
    key_name: str = ""


@dataclass(frozen=True, slots=True)
class Region:
    """One configured region."""

    name: str
    subnets: tuple[str, ...]
    launch: Launch


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of an ``aws`` provider."""

    regions: Mapping[str, Region]
    #: What offers and scopes call the account.
    account: str
    #: The account number where the options name it; empty otherwise.
    expected_account: str
    markets: tuple[base.Market, ...]
    prices: catalogue.Overrides
    #: How regions launch that are not configured any more but have rows.
    launch: Launch
    #: References to secrets; empty for the default chain.
    access_key: str = ""
    secret_key: str = ""
    session_token: str = ""
    #: A profile of the shared AWS configuration.
    profile: str = ""
    role_arn: str = ""
    external_id: str = ""
    #: Service -> URL; the service ``*`` stands for the rest.  ``{region}`` is replaced.
    endpoints: Mapping[str, str] | None = None
    #: File with the certificate authority of the endpoints; empty for the system's.
    ca: str = ""

    def endpoint(self, service: str, region: str) -> str | None:
        """The URL of that service, None for Amazon's own."""
        found = (self.endpoints or {}).get(service) or (self.endpoints or {}).get("*")
        return found.replace("{region}", region) if found else None


def read(given: Mapping[str, Any], catalog: catalogue.Catalog) -> tuple[Settings, list[str]]:
    """The settings, and what is wrong with them."""
    reader = options.Reader(given)
    launch = _launch(reader, Launch())
    regions: dict[str, Region] = {}
    for name, entry in reader.named("regions"):
        if name not in catalog.regions:
            entry.complain("", f"no such region{catalog.nearest_region(name)}")
        inner = _launch(entry, launch)
        subnets = _ids(entry, "subnets", _SUBNET, "subnet-0123456789abcdef0")
        if not subnets and not entry.has("subnets"):
            entry.complain("subnets", "expected the subnets to launch in, at least one")
        entry.done()
        regions[name] = Region(name, subnets, inner)
    if not regions and not reader.has("regions"):
        reader.complain("regions", "expected at least one region with its subnets")
    role = reader.text("role_arn")
    match = _ROLE.match(role)
    if role and match is None:
        reader.complain("role_arn", "expected a role such as arn:aws:iam::123456789012:role/runnerd")
    account = reader.text("account")
    if account and not re.fullmatch(r"\d{12}", account):
        reader.complain("account", f'expected the twelve digits of an account, not "{account}"')
    if account and match is not None and match[2] != account:
        reader.complain("account", f"the role is one of account {match[2]}")
    account = account or (match[2] if match else "")
    access, secret = reader.secret("access_key"), reader.secret("secret_key")
    if bool(access) != bool(secret):
        reader.complain("secret_key" if access else "access_key", "both keys are needed, or none")
    token, profile = reader.secret("session_token"), reader.text("profile")
    if token and not access:
        reader.complain("session_token", "needs access_key and secret_key beside it")
    if profile and access:
        reader.complain("profile", "keys are given already; only one of both can be used")
    external = reader.text("external_id")
    if external and not role:
        reader.complain("external_id", "needs role_arn beside it")
    read_ = Settings(
        regions=regions,
        account=account or "own",
        expected_account=account,
        markets=settings.read_markets(reader),
        prices=catalog.read_overrides(reader, "prices"),
        launch=launch,
        access_key=access,
        secret_key=secret,
        session_token=token,
        profile=profile,
        role_arn=role,
        external_id=external,
        endpoints=_endpoints(reader),
        ca=reader.text("ca"),
    )
    reader.done()
    return read_, reader.problems


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """A pool's options for this provider."""

    #: Region -> image; the region ``*`` stands for the rest.
    images: Mapping[str, aws_images.Image]
    #: Empty: every configured one.
    subnets: tuple[str, ...]
    regions: tuple[str, ...]
    #: Applies the pool's other options to how a region launches.
    changes: Mapping[str, Any]

    def over(self, launch: Launch, region: str) -> Launch:
        """Return how that pool launches there."""
        changed: Launch = replace(retyped(launch, self.changes.get("disk_type", launch.disk_type)), **self.changes)
        image = self.images.get(region) or self.images.get("*")
        return replace(changed, image=image) if image is not None else changed


def read_pool(given: Mapping[str, Any], catalog: catalogue.Catalog) -> tuple[PoolOptions, list[str]]:
    """A pool's options, and what is wrong with them."""
    reader = options.Reader(given)
    owner = reader.text("image_owner")
    images: dict[str, aws_images.Image] = {}
    if isinstance(reader.raw("image"), Mapping):
        inner = reader.inner("image")
        for region in inner.given:
            if region != "*" and region not in catalog.regions:
                inner.complain(str(region), f"no such region{catalog.nearest_region(str(region))}")
            found = aws_images.read(inner, str(region), owner)
            if found is not None:
                images[str(region)] = found
        inner.done()
    else:
        found = aws_images.read(reader, "image", owner)
        if found is not None:
            images["*"] = found
    launch = _details(reader, Launch())
    keys = ("security_groups", "instance_profile", "hop_limit", "public_address", "key_name", "kms_key")
    changes = {
        key: getattr(launch, key) for key in (*keys, "disk_type", "disk_iops", "disk_throughput") if reader.has(key)
    }
    read_ = PoolOptions(
        images=images,
        subnets=_ids(reader, "subnets", _SUBNET, "subnet-0123456789abcdef0"),
        regions=settings.read_pool_regions(reader, catalog),
        changes=changes,
    )
    reader.done()
    return read_, reader.problems


def _launch(reader: options.Reader, default: Launch) -> Launch:
    owner = reader.text("image_owner")
    image = aws_images.read(reader, "image", owner)
    found = _details(reader, default)
    return replace(found, image=image or default.image, disk=reader.size("disk", default.disk))


def _details(reader: options.Reader, default: Launch) -> Launch:
    """Read the options that providers, regions and pools share; inherited ones are checked where they were written."""
    profile = reader.text("instance_profile", default.instance_profile)
    if reader.has("instance_profile") and not _PROFILE.match(profile):
        reader.complain("instance_profile", "expected the name or the ARN of an instance profile")
    kind = reader.text("disk_type", default.disk_type, choices=_DISKS)
    known = retyped(default, kind)
    iops = reader.whole("disk_iops", known.disk_iops, low=100, high=256_000)
    throughput = reader.whole("disk_throughput", known.disk_throughput, low=125, high=2000)
    if any(reader.has(key) for key in ("disk_type", "disk_iops", "disk_throughput")):
        if iops and kind == "gp2":
            reader.complain("disk_iops", "cannot be chosen for gp2")
        if throughput and kind != "gp3":
            reader.complain("disk_throughput", f"cannot be chosen for {kind}, only for gp3")
        if kind in ("io1", "io2") and not iops:
            reader.complain("disk_iops", f"must be chosen for {kind}")
    public = reader.flag("public_address", False) if reader.has("public_address") else default.public_address
    reader.raw("public_address")
    return replace(
        default,
        security_groups=_ids(reader, "security_groups", _GROUP, "sg-0123456789abcdef0") or default.security_groups,
        instance_profile=profile,
        hop_limit=reader.whole("hop_limit", default.hop_limit, low=1, high=64),
        public_address=public,
        disk_type=kind,
        disk_iops=iops,
        disk_throughput=throughput,
        kms_key=reader.text("kms_key", default.kms_key),
        key_name=reader.text("key_name", default.key_name),
    )


def retyped(launch: Launch, kind: str) -> Launch:
    """The same with a disk of another type: what was chosen for the old one does not hold for it."""
    return launch if kind == launch.disk_type else replace(launch, disk_type=kind, disk_iops=0, disk_throughput=0)


def _ids(reader: options.Reader, key: str, form: re.Pattern[str], example: str) -> tuple[str, ...]:
    found = reader.texts(key)
    for one in found:
        if not form.match(one):
            reader.complain(key, f'"{one}" is no id such as {example}')
    return found


def _endpoints(reader: options.Reader) -> Mapping[str, str]:
    found: dict[str, str] = {}
    if isinstance(reader.raw("endpoint"), Mapping):
        inner = reader.inner("endpoint")
        for service in SERVICES:
            found[service] = inner.text(service)
        inner.done()
    else:
        found["*"] = reader.text("endpoint")
    for service, url in found.items():
        if url and not _URL.match(url):
            reader.complain("endpoint" if service == "*" else f"endpoint.{service}", f'"{url}" is no URL')
    return {service: url for service, url in found.items() if url}
