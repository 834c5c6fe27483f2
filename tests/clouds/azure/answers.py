"""Answers of the API, as they are on the wire."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tests.clouds import wire
from tests.clouds.azure import sizes, state

if TYPE_CHECKING:
    from tests.clouds.azure.cloud import Arm

#: A quota that nobody set.
_PLENTY = 2000


def json_answer(status: int, body: Any, headers: Mapping[str, str] | None = None) -> wire.Answer:
    told = {"Content-Type": "application/json; charset=utf-8", **(headers or {})}
    return wire.Answer(status, told, json.dumps(body).encode())


def refusal(error: state.Refused) -> wire.Answer:
    headers = {} if error.retry_after is None else {"Retry-After": str(round(error.retry_after))}
    if error.status == 401:
        headers["WWW-Authenticate"] = (
            'Bearer authorization_uri="https://login.microsoftonline.com/", error="invalid_token"'
        )
    return json_answer(error.status, {"error": {"code": error.code, "message": error.message}}, headers)


def missing(path: str, group: str) -> state.Refused:
    what = path.partition("/providers/")[2]
    message = f"The Resource '{what}' under resource group '{group}' was not found."
    return state.Refused(404, "ResourceNotFound", message)


def machine(cloud: Arm, one: state.Instance, *, seen: bool = False) -> dict[str, Any]:
    """A machine: what was asked for, less what is never told again, with what the service sets."""
    body = copy.deepcopy(one.body)
    properties = body["properties"]
    properties["osProfile"].pop("customData", None)
    properties.pop("userData", None)
    interfaces = properties["networkProfile"].pop("networkInterfaceConfigurations", [])
    properties["networkProfile"].pop("networkApiVersion", None)
    if interfaces:
        properties["networkProfile"]["networkInterfaces"] = [
            {"id": _part_id(cloud, one.group, "networkInterfaces", each["name"])} for each in interfaces
        ]
    properties |= {"provisioningState": one.provisioning, "vmId": one.vm_id, "timeCreated": state.iso(one.created_at)}
    if seen:
        properties["instanceView"] = view(one)
    identity = body.get("identity")
    if identity is not None and one.principal:
        identity["principalId"] = one.principal
    return {
        **body,
        "id": cloud.id_of(one),
        "name": one.name,
        "type": "Microsoft.Compute/virtualMachines",
    }


def view(one: state.Instance) -> dict[str, Any]:
    """An instance view."""
    state_word = one.provisioning.lower()
    first: dict[str, Any] = {"level": "Info", "displayStatus": f"Provisioning {state_word}"}
    first["code"] = f"ProvisioningState/{state_word}"
    if one.provisioning == "Failed":
        first |= {"code": f"ProvisioningState/failed/{one.fails_with}", "level": "Error", "message": one.fails_message}
    statuses = [first]
    if one.power:
        statuses.append({"code": f"PowerState/{one.power}", "level": "Info", "displayStatus": f"VM {one.power}"})
    return {"statuses": statuses}


def operation(name: str, one: state.Instance, making: bool) -> dict[str, Any]:
    """A long operation."""
    body: dict[str, Any] = {"name": name, "startTime": state.iso(one.created_at), "status": "InProgress"}
    if not making:
        body["status"] = "Succeeded" if one.state == "gone" else "InProgress"
    elif one.fails_with and one.provisioning == "Failed":
        body["status"] = "Failed"
        body["error"] = {"code": one.fails_with, "message": one.fails_message or one.fails_with}
    elif one.state in ("deleting", "gone") and one.provisioning != "Succeeded":
        body["status"] = "Canceled"
        body["error"] = {"code": "OperationPreempted", "message": "Preempted by a deletion."}
    elif one.provisioning != "Creating":
        body["status"] = "Succeeded"
    return body


def make_parts(
    cloud: Arm, group: str, name: str, body: Mapping[str, Any], *, disk: bool, owner: state.Instance | None = None
) -> None:
    """Interface, address and disk of a machine; tags are those of each part's own configuration and no others."""
    attached = owner.name if owner is not None else ""
    region, zones = body["location"], tuple(body.get("zones") or ())
    properties = body["properties"]

    def add(kind: str, part_name: str, tags: Mapping[str, str], delete: bool, its_owner: str) -> None:
        cloud.parts[group, kind, part_name] = state.Part(
            kind, part_name, group, region, zones, dict(tags), cloud.now(), delete, its_owner
        )

    for interface in properties["networkProfile"].get("networkInterfaceConfigurations", []):
        inside = interface["properties"]
        add(
            "networkInterfaces",
            interface["name"],
            interface.get("tags", {}),
            inside.get("deleteOption") == "Delete",
            attached,
        )
        for address in inside["ipConfigurations"]:
            public = address["properties"].get("publicIPAddressConfiguration")
            if public is not None:
                goes = public["properties"].get("deleteOption") == "Delete"
                add("publicIPAddresses", public["name"], public.get("tags", {}), goes, interface["name"])
    if disk:
        root = properties["storageProfile"]["osDisk"]
        add("disks", root.get("name", f"{name}_OsDisk_1"), {}, root.get("deleteOption") == "Delete", attached)


def _part_id(cloud: Arm, group: str, kind: str, name: str) -> str:
    provider = "Microsoft.Compute" if kind == "disks" else "Microsoft.Network"
    return f"/subscriptions/{cloud.subscription}/resourceGroups/{group}/providers/{provider}/{kind}/{name}"


def part(cloud: Arm, one: state.Part) -> dict[str, Any]:
    """An interface, an address or a disk."""
    body: dict[str, Any] = {
        "id": _part_id(cloud, one.group, one.kind, one.name),
        "name": one.name,
        "location": one.region,
        "tags": dict(one.tags),
    }
    properties: dict[str, Any] = {"provisioningState": "Succeeded"}
    if one.zones and one.kind != "networkInterfaces":
        body["zones"] = list(one.zones)
    if one.kind == "disks":
        properties |= {"timeCreated": state.iso(one.created_at), "diskState": "Attached" if one.owner else "Unattached"}
        properties["creationData"] = {"createOption": "FromImage"}
        if one.owner:
            body["managedBy"] = _machine_id(cloud, one)
    elif one.kind == "networkInterfaces" and one.owner:
        properties["virtualMachine"] = {"id": _machine_id(cloud, one)}
    elif one.owner:
        inside = _part_id(cloud, one.group, "networkInterfaces", one.owner)
        properties["ipConfiguration"] = {"id": f"{inside}/ipConfigurations/primary"}
    body["properties"] = properties
    return body


def _machine_id(cloud: Arm, one: state.Part) -> str:
    return (
        f"/subscriptions/{cloud.subscription}/resourceGroups/{one.group}/providers/Microsoft.Compute"
        f"/virtualMachines/{one.owner}"
    )


def sku(cloud: Arm, size: sizes.Size, region: str) -> dict[str, Any]:
    """One entry of the list of sizes."""
    zones = [zone for zone in cloud.regions[region] if zone in size.zones]
    restrictions = []
    for one in cloud.restrictions:
        if one.size != size.name or one.region != region:
            continue
        info: dict[str, Any] = {"locations": [region]}
        if one.zones:
            info["zones"] = list(one.zones)
        restrictions.append(
            {
                "type": "Zone" if one.zones else "Location",
                "values": [region],
                "restrictionInfo": info,
                "reasonCode": one.reason,
            }
        )
    return {
        "resourceType": "virtualMachines",
        "name": size.name,
        "tier": "Standard",
        "size": size.name.removeprefix("Standard_"),
        "family": size.family,
        "locations": [region],
        "locationInfo": [{"location": region, "zones": zones}],
        "capabilities": [
            {"name": "vCPUs", "value": str(size.cores)},
            {"name": "GPUs", "value": str(size.gpus)},
            {"name": "CpuArchitectureType", "value": size.arch},
            {"name": "LowPriorityCapable", "value": str(size.spot)},
        ],
        "restrictions": restrictions,
    }


def usages(cloud: Arm, region: str) -> list[dict[str, Any]]:
    """Quotas of a region and what of them is used."""
    rows = [
        ("cores", "Total Regional vCPUs", cloud.cores(region)),
        ("lowPriorityCores", "Total Regional Low-priority vCPUs", cloud.cores(region, market="spot")),
        ("virtualMachines", "Virtual Machines", cloud.used(f"{region}/*/*/*")),
    ]
    families = sorted({size.family for size in cloud.sizes.values()})
    rows += [(family, f"Standard {family} vCPUs", cloud.cores(region, family=family)) for family in families]
    return [
        {
            "unit": "Count",
            "currentValue": used,
            "limit": limit(cloud, region, name),
            "name": {"value": name, "localizedValue": label},
        }
        for name, label, used in rows
    ]


def limit(cloud: Arm, region: str, name: str) -> int:
    """A quota's ceiling."""
    return cloud.quota.get((region, name), _PLENTY)


def image(one: sizes.Image, version: str, region: str) -> dict[str, Any]:
    """One version of a marketplace image."""
    properties: dict[str, Any] = {
        "osDiskImage": {"operatingSystem": "Linux"},
        "hyperVGeneration": "V2",
        "architecture": one.arch,
    }
    if one.plan is not None:
        publisher, product, name = one.plan
        properties["plan"] = {"publisher": publisher, "product": product, "name": name}
    return {"name": version, "location": region, "properties": properties}


def prices(cloud: Arm, wanted: str) -> wire.Answer:
    """A page of the public price list, for a filter that names one region and some sizes."""
    items = [
        {
            "currencyCode": "USD",
            "retailPrice": dollars,
            "armRegionName": region,
            "armSkuName": size,
            "skuName": f"{size} Spot" if market == "spot" else size,
            "productName": "Virtual Machines Series",
            "meterName": size,
            "serviceName": "Virtual Machines",
            "unitOfMeasure": "1 Hour",
            "type": "Consumption",
            "effectiveStartDate": "2020-01-01T00:00:00Z",
        }
        for (region, size, market), dollars in cloud.prices.items()
        if f"armRegionName eq '{region}'" in wanted and f"armSkuName eq '{size}'" in wanted
    ]
    return json_answer(200, {"Items": items, "NextPageLink": None})
