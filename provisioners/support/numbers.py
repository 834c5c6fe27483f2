"""Numbers out of text and documents: finite and in plain decimal notation, or refused.

Python reads more than a number should be able to say: ``nan`` (with which every comparison is false, so that no limit
holds), ``inf``, ``1e400``, ``1_000`` and the digits of other scripts, and its JSON reader takes ``NaN`` and
``Infinity``.  Everything from outside (tags, headers, documents, price lists) is read here.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

#: The largest number that is believed: more than any time, size or price that runnerd deals with.
LARGEST = 1e15

_REAL = re.compile(r"[+-]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,4})?\Z")
_WHOLE = re.compile(r"[+-]?[0-9]{1,20}\Z")


def real(value: object, *, low: float = 0.0, high: float = LARGEST) -> float | None:
    """Return the number that a text or a document's value states; None for no number and one outside the bounds."""
    if isinstance(value, str):
        text = value.strip()
        if not _REAL.match(text):
            return None
        value = float(text)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) and low <= found <= high else None


def whole(value: object, *, low: int = 0, high: int = int(LARGEST)) -> int | None:
    """Return the whole number that a text or a document's value states; None for anything else."""
    if isinstance(value, str):
        text = value.strip()
        if not _WHOLE.match(text):
            return None
        value = int(text)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if low <= value <= high else None


def must(value: object, *, low: float = 0.0, high: float = LARGEST) -> float:
    """Return what :func:`real` does.  Raises ValueError where that is None."""
    found = real(value, low=low, high=high)
    if found is None:
        raise ValueError(f"{value!r:.60} is not a number from {low:g} to {high:g}")
    return found


def loads(text: str | bytes) -> Any:
    """Decode JSON as its standard has it: no ``NaN``, no ``Infinity``, no number that is too large for a float.

    Raises ValueError.
    """
    return json.loads(text, parse_constant=_constant, parse_float=_float)


def _constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _float(text: str) -> float:
    found = float(text)
    if not math.isfinite(found):
        raise ValueError(f"{text:.60} is too large a number")
    return found
