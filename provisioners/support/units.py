"""Durations, sizes and dollars as people write them: in the configuration, in options of providers, in commands.

The grammar, the same everywhere:

- A duration is one or more numbers with a unit (`ms`, `s`, `m`, `h`, `d`, `w`), each unit at most once and the
  largest first: `30s`, `1.5h`, `1h30m`, `2w`.
- A size is a number with a unit: decimal (`kB`, `MB`, `GB`, `TB`) or binary (`KiB`, `MiB`, `GiB`, `TiB`), or `B`.
- An amount of US dollars is a number, with or without `$` before it.
- `0` needs no unit, as a number or as a text. Any other number without a unit is refused, because `idle: 10` was
  meant as minutes by one reader and as seconds by the next. Options of providers are the exception that
  :func:`seconds` and :func:`size_in_bytes` read: there a number (not a text) counts seconds or bytes.

Values leave this module as plain numbers: seconds (float), bytes (int), US dollars (float). Every refusal is a
`ValueError` whose text says what to write instead.
"""

from __future__ import annotations

import math
import re

from provisioners.support import numbers

#: Seconds per unit of a duration; a month is left out because it has no fixed length.
DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}

#: Bytes per unit of a size: the decimal units of disks and the binary units of memory.
SIZE_UNITS = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}

#: The longest duration accepted: ten years, so that a slip of the unit cannot overflow a clock.
LONGEST_S = 10 * 365 * 86400.0

#: The largest size accepted: one pebibyte.
LARGEST_BYTES = 2**50

#: What :func:`duration` accepts besides ``0``, for JSON schemas.
DURATION_PATTERN = "^(?=.)" + "".join(rf"(\d+(\.\d+)?{unit})?" for unit in ("w", "d", "h", "m", "s", "ms")) + "$"

_NUMBER = r"([0-9]{1,16}(?:\.[0-9]{1,9})?)"
_BARE = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?\Z")
_PART = re.compile(_NUMBER + r"(ms|[smhdw])")
_DURATION = re.compile(r"(?:[0-9]{1,16}(?:\.[0-9]{1,9})?(?:ms|[smhdw]))+\Z")
_SIZE = re.compile(_NUMBER + r" ?([A-Za-z]+)\Z")
_DOLLARS = re.compile(r"\$? ?" + _NUMBER + r"\Z")


def duration(value: object) -> float:
    """Read a duration such as `10m`, `12h`, `1h30m` or `0`; seconds.

    Raises ValueError for a number without unit (other than 0), a unit out of order or repeated, a negative
    or an absurdly long value.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("expected a duration such as 30s, 10m or 1h30m")
    if isinstance(value, int | float):
        if value == 0:
            return 0.0
        if numbers.real(value) is None:
            raise ValueError(f'"{_shown(value)}" is not a duration; write 30s, 10m or 1h30m')
        number = f"{value:g}"
        raise ValueError(f'"{number}" has no unit; write {number}s, {number}m or {number}h')
    text = value.strip()
    if text == "0":
        return 0.0
    if _BARE.match(text):
        if text.startswith("-"):
            raise ValueError(f'"{text}" is negative; write 0 or a duration such as 10m')
        number = text.lstrip("+")
        raise ValueError(f'"{number}" has no unit; write {number}s, {number}m or {number}h')
    if not _DURATION.match(text):
        raise ValueError(f'"{text}" is not a duration; write 30s, 10m or 1h30m')
    total = 0.0
    last = math.inf
    for number, unit in _PART.findall(text):
        if DURATION_UNITS[unit] >= last:
            raise ValueError(f'"{text}" repeats or reorders its units; write the larger first, as in 1h30m')
        last = DURATION_UNITS[unit]
        total += float(number) * last
    if total > LONGEST_S:
        raise ValueError(f'"{text}" is longer than ten years')
    return round(total, 3)


def seconds(value: object) -> float:
    """Read a duration in options of a provider: a number counts seconds; seconds.

    Raises ValueError like :func:`duration`.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return duration(value)
    found = numbers.real(value, high=LONGEST_S)
    if found is None:
        raise ValueError(f'"{_shown(value)}" is not a number of seconds from 0 to ten years; write 30s, 10m or 1h30m')
    return found


def size(value: object) -> int:
    """Read a size such as `100MB` (decimal) or `25MiB` (binary); bytes.

    Raises ValueError for a number without unit (other than 0), an unknown unit or more than a pebibyte.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("expected a size such as 500MB or 16GiB")
    text = f"{value:g}" if isinstance(value, float) else str(value).strip()
    if text == "0":
        return 0
    if _BARE.match(text):
        if text.startswith("-"):
            raise ValueError(f'"{text}" is negative; write a size such as 16GiB')
        raise ValueError(f'"{text}" has no unit; write {text}MB, {text}MiB or {text}GiB')
    found = _SIZE.match(text)
    if found is None:
        raise ValueError(f'"{text}" is not a size; write 500MB or 16GiB')
    number, unit = found.groups()
    if unit not in SIZE_UNITS:
        alike = next((name for name in SIZE_UNITS if name.lower() in (unit.lower(), unit.lower() + "b")), None)
        hint = f"write {number}{alike}" if alike else "units are " + ", ".join(SIZE_UNITS)
        raise ValueError(f'"{unit}" is not a unit of size; {hint}')
    total = round(float(number) * SIZE_UNITS[unit])
    if total > LARGEST_BYTES:
        raise ValueError(f'"{text}" is larger than a pebibyte')
    return total


def size_in_bytes(value: object) -> int:
    """Read a size in options of a provider: a whole number counts bytes; bytes.

    Raises ValueError like :func:`size`.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        return size(value)
    found = numbers.whole(value, high=LARGEST_BYTES)
    if found is None:
        raise ValueError(f'"{_shown(value)}" is not a number of bytes from 0 to a pebibyte; write 500MB or 16GiB')
    return found


def dollars(value: object) -> float:
    """Read an amount of US dollars: `200`, `0.5`, `"$200"`; dollars.

    Raises ValueError for another currency, a negative amount or one that is not finite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("expected US dollars, such as 200 or 0.50")
    if isinstance(value, int | float):
        if numbers.real(value) is None:
            raise ValueError(f'"{_shown(value)}" is not an amount; write US dollars, such as 200 or 0.50')
        return float(value)
    found = _DOLLARS.match(value.strip())
    if found is None:
        raise ValueError(f'"{value}" is not an amount; write US dollars, such as 200 or 0.50')
    return float(found.group(1))


def _shown(value: int | float) -> str:
    """Return a number for a message; an integer may be too large to become a float, or a text."""
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if abs(value) < 10**20 else f"{'-' if value < 0 else ''}1e20 or more"


def show_duration(seconds: float) -> str:
    """Write a duration the way `duration` reads it: 5400.0 becomes `1h30m`."""
    if seconds <= 0:
        return "0"
    left = round(seconds * 1000)
    parts = []
    for unit in ("d", "h", "m", "s", "ms"):
        count, left = divmod(left, round(DURATION_UNITS[unit] * 1000))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0"


def show_size(count: int) -> str:
    """Write a size the way `size` reads it, in the largest unit that keeps it exact."""
    if count <= 0:
        return "0"
    for unit in ("TiB", "GiB", "MiB", "KiB", "TB", "GB", "MB", "kB"):
        if count % SIZE_UNITS[unit] == 0:
            return f"{count // SIZE_UNITS[unit]}{unit}"
    return f"{count}B"
