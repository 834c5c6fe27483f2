"""Compute Engine's objects as the contract has them: pure."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping

from google.cloud import compute_v1

from provisioners import base, catalogue
from provisioners.base import InstanceStatus
from provisioners.gcp import names
from provisioners.gcp import tags as gcp_tags

#: Statuses of the schema ``Instance``.
STATUSES: Mapping[str, InstanceStatus] = {
    "PENDING": InstanceStatus.PENDING,
    "PROVISIONING": InstanceStatus.PENDING,
    "STAGING": InstanceStatus.PENDING,
    "RUNNING": InstanceStatus.RUNNING,
    # Its host broke; with automatic restarts off it does not come back by itself.
    "REPAIRING": InstanceStatus.RUNNING,
    "PENDING_STOP": InstanceStatus.ENDING,
    "STOPPING": InstanceStatus.ENDING,
    "SUSPENDING": InstanceStatus.ENDING,
    "DEPROVISIONING": InstanceStatus.ENDING,
    "STOPPED": InstanceStatus.STOPPED,
    "SUSPENDED": InstanceStatus.STOPPED,
    "TERMINATED": InstanceStatus.STOPPED,
}


def tags(instance: compute_v1.Instance) -> dict[str, str]:
    """Its tags as they were given; what its labels tell where the item is gone."""
    for item in instance.metadata.items:
        if item.key == gcp_tags.ITEM:
            try:
                found = json.loads(item.value)
            except ValueError:
                break
            if isinstance(found, dict):
                return {str(key): str(value) for key, value in found.items()}
    return dict(instance.labels)


def instance(
    found: compute_v1.Instance,
    *,
    provider: str,
    project: str,
    catalog: catalogue.Catalog,
    failure: base.Failure | None = None,
) -> base.InstanceView:
    """An instance."""
    zone = names.last(found.zone)
    scope = base.Scope.of(provider, project, names.region_of(zone), zone)
    known = tags(found)
    status = STATUSES.get(found.status, InstanceStatus.PENDING)
    spot = found.scheduling.provisioning_model == "SPOT" or found.scheduling.preemptible
    market = base.Market.SPOT if spot else base.Market.ON_DEMAND
    return base.InstanceView(
        ref=str(names.Ref(project, zone, found.name, str(found.id))),
        name=known.get(base.TAG_INSTANCE, found.name),
        scope=scope,
        status=InstanceStatus.FAILED if failure is not None else status,
        tags=known,
        created_at=seconds(found.creation_timestamp),
        offer=scope.offer(machine_type(found, catalog), market.value),
        address=_address(found),
        healthy=False if found.status == "REPAIRING" else None,
        failure=failure,
    )


def requested(request: base.CreateRequest, ref: names.Ref, *, now: float) -> base.InstanceView:
    """An instance that was accepted and does not show yet."""
    return base.InstanceView(
        ref=str(ref),
        name=request.tags.get(base.TAG_INSTANCE, request.name),
        scope=request.offer.scope,
        status=InstanceStatus.PENDING,
        tags=dict(request.tags),
        created_at=now,
        offer=request.offer.key,
    )


def disk(found: compute_v1.Disk, *, provider: str, project: str) -> base.Residue:
    """A disk that no instance uses."""
    zone = names.last(found.zone)
    return base.Residue(
        kind="disk",
        ref=f"{project}/{zone}/{found.name}/{found.id}",
        scope=base.Scope.of(provider, project, names.region_of(zone), zone),
        tags=dict(found.labels),
        created_at=seconds(found.creation_timestamp),
    )


def address(found: compute_v1.Address, *, provider: str, project: str) -> base.Residue:
    """A reserved address that nothing uses."""
    region = names.last(found.region)
    return base.Residue(
        kind="address",
        ref=f"{project}/{region}/{found.name}/{found.id}",
        scope=base.Scope.of(provider, project, region),
        tags=dict(found.labels),
        created_at=seconds(found.creation_timestamp),
    )


def machine_type(found: compute_v1.Instance, catalog: catalogue.Catalog) -> str:
    """The type as offers name it; built-in GPUs look like attached ones, so the catalogue decides."""
    name = names.last(found.machine_type)
    for attached in found.guest_accelerators:
        combined = f"{name}+{names.last(attached.accelerator_type)}x{attached.accelerator_count}"
        if combined in catalog.machines or name.startswith("n1-"):
            return combined
    return name


def seconds(timestamp: str) -> float:
    """Unix seconds of an RFC 3339 timestamp; 0 where there is none."""
    if not timestamp:
        return 0.0
    return datetime.datetime.fromisoformat(timestamp).timestamp()


def _address(found: compute_v1.Instance) -> str:
    for interface in found.network_interfaces:
        for access in interface.access_configs:
            if access.nat_i_p:
                return str(access.nat_i_p)
        if interface.network_i_p:
            return str(interface.network_i_p)
    return ""
