"""Machines and their parts in the terms of the contract; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from provisioners import base, catalogue
from provisioners.azure import error_scopes, errors, names, settings

Wire = Mapping[str, Any]

#: Power states of a machine that does not run and does not start by itself; each is billed in part or whole.
_STOPPED = frozenset({"stopped", "stopping", "deallocated", "deallocating"})
#: Codes of a failed launch after which the machine runs all the same.
_BOOT = frozenset(
    {"osprovisioningtimedout", "osprovisioningclienterror", "osprovisioninginternalerror"}
    | {"vmextensionprovisioningerror", "vmextensionprovisioningtimeout"}
)
_POWER = "powerstate/"
_FAILED = "provisioningstate/failed"

# Kinds of residue; the words are in the metrics and in ``runnerd sweep``.
INTERFACE, ADDRESS, DISK, ROLE = "network-interface", "public-address", "disk", "role-assignment"


def machine(
    vm: Wire,
    *,
    provider: str,
    subscription: str,
    group: str,
    catalog: catalogue.Catalog,
    statuses: Wire | None = None,
    now: float,
) -> base.InstanceView:
    """An instance; ``statuses`` is its instance view where it was asked for separately."""
    properties = vm.get("properties") or {}
    tags = dict(vm.get("tags") or {})
    region = str(vm.get("location", "")).replace(" ", "").lower()
    zone = (vm.get("zones") or [settings.NO_ZONE])[0]
    name = str(vm.get("name", ""))
    spot = properties.get("priority") in ("Spot", "Low")
    offer = base.Offer(
        provider=provider,
        account=subscription,
        region=region,
        zone=str(zone),
        machine_type=str((properties.get("hardwareProfile") or {}).get("vmSize", "")),
        market=base.Market.SPOT if spot else base.Market.ON_DEMAND,
        price=0.0,
    )
    seen = statuses if statuses is not None else properties.get("instanceView")
    status, failure = _status(str(properties.get("provisioningState", "")), seen, error_scopes.target(offer, catalog))
    return base.InstanceView(
        ref=str(names.Ref(subscription, group, name, str(properties.get("vmId", "")))),
        name=tags.get(base.TAG_INSTANCE) or names.instance(name),
        scope=offer.scope,
        status=status,
        tags=tags,
        created_at=_time(properties.get("timeCreated"), now),
        offer=offer.key if offer.machine_type else None,
        failure=failure,
    )


def failed(vm: Wire) -> bool:
    """True when something went wrong with a machine, which may run all the same."""
    return str((vm.get("properties") or {}).get("provisioningState", "")).lower() in ("failed", "canceled")


def _status(
    provisioning: str, seen: Wire | None, where: error_scopes.Target
) -> tuple[base.InstanceStatus, base.Failure | None]:
    power, code, message = _told(seen or {})
    state = provisioning.lower()
    if state == "deleting":
        return base.InstanceStatus.ENDING, None
    if power in _STOPPED:
        return base.InstanceStatus.STOPPED, None
    if state in ("failed", "canceled"):
        if seen is None:
            # Whether it runs all the same is not known: nothing is said that would end it.
            return base.InstanceStatus.PENDING, None
        if power == "running" and code.lower() not in _BOOT:
            # It was launched; what failed is a later change, such as an extension that a policy added.
            return base.InstanceStatus.RUNNING, None
        return base.InstanceStatus.FAILED, errors.launch_failure(code or "ProvisioningFailed", message, where)
    if state == "creating" or power == "starting":
        return base.InstanceStatus.PENDING, None
    return base.InstanceStatus.RUNNING, None


def _told(seen: Wire) -> tuple[str, str, str]:
    """Power state, and the code and message of a failed launch; each empty where Azure does not say."""
    power = code = message = ""
    for one in seen.get("statuses") or ():
        state = str(one.get("code", ""))
        if state.lower().startswith(_POWER):
            power = state[len(_POWER) :].lower()
        elif state.lower().startswith(_FAILED):
            code = state[len(_FAILED) :].strip("/")
            message = str(one.get("message") or one.get("displayStatus") or "")
    return power, code, message


def ours(thing: Wire, controller: str) -> bool:
    """True when something carries the controller's tag, or its seal where it carries no tags."""
    tags = thing.get("tags") or {}
    if base.TAG_CONTROLLER in tags:
        return bool(tags[base.TAG_CONTROLLER] == controller)
    return names.owner(str(thing.get("name", "")), controller) is not None


def residues(
    *,
    provider: str,
    subscription: str,
    controller: str,
    machines: frozenset[str],
    interfaces: list[Wire],
    addresses: list[Wire],
    disks: list[Wire],
) -> Iterator[base.Residue]:
    """Parts of ours without a machine, in the order in which they can be deleted.

    ``machines`` are the names, in lower case, of all the machines that are there: a part that is named after one of
    them is not taken for lost, whether it is attached yet or not.
    """
    for kind, things in ((INTERFACE, interfaces), (ADDRESS, addresses), (DISK, disks)):
        for one in things:
            if not ours(one, controller) or _in_use(one):
                continue
            owner = names.owner(str(one.get("name", "")), controller)
            if owner is not None and owner in machines:
                continue
            yield _residue(one, kind, owner, provider, subscription, controller)


def _in_use(thing: Wire) -> bool:
    """True when something holds on to a part: a machine, or the interface that an address belongs to."""
    properties = thing.get("properties") or {}
    return bool(thing.get("managedBy") or properties.get("virtualMachine") or properties.get("ipConfiguration"))


def _residue(
    thing: Wire, kind: str, owner: str | None, provider: str, subscription: str, controller: str
) -> base.Residue:
    tags = dict(thing.get("tags") or {})
    if base.TAG_CONTROLLER not in tags and owner is not None:
        tags |= {base.TAG_CONTROLLER: controller, base.TAG_INSTANCE: names.instance(owner)}
    zones = thing.get("zones") or [settings.NO_ZONE]
    region = str(thing.get("location", "")).replace(" ", "").lower()
    return base.Residue(
        kind=kind,
        ref=str(thing.get("id", "")),
        scope=base.Scope.of(provider, subscription, region, str(zones[0])),
        tags=tags,
        # Interfaces and addresses do not tell; the sweep's two sightings stand in for their age.
        created_at=_time((thing.get("properties") or {}).get("timeCreated"), 0.0),
    )


def _time(text: Any, default: float) -> float:
    if not text:
        return default
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return default
