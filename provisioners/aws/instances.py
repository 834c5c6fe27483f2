"""From what EC2 tells of instances and side resources to views.  Pure."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from typing import Any

from provisioners import base
from provisioners.aws import errors
from provisioners.base import EndKind, InstanceStatus

_STATES = {
    "pending": InstanceStatus.PENDING,
    "running": InstanceStatus.RUNNING,
    "shutting-down": InstanceStatus.ENDING,
    "stopping": InstanceStatus.ENDING,
    "stopped": InstanceStatus.STOPPED,
    "terminated": InstanceStatus.GONE,
}
#: ``StateReason`` in the EC2 API reference: who ended it.
_ENDS = {
    "Server.SpotInstanceTermination": EndKind.PREEMPTED,
    "Server.SpotInstanceShutdown": EndKind.PREEMPTED,
    "Server.ScheduledStop": EndKind.FAILED,
    "Client.InstanceInitiatedShutdown": EndKind.SELF_ENDED,
    "Client.UserInitiatedShutdown": EndKind.ENDED_BY_US,
    "Client.UserInitiatedHibernate": EndKind.ENDED_BY_US,
}
_ENDED = frozenset({"shutting-down", "terminated", "stopping", "stopped"})


def ref_of(region: str, id: str) -> str:
    """The handle of an instance: ids are unique within a region only."""
    return f"{region}/{id}"


def split(ref: str) -> tuple[str, str]:
    """Region and id of a handle, both empty when it is none of ours."""
    region, slash, id = ref.partition("/")
    return (region, id) if slash and id.startswith("i-") else ("", "")


def tags_of(resource: Mapping[str, Any]) -> dict[str, str]:
    """A resource's tags, without those that Amazon added."""
    given = resource.get("Tags") or resource.get("TagSet") or []
    return {tag["Key"]: tag.get("Value", "") for tag in given if not tag["Key"].startswith("aws:")}


def offer_of(provider: str, account: str, region: str, instance: Mapping[str, Any]) -> base.Offer:
    """The offer that an instance is of, as far as EC2 tells."""
    return base.Offer(
        provider=provider,
        account=account,
        region=region,
        zone=str(instance.get("Placement", {}).get("AvailabilityZone", "")),
        machine_type=str(instance.get("InstanceType", "")),
        market=base.Market.SPOT if instance.get("InstanceLifecycle") == "spot" else base.Market.ON_DEMAND,
        price=0.0,
    )


def instances_of(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The instances of a DescribeInstances or RunInstances answer."""
    reservations: Iterable[Mapping[str, Any]] = answer.get("Reservations", [answer])
    return [instance for one in reservations for instance in one.get("Instances", [])]


def view(
    provider: str,
    account: str,
    region: str,
    instance: Mapping[str, Any],
    *,
    healthy: bool | None = None,
) -> base.InstanceView:
    """An instance as EC2 tells of it."""
    offer = offer_of(provider, account, region, instance)
    tags = tags_of(instance)
    state = str(instance.get("State", {}).get("Name", ""))
    return base.InstanceView(
        ref=ref_of(region, instance["InstanceId"]),
        name=tags.get(base.TAG_INSTANCE, ""),
        scope=offer.scope,
        status=_STATES.get(state, InstanceStatus.PENDING),
        tags=tags,
        created_at=seconds(instance.get("LaunchTime")),
        offer=offer.key,
        address=str(instance.get("PublicIpAddress") or instance.get("PrivateIpAddress") or ""),
        healthy=healthy,
        failure=failure_of(offer, instance) if state in _ENDED else None,
    )


def failure_of(offer: base.Offer, instance: Mapping[str, Any]) -> base.Failure | None:
    """Why its launch failed, None when it did not."""
    reason = instance.get("StateReason") or {}
    return errors.launch_failure(str(reason.get("Code", "")), str(reason.get("Message", "")), offer)


def end_of(offer: base.Offer, instance: Mapping[str, Any]) -> base.EndReason:
    """Who ended it."""
    if instance.get("State", {}).get("Name") not in _ENDED:
        return base.EndReason(EndKind.UNKNOWN)
    reason = instance.get("StateReason") or {}
    code, message = str(reason.get("Code", "")), str(reason.get("Message", ""))
    detail = message if message.startswith(code) else f"{code}: {message}"
    failure = failure_of(offer, instance)
    if failure is not None:
        return base.EndReason(EndKind.FAILED, detail, failure)
    return base.EndReason(_ENDS.get(code, EndKind.UNKNOWN), detail.strip(": "))


def health_of(status: Mapping[str, Any]) -> bool | None:
    """The verdict of EC2's own status checks (DescribeInstanceStatus)."""
    told = {str(status.get(key, {}).get("Status", "")) for key in ("InstanceStatus", "SystemStatus")}
    if "impaired" in told:
        return False
    return True if told == {"ok"} else None


def seconds(moment: object) -> float:
    """Unix seconds of a time that the SDK has read, 0 where there is none."""
    return moment.timestamp() if isinstance(moment, datetime.datetime) else 0.0
