"""Requests, responses and routes of the simulator, free of any web server.

The same handlers answer a socket (server.py) and a test in process (App.handle), so a request is a plain value here.
This module knows nothing of forges; it refuses templates that could never match.
"""

from __future__ import annotations

import dataclasses
import json
import urllib.parse
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, NoReturn


class ConnectionDropped(Exception):
    """The connection ended without an answer; a scripted fault, for a transport to turn into its network error."""


class Refusal(Exception):
    """Carries the response with which a handler refuses a request."""

    def __init__(self, response: Response) -> None:
        super().__init__(f"refused with {response.status}")
        self.response = response


def _lower(headers: Mapping[str, str] | None) -> dict[str, str]:
    return {name.lower(): value for name, value in (headers or {}).items()}


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. Build it with `request()`, which splits the target and lowers the header names."""

    method: str
    #: the path exactly as sent: still percent-encoded, without the query
    path: str
    #: the query in the order sent, decoded
    query: tuple[tuple[str, str], ...] = ()
    #: names in lower case
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    body: bytes = b""
    #: scheme and host as the client addressed us, without a trailing slash; links in answers start with it
    base_url: str = "http://simulator.invalid"
    #: parameters of the matched template, decoded
    params: Mapping[str, str] = dataclasses.field(default_factory=dict)
    #: the matched template ("/api/v3/repos/{owner}/{repo}"), empty before matching
    template: str = ""

    def header(self, name: str, default: str = "") -> str:
        return self.headers.get(name.lower(), default)

    def param(self, name: str, default: str = "") -> str:
        """First value of a query parameter."""
        return next((value for key, value in self.query if key == name), default)

    def has(self, name: str) -> bool:
        return any(key == name for key, _ in self.query)

    @property
    def target(self) -> str:
        """Path and query as one string."""
        return self.path + ("?" + urllib.parse.urlencode(self.query) if self.query else "")

    @property
    def url(self) -> str:
        return self.base_url + self.target

    def json(self) -> Any:
        """Return the body as JSON; None when it is empty. Raises ValueError when it is not JSON."""
        return json.loads(self.body, parse_constant=_no_number) if self.body.strip() else None

    def form(self) -> dict[str, str]:
        """Return the body as an urlencoded form (last value of each name wins)."""
        return dict(urllib.parse.parse_qsl(self.body.decode("utf-8", "replace"), keep_blank_values=True))


def request(
    method: str,
    target: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes | str | None = None,
    json_body: Any = None,
    base_url: str = "http://simulator.invalid",
) -> Request:
    """Make a Request from a target ("/path?query" or a full URL, whose scheme and host become `base_url`)."""
    parts = urllib.parse.urlsplit(target)
    if parts.scheme:
        base_url = f"{parts.scheme}://{parts.netloc}"
    lowered = _lower(headers)
    if json_body is not None:
        body = json.dumps(json_body)
        lowered.setdefault("content-type", "application/json")
    raw = body.encode() if isinstance(body, str) else (body or b"")
    return Request(
        method=method.upper(),
        path=parts.path or "/",
        query=tuple(urllib.parse.parse_qsl(parts.query, keep_blank_values=True)),
        headers=lowered,
        body=raw,
        base_url=base_url.rstrip("/"),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Response:
    """One HTTP response; header names as they are to be printed."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def json(self) -> Any:
        """Return the body as JSON (a leading byte order mark is tolerated); None when it is empty."""
        return json.loads(self.body.decode("utf-8-sig")) if self.body else None

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    def header(self, name: str, default: str = "") -> str:
        return _lower(self.headers).get(name.lower(), default)

    def with_headers(self, headers: Mapping[str, str]) -> Response:
        """Return the same response with headers added; those given win."""
        return dataclasses.replace(self, headers={**self.headers, **headers})


def json_response(data: Any, status: int = 200, *, headers: Mapping[str, str] | None = None) -> Response:
    body = json.dumps(data, separators=(",", ":")).encode()
    return Response(status, body, {"Content-Type": "application/json; charset=utf-8", **(headers or {})})


def text_response(text: str, status: int = 200, *, kind: str = "text/plain") -> Response:
    return Response(status, text.encode(), {"Content-Type": f"{kind}; charset=utf-8"})


def empty(status: int = 204, *, headers: Mapping[str, str] | None = None) -> Response:
    return Response(status, b"", dict(headers or {}))


Handler = Callable[[Request], Awaitable[Response]]


@dataclasses.dataclass(frozen=True, slots=True)
class Route:
    """A method and a template with its handler.

    A segment `{name}` matches one path segment (decoded after splitting, so `acme%2Fml` is one);
    `{name:path}` as the last segment matches the rest.
    """

    method: str
    template: str
    handler: Handler
    #: "github", "gitlab", "control" or "page"; faults select by it
    forge: str


class _Node:
    __slots__ = ("literal", "parameter", "rest", "routes")

    def __init__(self) -> None:
        self.literal: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.rest: dict[str, Route] = {}
        self.routes: dict[str, Route] = {}


class Router:
    """Finds the route of a request; literal segments win over parameters. Counts what was asked.

    `counts` maps "METHOD /template" to the number of requests; unknown paths share "METHOD <unmatched>".
    """

    def __init__(self) -> None:
        self._root = _Node()
        self.counts: dict[str, int] = {}

    def add(self, route: Route) -> None:
        """Add a route. Raises ValueError when the template is malformed or taken for that method."""
        if not route.template.startswith("/"):
            raise ValueError(f"template must start with a slash: {route.template!r}")
        node = self._root
        segments = route.template.split("/")[1:]
        for position, segment in enumerate(segments):
            if segment.startswith("{") and segment.endswith(":path}"):
                if position != len(segments) - 1:
                    raise ValueError(f"a path parameter must come last: {route.template!r}")
                if route.method in node.rest:
                    raise ValueError(f"route exists: {route.method} {route.template}")
                node.rest[route.method] = route
                return
            if segment.startswith("{") and segment.endswith("}"):
                node.parameter = node.parameter or _Node()
                node = node.parameter
            else:
                node = node.literal.setdefault(segment, _Node())
        if route.method in node.routes:
            raise ValueError(f"route exists: {route.method} {route.template}")
        node.routes[route.method] = route

    def match(self, request: Request) -> tuple[Route, Request] | None:
        """Return the route and the request with its template and parameters filled in, or None."""
        segments = request.path.split("/")[1:]
        route = next(self._walk(self._root, segments, 0, request.method), None)
        if route is None:
            return None
        params: dict[str, str] = {}
        for position, segment in enumerate(route.template.split("/")[1:]):
            if segment.endswith(":path}") and segment.startswith("{"):
                params[segment[1:-6]] = urllib.parse.unquote("/".join(segments[position:]))
            elif segment.startswith("{") and segment.endswith("}"):
                params[segment[1:-1]] = urllib.parse.unquote(segments[position])
        return route, dataclasses.replace(request, params=params, template=route.template)

    def count(self, method: str, template: str | None) -> None:
        key = f"{method} {template or '<unmatched>'}"
        self.counts[key] = self.counts.get(key, 0) + 1

    def _walk(self, node: _Node, segments: list[str], position: int, method: str) -> Iterator[Route]:
        if position == len(segments):
            if method in node.routes:
                yield node.routes[method]
            return
        segment = segments[position]
        if segment in node.literal:
            yield from self._walk(node.literal[segment], segments, position + 1, method)
        if node.parameter is not None and segment:
            yield from self._walk(node.parameter, segments, position + 1, method)
        if method in node.rest:
            yield node.rest[method]


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")
