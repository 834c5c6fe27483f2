"""Fields of a forge's JSON, read without trust: a value of an unexpected type counts as absent."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any


def text(value: object) -> str:
    """Return a string; empty for anything else."""
    return value if isinstance(value, str) else ""


def texts(value: object) -> tuple[str, ...]:
    """Return the strings of a list; empty for anything else."""
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def mapping(value: object) -> Mapping[str, Any]:
    """Return a JSON object; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def positive_id(value: object) -> int:
    """Return a positive integer; 0 for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def timestamp(value: object) -> float:
    """Return the unix seconds of an ISO 8601 time; 0 for none, for .NET's zero time, and for anything else.

    A time without a zone is UTC.
    """
    if not isinstance(value, str) or len(value) < len("2026-01-01") or value.startswith("0001-"):
        return 0.0
    try:
        moment = datetime.datetime.fromisoformat(value)
    except ValueError:
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return moment.timestamp()
