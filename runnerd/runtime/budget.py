"""Dollars: what is accrued, what is committed, and what one more instance may still cost.  Pure.

Admission is on committed dollars: what was spent inside the window, plus what every instance that lives or is being
requested may still cost until its deadline inside the window, at the price fixed at its launch.  A busy instance is
never ended for money, so what is committed is counted before it is spent.
"""

from __future__ import annotations

import calendar
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

from runnerd import model

HOUR = 3600.0
DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Window:
    """A span of civil time with a limit in dollars."""

    name: str
    start: float
    end: float
    dollars: float


@dataclass(frozen=True, slots=True, order=True)
class Account:
    """The pool, provider, repository and market that dollars are counted for."""

    pool: str
    provider: str
    repo: str
    market: str


class Tally:
    """Dollars of closed instances by account and day (UTC): every window is made of whole days."""

    def __init__(self) -> None:
        self.dollars: dict[tuple[int, Account], float] = {}

    def add(self, account: Account, *, start: float, end: float, price: float) -> None:
        """Count a stretch of paid time, split at midnights."""
        while start < end and 0 < price < math.inf:
            day = int(start // DAY)
            stop = min(end, (day + 1) * DAY)
            key = (day, account)
            self.dollars[key] = self.dollars.get(key, 0.0) + (stop - start) / HOUR * price
            start = stop

    def inside(self, window: Window) -> Iterator[tuple[Account, float]]:
        """Yield the accounts' dollars of a window."""
        for (day, account), dollars in self.dollars.items():
            if window.start <= day * DAY < window.end:
                yield account, dollars

    def forget(self, *, before: float) -> None:
        """Drop days that no window reaches any more."""
        for key in [key for key in self.dollars if (key[0] + 1) * DAY <= before]:
            del self.dollars[key]


def windows(
    *,
    wall: float,
    per_day: float | None = None,
    per_month: float | None = None,
    total: float | None = None,
    until: float | None = None,
    horizon: float = 0.0,
) -> list[Window]:
    """Return the windows that hold now or begin within ``horizon`` seconds.

    Days and months are those of UTC, as cloud bills count them.  An instance launched in the evening spends tomorrow's
    dollars too.
    """
    found = []
    if per_day is not None:
        start = wall - wall % DAY
        while start <= wall + horizon:
            found.append(Window("day", start, start + DAY, per_day))
            start += DAY
    if per_month is not None:
        now = time.gmtime(wall)
        year, month = now.tm_year, now.tm_mon
        start = _month(year, month)
        while start <= wall + horizon:
            year, month = (year, month + 1) if month < 12 else (year + 1, 1)
            end = _month(year, month)
            found.append(Window("month", start, end, per_month))
            start = end
    if total is not None:
        found.append(Window("total", 0.0, until if until is not None else float("inf"), total))
    return found


def _month(year: int, month: int) -> float:
    return float(calendar.timegm((year, month, 1, 0, 0, 0)))


def cost(start: float, end: float, price: float, window: Window) -> float:
    """Return the dollars of a stretch that fall into a window."""
    overlap = min(end, window.end) - max(start, window.start)
    return max(0.0, overlap) / HOUR * price


def commitment(instance: model.Instance, now: float, window: Window) -> float:
    """Return what an instance has cost and may still cost inside the window."""
    if instance.state in model.CLOSED or not 0 < instance.price < math.inf:
        return 0.0
    start = instance.running_at or now
    end = max(instance.deadline, now)
    return cost(start, end, instance.price, window)


def next_commitment(price: float, lifetime: float, now: float, window: Window) -> float:
    """Return what one more instance would commit inside the window, launched now with that lifetime."""
    return cost(now, now + lifetime, price, window)


def accrued(instance: model.Instance, now: float) -> float:
    """Return the dollars from running to gone, or to now."""
    if instance.running_at <= 0:
        return 0.0
    end = instance.gone_at or now
    return max(0.0, end - instance.running_at) / HOUR * instance.price
