"""Failed authentications, counted by the address that they came from.

Only failures are limited: a request with a valid credential always passes, so that no client behind a shared proxy or
NAT can lock the agents out.  Memory is bounded; nothing is stored.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from aiohttp import web

#: Failures of one address within :data:`WINDOW_S` seconds that are answered in full.
MOST = 20
WINDOW_S = 60.0
#: Addresses remembered at once; the oldest is forgotten first.
REMEMBERED = 10_000


class Peers:
    """Addresses with recent failures, and how many."""

    def __init__(self, now: Callable[[], float], *, most: int = MOST, window: float = WINDOW_S) -> None:
        self._now = now
        self._most = most
        self._window = window
        #: Address -> failures in its window, and the window's end.
        self._failures: dict[str, tuple[int, float]] = {}

    def wait(self, peer: str) -> float:
        """Return the seconds for which further failures of an address are rejected; 0 while there are few."""
        count, until = self._failures.get(peer, (0, 0.0))
        left = until - self._now()
        return left if count >= self._most and left > 0 else 0.0

    def fail(self, peer: str) -> None:
        """Count a failed authentication."""
        now = self._now()
        count, until = self._failures.pop(peer, (0, 0.0))
        if until <= now:
            count, until = 0, now + self._window
        # Popped and put back: the dictionary's order is the order of the last failure.
        self._failures[peer] = (count + 1, until)
        while len(self._failures) > REMEMBERED:
            self._failures.pop(next(iter(self._failures)))

    def __len__(self) -> int:
        return len(self._failures)


def address(request: web.BaseRequest) -> str:
    """Return the network that a request comes from: one IPv4 address, or a /64 of IPv6.

    The last entry of ``X-Forwarded-For`` counts only if the proxy on this host appended it.
    """
    peer = request.remote or ""
    try:
        found = ipaddress.ip_address(peer)
        if found.is_loopback:
            forwarded = ",".join(request.headers.getall("X-Forwarded-For", [])).rsplit(",", 1)[-1].strip()
            if forwarded:
                found = ipaddress.ip_address(forwarded)
    except ValueError:
        return peer
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))
    return str(found)
