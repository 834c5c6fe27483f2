"""Costs of instances, from the daemon's store or from an opened state."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime

import sqlalchemy as sa

from runnerd import errors, read_model, store
from runnerd.reconcile import housekeeping
from runnerd.store import spending
from runnerd.views import documents

#: Names of groups that have none.
_NAMELESS = {
    store.By.POOL: "no pool",
    store.By.PROVIDER: "no provider",
    store.By.REPO: "no repository",
    store.By.MARKET: "no market",
    store.By.REGION: "no region",
}


async def cost(
    reading: read_model.ReadModel, *, by: str = "pool", since: float | None = None, until: float | None = None
) -> documents.Cost:
    """Return the costs of instances in a span of time, summed by one of their facts.

    Raises :class:`errors.Refused` (400) for what cannot be summed by.
    """
    kind, now = _by(by), reading.state.clock.now()
    start, end = _span(since, until, now)
    found = await reading.history.spending(by=kind, since=start, until=end, now=now)
    return _document(found, kind, start, end, now)


def read(connection: sa.Connection, by: str, since: float | None, until: float | None) -> documents.Cost:
    """Return the same from an open state."""
    kind, now = _by(by), time.time()
    start, end = _span(since, until, now)
    return _document(spending.spending(connection, by=kind, since=start, until=end, now=now), kind, start, end, now)


def _by(text: str) -> store.By:
    try:
        return store.By(text)
    except ValueError:
        words = ", ".join(one.value for one in store.By)
        raise errors.Refused(f'costs cannot be grouped by "{text}"; they are grouped by {words}', status=400) from None


def _span(since: float | None, until: float | None, now: float) -> tuple[float, float]:
    start = now - housekeeping.KEEP_S if since is None else since
    end = math.inf if until is None else until
    if not (math.isfinite(start) and start < end):
        raise errors.Refused("the span must start before it ends", status=400)
    return start, end


def _document(found: store.Spending, by: store.By, since: float, until: float, now: float) -> documents.Cost:
    notes = []
    # An instance stays for that long after it is gone.
    kept = now - housekeeping.KEEP_S
    if since < kept - 60.0:
        day = datetime.fromtimestamp(kept, UTC).strftime("%Y-%m-%d %H:%M")
        notes.append(f"instances that were gone before {day} UTC are no longer in the state and not in these sums")
    if by is store.By.DAY:
        notes.append("an instance that ran on several days counts on each of them, and once in the total")
    return {
        "by": by.value,
        "since": since,
        "until": None if until == math.inf else until,
        "now": now,
        "groups": [{"key": one.key, "name": _name(by, one.key), **_sum(one)} for one in found.groups],
        "total": _sum(found.total),
        "notes": notes,
    }


def _name(by: store.By, key: str) -> str:
    if by is store.By.DAY:
        return datetime.fromtimestamp(int(key), UTC).strftime("%Y-%m-%d")
    if by is store.By.REGION and key.endswith("/"):
        return f"{key[:-1] or _NAMELESS[store.By.PROVIDER]}, {_NAMELESS[by]}"
    return key or _NAMELESS[by]


def _sum(one: store.Sum) -> documents.Sum:
    return {
        "dollars": one.dollars,
        "committed": one.committed,
        "instances": one.instances,
        "hours": one.hours,
        "gpu_hours": one.gpu_hours,
        "jobs": one.jobs,
    }
