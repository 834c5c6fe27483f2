"""JSON as its standard has it: numbers that are none are refused."""

from __future__ import annotations

import json
import math
import typing


def loads(text: str | bytes) -> typing.Any:
    """Decode JSON.  Raises ValueError, for ``NaN``, ``Infinity`` and ``1e400`` too, which Python takes."""
    return json.loads(text, parse_constant=_number, parse_float=_number)


def _number(text: str) -> float:
    found = float(text)
    if not math.isfinite(found):
        raise ValueError(f"{text[:60]} is not a number")
    return found
