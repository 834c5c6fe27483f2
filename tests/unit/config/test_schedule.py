from __future__ import annotations

import datetime
import zoneinfo
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runnerd.config import schedule

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
WORK = {"Mon-Fri 08:00-19:00 Europe/Berlin": 2}
#: A Monday.
MONDAY = (2026, 11, 23)


def berlin(year: int, month: int, day: int, hour: int = 0, minute: int = 0, *, fold: int = 0) -> float:
    return datetime.datetime(year, month, day, hour, minute, tzinfo=BERLIN, fold=fold).timestamp()


def wall(time: float | None) -> str:
    return "never" if time is None else datetime.datetime.fromtimestamp(time, BERLIN).strftime("%a %d %H:%M %z")


def next_change(warm: int | Mapping[str, int], now: float) -> float | None:
    """Return the first time after `now` with another count; None when the next eight days have none.

    Every boundary in this file is a multiple of five minutes.
    """
    present = schedule.target(warm, now)
    first = (int(now) // 300 + 1) * 300
    return next(
        (float(at) for at in range(first, first + 8 * 86400, 300) if schedule.target(warm, at) != present), None
    )


def test_a_plain_number_holds_always() -> None:
    assert schedule.target(3, 0.0) == 3
    assert next_change(3, 0.0) is None


@pytest.mark.parametrize(
    ("day", "hour", "minute", "count", "change"),
    [
        (23, 7, 59, 0, "Mon 23 08:00 +0100"),
        (23, 8, 0, 2, "Mon 23 19:00 +0100"),
        (23, 18, 59, 2, "Mon 23 19:00 +0100"),
        (23, 19, 0, 0, "Tue 24 08:00 +0100"),
        (27, 20, 0, 0, "Mon 30 08:00 +0100"),
        (28, 12, 0, 0, "Mon 30 08:00 +0100"),
    ],
)
def test_a_period_holds_from_its_start_until_its_end(day: int, hour: int, minute: int, count: int, change: str) -> None:
    now = berlin(2026, 11, day, hour, minute)
    assert schedule.target(WORK, now) == count
    assert wall(next_change(WORK, now)) == change


def test_an_overnight_period_belongs_to_the_day_it_starts_on() -> None:
    night = {"Fri 22:00-06:00 Europe/Berlin": 1}
    assert schedule.target(night, berlin(2026, 11, 27, 5)) == 0
    assert schedule.target(night, berlin(2026, 11, 27, 23)) == 1
    assert schedule.target(night, berlin(2026, 11, 28, 5, 59)) == 1
    assert schedule.target(night, berlin(2026, 11, 28, 6)) == 0
    assert schedule.target(night, berlin(2026, 11, 28, 23)) == 0


def test_the_largest_of_overlapping_periods_counts() -> None:
    warm = {"08:00-20:00": 1, "Mon 12:00-13:00": 3}
    noon = datetime.datetime(*MONDAY, 12, 30, tzinfo=datetime.UTC).timestamp()
    assert schedule.target(warm, noon) == 3
    assert schedule.target(warm, noon + 3600) == 1
    assert next_change(warm, noon) == noon + 1800


def test_days_wrap_over_the_weekend() -> None:
    period = schedule.read_entry("Fri-Mon 00:00-24:00")
    assert isinstance(period, schedule.Period)
    assert period.days == {4, 5, 6, 0}


def test_periods_that_touch_do_not_change_the_count() -> None:
    always = {"Mon-Sun 00:00-24:00 Europe/Berlin": 1}
    changes = {schedule.target(always, berlin(2026, 11, 20) + 600 * step) for step in range(2000)}
    assert changes == {1}


@pytest.mark.parametrize(
    ("when", "start", "end"),
    [
        pytest.param((2026, 3, 29, 0), "Sun 29 03:00 +0200", "Sun 29 05:00 +0200", id="the-start-is-skipped"),
        pytest.param((2026, 10, 25, 0), "Sun 25 02:30 +0200", "Sun 25 05:00 +0100", id="the-start-comes-twice"),
    ],
)
def test_a_period_starts_right_when_the_clock_is_set(when: tuple[int, int, int, int], start: str, end: str) -> None:
    warm = {"02:30-05:00 Europe/Berlin": 1}
    first = next_change(warm, berlin(*when))
    assert wall(first) == start
    assert first is not None
    assert wall(next_change(warm, first)) == end


def test_a_period_ends_at_the_last_showing_of_an_hour_that_comes_twice() -> None:
    warm = {"01:00-02:30 Europe/Berlin": 1}
    assert schedule.target(warm, berlin(2026, 10, 25, 2, 45)) == 1
    assert schedule.target(warm, berlin(2026, 10, 25, 2, 15, fold=1)) == 1
    assert schedule.target(warm, berlin(2026, 10, 25, 2, 30, fold=1)) == 0


def test_a_period_that_is_skipped_altogether_does_not_hold() -> None:
    warm = {"02:10-02:50 Europe/Berlin": 1}
    assert wall(next_change(warm, berlin(2026, 3, 28, 12))) == "Mon 30 02:10 +0200"


def test_a_cron_entry_holds_until_the_next_one_fires() -> None:
    warm = {"0 8 * * mon-fri Europe/Berlin": 2, "0 19 * * 1-5 Europe/Berlin": 0}
    assert schedule.target(warm, berlin(2026, 11, 23, 7, 59)) == 0
    assert schedule.target(warm, berlin(2026, 11, 23, 8)) == 2
    assert schedule.target(warm, berlin(2026, 11, 23, 18, 59)) == 2
    assert schedule.target(warm, berlin(2026, 11, 23, 19)) == 0
    assert wall(next_change(warm, berlin(2026, 11, 27, 20))) == "Mon 30 08:00 +0100"


@pytest.mark.parametrize(
    ("text", "weekday"),
    [
        ("0 0 * * 0", 6),
        ("0 0 * * 7", 6),
        ("0 0 * * sun", 6),
        ("0 0 * * 1", 0),
        ("0 0 * * MON", 0),
        ("0 0 * * 6", 5),
    ],
)
def test_days_of_the_week_count_as_in_cron(text: str, weekday: int) -> None:
    cron = schedule.read_entry(text)
    assert isinstance(cron, schedule.Cron)
    fired = cron.after(0.0)
    assert fired is not None
    assert datetime.datetime.fromtimestamp(fired, datetime.UTC).weekday() == weekday


def test_an_entry_with_both_day_fields_fires_when_either_fits() -> None:
    cron = schedule.read_entry("0 0 13 * fri")
    assert isinstance(cron, schedule.Cron)
    now = datetime.datetime(2026, 10, 8, tzinfo=datetime.UTC).timestamp()
    days = []
    for _ in range(3):
        fired = cron.after(now)
        assert fired is not None
        days.append(datetime.datetime.fromtimestamp(fired, datetime.UTC).strftime("%a %d"))
        now = fired
    assert days == ["Fri 09", "Tue 13", "Fri 16"]


@pytest.mark.parametrize(
    ("day", "fired"),
    [
        pytest.param((2026, 3, 28, 12), ["Sun 29 03:30 +0200", "Mon 30 02:30 +0200"], id="a-skipped-hour"),
        pytest.param((2026, 10, 24, 12), ["Sun 25 02:30 +0200", "Sun 25 02:30 +0100"], id="a-repeated-hour"),
    ],
)
def test_a_cron_entry_fires_although_the_clock_is_set(day: tuple[int, int, int, int], fired: list[str]) -> None:
    cron = schedule.read_entry("30 2 * * * Europe/Berlin")
    assert isinstance(cron, schedule.Cron)
    first = cron.after(berlin(*day))
    assert first is not None
    assert [wall(first), wall(cron.after(first))] == fired


def test_a_rare_cron_entry_holds_for_years() -> None:
    warm = {"0 0 29 2 *": 3}
    assert schedule.target(warm, berlin(2026, 6, 1)) == 3
    assert next_change(warm, berlin(2026, 6, 1)) is None


def test_a_period_and_a_cron_entry_give_the_larger() -> None:
    warm = {"0 8 * * * UTC": 1, "10:00-12:00 UTC": 2}
    day = datetime.datetime(*MONDAY, tzinfo=datetime.UTC).timestamp()
    assert [schedule.target(warm, day + 3600 * hour) for hour in (9, 11, 13)] == [1, 2, 1]


def test_the_remembered_answer_gives_way_in_both_directions_of_time() -> None:
    morning, evening = berlin(2026, 11, 23, 9), berlin(2026, 11, 23, 20)
    assert [schedule.target(WORK, now) for now in (morning, evening, morning, evening)] == [2, 0, 2, 0]


@settings(max_examples=60, deadline=None)
@given(
    now=st.integers(min_value=1_700_000_000, max_value=1_900_000_000),
    warm=st.sampled_from(
        [
            WORK,
            {"22:00-06:00 America/New_York": 1, "Sat-Sun 00:00-24:00 Asia/Tokyo": 2},
            {"*/30 7-9 * * 1-5 Europe/Berlin": 1, "15 18 * * * Europe/Berlin": 0},
            {"02:30-03:30 Europe/Berlin": 1, "0 2 * * * Europe/Berlin": 2, "0 4 * * * UTC": 0},
        ]
    ),
)
def test_the_count_that_is_remembered_is_the_one_that_a_fresh_reading_finds(now: int, warm: Mapping[str, int]) -> None:
    present = schedule.target(warm, float(now))
    change = next_change(warm, float(now))
    assert change is not None
    assert change > now
    fresh = dict(reversed(list(warm.items())))
    assert schedule.target(fresh, change) == schedule.target(warm, change) != present
    for share in (0.1, 0.5, 0.9, 0.999):
        assert schedule.target(fresh, now + (change - now) * share) == present


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("Monday 08:00-10:00 UTC", '"Monday" is not a day; write Mon'),
        ("Foo 08:00-10:00 UTC", '"Foo" is not a day; write Mon, Tue, Wed, Thu, Fri, Sat or Sun'),
        ("08:00-25:00", '"08:00-25:00" is not a time of day; hours go from 00:00 to 24:00'),
        ("08:60-09:00", '"08:60-09:00" is not a time of day; hours go from 00:00 to 24:00'),
        ("08:00-08:00", '"08:00-08:00" is empty; for a whole day write 00:00-24:00'),
        ("08:00-09:00 Europe/Berln", '"Europe/Berln" is not a time zone; did you mean "Europe/Berlin"?'),
        ("08:00-09:00 ../../etc/passwd", None),
        ("0 0 31 2 *", '"0 0 31 2 *" never fires'),
        ("99 * * * *", '"99 * * * *": "99" is not within 0 to 59 in the field minute'),
        ("*/0 * * * *", '"*/0 * * * *": "*/0" has no usable step in the field minute'),
        ("0 0 * foo *", '"0 0 * foo *": "foo" is not a month'),
        (
            "work hours",
            '"work hours" is neither a period such as "Mon-Fri 08:00-19:00 Europe/Berlin" '
            'nor a cron expression such as "0 8 * * mon-fri Europe/Berlin"',
        ),
    ],
)
def test_refuses_an_entry_and_says_what_to_write(key: str, message: str | None) -> None:
    with pytest.raises(ValueError) as caught:
        schedule.check({key: 1})
    assert message is None or str(caught.value) == message


@pytest.mark.parametrize("value", [-1, True, "1", 1.5, None, {}, {"08:00-09:00": -1}, {"08:00-09:00": "1"}, 10_001])
def test_refuses_what_is_not_a_count(value: object) -> None:
    with pytest.raises(ValueError):
        schedule.check(value)
