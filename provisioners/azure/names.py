"""Names of what Azure keeps for us, and the handles that stand for them.

A virtual machine's name is its only idempotency key, so it is derived from the attempt alone: a new attempt is a new
name.  The names of its parts end in a seal that only the controller's own name yields, so that a disk, which takes no
tags in the call that makes it, is still known to be ours when its machine is gone.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from provisioners import base

#: What a part's name ends in, before the seal.
NIC, ADDRESS, DISK = "nic", "ip", "os"
_PART = re.compile(r"(?P<vm>[a-z0-9][a-z0-9-]*-[0-9a-f]{8})-(?:nic|ip|os)-(?P<seal>[0-9a-f]{8})(?![0-9a-f])")
_REF = re.compile(r"(?P<subscription>[^/]+)/(?P<group>[^/]+)/(?P<vm>[^/]+)/(?P<vm_id>[^/]*)\Z")


@dataclass(frozen=True, slots=True)
class Ref:
    """The handle of a virtual machine."""

    subscription: str
    group: str
    vm: str
    #: Azure's own id: a machine made later under the same name has another one; empty when not known.
    vm_id: str = ""

    def __str__(self) -> str:
        return f"{self.subscription}/{self.group}/{self.vm}/{self.vm_id}"


def parse(ref: str) -> Ref | None:
    """The parts of a handle, None when it is not one of ours."""
    found = _REF.match(ref)
    return Ref(found["subscription"], found["group"], found["vm"], found["vm_id"]) if found else None


def machine(request: base.CreateRequest) -> str:
    """The name of the virtual machine of an attempt: 57 characters at most, where Azure takes 63 for a host."""
    return f"{request.name}-{_digest(request.key)}"


def part(vm: str, kind: str, controller: str) -> str:
    """The name of a network interface, an address or a disk of a machine."""
    return f"{vm}-{kind}-{_seal(vm, controller)}"


def owner(name: str, controller: str) -> str | None:
    """The machine that a part belongs to by its name, None when the controller's seal is not on it.

    What follows the seal does not count: Azure may lengthen the names of the parts that it makes.
    """
    found = _PART.match(name.lower())
    if found is None or found["seal"] != _seal(found["vm"], controller):
        return None
    return found["vm"]


def instance(vm: str) -> str:
    """The instance's name in the name of its machine."""
    return vm.rpartition("-")[0]


def _seal(vm: str, controller: str) -> str:
    return _digest(f"{controller}\n{vm}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def tail(resource_id: str) -> str:
    """The last segment of a resource id: the resource's name."""
    return resource_id.rstrip("/").rpartition("/")[2]


def group_of(resource_id: str) -> str:
    """The resource group in a resource id, empty when it names none."""
    parts = resource_id.split("/")
    for at, word in enumerate(parts[:-1]):
        if word.lower() == "resourcegroups":
            return parts[at + 1]
    return ""


def subscription_of(resource_id: str) -> str:
    """The subscription in a resource id, empty when it names none."""
    parts = resource_id.split("/")
    return parts[2] if len(parts) > 2 and parts[1].lower() == "subscriptions" else ""


def group_path(subscription: str, group: str) -> str:
    """The resource id of a resource group."""
    return f"/subscriptions/{subscription}/resourceGroups/{group}"


def machine_path(subscription: str, group: str, vm: str) -> str:
    """The resource id of a machine."""
    return f"{group_path(subscription, group)}/providers/Microsoft.Compute/virtualMachines/{vm}"
