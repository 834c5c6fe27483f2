"""The cause of an instance's end, as the operations of its zone prove it: pure.

Operations outlive what they were about, each names it by its numeric id, and what the system does by itself is among
them.  A delete counts as ours by its request id, which is derived from the handle and the hour: another member of the
project may have deleted it too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from google.cloud import compute_v1

from provisioners import base
from provisioners.base import EndKind
from provisioners.gcp import errors, instances, names
from provisioners.gcp.error_scopes import Target

#: Seconds within which deletes of one instance are one request.  A delete that failed is a new one after that.
WINDOW_S = 600.0

#: What the system does to an instance, by the operation's type ("Compute Engine audit logging", system events;
#: ``deferredDelete`` and ``deferredStop``: a run time limit took effect).
SYSTEM: Mapping[str, tuple[EndKind, str]] = {
    "compute.instances.preempted": (EndKind.PREEMPTED, "preempted by Compute Engine"),
    "compute.instances.baremetalCaretakerPreempted": (EndKind.PREEMPTED, "preempted by Compute Engine"),
    "compute.instances.deferredDelete": (EndKind.SELF_ENDED, "its run time limit was reached"),
    "compute.instances.deferredStop": (EndKind.SELF_ENDED, "its run time limit was reached"),
    "compute.instances.guestTerminate": (EndKind.SELF_ENDED, "it switched itself off"),
    "compute.instances.hostError": (EndKind.FAILED, "its host broke"),
    "compute.instances.terminateOnHostMaintenance": (EndKind.PREEMPTED, "its host went into maintenance"),
    "compute.instances.invalidVmImage": (EndKind.FAILED, "its image cannot be booted"),
    "compute.instances.kmsKeyError": (EndKind.FAILED, "the key of its disk cannot be used"),
    "compute.instances.scratchDiskCreationFailed": (EndKind.FAILED, "its scratch disk could not be made"),
    "compute.instances.localSsdInitializationError": (EndKind.FAILED, "its local SSD could not be made"),
}


def delete_id(ref: names.Ref, now: float) -> str:
    """The request id of a delete now."""
    return names.request_id("delete", str(ref), str(int(now // WINDOW_S)))


def reason(operations: Iterable[compute_v1.Operation], ref: names.Ref, target: Target) -> base.EndReason:
    """Return why an instance is not there any more, as far as it is proven: the first cause counts."""
    found: list[tuple[float, base.EndReason]] = []
    others: list[str] = []
    for one in operations:
        if str(one.target_id) != ref.id:
            continue
        if one.operation_type == "insert" and one.error.errors:
            failure = errors.from_operation(one, target).failure
            return base.EndReason(EndKind.FAILED, f"its launch failed: {failure.message}", failure)
        if one.operation_type in SYSTEM:
            kind, words = SYSTEM[one.operation_type]
            cause = base.EndReason(kind, f"{words} ({one.operation_type} at {one.insert_time})")
            found.append((instances.seconds(one.insert_time), cause))
        elif one.operation_type in ("delete", "stop") and not one.error.errors:
            if _is_ours(one, ref):
                cause = base.EndReason(EndKind.ENDED_BY_US, f"deleted by us at {one.insert_time}")
                found.append((instances.seconds(one.insert_time), cause))
            else:
                others.append(f"{one.operation_type} by {one.user or 'an unknown caller'} at {one.insert_time}")
    if found:
        return min(found, key=lambda one: one[0])[1]
    return base.EndReason(EndKind.UNKNOWN, "; ".join(others))


def failure(operations: Iterable[compute_v1.Operation], ref: names.Ref, target: Target) -> base.Failure | None:
    """Return why its launch failed after it was accepted; None where it did not."""
    for one in operations:
        if str(one.target_id) == ref.id and one.operation_type == "insert" and one.error.errors:
            return errors.from_operation(one, target).failure
    return None


def _is_ours(operation: compute_v1.Operation, ref: names.Ref) -> bool:
    at = instances.seconds(operation.insert_time)
    return operation.client_operation_id in {delete_id(ref, at + shift * WINDOW_S) for shift in (-1, 0, 1)}
