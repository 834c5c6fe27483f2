"""Rate limits of Azure's APIs, as its documentation has them, and what its answers say of what is left.

Azure Resource Manager allows each caller in a subscription 250 reads at once and 25 per second, 200 writes and deletes
at once and 10 per second; below it Compute allows, by subscription and region and refilled by the minute: 500 PUTs of
machines (1500 at once), as many deletes, 300 listings (900 at once); and by machine 12 reads of it (36 at once).  The
strictest is kept here; creates are paced by the caller.
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
MACHINE_READ_RATE, MACHINE_READ_BURST = 12 / 60, 36
#: Machines whose reads are counted; a machine that is forgotten starts with a full bucket again.
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
        self._machines: dict[str, ratelimit.Bucket] = {}
        #: What is left by policy, as the last answers said.
        self.remaining: dict[str, int] = {}

    def _bucket(self, rate: float, burst: int) -> ratelimit.Bucket:
        return ratelimit.Bucket(rate=rate, burst=burst, now=self._context.now, sleep=self._context.sleep)

    async def read_machine(self, machine: str) -> None:
        """Wait for the right to read one machine."""
        found = self._machines.pop(machine, None) or self._bucket(MACHINE_READ_RATE, MACHINE_READ_BURST)
        # The one read last stands last.
        self._machines[machine] = found
        if len(self._machines) > _MACHINES:
            del self._machines[next(iter(self._machines))]
        await found.take()
        await self.reads.take()

    def observe(self, method: str, status: int, headers: Any) -> None:
        """Take over what an answer says of the limits."""
        bucket = {"GET": self.reads, "POST": self.reads, "DELETE": self.deletes}.get(method)
        left_by_policy = remaining(headers)
        self.remaining |= left_by_policy
        if status == 429:
            seconds = errors.pause_of(headers)
            log.warning(
                "Azure throttles %s for %s s: %s", method, seconds, left_by_policy or "it does not say which policy"
            )
            for one in (self.reads, self.lists) if bucket is self.reads else (bucket,):
                if one is not None:
                    one.pause(errors.USUAL_PAUSE_S if seconds is None else seconds)
        elif bucket is not None and any(left <= 0 for left in left_by_policy.values()):
            bucket.pause(_EMPTY)


def remaining(headers: Any) -> dict[str, int]:
    """Return what is left by policy, from the headers of an answer.

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
        self._limits.observe(request.http_request.method, answer.status_code, answer.headers)
