"""The cause of a machine's end, as far as Azure's activity log proves it.

A machine that is not there proves nothing.  The log of the subscription keeps 90 days, lags by minutes, and has an
eviction as an operation of the platform, ``Microsoft.Compute/virtualMachines/evictSpotVM/action`` (seen by others in
their logs; not in Azure's reference), and a deletion with the object id of its caller.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from typing import Any

from provisioners import base

_EVICTION = "/evictspotvm/action"
_DELETION = "microsoft.compute/virtualmachines/delete"
_WHO = "http://schemas.microsoft.com/identity/claims/objectidentifier"
_IDENTITY = "xms_mirid"


def reason(events: Iterable[Mapping[str, Any]], *, machine: str, identity: str, us: str) -> base.EndReason:
    """Return what the events of one machine prove.

    ``machine`` is its resource id, ``identity`` that of its user-assigned identity (empty for none), ``us`` the object
    id of our credential (empty when not known).  An eviction outweighs the deletion that may follow it.
    """
    found = base.EndReason(base.EndKind.UNKNOWN)
    own = {name.lower() for name in (machine, identity) if name}
    for event in events:
        operation = str((event.get("operationName") or {}).get("value", "")).lower()
        state = str((event.get("status") or {}).get("value", "")).lower()
        if state in ("failed", ""):
            continue
        claims = event.get("claims") or {}
        at = str(event.get("eventTimestamp", ""))
        if operation.endswith(_EVICTION):
            return base.EndReason(base.EndKind.PREEMPTED, f"activity log: evicted at {at}")
        if operation != _DELETION:
            continue
        if str(claims.get(_IDENTITY, "")).lower() in own:
            found = base.EndReason(base.EndKind.SELF_ENDED, f"activity log: deleted by its own identity at {at}")
        elif us and str(claims.get(_WHO, "")) == us:
            found = base.EndReason(base.EndKind.ENDED_BY_US, f"activity log: deleted by this credential at {at}")
        elif found.kind is base.EndKind.UNKNOWN:
            who = str(event.get("caller") or claims.get(_WHO) or "an unknown caller")
            found = base.EndReason(base.EndKind.UNKNOWN, f"activity log: deleted by {who} at {at}")
    return found


def claim(token: str, name: str) -> str:
    """One claim of a token, empty when it has none.  Nothing is verified: it is our own token."""
    parts = token.split(".")
    if len(parts) < 2:
        return ""
    try:
        body = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, binascii.Error):
        return ""
    return str(body.get(name, "")) if isinstance(body, dict) else ""
