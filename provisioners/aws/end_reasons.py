"""The cause of an instance's end, as EC2 proves it.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from provisioners import base
from provisioners.aws import errors
from provisioners.base import EndKind

#: By ``StateReason`` in the EC2 API reference: who ended it.
_KINDS = {
    "Server.SpotInstanceTermination": EndKind.PREEMPTED,
    "Server.SpotInstanceShutdown": EndKind.PREEMPTED,
    "Server.ScheduledStop": EndKind.FAILED,
    "Client.InstanceInitiatedShutdown": EndKind.SELF_ENDED,
    "Client.UserInitiatedShutdown": EndKind.ENDED_BY_US,
    "Client.UserInitiatedHibernate": EndKind.ENDED_BY_US,
}
ENDED = frozenset({"shutting-down", "terminated", "stopping", "stopped"})


def failure(offer: base.Offer, instance: Mapping[str, Any]) -> base.Failure | None:
    """Return why its launch failed, None when it did not."""
    reason = instance.get("StateReason") or {}
    return errors.launch_failure(str(reason.get("Code", "")), str(reason.get("Message", "")), offer)


def reason(offer: base.Offer, instance: Mapping[str, Any]) -> base.EndReason:
    """Return who ended it, as far as EC2 says."""
    if instance.get("State", {}).get("Name") not in ENDED:
        return base.EndReason(EndKind.UNKNOWN)
    reason = instance.get("StateReason") or {}
    code, message = str(reason.get("Code", "")), str(reason.get("Message", ""))
    detail = message if message.startswith(code) else f"{code}: {message}"
    failed = failure(offer, instance)
    if failed is not None:
        return base.EndReason(EndKind.FAILED, detail, failed)
    return base.EndReason(_KINDS.get(code, EndKind.UNKNOWN), detail.strip(": "))
