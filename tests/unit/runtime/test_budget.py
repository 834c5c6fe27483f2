from __future__ import annotations

import calendar
from typing import Any

import pytest

from runnerd.runtime import budget
from tests.support.clocks import START
from tests.support.fakes import (
    bought,
)

HOUR, DAY = 3600.0, 86400.0
MIDNIGHT = START - START % DAY


def utc(*parts: int) -> float:
    return float(calendar.timegm((*parts, 0, 0, 0)[:6]))


def test_a_day_is_a_day_of_utc() -> None:
    (day,) = budget.windows(wall=START, per_day=20)
    assert (day.name, day.start, day.end, day.dollars) == ("day", MIDNIGHT, MIDNIGHT + DAY, 20)


@pytest.mark.parametrize(
    ("wall", "start", "end"),
    [
        pytest.param(utc(2026, 2, 14), utc(2026, 2, 1), utc(2026, 3, 1), id="february"),
        pytest.param(utc(2026, 12, 31), utc(2026, 12, 1), utc(2027, 1, 1), id="december"),
        pytest.param(utc(2028, 2, 29), utc(2028, 2, 1), utc(2028, 3, 1), id="leap year"),
        pytest.param(utc(2026, 5, 1), utc(2026, 5, 1), utc(2026, 6, 1), id="its first moment"),
    ],
)
def test_a_month_is_a_calendar_month(wall: float, start: float, end: float) -> None:
    (month,) = budget.windows(wall=wall, per_month=100)
    assert (month.start, month.end) == (start, end)


def test_a_total_ends_with_its_day_or_never() -> None:
    (endless,) = budget.windows(wall=START, total=50)
    assert (endless.start, endless.end) == (0.0, float("inf"))
    (limited,) = budget.windows(wall=START, total=50, until=START + DAY)
    assert limited.end == START + DAY
    assert budget.windows(wall=START) == []


WINDOW = budget.Window("day", 1000 * HOUR, 1024 * HOUR, 10.0)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        pytest.param(1001, 1003, 4.0, id="inside"),
        pytest.param(990, 1002, 4.0, id="began before"),
        pytest.param(1023, 1030, 2.0, id="goes beyond"),
        pytest.param(900, 1100, 48.0, id="around"),
        pytest.param(900, 1000, 0.0, id="over before"),
        pytest.param(1024, 1030, 0.0, id="not yet"),
        pytest.param(1003, 1001, 0.0, id="backwards"),
    ],
)
def test_only_what_falls_into_the_window_counts(start: float, end: float, expected: float) -> None:
    assert budget.cost(start * HOUR, end * HOUR, 2.0, WINDOW) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({"running_at": 1001 * HOUR, "deadline": 1005 * HOUR}, 8.0, id="to its deadline"),
        pytest.param({"running_at": 0.0, "deadline": 1005 * HOUR}, 6.0, id="requested, from now"),
        pytest.param({"running_at": 1001 * HOUR, "deadline": 1001.5 * HOUR}, 2.0, id="past its deadline, to now"),
        pytest.param({"running_at": 1001 * HOUR, "deadline": 1005 * HOUR, "price": 0.0}, 0.0, id="free"),
        pytest.param({"running_at": 1001 * HOUR, "deadline": 1005 * HOUR, "state": "gone"}, 0.0, id="closed"),
    ],
)
def test_what_lives_is_committed_to_its_deadline(fields: dict[str, Any], expected: float) -> None:
    row = bought("vm-1", **({"price": 2.0} | fields))
    assert budget.commitment(row, 1002 * HOUR, WINDOW) == pytest.approx(expected)


ACCOUNT = budget.Account("gpu", "sky", "acme/ml", "spot")


def test_what_was_spent_is_split_at_midnight_and_found_by_the_windows_it_falls_into() -> None:
    tally = budget.Tally()
    tally.add(ACCOUNT, start=MIDNIGHT - 2 * HOUR, end=MIDNIGHT + HOUR, price=3.0)
    tally.add(ACCOUNT, start=MIDNIGHT + 5 * HOUR, end=MIDNIGHT + 6 * HOUR, price=1.0)
    (today,) = budget.windows(wall=START, per_day=1)
    (yesterday,) = budget.windows(wall=START - DAY, per_day=1)
    (always,) = budget.windows(wall=START, total=1)
    assert dict(tally.inside(today)) == pytest.approx({ACCOUNT: 4.0})
    assert dict(tally.inside(yesterday)) == pytest.approx({ACCOUNT: 6.0})
    assert sum(dollars for _, dollars in tally.inside(always)) == pytest.approx(10.0)


def test_a_tally_forgets_whole_days_and_counts_nothing_for_nothing() -> None:
    tally = budget.Tally()
    tally.add(ACCOUNT, start=START, end=START - 1, price=3.0)
    tally.add(ACCOUNT, start=START, end=START + 1, price=0.0)
    assert tally.dollars == {}
    tally.add(ACCOUNT, start=MIDNIGHT - DAY, end=MIDNIGHT + HOUR, price=1.0)
    tally.forget(before=MIDNIGHT)
    assert list(tally.dollars.values()) == [pytest.approx(1.0)]


def test_one_more_instance_commits_its_whole_life_inside_the_window() -> None:
    assert budget.next_commitment(2.0, 3 * HOUR, 1001 * HOUR, WINDOW) == pytest.approx(6.0)
    assert budget.next_commitment(2.0, 3 * HOUR, 1023 * HOUR, WINDOW) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({"running_at": START - HOUR}, 2.0, id="runs"),
        pytest.param({"running_at": START - HOUR, "gone_at": START - HOUR / 2}, 1.0, id="gone"),
        pytest.param({"running_at": 0.0}, 0.0, id="never ran"),
    ],
)
def test_accrued_counts_from_running_to_gone(fields: dict[str, Any], expected: float) -> None:
    assert budget.accrued(bought("vm-1", price=2.0, **fields), START) == pytest.approx(expected)
