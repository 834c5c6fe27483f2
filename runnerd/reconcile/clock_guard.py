"""Trust in the clock before a deadline ends something.

A wall clock that jumps must not end an instance.  Steady time never jumps, but it rests on the wall clock of the
start; so deadlines need two clocks that agree: wall and steady, or, when these have parted, wall and a forge's Date
header read after the jump.  Until then everything that is ended for its age is held, and an alarm says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from runnerd import model
from runnerd.forges.base import Forge
from runnerd.kit import clock, display
from runnerd.runtime import shared


class Guard:
    """Compares the clocks."""

    def __init__(self, clock: clock.Clock, *, reanchor: Callable[[], None]) -> None:
        self._clock = clock
        self._reanchor = reanchor
        self._jumped_at: float | None = None
        self.problem = ""

    def check(self, forges: Iterable[Forge]) -> bool:
        """Return True when deadlines must be held now."""
        now = self._clock.now()
        drift = clock.drift(self._clock)
        dates = [date for forge in forges if (date := forge.server_date()) is not None]
        if abs(drift) <= clock.TOLERANCE_S:
            self._jumped_at = None
            wrong = [server - read for server, read in dates if abs(server - read) > 5 * clock.TOLERANCE_S]
            # One forge with a wrong clock is its own problem; all of them mean that ours is wrong.
            if dates and len(wrong) == len(dates):
                side = "behind" if wrong[0] > 0 else "ahead of"
                self.problem = f"this host's clock is {display.span(abs(wrong[0]))} {side} the forges' clocks"
                return True
            self.problem = ""
            return False
        if self._jumped_at is None:
            self._jumped_at = now
        for server, read in dates:
            if read >= self._jumped_at and abs(server - (read + drift)) <= clock.TOLERANCE_S:
                self._reanchor()
                self._jumped_at = None
                self.problem = ""
                return False
        self.problem = f"the wall clock jumped by {drift:+.0f} s and no forge confirms it"
        return True


class Deadlines:
    """Holds all that ends an instance for its age while the clocks disagree."""

    def __init__(
        self, runtime: shared.Runtime, *, reanchor: Callable[[], None], on_shift: Callable[[float], None]
    ) -> None:
        self._runtime = runtime
        self._reanchor = reanchor
        #: Called with the seconds by which steady time has moved.
        self._on_shift = on_shift
        self._guard = Guard(runtime.clock, reanchor=self._take_over_wall_clock)

    @property
    def problem(self) -> str:
        """The reason why deadlines are held; empty while they are not."""
        return self._guard.problem

    def check(self) -> None:
        """Hold deadlines while the clocks disagree, with an alarm."""
        hold = self._guard.check(self._runtime.forges.values())
        if hold:
            self._runtime.alarms.ring("daemon", "clock", "clock", self._guard.problem)
        else:
            self._runtime.alarms.clear("daemon", "clock", "clock")
        self._runtime.hold = hold

    def _take_over_wall_clock(self) -> None:
        """Move steady time to the wall clock, and with it every time that ages are counted from.

        What was stamped by a wrong clock keeps its age.  After a suspension the ages are too young instead, which ends
        nothing early; the provider's own deadline does not wait.
        """
        before = self._runtime.clock.now()
        self._reanchor()
        drift = self._runtime.clock.now() - before
        self._on_shift(drift)
        self._runtime.observations.shift(drift)
        # At once, because this very pass plans by these times.
        self._runtime.rows.shift(drift)
        event = model.Event(self._runtime.clock.now(), "daemon", "clock", "shifted", "", f"by {drift:+.0f} s")
        self._runtime.background.spawn("clock", self._runtime.rows.keep(event))
