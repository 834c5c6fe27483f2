"""Open alarms: what needs a person's attention, each once with its first and last time."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that needs a look and does not go away by itself."""

    subject: str
    id: str
    reason: str
    detail: str
    since: float
    last: float
    count: int = 1


class Alarms:
    """Open alarms by subject and reason."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.open: dict[tuple[str, str, str], Alarm] = {}
        #: Called with each alarm that is new; the controller writes it to the audit trail.
        self.on_new: list[Callable[[Alarm], None]] = []

    def ring(self, subject: str, id: str, reason: str, detail: str) -> None:
        """Open an alarm, or count it once more."""
        key = (subject, id, reason)
        now = self._now()
        old = self.open.get(key)
        if old is not None:
            self.open[key] = dataclasses.replace(old, detail=detail, last=now, count=old.count + 1)
            return
        alarm = Alarm(subject, id, reason, detail, now, now)
        self.open[key] = alarm
        log.warning("alarm: %s %s: %s: %s", subject, id, reason, detail, extra={"action": "alarm"})
        for listener in self.on_new:
            listener(alarm)

    def clear(self, subject: str, id: str, reason: str) -> None:
        """Close an alarm; nothing happens when there is none."""
        old = self.open.pop((subject, id, reason), None)
        if old is not None:
            log.info("alarm cleared: %s %s: %s", subject, id, reason, extra={"action": "alarm-over"})
