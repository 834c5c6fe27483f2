"""Counts failed authentications by the address that they came from.

Only failures are slowed down: a request with a good credential passes whatever else came from its address, so that
nobody behind a shared proxy or NAT can lock the agents out.  Memory is bounded; nothing is stored.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from aiohttp import web

#: Failures of one address within :data:`WINDOW` seconds that are answered in full.
MOST = 20
WINDOW = 60.0
#: Addresses remembered at once; the oldest is forgotten first.
REMEMBERED = 10_000


class Peers:
    """Who failed to prove themselves lately, and how often."""

    def __init__(self, now: Callable[[], float], *, most: int = MOST, window: float = WINDOW) -> None:
        self._now = now
        self._most = most
        self._window = window
        #: Address -> failures in its window, and the window's end.
        self._failures: dict[str, tuple[int, float]] = {}

    def wait(self, peer: str) -> float:
        """Seconds for which further failures of that address are turned away; 0 while there are few."""
        count, until = self._failures.get(peer, (0, 0.0))
        left = until - self._now()
        return left if count >= self._most and left > 0 else 0.0

    def fail(self, peer: str) -> None:
        """That address did not prove itself."""
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
    """The network that a request comes from: one IPv4 address, or a /64 of IPv6.

    What the proxy on this host appended to ``X-Forwarded-For`` counts; anybody else's word in it does not.
    """
    peer = request.remote or ""
    try:
        found = ipaddress.ip_address(peer)
        if found.is_loopback:
            told = ",".join(request.headers.getall("X-Forwarded-For", [])).rsplit(",", 1)[-1].strip()
            if told:
                found = ipaddress.ip_address(told)
    except ValueError:
        return peer
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))
    return str(found)
