from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioners.support import units


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10m", 600.0),
        ("12h", 43200.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("250ms", 0.25),
        ("2d", 172800.0),
        ("1w", 604800.0),
        ("0", 0.0),
        (0, 0.0),
        (0.0, 0.0),
        (" 5s ", 5.0),
    ],
)
def test_reads_a_duration_in_seconds(text: object, seconds: float) -> None:
    assert units.duration(text) == seconds


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (10, '"10" has no unit; write 10s, 10m or 10h'),
        ("10", '"10" has no unit; write 10s, 10m or 10h'),
        ("1.5", '"1.5" has no unit; write 1.5s, 1.5m or 1.5h'),
        (-5, '"-5" is not a duration; write 30s, 10m or 1h30m'),
        ("-5", '"-5" is negative; write 0 or a duration such as 10m'),
        ("10 minutes", '"10 minutes" is not a duration; write 30s, 10m or 1h30m'),
        ("10M", '"10M" is not a duration; write 30s, 10m or 1h30m'),
        ("", '"" is not a duration; write 30s, 10m or 1h30m'),
        ("30m1h", '"30m1h" repeats or reorders its units; write the larger first, as in 1h30m'),
        ("1h1h", '"1h1h" repeats or reorders its units; write the larger first, as in 1h30m'),
        ("4000d", '"4000d" is longer than ten years'),
        (True, "expected a duration such as 30s, 10m or 1h30m"),
        (None, "expected a duration such as 30s, 10m or 1h30m"),
        (["10m"], "expected a duration such as 30s, 10m or 1h30m"),
    ],
)
def test_refuses_a_duration_and_says_what_to_write(value: object, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        units.duration(value)
    assert str(caught.value) == message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1e3s", "\u0661s", "1s\n1s", "9" * 400])
def test_refuses_odd_durations(value: object) -> None:
    with pytest.raises(ValueError):
        units.duration(value)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("100MB", 100_000_000),
        ("25MiB", 26_214_400),
        ("16GiB", 2**34),
        ("1.5 GiB", 3 * 2**29),
        ("512B", 512),
        (0, 0),
    ],
)
def test_reads_a_size_in_bytes(text: object, count: int) -> None:
    assert units.size(text) == count


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (100, '"100" has no unit; write 100MB, 100MiB or 100GiB'),
        ("100", '"100" has no unit; write 100MB, 100MiB or 100GiB'),
        ("100mb", '"mb" is not a unit of size; write 100MB'),
        ("16G", '"G" is not a unit of size; write 16GB'),
        ("16parsec", '"parsec" is not a unit of size; units are B, kB, KB, MB, GB, TB, KiB, MiB, GiB, TiB'),
        ("-1MB", '"-1MB" is not a size; write 500MB or 16GiB'),
        ("9999TiB", '"9999TiB" is larger than a pebibyte'),
        (False, "expected a size such as 500MB or 16GiB"),
    ],
)
def test_refuses_a_size_and_says_what_to_write(value: object, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        units.size(value)
    assert str(caught.value) == message


@pytest.mark.parametrize(("value", "amount"), [(200, 200.0), (0.5, 0.5), ("$200", 200.0), ("1.25", 1.25), (0, 0.0)])
def test_reads_dollars(value: object, amount: float) -> None:
    assert units.dollars(value) == amount


@pytest.mark.parametrize("value", [-1, "200 EUR", "€5", float("inf"), float("nan"), True, None, ""])
def test_refuses_what_is_not_dollars(value: object) -> None:
    with pytest.raises(ValueError, match="dollars"):
        units.dollars(value)


@given(st.integers(min_value=1, max_value=10 * 365 * 86_400_000))
def test_a_duration_reads_back_as_it_was_shown(milliseconds: int) -> None:
    assert units.duration(units.show_duration(milliseconds / 1000)) == milliseconds / 1000


@given(st.integers(min_value=0, max_value=2**50))
def test_a_size_reads_back_as_it_was_shown(count: int) -> None:
    assert units.size(units.show_size(count)) == count


@pytest.mark.parametrize("text", ["30s", "1h30m", "1.5h", "2w1d", "1s500ms"])
def test_the_pattern_of_the_schema_takes_what_is_read(text: str) -> None:
    assert units.duration(text) > 0 and re.search(units.DURATION_PATTERN, text)


@pytest.mark.parametrize("text", ["", "30", "30m1h", "1h1h", "10 minutes", "1ms1s"])
def test_the_pattern_of_the_schema_refuses_what_is_not_read(text: str) -> None:
    with pytest.raises(ValueError):
        units.duration(text)
    assert not re.search(units.DURATION_PATTERN, text)
