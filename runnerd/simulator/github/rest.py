"""The frame of every REST answer: user agent, API version, authentication, limits, ETags, pages.

The endpoints themselves are in rest_runners.py, rest_runs.py and rest_repos.py; none is reachable but through here.
"""

from __future__ import annotations

import dataclasses
import urllib.parse
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from runnerd.simulator import http
from runnerd.simulator.github import auth, limits, state

API = "/api/v3"
VERSIONS = ("2022-11-28", "2026-03-10")

Endpoint = Callable[[http.Request, auth.Principal], Awaitable[http.Response]]
T = TypeVar("T")


class Frame:
    """Wraps endpoints into handlers."""

    def __init__(self, tables: state.State, credentials: auth.Auth, budget: limits.Limits) -> None:
        self._state = tables
        self._auth = credentials
        self._limits = budget

    def route(self, method: str, template: str, endpoint: Endpoint, *, free: bool = False) -> http.Route:
        """A REST route below the API prefix; `free` ones cost no quota."""

        async def handler(request: http.Request) -> http.Response:
            return await self._answer(request, endpoint, free=free)

        return http.Route(method, API + template, handler, "github")

    async def _answer(self, request: http.Request, endpoint: Endpoint, *, free: bool) -> http.Response:
        common = {
            "X-GitHub-Request-Id": self._state.world.hex(32).upper(),
            "X-GitHub-Media-Type": "github.v3; format=json",
        }
        try:
            _check_client(request)
            principal = self._auth.principal(request)
        except http.Refusal as refusal:
            return refusal.response.with_headers(common)
        account = principal.account
        try:
            if not free:
                self._limits.check(request, principal)
            self._limits.in_flight[account] = self._limits.in_flight.get(account, 0) + 1
            try:
                response = await endpoint(request, principal)
            except http.Refusal as refusal:
                response = refusal.response
            finally:
                self._limits.in_flight[account] -= 1
            response = self._limits.conditional(request, principal, response)
            if not free and response.status != 304:
                self._limits.count(principal)
        except http.Refusal as refusal:
            return refusal.response.with_headers(common)
        version = request.header("x-github-api-version") or VERSIONS[0]
        return response.with_headers(
            {**common, **self._limits.headers(principal), "X-GitHub-Api-Version-Selected": version}
        )


def _check_client(request: http.Request) -> None:
    if not request.header("user-agent"):
        raise state.refuse(
            403,
            "Request forbidden by administrative rules. Please make sure your request has a User-Agent header.",
        )
    version = request.header("x-github-api-version")
    if version and version not in VERSIONS:
        raise state.refuse(400, f"The API version {version} is not supported.")


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """Which slice of a listing was asked for."""

    number: int
    size: int


def page_of(request: http.Request) -> Page:
    """`page` and `per_page` (30 unless given, at most 100) of a request."""

    def number(name: str, default: int) -> int:
        text = request.param(name)
        return int(text) if text.isdigit() and int(text) > 0 else default

    return Page(number("page", 1), min(100, number("per_page", 30)))


def paged(request: http.Request, items: Sequence[T], render: Callable[[T], Any], *, key: str | None) -> http.Response:
    """One page of a listing with its Link header; under `key` with a total count, else a bare list."""
    page = page_of(request)
    begin = (page.number - 1) * page.size
    shown = [render(item) for item in items[begin : begin + page.size]]
    body: Any = shown if key is None else {"total_count": len(items), key: shown}
    last = max(1, -(-len(items) // page.size))
    links = []
    if page.number > 1:
        links += [(min(page.number - 1, last), "prev"), (1, "first")]
    if page.number < last:
        links = [*links, (page.number + 1, "next"), (last, "last")]
    headers = {}
    if links:
        headers["Link"] = ", ".join(f'<{_page_url(request, number)}>; rel="{name}"' for number, name in links)
    return http.json_response(body, headers=headers)


def _page_url(request: http.Request, number: int) -> str:
    query = [(name, value) for name, value in request.query if name != "page"] + [("page", str(number))]
    return f"{request.base_url}{request.path}?{urllib.parse.urlencode(query)}"


def number(text: str) -> int:
    """An id from a path; one that is no number is not found."""
    if not text.isdigit():
        raise state.refuse(404, "Not Found")
    return int(text)


def validation(message: str, *, field: str = "", code: str = "invalid") -> http.Refusal:
    """A 422 as the API words it."""
    errors = [{"resource": "Request", "field": field, "code": code}] if field else []
    return state.refuse(422, message, errors=errors)
