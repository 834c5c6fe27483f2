"""JSON as the standard defines it: NaN and infinities are refused."""

from __future__ import annotations

import json
import math
import typing


def loads(text: str | bytes) -> typing.Any:
    """Decode JSON.  Raises ValueError, for ``NaN``, ``Infinity`` and ``1e400`` too, which Python accepts."""
    return json.loads(text, parse_constant=_number, parse_float=_number)


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:60]} is not a number")
    return number
