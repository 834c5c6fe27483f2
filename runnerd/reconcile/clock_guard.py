"""Whether the clock can be trusted with a deadline.

A wall clock that jumps must not end an instance.  Steady time never jumps, but it rests on the wall clock of the
start; so deadlines need two clocks that agree: wall and steady, or, when these have parted, wall and a forge's Date
header read after the jump.  Until then everything that is ended for its age is held, and an alarm says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from runnerd.forges.base import Forge
from runnerd.kit import clock


class Guard:
    """Watches the clocks."""

    def __init__(self, clock: clock.Clock, *, reanchor: Callable[[], None]) -> None:
        self._clock = clock
        self._reanchor = reanchor
        self._jumped_at: float | None = None
        self.problem = ""

    def check(self, forges: Iterable[Forge]) -> bool:
        """True when deadlines must be held now."""
        now = self._clock.now()
        drift = clock.drift(self._clock)
        dates = [date for forge in forges if (date := forge.server_date()) is not None]
        if abs(drift) <= clock.TOLERANCE:
            self._jumped_at = None
            wrong = [server - read for server, read in dates if abs(server - read) > 5 * clock.TOLERANCE]
            # One forge with a wrong clock is its own problem; all of them mean that ours is wrong.
            if dates and len(wrong) == len(dates):
                self.problem = f"this host's clock is {-wrong[0]:+.0f} s off by the forges' clocks"
                return True
            self.problem = ""
            return False
        if self._jumped_at is None:
            self._jumped_at = now
        for server, read in dates:
            if read >= self._jumped_at and abs(server - (read + drift)) <= clock.TOLERANCE:
                self._reanchor()
                self._jumped_at = None
                self.problem = ""
                return False
        self.problem = f"the wall clock jumped by {drift:+.0f} s and no forge confirms it"
        return True
