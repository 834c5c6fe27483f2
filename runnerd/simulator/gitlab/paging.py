"""Pages of a list: by offset with its x- headers, and by keyset with a Link to follow.

Keyset works on ids only, as in GitLab; a client is meant to follow the Link verbatim, so jobs carry an opaque cursor
while projects carry `id_after`, like the real ones (doc/api/rest).
"""

from __future__ import annotations

import base64
import bisect
import json
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from runnerd.simulator import http
from runnerd.simulator.gitlab import parameters

T = TypeVar("T")
MAXIMUM = 100
#: Above this many rows GitLab.com leaves the totals out.
COUNTED = 10_000


def _size(params: parameters.Parameters) -> int:
    size = params.number("per_page", 20)
    if size == 0:
        raise parameters.invalid("per_page has a value not allowed")
    return min(MAXIMUM, max(1, size or 20))


def _link(request: http.Request, changes: dict[str, str], relation: str) -> str:
    query = [(name, value) for name, value in request.query if name not in changes]
    query += list(changes.items())
    return f'<{request.base_url}{request.path}?{urllib.parse.urlencode(query)}>; rel="{relation}"'


def offset(
    request: http.Request,
    params: parameters.Parameters,
    items: Sequence[T],
    show: Callable[[T], Any],
    *,
    counted: bool = True,
) -> http.Response:
    """One page by number; `counted=False` leaves the totals out, as endpoints of big tables do."""
    size = _size(params)
    page = max(1, params.number("page", 1) or 1)
    start = (page - 1) * size
    chosen = items[start : start + size]
    more = start + size < len(items)
    last = max(1, -(-len(items) // size))
    headers = {
        "X-Page": str(page),
        "X-Per-Page": str(size),
        "X-Prev-Page": str(page - 1) if page > 1 else "",
        "X-Next-Page": str(page + 1) if more else "",
    }
    links = []
    if page > 1:
        links.append(_link(request, {"page": str(page - 1), "per_page": str(size)}, "prev"))
    if more:
        links.append(_link(request, {"page": str(page + 1), "per_page": str(size)}, "next"))
    links.append(_link(request, {"page": "1", "per_page": str(size)}, "first"))
    if counted and len(items) <= COUNTED:
        headers |= {"X-Total": str(len(items)), "X-Total-Pages": str(last)}
        links.append(_link(request, {"page": str(last), "per_page": str(size)}, "last"))
    headers["Link"] = ", ".join(links)
    return http.json_response([show(item) for item in chosen], headers=headers)


def keyset(
    request: http.Request,
    params: parameters.Parameters,
    ids: Sequence[int],
    show: Callable[[int], Any],
    *,
    cursor: bool,
) -> http.Response:
    """One page of ids (ascending) after a mark; `cursor` chooses the form of the mark in the Link.

    Refuses any order but id with 405, the answer of GitLab for an unsupported keyset order.
    """
    size = _size(params)
    descending = params.choice("sort", ("asc", "desc"), "desc") == "desc"
    if params.text("order_by", "id") != "id":
        text = "Keyset pagination is not yet available for this type of request"
        raise http.Refusal(http.json_response({"error": text}, 405))
    after = _read_cursor(params) if "cursor" in params else params.number("id_before" if descending else "id_after")
    if descending:
        end = len(ids) if after is None else bisect.bisect_left(ids, after)
        chosen = list(reversed(ids[max(0, end - size) : end]))
        more = end > size
    else:
        begin = 0 if after is None else bisect.bisect_right(ids, after)
        chosen = list(ids[begin : begin + size])
        more = begin + size < len(ids)
    headers = {"X-Per-Page": str(size)}
    if more:
        if cursor:
            mark = _write_cursor(chosen[-1])
            headers["X-Next-Cursor"] = mark
            changes = {"cursor": mark}
        else:
            changes = {"id_before" if descending else "id_after": str(chosen[-1])}
        headers["Link"] = _link(request, {**changes, "per_page": str(size)}, "next")
    return http.json_response([show(item) for item in chosen], headers=headers)


def _write_cursor(number: int) -> str:
    return base64.urlsafe_b64encode(json.dumps({"id": str(number), "_kd": "n"}).encode()).decode()


def _read_cursor(params: parameters.Parameters) -> int:
    try:
        return int(json.loads(base64.urlsafe_b64decode(str(params.raw("cursor"))))["id"])
    except (ValueError, KeyError, TypeError) as error:
        raise parameters.invalid("cursor is invalid") from error


def wants_keyset(params: parameters.Parameters) -> bool:
    return params.choice("pagination", ("keyset", "legacy"), "legacy") == "keyset"
