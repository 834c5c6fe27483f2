"""Rate limits: fixed windows of one minute per limit and caller, with GitLab's headers.

A refused request gets 429, the text `Retry later` and the RateLimit-* headers; one that passes gets the headers too
when the settings say so, as on GitLab.com.
"""

from __future__ import annotations

import dataclasses
import email.utils

from runnerd.simulator import http, world

WINDOW = 60.0


@dataclasses.dataclass(slots=True)
class _Window:
    began: float
    used: int = 0


class Limits:
    """Counts by (limit, caller). `spend` refuses, `headers` tells what is left."""

    def __init__(self, state: world.World) -> None:
        self._world = state
        self._windows: dict[tuple[str, str], _Window] = {}

    def _window(self, name: str, caller: str) -> _Window:
        began = self._world.now() // WINDOW * WINDOW
        found = self._windows.get((name, caller))
        if found is None or found.began != began:
            if len(self._windows) > 5000:
                self._windows = {key: window for key, window in self._windows.items() if window.began == began}
            found = self._windows[(name, caller)] = _Window(began)
        return found

    def spend(self, name: str, caller: str, limit: int) -> dict[str, str]:
        """Count one request and return its headers. Refuses with 429 when the window is used up."""
        if limit <= 0:
            return {}
        window = self._window(name, caller)
        window.used += 1
        headers = self.headers(name, window, limit)
        if window.used > limit:
            wait = max(1, round(window.began + WINDOW - self._world.now()))
            refused = http.text_response("Retry later\n", 429).with_headers({**headers, "Retry-After": str(wait)})
            raise http.Refusal(refused)
        return headers

    def headers(self, name: str, window: _Window, limit: int) -> dict[str, str]:
        reset = int(window.began + WINDOW)
        return {
            "RateLimit-Limit": str(limit),
            "RateLimit-Name": f"throttle_{name}",
            "RateLimit-Observed": str(window.used),
            "RateLimit-Remaining": str(max(0, limit - window.used)),
            "RateLimit-Reset": str(reset),
            "RateLimit-ResetTime": email.utils.formatdate(reset, usegmt=True),
        }

    def exhaust(self, caller: str, names: tuple[str, ...]) -> None:
        """Use up the current window of a caller in all these limits."""
        for name in names:
            self._window(name, caller).used = 1_000_000_000
