"""The number of warm instances that a pool keeps, by local time.

`warm` is a number, or a map whose keys are periods (`Mon-Fri 08:00-19:00 Europe/Berlin`) or cron
expressions with an optional time zone (`0 8 * * mon-fri Europe/Berlin`). A period's count holds from its
start to its end; a cron entry's count holds from the minute it fires until any cron entry fires next.
Where several apply, the largest counts. Everything here is a pure function of the entries and a time in
unix seconds; no clock is read.
"""

from __future__ import annotations

import datetime
import functools
import math
import re
import zoneinfo
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from apscheduler.triggers.cron import CronTrigger

from provisioners.support import spelling

#: The most warm instances; more is a typing error.
MOST = 10_000

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_HOURS = re.compile(r"(\d{1,2}):(\d{2})-(\d{1,2}):(\d{2})\Z", re.ASCII)
_DAY_MINUTES = 24 * 60
#: Days ahead in which boundaries are sought: a week and both ends of it, so that every period shows.
_AHEAD_DAYS = 9
#: Seconds back in which the last firing of a cron entry is sought: past the rarest, a 29 February over a century's
#: end.
_BACK_S = 9 * 366 * 86400.0


@dataclass(frozen=True, slots=True)
class Period:
    """A stretch of some days of the week, in a time zone. An overnight one belongs to the day it starts
    on."""

    #: 0 is Monday.
    days: frozenset[int]
    #: Minutes since midnight; `end` may be past 24:00 for an overnight period.
    start: int
    end: int
    zone: zoneinfo.ZoneInfo

    def span(self, day: datetime.date) -> tuple[float, float] | None:
        """Return start and end of the stretch that starts on that day, in unix seconds; None when there is none."""
        if day.weekday() not in self.days:
            return None
        start = _instant(day, self.start, self.zone, last=False)
        end = _instant(day, self.end, self.zone, last=True)
        return (start, end) if start < end else None

    def around(self, now: float, *, ahead: int) -> list[tuple[float, float]]:
        """Return the stretches from the day before yesterday until so many days ahead."""
        today = datetime.datetime.fromtimestamp(now, self.zone).date()
        spans = (self.span(today + datetime.timedelta(days=offset)) for offset in range(-2, ahead + 1))
        return [span for span in spans if span is not None]


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression: the union of its triggers (two when both day fields are restricted, as cron has
    it)."""

    triggers: tuple[CronTrigger, ...]
    zone: zoneinfo.ZoneInfo

    def after(self, now: float) -> float | None:
        """Return the first firing later than `now`."""
        # The next whole minute, so that a firing at `now` itself is not found again.
        moment = datetime.datetime.fromtimestamp((now // 60 + 1) * 60, datetime.UTC)
        times = [trigger.get_next_fire_time(None, moment) for trigger in self.triggers]
        return min((time.timestamp() for time in times if time is not None), default=None)

    def before(self, now: float) -> float | None:
        """Return the last firing not later than `now`."""
        back = 3600.0
        while (first := self.after(now - back)) is None or first > now:
            if back >= _BACK_S:
                return None
            back = min(back * 4, _BACK_S)
        # `first` fires; halve the stretch behind it until no other firing is left in it.
        low, high = first, now
        while high - low >= 60:
            middle = low + (high - low) / 2
            later = self.after(middle)
            if later is not None and later <= now:
                low = later
            else:
                following = self.after(low)
                if following is None or following > now:
                    break
                high = middle
        return low


class Schedule:
    """A parsed `warm` map. Keeps its last answer with the time until which it is valid: the planner asks far more often
    than the answer changes."""

    __slots__ = ("_answer", "_crons", "_periods")

    def __init__(self, *, periods: Iterable[tuple[Period, int]], crons: Iterable[tuple[Cron, int]]) -> None:
        self._periods = tuple(periods)
        self._crons = tuple(crons)
        #: From, until (excluded), count.
        self._answer = (0.0, 0.0, 0)

    def target(self, now: float) -> int:
        """Return the count that applies at that time."""
        start, end, count = self._answer
        if start <= now < end:
            return count
        count = max(self._by_period(now), self._by_cron(now))
        edge = self._next_edge(now)
        self._answer = (now, math.inf if edge is None else edge, count)
        return count

    def _by_period(self, now: float) -> int:
        counts = (
            count
            for period, count in self._periods
            if any(start <= now < end for start, end in period.around(now, ahead=0))
        )
        return max(counts, default=0)

    def _by_cron(self, now: float) -> int:
        fired = [(time, count) for cron, count in self._crons if (time := cron.before(now)) is not None]
        return max(fired)[1] if fired else 0

    def _next_edge(self, now: float) -> float | None:
        times = [time for cron, _ in self._crons if (time := cron.after(now)) is not None]
        for period, _ in self._periods:
            spans = period.around(now, ahead=_AHEAD_DAYS)
            times.extend(edge for span in spans for edge in span if edge > now)
        return min(times, default=None)


def target(warm: int | Mapping[str, int], now: float) -> int:
    """Return the number of warm instances to keep at that time (unix seconds)."""
    return warm if isinstance(warm, int) else _read(tuple(warm.items())).target(now)


def check(value: object) -> None:
    """Check a `warm` value. Raises ValueError with what to write instead."""
    if isinstance(value, Mapping):
        for key, count in value.items():
            _check_count(count)
            read_entry(str(key))
        if not value:
            raise ValueError("the map is empty; write 0 for no warm instance")
    else:
        _check_count(value)


def read_entry(text: str) -> Period | Cron:
    """Read a key of a `warm` map. Raises ValueError with what to write instead."""
    words = text.split()
    if any(_HOURS.match(word) for word in words):
        return _read_period(text, words)
    if len(words) in (5, 6):
        return _read_cron(text, words)
    raise ValueError(
        f'"{text}" is neither a period such as "Mon-Fri 08:00-19:00 Europe/Berlin" '
        'nor a cron expression such as "0 8 * * mon-fri Europe/Berlin"'
    )


def _check_count(count: object) -> None:
    if isinstance(count, bool) or not isinstance(count, int):
        raise ValueError("expected a whole number of instances, or a map from periods to numbers")
    if not 0 <= count <= MOST:
        raise ValueError(f"{count} is not within 0 to {MOST}")


@functools.lru_cache(maxsize=1024)
def _read(entries: tuple[tuple[str, int], ...]) -> Schedule:
    read = [(read_entry(text), count) for text, count in entries]
    return Schedule(
        periods=tuple((entry, count) for entry, count in read if isinstance(entry, Period)),
        crons=tuple((entry, count) for entry, count in read if isinstance(entry, Cron)),
    )


def _read_period(text: str, words: list[str]) -> Period:
    at = next(index for index, word in enumerate(words) if _HOURS.match(word))
    if at > 1 or len(words) > at + 2:
        raise ValueError(f'"{text}": write days, hours and a time zone, such as "Mon-Fri 08:00-19:00 Europe/Berlin"')
    days = _read_days(words[0]) if at else frozenset(range(7))
    match = _HOURS.match(words[at])
    assert match is not None  # `at` was chosen by this very match
    hours = [int(number) for number in match.groups()]
    start, end = hours[0] * 60 + hours[1], hours[2] * 60 + hours[3]
    if hours[1] > 59 or hours[3] > 59 or start >= _DAY_MINUTES or end > _DAY_MINUTES:
        raise ValueError(f'"{words[at]}" is not a time of day; hours go from 00:00 to 24:00')
    if start == end:
        raise ValueError(f'"{words[at]}" is empty; for a whole day write 00:00-24:00')
    zone = _read_zone(words[at + 1] if len(words) > at + 1 else "UTC")
    return Period(days=days, start=start, end=end if end > start else end + _DAY_MINUTES, zone=zone)


def _read_days(text: str) -> frozenset[int]:
    days: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        start = _read_day(first)
        end = _read_day(last) if dash else start
        # Fri-Mon wraps over the end of the week.
        days.update((start + offset) % 7 for offset in range((end - start) % 7 + 1))
    return frozenset(days)


def _read_day(text: str) -> int:
    word = text.lower()
    if word in DAYS:
        return DAYS.index(word)
    long = [day for day in DAYS if len(word) > 3 and word.startswith(day)]
    hint = f"; write {long[0].title()}" if long else "; write Mon, Tue, Wed, Thu, Fri, Sat or Sun"
    raise ValueError(f'"{text}" is not a day{hint}')


@functools.lru_cache(maxsize=1)
def _zones() -> tuple[str, ...]:
    return tuple(sorted(zoneinfo.available_timezones()))


def _read_zone(text: str) -> zoneinfo.ZoneInfo:
    try:
        return zoneinfo.ZoneInfo(text)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        alike = spelling.closest(text, _zones())
        hint = f'; did you mean "{alike}"?' if alike else "; write one such as Europe/Berlin or UTC"
        raise ValueError(f'"{text}" is not a time zone{hint}') from None


def _instant(day: datetime.date, minutes: int, zone: zoneinfo.ZoneInfo, *, last: bool) -> float:
    """Return the unix time of a local time. Of an hour that comes twice, the first occurrence or the last; for a time
    that is skipped, the moment of the change."""
    wall = datetime.datetime.combine(day, datetime.time(), zone) + datetime.timedelta(minutes=minutes)
    early, late = wall.replace(fold=0).timestamp(), wall.replace(fold=1).timestamp()
    if early <= late:
        return late if last else early
    # Skipped: between `late` and `early` the offset changes; find where.
    low, high = late, early
    offset = datetime.datetime.fromtimestamp(low, zone).utcoffset()
    while high - low > 1:
        middle = (low + high) // 2
        if datetime.datetime.fromtimestamp(middle, zone).utcoffset() == offset:
            low = middle
        else:
            high = middle
    return high


#: Field of a cron expression: name in APScheduler, lowest and highest number, words for numbers.
_FIELDS: tuple[tuple[str, str, int, int, tuple[str, ...]], ...] = (
    ("minute", "minute", 0, 59, ()),
    ("hour", "hour", 0, 23, ()),
    ("day", "day of the month", 1, 31, ()),
    ("month", "month", 1, 12, _MONTHS),
    # cron counts from Sunday, APScheduler from Monday: numbers become words here.
    ("day_of_week", "day of the week", 0, 7, ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")),
)


def _read_cron(text: str, words: list[str]) -> Cron:
    zone = _read_zone(words[5] if len(words) == 6 else "UTC")
    fields: dict[str, str] = {}
    for word, (key, title, low, high, names) in zip(words, _FIELDS, strict=False):
        numbers = _read_field(text, word.lower(), title=title, low=low, high=high, names=names)
        if key == "day_of_week":
            fields[key] = ",".join(sorted({names[number] for number in numbers}))
        else:
            fields[key] = ",".join(str(number) for number in sorted(numbers))
    variants = [fields]
    if not words[2].startswith("*") and not words[4].startswith("*"):
        # Both day fields restricted: cron fires when either fits, APScheduler when both do.
        variants = [{**fields, "day_of_week": "*"}, {**fields, "day": "*"}]
    triggers = tuple(CronTrigger(timezone=zone, second="0", **variant) for variant in variants)
    cron = Cron(triggers=triggers, zone=zone)
    if all(
        trigger.get_next_fire_time(None, datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)) is None
        for trigger in triggers
    ):
        raise ValueError(f'"{text}" never fires')
    return cron


def _read_field(text: str, word: str, *, title: str, low: int, high: int, names: tuple[str, ...]) -> set[int]:
    numbers: set[int] = set()
    for part in word.split(","):
        stretch, slash, step_text = part.partition("/")
        step = int(step_text) if step_text.isascii() and step_text.isdigit() else 0
        if slash and step < 1:
            raise ValueError(f'"{text}": "{part}" has no usable step in the field {title}')
        first_text, dash, last_text = stretch.partition("-")
        if stretch == "*":
            first, last = low, 6 if high == 7 else high
        else:
            first = _read_number(text, first_text, title=title, low=low, names=names)
            last = _read_number(text, last_text, title=title, low=low, names=names) if dash else first
            if slash and not dash:
                last = high
            if high == 7 and last == 0 and dash:
                last = 7
        if not low <= first <= last <= high:
            raise ValueError(f'"{text}": "{part}" is not within {low} to {high} in the field {title}')
        numbers.update(range(first, last + 1, step or 1))
    return numbers


def _read_number(text: str, word: str, *, title: str, low: int, names: Iterable[str]) -> int:
    if word.isascii() and word.isdigit() and len(word) <= 4:
        return int(word)
    # Months count from 1, days of the week from 0: both as their lists begin.
    known = {name: number for number, name in reversed(list(enumerate(names, start=low)))}
    if word in known:
        return known[word]
    raise ValueError(f'"{text}": "{word}" is not a {title}')
