"""What instances cost inside a span of time, summed by one of their facts.

Every row's time is cut at the span's ends and at midnights of UTC before anything is summed, and sums are of whole
numbers, so that the total is the same to the last digit whatever is grouped by.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from runnerd import model
from runnerd.store import tables

DAY = 86400.0
HOUR = 3600.0
#: Seconds that are promised at most: a deadline is read from a tag when the state was lost, and may be anything.
LONGEST = 3660 * DAY
#: Sums are kept in this part of a dollar and of a second.
_PICO, _MICRO = 10**12, 10**6

_instances = tables.instances.c


class By(enum.StrEnum):
    """What is summed by."""

    POOL = "pool"
    PROVIDER = "provider"
    #: The repository that an instance was bought for, as in its tags.
    REPO = "repo"
    #: Days of UTC.
    DAY = "day"
    MARKET = "market"
    #: A region of a provider: ``aws/us-east-1``.
    REGION = "region"


@dataclass(slots=True)
class Sum:
    """What the instances of one group cost."""

    #: The group's name, or the unix time at which its day begins; empty for instances that have no such fact.
    key: str
    #: Instances that ran inside the span; one that ran on two days counts on both.
    instances: int = 0
    #: Jobs that began inside the span.
    jobs: int = 0
    _dollars: int = field(default=0, repr=False)
    _committed: int = field(default=0, repr=False)
    _seconds: int = field(default=0, repr=False)
    _gpu_seconds: int = field(default=0, repr=False)

    @property
    def dollars(self) -> float:
        """Accrued: from running to gone, or to now, at the price fixed at launch."""
        return self._dollars / _PICO

    @property
    def committed(self) -> float:
        """What those that live may still cost inside the span until their deadline."""
        return self._committed / _PICO

    @property
    def hours(self) -> float:
        """Instance hours behind ``dollars``."""
        return self._seconds / _MICRO / HOUR

    @property
    def gpu_hours(self) -> float:
        """The same, times the instances' GPUs."""
        return self._gpu_seconds / _MICRO / HOUR

    def accrue(self, seconds: float, price: float, gpus: int) -> None:
        """Count a stretch of time that was paid for."""
        self._dollars += round(seconds * price * _PICO / HOUR)
        whole = round(seconds * _MICRO)
        self._seconds += whole
        self._gpu_seconds += whole * gpus

    def commit(self, seconds: float, price: float) -> None:
        """Count a stretch of time that is promised."""
        self._committed += round(seconds * price * _PICO / HOUR)

    def add(self, other: Sum) -> None:
        """Count dollars and hours of another group too."""
        self._dollars += other._dollars
        self._committed += other._committed
        self._seconds += other._seconds
        self._gpu_seconds += other._gpu_seconds


@dataclass(frozen=True, slots=True)
class Spending:
    """The sums of all groups, and of everything."""

    groups: tuple[Sum, ...]
    #: Each instance counts once in it.
    total: Sum


def spending(connection: sa.Connection, *, by: By, since: float, until: float, now: float) -> Spending:
    """What instances cost from ``since`` until ``until``: the dearest group first, days in their order."""
    groups: dict[str, Sum] = {}
    daily = by is By.DAY
    instances = jobs = 0
    for name, price, gpus, state, running_at, gone_at, deadline, busy_at in connection.execute(_rows(by, since, until)):
        live = state not in _CLOSED
        began = busy_at > 0 and since <= busy_at < until
        ran = False
        if running_at > 0:
            for day, seconds in _days(max(running_at, since), min(now if live else gone_at, until)):
                group = _group(groups, str(int(day)) if daily else name)
                group.accrue(seconds, price, gpus)
                if daily or not ran:
                    group.instances += 1
                    group.jobs += began and (not daily or day <= busy_at < day + DAY)
                ran = True
            instances += ran
            jobs += ran and began
        if live and price > 0:
            start = max(running_at, now, since)
            for day, seconds in _days(start, min(deadline, until, start + LONGEST)):
                _group(groups, str(int(day)) if daily else name).commit(seconds, price)
    total = Sum("", instances, jobs)
    for group in groups.values():
        total.add(group)
    if daily:
        return Spending(tuple(sorted(groups.values(), key=lambda one: int(one.key))), total)
    ranked = sorted(groups.values(), key=lambda one: (-one._dollars - one._committed, one.key))
    return Spending(tuple(ranked), total)


def _group(groups: dict[str, Sum], key: str) -> Sum:
    found = groups.get(key)
    if found is None:
        found = groups[key] = Sum(key)
    return found


#: As they stand in rows.
_CLOSED = frozenset(state.value for state in model.CLOSED)


def _rows(by: By, since: float, until: float) -> sa.Select[Any]:
    names: dict[By, sa.ColumnElement[str]] = {
        By.POOL: _instances.pool,
        By.PROVIDER: _instances.provider,
        By.REPO: _instances.repo,
        By.DAY: sa.literal(""),
        By.MARKET: _instances.market,
        By.REGION: _instances.provider + "/" + _instances.region,
    }
    closed = sa.and_(_instances.running_at > 0, _instances.running_at < until, _instances.gone_at > since)
    query = sa.select(
        names[by],
        _instances.price,
        _instances.gpus,
        _instances.state,
        _instances.running_at,
        _instances.gone_at,
        _instances.deadline,
        _instances.busy_at,
    ).where(sa.or_(_instances.state.not_in(sorted(_CLOSED)), closed))
    # In parts: a year of rows must not lie in memory at once.
    return query.execution_options(yield_per=5000)


def _days(start: float, end: float) -> Iterator[tuple[float, float]]:
    """The days of UTC that a stretch of time touches, each as its beginning and the seconds in it."""
    while start < end:
        day = start // DAY * DAY
        stop = min(end, day + DAY)
        yield day, stop - start
        start = stop
