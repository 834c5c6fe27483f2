"""From what EC2 tells of instances and side resources to views.  Pure."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from typing import Any

from provisioners import base
from provisioners.aws import end_reasons, names
from provisioners.aws import tags as aws_tags
from provisioners.base import InstanceStatus

_STATES = {
    "pending": InstanceStatus.PENDING,
    "running": InstanceStatus.RUNNING,
    "shutting-down": InstanceStatus.ENDING,
    "stopping": InstanceStatus.ENDING,
    "stopped": InstanceStatus.STOPPED,
    "terminated": InstanceStatus.GONE,
}


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
    tags = aws_tags.of(instance)
    state = str(instance.get("State", {}).get("Name", ""))
    return base.InstanceView(
        ref=str(names.Ref(region, instance["InstanceId"])),
        name=tags.get(base.TAG_INSTANCE, ""),
        scope=offer.scope,
        status=_STATES.get(state, InstanceStatus.PENDING),
        tags=tags,
        created_at=seconds(instance.get("LaunchTime")),
        offer=offer.key,
        address=str(instance.get("PublicIpAddress") or instance.get("PrivateIpAddress") or ""),
        healthy=healthy,
        failure=end_reasons.failure(offer, instance) if state in end_reasons.ENDED else None,
    )


def health_of(status: Mapping[str, Any]) -> bool | None:
    """The verdict of EC2's own status checks (DescribeInstanceStatus)."""
    verdicts = {str(status.get(key, {}).get("Status", "")) for key in ("InstanceStatus", "SystemStatus")}
    if "impaired" in verdicts:
        return False
    return True if verdicts == {"ok"} else None


def seconds(moment: object) -> float:
    """Unix seconds of a time that the SDK has read, 0 where there is none."""
    return moment.timestamp() if isinstance(moment, datetime.datetime) else 0.0
