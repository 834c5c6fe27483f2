"""The operations of the API: where they are, what a role has to allow for each, and how often each may be called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tests.clouds import wire
from tests.clouds.azure import limits, state

#: Versions that each provider has; Compute's go on by resource.
VERSIONS = {
    "virtualmachines": {"2024-07-01", "2025-04-01", "2025-11-01", "2026-04-01"},
    "locations": {"2025-11-01", "2026-04-01"},
    "disks": {"2025-01-02", "2026-03-02"},
    "skus": {"2021-07-01"},
    "network": {"2024-05-01"},
    "resources": {"2022-09-01"},
    "authorization": {"2022-04-01"},
    "activity": {"2015-04-01"},
    "identity": {"2023-01-31"},
    "ordering": {"2021-01-01"},
    "gallery": {"2026-03-03"},
}
_SUBSCRIPTION = r"/subscriptions/(?P<subscription>[^/]+)"
_GROUP = _SUBSCRIPTION + r"/resourcegroups/(?P<group>[^/]+)"
_MACHINES = _GROUP + r"/providers/microsoft\.compute/virtualmachines"
_NETWORK = _GROUP + r"/providers/microsoft\.network"


@dataclass(frozen=True, slots=True)
class Route:
    """One operation."""

    method: str
    pattern: re.Pattern[str]
    #: What a role has to allow.
    action: str
    #: What faults call it.
    operation: str
    #: Key into the versions.
    versions: str
    policies: tuple[limits.Policy, ...]
    #: The method of the service.
    run: str


def find(request: wire.Request) -> tuple[Route, Mapping[str, str]]:
    """The operation that a request asks for, with the named parts of its path."""
    for route in ROUTES:
        found = route.pattern.fullmatch(request.path) if route.method == request.method else None
        if found is not None:
            return route, {name: value for name, value in found.groupdict().items() if value is not None}
    raise state.Refused(404, "InvalidResourceType", f"There is nothing at {request.method} {request.path}.")


def _of(
    method: str, pattern: str, action: str, operation: str, versions: str, run: str, *policies: limits.Policy
) -> Route:
    arm = {"GET": limits.READS, "PUT": limits.WRITES, "POST": limits.READS, "DELETE": limits.DELETES}[method]
    return Route(method, re.compile(pattern, re.I), action, operation, versions, (arm, *policies), run)


_VM = _MACHINES + r"/(?P<vm>[^/]+)"
_LOCATION = _SUBSCRIPTION + r"/providers/microsoft\.compute/locations/(?P<region>[^/]+)"
_IMAGE = (
    _LOCATION + r"/publishers/(?P<publisher>[^/]+)/artifacttypes/vmimage/offers/(?P<offer>[^/]+)"
    r"/skus/(?P<sku>[^/]+)/versions"
)
_ROLE = r"/providers/microsoft\.authorization/roleassignments"
_C, _N = "Microsoft.Compute", "Microsoft.Network"
ROUTES = (
    _of(
        "PUT",
        _VM,
        f"{_C}/virtualMachines/write",
        "create",
        "virtualmachines",
        "create",
        limits.PUT,
        limits.CHANGE_ONE,
    ),
    _of("GET", _VM, f"{_C}/virtualMachines/read", "get", "virtualmachines", "get", limits.GET, limits.GET_ONE),
    _of(
        "GET",
        _VM + "/instanceView",
        f"{_C}/virtualMachines/instanceView/read",
        "view",
        "virtualmachines",
        "view",
        limits.GET,
        limits.GET_ONE,
    ),
    _of(
        "DELETE",
        _VM,
        f"{_C}/virtualMachines/delete",
        "delete",
        "virtualmachines",
        "delete",
        limits.DELETE,
        limits.CHANGE_ONE,
    ),
    _of(
        "POST",
        _VM + "/retrieveBootDiagnosticsData",
        f"{_C}/virtualMachines/retrieveBootDiagnosticsData/action",
        "console",
        "virtualmachines",
        "console",
        limits.GET,
        limits.GET_ONE,
    ),
    _of("GET", _MACHINES, f"{_C}/virtualMachines/read", "list", "virtualmachines", "list", limits.LIST),
    _of(
        "GET",
        _LOCATION + r"/operations/(?P<operation>[^/]+)",
        f"{_C}/locations/operations/read",
        "operation",
        "locations",
        "operation",
        limits.OPERATION,
    ),
    _of("GET", _LOCATION + "/usages", f"{_C}/locations/usages/read", "usages", "locations", "usages"),
    _of(
        "GET",
        _IMAGE,
        f"{_C}/locations/publishers/artifacttypes/offers/skus/versions/read",
        "images",
        "locations",
        "versions",
    ),
    _of(
        "GET",
        _IMAGE + r"/(?P<version>[^/]+)",
        f"{_C}/locations/publishers/artifacttypes/offers/skus/versions/read",
        "images",
        "locations",
        "version",
    ),
    _of("GET", _SUBSCRIPTION + r"/providers/microsoft\.compute/skus", f"{_C}/skus/read", "skus", "skus", "skus"),
    _of("GET", _GROUP + r"/providers/microsoft\.compute/disks", f"{_C}/disks/read", "disks", "disks", "disks"),
    _of(
        "DELETE",
        _GROUP + r"/providers/microsoft\.compute/disks/(?P<name>[^/]+)",
        f"{_C}/disks/delete",
        "delete-part",
        "disks",
        "delete_part",
    ),
    _of(
        "GET",
        _NETWORK + r"/(?P<kind>networkinterfaces|publicipaddresses)",
        f"{_N}/networkInterfaces/read",
        "network",
        "network",
        "network",
    ),
    _of(
        "DELETE",
        _NETWORK + r"/(?P<kind>networkinterfaces|publicipaddresses)/(?P<name>[^/]+)",
        f"{_N}/networkInterfaces/delete",
        "delete-part",
        "network",
        "delete_part",
    ),
    _of(
        "GET",
        _GROUP + r"/providers/microsoft\.authorization/permissions",
        "Microsoft.Authorization/permissions/read",
        "permissions",
        "authorization",
        "permissions",
    ),
    _of(
        "PUT",
        _VM + _ROLE + r"/(?P<assignment>[^/]+)",
        "Microsoft.Authorization/roleAssignments/write",
        "other",
        "authorization",
        "assign",
    ),
    _of(
        "DELETE",
        _VM + _ROLE + r"/(?P<assignment>[^/]+)",
        "Microsoft.Authorization/roleAssignments/delete",
        "other",
        "authorization",
        "unassign",
    ),
    _of(
        "GET",
        _GROUP + _ROLE,
        "Microsoft.Authorization/roleAssignments/read",
        "other",
        "authorization",
        "assignments",
    ),
    _of(
        "GET",
        _SUBSCRIPTION + r"/providers/microsoft\.insights/eventtypes/management/values",
        "Microsoft.Insights/eventtypes/values/read",
        "activity",
        "activity",
        "events",
    ),
    _of(
        "GET",
        _SUBSCRIPTION + r"/providers/microsoft\.marketplaceordering/offertypes/virtualmachine/publishers"
        r"/(?P<publisher>[^/]+)/offers/(?P<offer>[^/]+)/plans/(?P<plan>[^/]+)/agreements/current",
        "Microsoft.MarketplaceOrdering/offertypes/publishers/offers/plans/agreements/read",
        "other",
        "ordering",
        "terms",
    ),
    _of("GET", _SUBSCRIPTION, "Microsoft.Resources/subscriptions/read", "other", "resources", "subscription"),
    _of("GET", _GROUP, "Microsoft.Resources/subscriptions/resourceGroups/read", "other", "resources", "group"),
    _of("GET", _NETWORK + r"/.+", f"{_N}/read", "other", "network", "resource"),
    _of(
        "GET",
        _GROUP + r"/providers/microsoft\.managedidentity/.+",
        "Microsoft.ManagedIdentity/read",
        "other",
        "identity",
        "resource",
    ),
    _of(
        "GET",
        _GROUP + r"/providers/microsoft\.compute/galleries/.+",
        f"{_C}/galleries/read",
        "other",
        "gallery",
        "resource",
    ),
    _of(
        "GET",
        _GROUP + r"/providers/microsoft\.compute/images/.+",
        f"{_C}/images/read",
        "other",
        "virtualmachines",
        "resource",
    ),
)
