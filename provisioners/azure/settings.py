"""The options of the provider and of a pool for it, as they are used."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from provisioners import base, catalogue, options
from provisioners.azure import images
from provisioners.cloud_common import settings

#: The zone of an offer in a region for which no zones are configured: Azure places the machine.
NO_ZONE = "regional"
PUBLIC_ENDPOINT = "https://management.azure.com"
#: The endpoint of Azure Resource Manager in the clouds beside the public one, by the host of their sign-in.
ENDPOINTS = {
    "login.microsoftonline.com": PUBLIC_ENDPOINT,
    "login.microsoftonline.us": "https://management.usgovcloudapi.net",
    "login.chinacloudapi.cn": "https://management.chinacloudapi.cn",
}
SYSTEM = "system"
#: As options write them, and as Azure does.
SECURITY_TYPES = {
    "standard": "Standard",
    "trusted-launch": "TrustedLaunch",
    "confidential": "ConfidentialVM",
}
#: Disks that a machine can boot from (Ultra and Premium v2 cannot be that).
DISK_TYPES = ("Premium_LRS", "Premium_ZRS", "StandardSSD_LRS", "StandardSSD_ZRS", "Standard_LRS")
#: What :func:`read_pool` reads.
POOL_KEYS = ("image", "plan", "disk_type", "security_type", "public_address", "subnets", "regions")

_GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z", re.I)
_GROUP = re.compile(r"[\w().-]{1,90}(?<!\.)\Z")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}\Z")
_IN_GROUP = r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/"
_SUBNET = re.compile(_IN_GROUP + r"Microsoft\.Network/virtualNetworks/[^/]+/subnets/[^/]+\Z", re.I)
_SECURITY_GROUP = re.compile(_IN_GROUP + r"Microsoft\.Network/networkSecurityGroups/[^/]+\Z", re.I)
_IDENTITY = re.compile(_IN_GROUP + r"Microsoft\.ManagedIdentity/userAssignedIdentities/[^/]+\Z", re.I)
_ROLE = re.compile(r"(/subscriptions/[^/]+)?/providers/Microsoft\.Authorization/roleDefinitions/[^/]+\Z", re.I)
#: Names that Azure refuses for the first user (its documented list, those that a sane operator could try).
_REFUSED_USERS = frozenset(
    {"administrator", "admin", "user", "test", "a", "actuser", "adm", "aspnet", "backup", "console", "david", "guest"}
    | {"john", "owner", "root", "server", "sql", "support", "support_388945a0", "sys"}
    | {f"{name}{number}" for name in ("user", "test", "admin") for number in range(1, 6)}
)


@dataclass(frozen=True, slots=True)
class Region:
    """The options of one region."""

    name: str
    #: Resource id of the subnet.
    subnet: str
    #: Zones as the subscription numbers them; empty: the region without zones.
    zones: tuple[str, ...] = ()
    #: Resource id of a network security group for the interface; empty: the subnet's own rules.
    security_group: str = ""

    @property
    def offered_zones(self) -> tuple[str, ...]:
        """The zones of its offers."""
        return self.zones or (NO_ZONE,)


@dataclass(frozen=True, slots=True)
class Plan:
    """The purchase plan of a marketplace image that is sold with terms."""

    publisher: str
    product: str
    name: str


@dataclass(frozen=True, slots=True)
class Settings:
    """The provider's options."""

    subscription: str = ""
    resource_group: str = ""
    regions: Mapping[str, Region] = field(default_factory=dict)
    #: Empty: by GPU and architecture.
    image: str = ""
    plan: Plan | None = None
    admin_user: str = "runner"
    #: Empty: a key without a private half.
    ssh_key: str = ""
    #: Resource id of the user-assigned identity by which a machine deletes itself, or ``system``; empty for none.
    identity: str = ""
    #: With ``system``: the role definition that each machine's own identity gets on the machine alone.
    identity_role: str = ""
    #: Empty: the best that the size takes.
    disk_type: str = ""
    public_address: bool = False
    security_type: str = "standard"
    tenant: str = ""
    client_id: str = ""
    #: Reference to the secret.
    client_secret: str = ""
    #: Path of a PEM or PKCS12 file.
    certificate: str = ""
    endpoint: str = PUBLIC_ENDPOINT
    #: Host of the sign-in service; empty for Azure's public one.
    authority: str = ""
    #: File with the CA that signed the endpoint's and the authority's certificates; empty for the system's.
    ca: str = ""
    #: Seconds for which Azure holds a deletion of an on-demand machine back, to tell the machine first; 0 for none.
    notice: float = 0.0
    #: Seconds between two looks at the operation of a launch.
    poll: float = 2.0
    markets: tuple[base.Market, ...] = tuple(base.Market)
    prices: catalogue.Overrides = field(default_factory=catalogue.Overrides)

    @property
    def audience(self) -> str:
        """The audience of tokens: the cloud's management API, at any address."""
        return ENDPOINTS.get(self.authority, PUBLIC_ENDPOINT)

    @property
    def self_end(self) -> bool:
        """True when a machine can delete itself."""
        return bool(self.identity)


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """A pool's options for this provider; what is empty or None is the provider's."""

    image: str = ""
    plan: Plan | None = None
    disk_type: str = ""
    security_type: str = ""
    public_address: bool | None = None
    #: Region -> subnet.
    subnets: Mapping[str, str] = field(default_factory=dict)
    #: Empty for every configured region.
    regions: tuple[str, ...] = ()


def read(given: Mapping[str, Any], catalog: catalogue.Catalog) -> tuple[Settings, list[str]]:
    """The provider's options, and what is wrong with them."""
    reader = options.Reader(given)
    subscription = reader.text("subscription")
    if not subscription:
        reader.complain("subscription", "is required: the subscription's id")
    elif not _GUID.match(subscription):
        reader.complain("subscription", f'"{subscription}" is not the id of a subscription (a GUID)')
    group = reader.text("resource_group")
    if not group:
        reader.complain("resource_group", "is required: a resource group for this controller alone")
    elif not _GROUP.match(group):
        reader.complain("resource_group", f'"{group}" is not the name of a resource group')
    authority = _authority(reader)
    found = Settings(
        subscription=subscription.lower(),
        resource_group=group,
        regions=_regions(reader, catalog),
        image=_image(reader),
        plan=_plan(reader),
        admin_user=_admin_user(reader),
        ssh_key=_ssh_key(reader),
        identity=_identity(reader),
        identity_role=_identity_role(reader),
        disk_type=reader.text("disk_type", choices=DISK_TYPES),
        public_address=reader.flag("public_address", False),
        security_type=reader.text("security_type", "standard", choices=SECURITY_TYPES),
        tenant=reader.text("tenant"),
        client_id=reader.text("client_id"),
        client_secret=reader.secret("client_secret"),
        certificate=reader.text("certificate"),
        endpoint=_endpoint(reader, authority),
        authority=authority,
        ca=reader.text("ca"),
        notice=_notice(reader),
        poll=_poll(reader),
        markets=settings.read_markets(reader),
        prices=catalog.read_overrides(reader, "prices"),
    )
    _credential(reader, found)
    reader.done()
    return found, reader.problems


def read_pool(given: Mapping[str, Any], catalog: catalogue.Catalog) -> tuple[PoolOptions, list[str]]:
    """A pool's options, and what is wrong with them."""
    reader = options.Reader(given)
    subnets: dict[str, str] = {}
    inner = reader.inner("subnets")
    for region in inner.given:
        subnets[str(region)] = _id(inner, str(region), _SUBNET, "a subnet")
    public = reader.flag("public_address", False) if reader.has("public_address") else None
    reader.raw("public_address")
    found = PoolOptions(
        image=_image(reader),
        plan=_plan(reader),
        disk_type=reader.text("disk_type", choices=DISK_TYPES),
        security_type=reader.text("security_type", choices=SECURITY_TYPES),
        public_address=public,
        subnets=subnets,
        regions=settings.read_pool_regions(reader, catalog),
    )
    reader.done()
    return found, reader.problems


def _regions(reader: options.Reader, catalog: catalogue.Catalog) -> dict[str, Region]:
    found: dict[str, Region] = {}
    for name, entry in reader.named("regions"):
        if catalog.regions and name not in catalog.regions:
            entry.complain("", f"no such region{catalog.nearest_region(name)}")
        zones = entry.texts("zones")
        for zone in zones:
            if zone not in ("1", "2", "3"):
                entry.complain("zones", f'"{zone}" is not a zone; a region\'s zones are "1", "2" and "3"')
        subnet = _id(entry, "subnet", _SUBNET, "a subnet")
        if not entry.has("subnet"):
            entry.complain("subnet", "is required: the resource id of a subnet")
        found[name] = Region(
            name=name,
            subnet=subnet,
            zones=zones,
            security_group=_id(entry, "security_group", _SECURITY_GROUP, "a network security group"),
        )
        entry.done()
    if not found:
        reader.complain("regions", "names no region to buy in")
    return found


def _id(reader: options.Reader, key: str, pattern: re.Pattern[str], what: str) -> str:
    value = reader.text(key)
    if value and not pattern.match(value):
        reader.complain(key, f'"{value}" is not the resource id of {what}')
        return ""
    return value


def _image(reader: options.Reader) -> str:
    value = reader.text("image")
    problem = images.problem(value) if value else ""
    if problem:
        reader.complain("image", problem)
        return ""
    return value


def _plan(reader: options.Reader) -> Plan | None:
    inner = reader.inner("plan")
    if not reader.has("plan"):
        return None
    parts = {key: inner.text(key) for key in ("publisher", "product", "name")}
    for key, value in parts.items():
        if not value:
            inner.complain(key, "is required: a plan has publisher, product and name")
    inner.done()
    return Plan(**parts)


def _admin_user(reader: options.Reader) -> str:
    value = reader.text("admin_user", "runner")
    if not _USER.match(value) or value in _REFUSED_USERS:
        reader.complain("admin_user", f'"{value}" is a name that Azure refuses')
    return value


def _ssh_key(reader: options.Reader) -> str:
    value = " ".join(reader.text("ssh_key").split())
    if not value:
        return ""
    kind, _, rest = value.partition(" ")
    try:
        base64.b64decode(rest.partition(" ")[0], validate=True)
    except ValueError:
        rest = ""
    if kind not in ("ssh-rsa", "ssh-ed25519") or not rest:
        reader.complain("ssh_key", "expected the text of a public key, ssh-rsa or ssh-ed25519")
        return ""
    return value


def _identity(reader: options.Reader) -> str:
    value = reader.text("identity")
    if value == SYSTEM:
        if not reader.has("identity_role"):
            reader.complain("identity_role", "is required with identity: system")
        return value
    return _id(reader, "identity", _IDENTITY, 'a user-assigned identity, nor "system"')


def _identity_role(reader: options.Reader) -> str:
    if reader.has("identity_role") and reader.given.get("identity") != SYSTEM:
        reader.complain("identity_role", "has a meaning with identity: system only")
    return _id(reader, "identity_role", _ROLE, "a role definition")


def _authority(reader: options.Reader) -> str:
    value = reader.text("authority").removeprefix("https://").rstrip("/")
    if "/" in value or "http:" in value:
        reader.complain("authority", "expected the host of the sign-in service, such as login.microsoftonline.us")
    return value


def _endpoint(reader: options.Reader, authority: str) -> str:
    value = reader.text("endpoint", ENDPOINTS.get(authority, PUBLIC_ENDPOINT)).rstrip("/")
    if not value.startswith("https://"):
        reader.complain("endpoint", "expected a URL with https: the credential goes there")
    return value


def _notice(reader: options.Reader) -> float:
    value = reader.seconds("terminate_notice", 0.0)
    if value and not 300.0 <= value <= 900.0:
        reader.complain("terminate_notice", "Azure takes 5m to 15m")
        return 0.0
    return value


def _poll(reader: options.Reader) -> float:
    value = reader.seconds("poll", 2.0)
    if not 0.02 <= value <= 30.0:
        reader.complain("poll", "expected 20ms to 30s")
        return 2.0
    return value


def _credential(reader: options.Reader, found: Settings) -> None:
    own = [key for key in ("client_secret", "certificate") if getattr(found, key)]
    if len(own) == 2:
        reader.complain("certificate", "is given beside client_secret; one of them is enough")
    for key in ("tenant", "client_id") if own else ():
        if not getattr(found, key):
            reader.complain(key, f"is required with {own[0]}")
    if found.tenant and not own:
        reader.complain("tenant", "has a meaning with client_secret or certificate only")
