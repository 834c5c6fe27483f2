"""The request for one machine: one body with the interface, the address and the disk in it; pure."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

from provisioners import base
from provisioners.azure import images, names, settings, tags

#: Bytes of custom data before base64 (the API's documentation of ``customData``).
CUSTOM_DATA_LIMIT = 65535
#: The API by which Compute makes the interface and the address (``NetworkApiVersion`` of its models).
NETWORK_API = "2022-11-01"
#: Bytes of the boot disk where neither pool nor operator says anything.
DEFAULT_DISK = 128 * 2**30

_GIB = 2**30
#: A size whose additional letters include ``s`` takes premium disks.
_PREMIUM = re.compile(r"Standard_[A-Z]+\d+(-\d+)?[a-z]*s[a-z]*(_|\Z)")


def build(
    request: base.CreateRequest,
    *,
    chosen: settings.Settings,
    pool: settings.PoolOptions,
    region: settings.Region,
    image: str,
) -> dict[str, Any]:
    """The body of the PUT.  Raises a definite CONFIG failure for what Azure would refuse."""
    custom_data = request.user_data.encode()
    refuse(tags.problems(request.tags))
    if len(custom_data) > CUSTOM_DATA_LIMIT:
        refuse([f"the boot script has {len(custom_data)} bytes, Azure takes {CUSTOM_DATA_LIMIT}"])
    vm = names.machine(request)
    body: dict[str, Any] = {
        "location": region.name,
        "tags": dict(request.tags),
        "properties": {
            "hardwareProfile": {"vmSize": request.offer.machine_type},
            "storageProfile": _storage(request, chosen, pool, vm, image),
            "osProfile": {
                "computerName": vm,
                "adminUsername": chosen.admin_user,
                "customData": base64.b64encode(custom_data).decode(),
                "linuxConfiguration": {
                    "disablePasswordAuthentication": True,
                    "ssh": {
                        "publicKeys": [
                            {
                                "path": f"/home/{chosen.admin_user}/.ssh/authorized_keys",
                                "keyData": chosen.ssh_key or key_without_owner(request.key),
                            }
                        ]
                    },
                },
            },
            "networkProfile": {
                "networkApiVersion": NETWORK_API,
                "networkInterfaceConfigurations": [_interface(request, chosen, pool, region, vm)],
            },
            "securityProfile": _security(pool.security_type or chosen.security_type),
            "diagnosticsProfile": {"bootDiagnostics": {"enabled": True}},
        },
    }
    if request.offer.zone != settings.NO_ZONE:
        body["zones"] = [request.offer.zone]
    if request.offer.market is base.Market.SPOT:
        body["properties"] |= {
            "priority": "Spot",
            "evictionPolicy": "Delete",
            # Never more than the on-demand price, and never taken back for the price.
            "billingProfile": {"maxPrice": -1},
        }
    elif chosen.notice:
        # Azure sells spot machines without it; a Preempt event needs no profile.
        timeout = {"enable": True, "notBeforeTimeout": f"PT{round(chosen.notice / 60)}M"}
        body["properties"]["scheduledEventsProfile"] = {"terminateNotificationProfile": timeout}
    plan = pool.plan or chosen.plan
    if plan is not None:
        body["plan"] = {"publisher": plan.publisher, "product": plan.product, "name": plan.name}
    if chosen.identity == settings.SYSTEM:
        body["identity"] = {"type": "SystemAssigned"}
    elif chosen.identity:
        body["identity"] = {"type": "UserAssigned", "userAssignedIdentities": {chosen.identity: {}}}
    return body


def _storage(
    request: base.CreateRequest,
    chosen: settings.Settings,
    pool: settings.PoolOptions,
    vm: str,
    image: str,
) -> dict[str, Any]:
    best = "Premium_LRS" if _PREMIUM.match(request.offer.machine_type) else "StandardSSD_LRS"
    disk: dict[str, Any] = {
        "name": names.part(vm, names.DISK, request.tags.get(base.TAG_CONTROLLER, "")),
        "createOption": "FromImage",
        "deleteOption": "Delete",
        "managedDisk": {"storageAccountType": pool.disk_type or chosen.disk_type or best},
    }
    if (pool.security_type or chosen.security_type) == "confidential":
        disk["managedDisk"]["securityProfile"] = {"securityEncryptionType": "VMGuestStateOnly"}
    size = request.disk or (0 if pool.image or chosen.image else DEFAULT_DISK)
    if size:
        # Left out, the disk is as large as the image.
        disk["diskSizeGB"] = -(-size // _GIB)
    return {"imageReference": images.reference(image), "osDisk": disk}


def _interface(
    request: base.CreateRequest,
    chosen: settings.Settings,
    pool: settings.PoolOptions,
    region: settings.Region,
    vm: str,
) -> dict[str, Any]:
    controller = request.tags.get(base.TAG_CONTROLLER, "")
    address: dict[str, Any] = {
        "primary": True,
        "subnet": {"id": pool.subnets.get(region.name) or region.subnet},
    }
    public = chosen.public_address if pool.public_address is None else pool.public_address
    if public:
        address["publicIPAddressConfiguration"] = {
            "name": names.part(vm, names.ADDRESS, controller),
            "sku": {"name": "Standard"},
            "tags": dict(request.tags),
            "properties": {"deleteOption": "Delete", "publicIPAllocationMethod": "Static"},
        }
    properties: dict[str, Any] = {
        "primary": True,
        "deleteOption": "Delete",
        "ipConfigurations": [{"name": "primary", "properties": address}],
    }
    if region.security_group:
        properties["networkSecurityGroup"] = {"id": region.security_group}
    return {
        "name": names.part(vm, names.NIC, controller),
        "tags": dict(request.tags),
        "properties": properties,
    }


def _security(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = {"securityType": settings.SECURITY_TYPES[kind]}
    if kind == "trusted-launch":
        # Without secure boot: it refuses the kernel modules of GPU drivers that are built on the machine.
        found["uefiSettings"] = {"secureBootEnabled": False, "vTpmEnabled": True}
    elif kind == "confidential":
        found["uefiSettings"] = {"secureBootEnabled": True, "vTpmEnabled": True}
    return found


def refuse(problems: list[str]) -> None:
    """Raise a definite CONFIG failure if there is a problem."""
    if problems:
        raise base.ProvisionError(base.Kind.CONFIG, "; ".join(problems), code="InvalidRequest")


# -- a key without a private half ----------------------------------------------------------------------------------

_P = 2**255 - 19
_D = -121665 * pow(121666, _P - 2, _P) % _P


def key_without_owner(seed: str) -> str:
    """A valid Ed25519 public key (RFC 8032) without a private half.

    Azure takes no Linux machine without a password but with a key.  This one is a point of the curve picked by hashing;
    its private half was never known and cannot be found.  The same seed gives the same key.
    """
    for turn in range(256):
        found = bytearray(hashlib.sha256(f"{seed}/{turn}".encode()).digest())
        found[31] &= 0x7F
        y = int.from_bytes(found, "little")
        square = (y * y - 1) * pow(_D * y * y + 1, _P - 2, _P) % _P
        # Euler's criterion: half of all numbers are the y of a point, the others are not.
        if y < _P and square and pow(square, (_P - 1) // 2, _P) == 1:
            blob = b"".join(len(part).to_bytes(4, "big") + part for part in (b"ssh-ed25519", bytes(found)))
            return f"ssh-ed25519 {base64.b64encode(blob).decode()} nobody"
    raise AssertionError("half of all hashes are points")
