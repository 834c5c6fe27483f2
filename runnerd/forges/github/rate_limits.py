"""GitHub's REST rate limits, obeyed before they are hit.

Sources: docs.github.com "Rate limits for the REST API" and "Best practices for using the REST API".  Primary: a count
per hour, reported in headers.  Secondary: 900 points per minute and endpoint (5 for a request that writes), 100 at
once; reported only by refusals.  A 403 without any sign of a limit is a missing permission and not retried.
"""

from __future__ import annotations

import collections

from provisioners.support import numbers
from runnerd.forges.github import failures
from runnerd.forges.github.wire import Wire
from runnerd.kit import http

#: Points per minute and endpoint.
POINTS_PER_MINUTE = 900
#: Backoff after a secondary refusal that names no time, and the longest that it grows to; seconds.
SECONDARY_S = 60.0
SECONDARY_LONGEST_S = 960.0
#: The part of the hourly quota that polling leaves for registrations and removals.
RESERVE = 0.05
#: Requests per hour assumed until the server reports its limit; the smallest quota of an App or a user.
ASSUMED_QUOTA = 5000
#: Seconds in which points and the quota are counted.
MINUTE_S = 60.0
HOUR_S = 3600.0


class Limits:
    """The requests that one credential may still send."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._clock = wire.clock
        self.limit = ASSUMED_QUOTA
        self._remaining: int | None = None
        self._reset = 0.0
        self._backoff_until = 0.0
        self._refusals = 0
        self._spent: dict[str, collections.deque[tuple[float, int]]] = {}
        self._sums: dict[str, int] = {}

    @property
    def remaining(self) -> int | None:
        """Requests left until the reset; None when not reported, or when that hour is over."""
        return self._remaining if self._clock.now() < self._reset else None

    def delay(self, endpoint: str, method: str, *, spare: bool = False) -> float:
        """Return the seconds to wait before a request; ``spare`` ones also leave the reserve alone."""
        now = self._clock.now()
        wait = max(0.0, self._backoff_until - now)
        remaining = self.remaining
        if remaining is not None and remaining <= (self.limit * RESERVE if spare else 0):
            wait = max(wait, self._reset - now)
        sent = self._spent.get(endpoint)
        if sent:
            self._forget(endpoint, sent, now)
            over = self._sums[endpoint] + _points(method) - POINTS_PER_MINUTE
            for at, points in sent:
                if over <= 0:
                    break
                over -= points
                wait = max(wait, at + MINUTE_S - now)
        return wait

    def spend(self, endpoint: str, method: str) -> None:
        """Count a request that is about to be sent."""
        sent = self._spent.setdefault(endpoint, collections.deque())
        sent.append((self._clock.now(), _points(method)))
        self._sums[endpoint] = self._sums.get(endpoint, 0) + _points(method)
        if self._remaining:
            self._remaining -= 1

    def observe(self, response: http.Response) -> None:
        """Learn the quota from the headers of any answer."""
        headers = response.headers
        if headers.get("x-ratelimit-resource", "core") != "core":
            return
        limit = numbers.whole(headers.get("x-ratelimit-limit"))
        remaining = numbers.whole(headers.get("x-ratelimit-remaining"))
        reset = numbers.real(headers.get("x-ratelimit-reset"))
        if limit is None or remaining is None or reset is None:
            return
        if limit > 0:
            self.limit = limit
        self._remaining = remaining
        # The reset is in the server's time; ours may differ by hours.
        self._reset = self._clock.now() + max(0.0, reset - self._wire.server_now())
        if response.status < 400:
            self._refusals = 0

    def refused(self, response: http.Response) -> float | None:
        """Return the seconds to wait after a 403 or 429; None when it is a missing permission."""
        if response.status not in (403, 429):
            return None
        after = response.headers.get("retry-after")
        if after is not None:
            wait = failures.seconds(after, SECONDARY_S)
        elif response.headers.get("x-ratelimit-remaining") == "0":
            wait = max(1.0, self._reset - self._clock.now())
        elif response.status == 429 or failures.says(response, "rate limit", "abuse detection"):
            wait = min(SECONDARY_LONGEST_S, SECONDARY_S * 2.0**self._refusals)
            self._refusals += 1
        else:
            return None
        self._backoff_until = max(self._backoff_until, self._clock.now() + wait)
        return wait

    def _forget(self, endpoint: str, sent: collections.deque[tuple[float, int]], now: float) -> None:
        while sent and sent[0][0] <= now - MINUTE_S:
            self._sums[endpoint] -= sent.popleft()[1]


def _points(method: str) -> int:
    return 1 if method in ("GET", "HEAD", "OPTIONS") else 5


class Allowance:
    """A share of the hourly quota, for work that may wait."""

    def __init__(self, limits: Limits, wire: Wire, share: float) -> None:
        self._limits = limits
        self._clock = wire.clock
        self._share = share
        self._spent: collections.deque[float] = collections.deque()

    @property
    def left(self) -> int:
        """The number of requests that still fit into the share now."""
        now = self._clock.now()
        while self._spent and self._spent[0] <= now - HOUR_S:
            self._spent.popleft()
        return max(0, int(self._limits.limit * self._share) - len(self._spent))

    def spend(self) -> None:
        """Count one request."""
        self._spent.append(self._clock.now())
