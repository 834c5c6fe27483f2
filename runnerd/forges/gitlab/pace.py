"""How often GitLab may be asked: a sliding minute, what the server told us, and a pause when it is ill.

Background work (polling) may use only a part of the minute, so that registering a runner or asking about one job never
waits behind a round of polls.  Nothing here sends or repeats a request.
"""

from __future__ import annotations

import collections
import enum
import random
from collections.abc import Mapping

from provisioners.support import numbers
from runnerd import errors
from runnerd.kit import clock as clocks

#: The length of the sliding window, seconds.
WINDOW = 60.0
#: Longest time that a server's wish to wait is believed, seconds.
LONGEST_HOLD = 3600.0
#: A foreground call that would be held for longer fails at once, so that its caller can do something else.
PATIENCE = 10.0
#: Pauses of background work after several answers in a row that say "not now", seconds.
OUTAGE_DELAYS = (2.0, 5.0, 10.0, 20.0, 40.0, 60.0)
#: How many such answers in a row make an outage; fewer may be one broken project.
OUTAGE_AFTER = 5
#: The part of the minute's background requests that may come at once.  Without this the window would fill in a burst
#: and then keep a busy project waiting as long as a quiet one.
BURST = 0.25
#: Background work rests until the reset when less than this part of the server's own limit is left.
RESERVE = 0.1


class Urgency(enum.Enum):
    """Who waits for the answer."""

    #: A poll; it may wait.
    BACKGROUND = "background"
    #: A runner, a job or a person waits.
    FOREGROUND = "foreground"


#: The part of the requests per minute that each may fill.
SHARES: Mapping[Urgency, float] = {Urgency.BACKGROUND: 0.8, Urgency.FOREGROUND: 1.0}


def backoff(delays: tuple[float, ...], failures: int, rng: random.Random) -> float:
    """The pause after so many failures in a row: the table's value, its last for ever, spread by a fifth.

    The spread only shortens, so that the table's last value is the cap.
    """
    return delays[min(max(failures, 1), len(delays)) - 1] * rng.uniform(0.8, 1.0)


class Pace:
    """Turns to send a request."""

    def __init__(self, name: str, per_minute: int, *, clock: clocks.Clock, rng: random.Random) -> None:
        self._name = name
        self._clock = clock
        self._rng = rng
        self._limits = {urgency: max(1, int(per_minute * share)) for urgency, share in SHARES.items()}
        self._sent: collections.deque[float] = collections.deque()
        self._rate = self._limits[Urgency.BACKGROUND] / WINDOW
        self._burst = max(1.0, self._limits[Urgency.BACKGROUND] * BURST)
        self._saved = self._burst
        self._saved_at = clock.now()
        self._held = 0.0
        self._held_background = 0.0
        self._ill = 0
        #: The server's own count of what is left, None while it did not say.
        self.remaining: int | None = None

    async def turn(self, urgency: Urgency) -> None:
        """Wait until one more request may be sent.

        Raises :class:`errors.ForgeThrottled` when the server asked for a pause that a waiting caller should not sit
        out.
        """
        while True:
            now = self._clock.now()
            if urgency is Urgency.FOREGROUND and self._held - now > PATIENCE:
                raise errors.ForgeThrottled(
                    f"{self._name}: GitLab asked for a pause of {self._held - now:.0f} s; nothing was sent",
                    retry_after=self._held - now,
                )
            until = self._held if urgency is Urgency.FOREGROUND else max(self._held, self._held_background)
            if until > now:
                await self._clock.sleep(until - now)
                continue
            while self._sent and self._sent[0] <= now - WINDOW:
                self._sent.popleft()
            limit = self._limits[urgency]
            if urgency is Urgency.BACKGROUND:
                self._saved = min(self._burst, self._saved + (now - self._saved_at) * self._rate)
                self._saved_at = now
                if self._saved < 1.0:
                    await self._clock.sleep(max(0.001, (1.0 - self._saved) / self._rate))
                    continue
            if len(self._sent) < limit:
                self._sent.append(now)
                if urgency is Urgency.BACKGROUND:
                    self._saved -= 1.0
                return
            # At least a millisecond: a rounding error must not turn the wait into a spin.
            await self._clock.sleep(max(0.001, self._sent[len(self._sent) - limit] + WINDOW - now))

    def refund(self) -> None:
        """The latest background turn was not used."""
        if self._sent:
            self._sent.pop()
            self._saved += 1.0

    def hold(self, seconds: float) -> None:
        """The server asked everybody to wait."""
        self._held = max(self._held, self._clock.now() + min(seconds, LONGEST_HOLD))

    def well(self, headers: Mapping[str, str], date: float | None) -> None:
        """An answer came that says nothing against asking again."""
        self._ill = 0
        limit, left = numbers.real(headers.get("ratelimit-limit")), numbers.real(headers.get("ratelimit-remaining"))
        if left is None:
            return
        self.remaining = int(left)
        reset = numbers.real(headers.get("ratelimit-reset"))
        if limit and left < limit * RESERVE and reset is not None:
            seconds = reset - (date if date is not None else self._clock.wall())
            if 0 < seconds <= LONGEST_HOLD:
                self._held_background = max(self._held_background, self._clock.now() + seconds)

    def ill(self) -> None:
        """No answer, or one that says "not now"; after several in a row polls pause."""
        self._ill += 1
        if self._ill >= OUTAGE_AFTER:
            delay = backoff(OUTAGE_DELAYS, self._ill - OUTAGE_AFTER + 1, self._rng)
            self._held_background = max(self._held_background, self._clock.now() + delay)


def wanted_pause(headers: Mapping[str, str], date: float | None, now: float) -> float:
    """Seconds that a 429 asks for: ``RateLimit-Reset`` by the server's own clock first, then ``Retry-After``.

    Source: gitlab-runner's own client prefers the reset time; a minute where the answer tells nothing.
    """
    reset = numbers.real(headers.get("ratelimit-reset"))
    if reset is not None:
        seconds = reset - (date if date is not None else now)
        if 0 < seconds <= LONGEST_HOLD:
            return seconds
    after = numbers.real(headers.get("retry-after"))
    return min(max(after, 1.0), LONGEST_HOLD) if after is not None else 60.0
