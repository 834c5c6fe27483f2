"""Filters and pages of list calls, as far as clients here use them; any other filter is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tests.clouds.gcp.refusals import Refused

_REGEX = re.compile(r"(?P<field>[\w.-]+) (?P<operator>eq|ne) (?P<value>\S.*)\Z")
_AIP = re.compile(r'(?P<field>[\w.-]+)\s*(?P<operator>=|!=|:)\s*(?P<value>"[^"]*"|[^\s"]+)\Z')
_MOST = 500


def matching(items: Sequence[Mapping[str, Any]], expression: str) -> list[Mapping[str, Any]]:
    """The items that a filter lets through."""
    if not expression:
        return list(items)
    terms = [one.strip() for one in re.split(r"\s+AND\s+|(?<=\))\s*(?=\()", expression)]
    terms = [one[1:-1].strip() if one.startswith("(") and one.endswith(")") else one for one in terms]
    parsed = [_REGEX.match(one) or _AIP.match(one) for one in terms]
    if not all(parsed):
        raise Refused("invalid", f"Invalid value for field 'filter': '{expression}'. Invalid list filter expression.")
    if len({one.re for one in parsed if one}) > 1:
        raise Refused(
            "invalid", f"Invalid value for field 'filter': '{expression}'. Two kinds of expressions are mixed."
        )
    return [item for item in items if all(_holds(item, term) for term in parsed if term)]


def _holds(item: Mapping[str, Any], term: re.Match[str]) -> bool:
    found, value, operator = _field(item, term["field"]), term["value"].strip('"'), term["operator"]
    if operator in ("eq", "ne"):
        return (found is not None and re.fullmatch(value, str(found)) is not None) is (operator == "eq")
    if operator == ":":
        return found is not None and (value == "*" or value.lower() in str(found).lower())
    return (found is not None and str(found) == value) is (operator == "=")


def _field(item: Mapping[str, Any], name: str) -> Any:
    if name.startswith("labels."):
        return item.get("labels", {}).get(name.removeprefix("labels."))
    found: Any = item
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def page(items: Sequence[Any], query: Mapping[str, str]) -> tuple[list[Any], dict[str, str]]:
    """One page and the ``nextPageToken`` that goes with it."""
    size = int(query.get("maxResults", _MOST))
    if not 0 <= size <= _MOST:
        raise Refused("invalid", f"Invalid value for field 'maxResults': '{size}'. Must be within 0 and 500.")
    token = query.get("pageToken", "0")
    if not token.isdigit() or int(token) > len(items):
        raise Refused("invalid", f"Invalid value for field 'pageToken': '{token}'. The page token is invalid.")
    first = int(token)
    size = size or _MOST
    rest = {"nextPageToken": str(first + size)} if first + size < len(items) else {}
    return list(items[first : first + size]), rest
