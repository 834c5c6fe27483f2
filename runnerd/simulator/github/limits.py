"""The limits of the REST API: the hourly quota with its headers, the secondary limits, and conditional requests.

Numbers and rules are those of docs.github.com ("Rate limits for the REST API"); ETags differ per token, as
github/docs issue 34689 tells.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Hashable
from typing import TypeVar

from runnerd.simulator import http, world
from runnerd.simulator.github import auth, options, state

K = TypeVar("K", bound=Hashable)


@dataclasses.dataclass(slots=True)
class _Window:
    reset: float
    used: int = 0


class Limits:
    """Counts requests per account, and per account and endpoint."""

    def __init__(self, shared: world.World, settings: options.Options) -> None:
        self._world = shared
        self._options = settings
        self._primary: dict[str, _Window] = {}
        self._points: dict[tuple[str, str], _Window] = {}
        self._content: dict[str, _Window] = {}
        self.in_flight: dict[str, int] = {}

    def limit_of(self, principal: auth.Principal) -> int | None:
        if principal.kind == "installation":
            return self._options.installation_rate_limit
        if principal.kind == "job":
            return None if self._options.rate_limit is None else 1000
        return self._options.rate_limit

    def headers(self, principal: auth.Principal) -> dict[str, str]:
        """The x-ratelimit headers as they stand."""
        limit = self.limit_of(principal)
        if limit is None:
            return {}
        window = self._window(self._primary, principal.account, 3600.0)
        return {
            "X-RateLimit-Limit": str(limit),
            "X-RateLimit-Remaining": str(max(0, limit - window.used)),
            "X-RateLimit-Used": str(window.used),
            "X-RateLimit-Reset": str(int(window.reset)),
            "X-RateLimit-Resource": "core",
        }

    def check(self, request: http.Request, principal: auth.Principal) -> None:
        """Refuse a request that a limit forbids; does not count it towards the primary quota."""
        limit = self.limit_of(principal)
        if limit is not None and self._window(self._primary, principal.account, 3600.0).used >= limit:
            raise state.refuse(
                403, f"API rate limit exceeded for {principal.account}.", headers=self.headers(principal)
            )
        if (
            self._options.concurrent is not None
            and self.in_flight.get(principal.account, 0) >= self._options.concurrent
        ):
            raise self._secondary(principal, 60.0)
        cost = 1 if request.method in ("GET", "HEAD", "OPTIONS") else 5
        if self._options.points_per_minute is not None:
            window = self._window(self._points, (principal.account, request.template), 60.0)
            window.used += cost
            if window.used > self._options.points_per_minute:
                raise self._secondary(principal, window.reset - self._world.now())
        makes_content = request.method == "POST" and request.template.endswith(("/comments", "/check-runs", "/pulls"))
        if makes_content and self._options.content_per_minute is not None:
            window = self._window(self._content, principal.account, 60.0)
            window.used += 1
            if window.used > self._options.content_per_minute:
                raise self._secondary(principal, window.reset - self._world.now())

    def count(self, principal: auth.Principal) -> None:
        if self.limit_of(principal) is not None:
            self._window(self._primary, principal.account, 3600.0).used += 1

    def exhaust(self, principal: auth.Principal) -> None:
        """Use up the quota until its reset."""
        limit = self.limit_of(principal)
        if limit is not None:
            self._window(self._primary, principal.account, 3600.0).used = limit

    def overview(self, principal: auth.Principal) -> dict[str, object]:
        limit = self.limit_of(principal) or 0
        window = self._window(self._primary, principal.account, 3600.0)
        core = {
            "limit": limit,
            "used": window.used,
            "remaining": max(0, limit - window.used),
            "reset": int(window.reset),
        }
        return {"resources": {"core": core, "search": core}, "rate": core}

    def conditional(self, request: http.Request, principal: auth.Principal, response: http.Response) -> http.Response:
        """Add the ETag; answer 304 without a body when the client has this very answer."""
        if request.method != "GET" or response.status != 200:
            return response
        digest = hashlib.sha256(principal.token.encode() + b"\0" + response.body).hexdigest()
        etag = f'W/"{digest}"'
        if etag in [item.strip() for item in request.header("if-none-match").split(",")]:
            return http.empty(304, headers={"ETag": etag})
        return response.with_headers({"ETag": etag, "Cache-Control": "private, max-age=60, s-maxage=60"})

    def _secondary(self, principal: auth.Principal, wait: float) -> http.Refusal:
        headers = {**self.headers(principal), "Retry-After": str(max(1, math.ceil(wait)))}
        return state.refuse(
            429,
            "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.",
            headers=headers,
        )

    def _window(self, table: dict[K, _Window], key: K, length: float) -> _Window:
        window = table.get(key)
        if window is None or window.reset <= self._world.now():
            window = table[key] = _Window(self._world.now() + length)
        return window
