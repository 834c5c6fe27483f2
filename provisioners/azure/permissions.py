"""The actions that the credential needs, and those that it lacks; pure."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any

from provisioners.azure import names, settings

_COMPUTE, _NETWORK = "Microsoft.Compute", "Microsoft.Network"

#: In the resource group.
GROUP = (
    "Microsoft.Resources/subscriptions/resourceGroups/read",
    f"{_COMPUTE}/virtualMachines/read",
    f"{_COMPUTE}/virtualMachines/write",
    f"{_COMPUTE}/virtualMachines/delete",
    f"{_COMPUTE}/virtualMachines/instanceView/read",
    f"{_COMPUTE}/virtualMachines/retrieveBootDiagnosticsData/action",
    f"{_COMPUTE}/disks/read",
    f"{_COMPUTE}/disks/write",
    f"{_COMPUTE}/disks/delete",
    f"{_NETWORK}/networkInterfaces/read",
    f"{_NETWORK}/networkInterfaces/write",
    f"{_NETWORK}/networkInterfaces/delete",
    f"{_NETWORK}/networkInterfaces/join/action",
    f"{_NETWORK}/publicIPAddresses/read",
    f"{_NETWORK}/publicIPAddresses/delete",
)
#: In the resource group, where machines get an address of their own.
ADDRESS = (f"{_NETWORK}/publicIPAddresses/write", f"{_NETWORK}/publicIPAddresses/join/action")
#: On the identity that machines share; where it lies in the resource group, there.
IDENTITY = ("Microsoft.ManagedIdentity/userAssignedIdentities/assign/action",)
#: In the resource group, where each machine's own identity gets a role on the machine.
ROLE = tuple(f"Microsoft.Authorization/roleAssignments/{verb}" for verb in ("read", "write", "delete"))


def needed(chosen: settings.Settings, *, public: bool) -> tuple[str, ...]:
    """Everything that the resource group has to allow."""
    address = ADDRESS if public or chosen.public_address else ()
    shared = IDENTITY if names.group_of(chosen.identity).lower() == chosen.resource_group.lower() else ()
    return (*GROUP, *address, *shared, *(ROLE if chosen.identity == settings.SYSTEM else ()))


def missing(granted: Iterable[Mapping[str, Any]], wanted: Iterable[str]) -> list[str]:
    """Of the wanted actions, those that no grant allows.

    A grant allows what its ``actions`` match, less what its ``notActions`` match; another grant may still allow that.
    """
    grants = [(_lower(one.get("actions")), _lower(one.get("notActions"))) for one in granted]
    return [
        action for action in wanted if not any(_matches(action, yes) and not _matches(action, no) for yes, no in grants)
    ]


def _lower(patterns: Any) -> list[str]:
    return [str(pattern).lower() for pattern in patterns or ()]


def _matches(action: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(action.lower(), pattern) for pattern in patterns)
