"""The health of one queue in scale set mode: what fails, since when, the next backoff, and the alarms for people.

A failure is logged once, retried with growing delays, and becomes an alarm only when it lasts or cannot pass by
itself.  Meanwhile the demand known last stays in force.
"""

from __future__ import annotations

import logging
import random

from runnerd import errors, model
from runnerd.forges import base
from runnerd.forges.github import backoff
from runnerd.forges.github.scalesets.session import SessionHeld, SetVanished
from runnerd.kit import clock as clocks

log = logging.getLogger(__name__)

#: Seconds for which a failing forge, or a session of another program, raises no alarm.
ALARM_AFTER_S = 300.0
#: Seconds for which a failure that may pass leaves the queue healthy.
BLIP_S = 30.0


class QueueHealth:
    """The failures and alarms of one queue's listener."""

    def __init__(self, queue: model.Queue, set_name: str, *, clock: clocks.Clock, rng: random.Random) -> None:
        self._queue = queue
        self._set_name = set_name
        self._clock = clock
        self._backoff = backoff.Backoff(backoff.LOOP, rng)
        self._held_backoff = backoff.Backoff(backoff.HELD, rng)
        self._sink: base.Sink | None = None
        self._problem = ""
        self._problem_since = 0.0
        #: True when the problem concerns registrations as well.
        self._grave = False
        self._held_since = 0.0
        self._alarmed: set[str] = set()

    def attach(self, sink: base.Sink) -> None:
        """Raise and clear alarms in this sink from now on."""
        self._sink = sink

    def report(self, *, demand_known: bool) -> base.Health:
        """Return the health: not ok when the known demand should not be acted on.

        A short failure, or a session of another program, is no reason while the demand is known.
        """
        if not self._problem:
            return base.Health()
        passing = self._held_since > 0 or self._clock.now() - self._problem_since < BLIP_S
        if passing and demand_known and not self._grave:
            return base.Health(since=self._problem_since)
        return base.Health(ok=False, problem=self._problem, since=self._problem_since)

    def succeeded(self) -> bool:
        """Reset the backoff and clear alarms after a step that worked; return True when that ended a problem."""
        self._backoff.reset()
        self._held_backoff.reset()
        self._held_since = 0.0
        recovered = bool(self._problem)
        if recovered:
            log.info("%s: works again", self._queue)
            self._problem = ""
        for reason in ("forge-failing", "session-held", "scale-set-vanished"):
            self.clear(reason)
        return recovered

    def failed(self, error: Exception) -> float:
        """Note a failure; return the seconds to wait before the next try."""
        now = self._begin(error)
        self._problem = str(error) or type(error).__name__
        self._held_since = 0.0
        self._grave = isinstance(error, errors.ForgeForbidden | errors.ForgeAuthFailed | errors.StoreError)
        wait = self._backoff.next()
        if now - self._problem_since >= ALARM_AFTER_S or self._grave:
            self.alarm("forge-failing", self._problem)
        return wait

    def session_lost(self, error: Exception) -> float:
        """Note that GitHub forgot the session; return the seconds to wait.

        It happens about every 50 minutes in some tenants (scaleset PR #123), so it is a problem only when it repeats.
        """
        log.info("%s: %s", self._queue, error)
        return self.failed(error) if self._backoff.failures else self._backoff.next()

    def session_held(self, error: SessionHeld) -> float:
        """Note that another program listens on the set; return the seconds to wait."""
        now = self._begin(error)
        self._held_since = self._held_since or now
        self._problem = str(error)
        self._grave = False
        if now - self._held_since >= ALARM_AFTER_S:
            minutes = (now - self._held_since) / 60
            self.alarm(
                "session-held",
                f'another session has held the scale set "{self._set_name}" for {minutes:.0f} min: {error}. Stop the '
                "other listener (a second runnerd, an ARC controller), or give this pool labels of its own",
            )
        return self._held_backoff.next()

    def set_vanished(self, error: SetVanished) -> float:
        """Note that the scale set was deleted; return the seconds to wait before it is created again."""
        self.alarm(
            "scale-set-vanished",
            f'GitHub no longer has the scale set "{self._set_name}" ({error}); runnerd creates it again and GitHub '
            "assigns its jobs anew",
        )
        return self._backoff.next()

    def alarm(self, reason: str, detail: str) -> None:
        """Raise an alarm of the queue."""
        assert self._sink is not None, "attach() comes first"
        self._alarmed.add(reason)
        self._sink.alarm("queue", str(self._queue), reason, detail)

    def clear(self, reason: str) -> None:
        """Clear an alarm that was raised here."""
        if reason in self._alarmed:
            assert self._sink is not None, "attach() comes first"
            self._alarmed.discard(reason)
            self._sink.clear("queue", str(self._queue), reason)

    def _begin(self, error: Exception) -> float:
        """Log a failure that is the first of its row; return the time."""
        now = self._clock.now()
        if not self._problem:
            self._problem_since = now
            log.warning("%s: %s", self._queue, error)
        return now
