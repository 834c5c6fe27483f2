"""How fast Azure may be called, as its documentation says, and what its answers tell of what is left.

Azure Resource Manager allows each caller in a subscription 250 reads at once and 25 per second, 200 writes and deletes
at once and 10 per second; below it Compute allows, by subscription and region and refilled by the minute: 500 PUTs of
machines (1500 at once), as many deletes, 300 listings (900 at once); and by machine 12 looks at it (36 at once).  The
strictest is kept here; creates are paced by whoever calls.
"""

from __future__ import annotations

import logging
from typing import Any

from azure.core.pipeline import policies

from provisioners import base
from provisioners.azure import errors
from provisioners.support import numbers, ratelimit

log = logging.getLogger(__name__)

#: Creates per second, and how many at once.  Compute documents 500 a minute in a region, Resource Manager 200 at once
#: and 10 per second in a subscription: regions share those, and what waits for a sign-in arrives closer together.
CREATE_RATE, CREATE_BURST = 500 / 60, 160
READ_RATE, READ_BURST = 25.0, 250
LIST_RATE, LIST_BURST = 300 / 60, 250
DELETE_RATE, DELETE_BURST = 500 / 60, 200
LOOK_RATE, LOOK_BURST = 12 / 60, 36
#: Machines whose looks are counted; a machine that is forgotten starts with a full bucket again.
_MACHINES = 5000
#: Seconds for which a bucket rests that Azure says is empty.
_EMPTY = 2.0


class Limits:
    """The buckets of one subscription."""

    def __init__(self, context: base.Context) -> None:
        self._context = context
        self.reads = self._bucket(READ_RATE, READ_BURST)
        self.lists = self._bucket(LIST_RATE, LIST_BURST)
        self.deletes = self._bucket(DELETE_RATE, DELETE_BURST)
        self._looks: dict[str, ratelimit.Bucket] = {}
        #: What is left by policy, as the last answers told.
        self.remaining: dict[str, int] = {}

    def _bucket(self, rate: float, burst: int) -> ratelimit.Bucket:
        return ratelimit.Bucket(rate=rate, burst=burst, now=self._context.now, sleep=self._context.sleep)

    async def look(self, machine: str) -> None:
        """Wait for the right to look at one machine."""
        found = self._looks.pop(machine, None) or self._bucket(LOOK_RATE, LOOK_BURST)
        # The one looked at last stands last.
        self._looks[machine] = found
        if len(self._looks) > _MACHINES:
            del self._looks[next(iter(self._looks))]
        await found.take()
        await self.reads.take()

    def heard(self, method: str, status: int, headers: Any) -> None:
        """Take over what an answer tells."""
        bucket = {"GET": self.reads, "POST": self.reads, "DELETE": self.deletes}.get(method)
        told = remaining(headers)
        self.remaining |= told
        if status == 429:
            seconds = errors.pause_of(headers)
            log.warning("Azure throttles %s for %s s: %s", method, seconds, told or "it does not say which policy")
            for one in (self.reads, self.lists) if bucket is self.reads else (bucket,):
                if one is not None:
                    one.pause(errors.USUAL_PAUSE if seconds is None else seconds)
        elif bucket is not None and any(left <= 0 for left in told.values()):
            bucket.pause(_EMPTY)


def remaining(headers: Any) -> dict[str, int]:
    """What is left by policy, from the headers of an answer.

    ``x-ms-ratelimit-remaining-resource: Microsoft.Compute/PutVM3Min;239,Microsoft.Compute/PutVM30Min;1199`` and
    ``x-ms-ratelimit-remaining-subscription-writes: 1199``.
    """
    found: dict[str, int] = {}
    for entry in str(headers.get("x-ms-ratelimit-remaining-resource") or "").split(","):
        name, _, count = entry.strip().rpartition(";")
        left = numbers.whole(count)
        if name and left is not None:
            found[name] = left
    for kind in ("reads", "writes", "deletes"):
        left = numbers.whole(headers.get(f"x-ms-ratelimit-remaining-subscription-{kind}"))
        if left is not None:
            found[f"subscription-{kind}"] = left
    return found


class Gauge(policies.SansIOHTTPPolicy[Any, Any]):
    """Hears every answer, those that the SDK handles by itself included."""

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self._limits = limits

    def on_response(self, request: Any, response: Any) -> None:
        answer = response.http_response
        self._limits.heard(request.http_request.method, answer.status_code, answer.headers)
