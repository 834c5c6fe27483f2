"""The pace of requests to GitLab: a sliding minute, the limits that it reports, and backoff during an outage.

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

#: Length of the sliding window in seconds.
WINDOW_S = 60.0
#: Longest backoff in seconds that is accepted from the server.
LONGEST_BACKOFF_S = 3600.0
#: A foreground request that would wait for longer fails at once, so that its caller can do other work; seconds.
PATIENCE_S = 10.0
#: Backoff of background work in an outage, by failures in a row; seconds.
OUTAGE_DELAYS_S = (2.0, 5.0, 10.0, 20.0, 40.0, 60.0)
#: Failures in a row that make an outage; fewer may be one broken project.
OUTAGE_AFTER = 5
#: The part of the minute's background requests that may come at once.  Without this the window would fill in a burst
#: and then keep a busy project waiting as long as a quiet one.
BURST = 0.25
#: Background work waits for the reset when less than this part of the server's own limit is left.
RESERVE = 0.1


class Urgency(enum.Enum):
    """The urgency of a request."""

    #: A poll; it may wait.
    BACKGROUND = "background"
    #: A runner, a job or a person waits.
    FOREGROUND = "foreground"


#: The part of the requests per minute that each may fill.
SHARES: Mapping[Urgency, float] = {Urgency.BACKGROUND: 0.8, Urgency.FOREGROUND: 1.0}


def backoff(delays: tuple[float, ...], failures: int, rng: random.Random) -> float:
    """Return the seconds to wait after so many failures in a row: the table's value, its last for ever.

    They are spread by a fifth, which only shortens, so that the table's last value is the cap.
    """
    return delays[min(max(failures, 1), len(delays)) - 1] * rng.uniform(0.8, 1.0)


class Pace:
    """Gives callers their turn to send a request."""

    def __init__(self, name: str, per_minute: int, *, clock: clocks.Clock, rng: random.Random) -> None:
        self._name = name
        self._clock = clock
        self._rng = rng
        self._limits = {urgency: max(1, int(per_minute * share)) for urgency, share in SHARES.items()}
        self._sent: collections.deque[float] = collections.deque()
        self._rate = self._limits[Urgency.BACKGROUND] / WINDOW_S
        self._burst = max(1.0, self._limits[Urgency.BACKGROUND] * BURST)
        self._burst_left = self._burst
        self._burst_left_at = clock.now()
        self._not_before = 0.0
        self._background_not_before = 0.0
        self._failures = 0
        #: Requests left by the server's own count; None while not reported.
        self.remaining: int | None = None

    async def turn(self, urgency: Urgency) -> None:
        """Wait until one more request may be sent.

        Raises :class:`errors.ForgeThrottled` when the server asked for a backoff that is too long for a foreground
        request.
        """
        while True:
            now = self._clock.now()
            if urgency is Urgency.FOREGROUND and self._not_before - now > PATIENCE_S:
                raise errors.ForgeThrottled(
                    f"{self._name}: rate-limited by GitLab; retry in {self._not_before - now:.0f} s",
                    retry_after=self._not_before - now,
                )
            until = (
                self._not_before
                if urgency is Urgency.FOREGROUND
                else max(self._not_before, self._background_not_before)
            )
            if until > now:
                await self._clock.sleep(until - now)
                continue
            while self._sent and self._sent[0] <= now - WINDOW_S:
                self._sent.popleft()
            limit = self._limits[urgency]
            if urgency is Urgency.BACKGROUND:
                self._burst_left = min(self._burst, self._burst_left + (now - self._burst_left_at) * self._rate)
                self._burst_left_at = now
                if self._burst_left < 1.0:
                    await self._clock.sleep(max(0.001, (1.0 - self._burst_left) / self._rate))
                    continue
            if len(self._sent) < limit:
                self._sent.append(now)
                if urgency is Urgency.BACKGROUND:
                    self._burst_left -= 1.0
                return
            # At least a millisecond: a rounding error must not turn the wait into a busy loop.
            await self._clock.sleep(max(0.001, self._sent[len(self._sent) - limit] + WINDOW_S - now))

    def refund(self) -> None:
        """Take back the latest background turn, which was not used."""
        if self._sent:
            self._sent.pop()
            self._burst_left += 1.0

    def hold(self, seconds: float) -> None:
        """Let all requests wait, as the server asked."""
        self._not_before = max(self._not_before, self._clock.now() + min(seconds, LONGEST_BACKOFF_S))

    def answered(self, headers: Mapping[str, str], date: float | None) -> None:
        """Learn the server's limit from an answer that allows further requests."""
        self._failures = 0
        limit, left = numbers.real(headers.get("ratelimit-limit")), numbers.real(headers.get("ratelimit-remaining"))
        if left is None:
            return
        self.remaining = int(left)
        reset = numbers.real(headers.get("ratelimit-reset"))
        if limit and left < limit * RESERVE and reset is not None:
            seconds = reset - (date if date is not None else self._clock.wall())
            if 0 < seconds <= LONGEST_BACKOFF_S:
                self._background_not_before = max(self._background_not_before, self._clock.now() + seconds)

    def failed(self) -> None:
        """Count a request without a usable answer; after several in a row background work backs off."""
        self._failures += 1
        if self._failures >= OUTAGE_AFTER:
            delay = backoff(OUTAGE_DELAYS_S, self._failures - OUTAGE_AFTER + 1, self._rng)
            self._background_not_before = max(self._background_not_before, self._clock.now() + delay)


def requested_backoff(headers: Mapping[str, str], date: float | None, now: float) -> float:
    """Return the seconds to wait after a 429: ``RateLimit-Reset`` by the server's own clock, else ``Retry-After``.

    gitlab-runner's own client prefers the reset time, too.  A minute where the answer holds neither.
    """
    reset = numbers.real(headers.get("ratelimit-reset"))
    if reset is not None:
        seconds = reset - (date if date is not None else now)
        if 0 < seconds <= LONGEST_BACKOFF_S:
            return seconds
    after = numbers.real(headers.get("retry-after"))
    return min(max(after, 1.0), LONGEST_BACKOFF_S) if after is not None else 60.0
