"""Costs of instances within a span of time, grouped by one of their attributes.

Every row's time is cut at the span's ends and at midnights of UTC before anything is summed, and sums are of whole
numbers, so that the total is the same to the last digit for every grouping.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from runnerd import model
from runnerd.store import tables

DAY_S = 86400.0
HOUR_S = 3600.0
#: The longest commitment in seconds: after the state was lost, a deadline is read from a tag and may be anything.
LONGEST_S = 3660 * DAY_S
#: Sums are whole numbers of pico-dollars and of microseconds.
_PICO, _MICRO = 10**12, 10**6

_instances = tables.instances.c


class By(enum.StrEnum):
    """The attribute that costs are grouped by."""

    #: The pool of an instance.
    POOL = "pool"
    #: The provider that sold it.
    PROVIDER = "provider"
    #: The repository that an instance was bought for, as in its tags.
    REPO = "repo"
    #: Days of UTC.
    DAY = "day"
    #: On demand or spot.
    MARKET = "market"
    #: A region of a provider: ``aws/us-east-1``.
    REGION = "region"


@dataclass(slots=True)
class Sum:
    """The costs of one group of instances."""

    #: The group's name, or the unix time at which its day begins; empty for instances without that attribute.
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
        """Return the costs so far: from running to gone, or to now, at the price fixed at launch."""
        return self._dollars / _PICO

    @property
    def committed(self) -> float:
        """Return the costs that live instances may still add within the span until their deadlines."""
        return self._committed / _PICO

    @property
    def hours(self) -> float:
        """Return the instance hours behind ``dollars``."""
        return self._seconds / _MICRO / HOUR_S

    @property
    def gpu_hours(self) -> float:
        """Return the GPU hours behind ``dollars``."""
        return self._gpu_seconds / _MICRO / HOUR_S

    def accrue(self, seconds: float, price: float, gpus: int) -> None:
        """Add the cost of a stretch of running time."""
        self._dollars += round(seconds * price * _PICO / HOUR_S)
        whole = round(seconds * _MICRO)
        self._seconds += whole
        self._gpu_seconds += whole * gpus

    def commit(self, seconds: float, price: float) -> None:
        """Add the commitment for a stretch of time ahead."""
        self._committed += round(seconds * price * _PICO / HOUR_S)

    def add(self, other: Sum) -> None:
        """Add dollars and hours of another group."""
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
    """Return the costs from ``since`` until ``until``: the most expensive group first, days in their order."""
    groups: dict[str, Sum] = {}
    daily = by is By.DAY
    instances = jobs = 0
    for name, price, gpus, state, running_at, gone_at, deadline, busy_at in connection.execute(_rows(by, since, until)):
        live = state not in _CLOSED
        start, stop = max(running_at, since), min(now if live else gone_at, until)
        began = busy_at > 0 and since <= busy_at < stop
        # A clock that was set may put the job before its instance.
        began_at = max(busy_at, start)
        ran = False
        if running_at > 0:
            for day, seconds in _days(start, stop):
                group = _group(groups, str(int(day)) if daily else name)
                group.accrue(seconds, price, gpus)
                if daily or not ran:
                    group.instances += 1
                    group.jobs += began and (not daily or day <= began_at < day + DAY_S)
                ran = True
            instances += ran
            jobs += ran and began
        if live and price > 0:
            ahead = max(running_at, now, since)
            for day, seconds in _days(ahead, min(deadline, until, ahead + LONGEST_S)):
                _group(groups, str(int(day)) if daily else name).commit(seconds, price)
    total = Sum("", instances, jobs)
    for group in groups.values():
        total.add(group)
    if daily:
        return Spending(tuple(sorted(groups.values(), key=lambda group: int(group.key))), total)
    ranked = sorted(groups.values(), key=lambda group: (-group._dollars - group._committed, group.key))
    return Spending(tuple(ranked), total)


def _group(groups: dict[str, Sum], key: str) -> Sum:
    group = groups.get(key)
    if group is None:
        group = groups[key] = Sum(key)
    return group


#: The closed states as rows have them.
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
    """Yield the days of UTC that a stretch of time touches, each as its beginning and the seconds in it."""
    while start < end:
        day = start // DAY_S * DAY_S
        stop = min(end, day + DAY_S)
        yield day, stop - start
        start = stop
