"""The thread that reports to the daemon while the instance lives: reports, in order, and heartbeats.

One thread, because order matters: "job started" before "job ended", and no heartbeat that still mentions a job after
the report of its end.  A report is repeated until it is answered; the daemon recognizes repetitions.
"""

from __future__ import annotations

import collections
import logging
import random
import threading
import time
import typing

from runnerd.agent import client, state

log = logging.getLogger("agent.reporting")


class Reporter:
    """Delivers reports and heartbeats."""

    def __init__(self, daemon: client.Client, shared: state.State, *, heartbeat: float, rng: random.Random) -> None:
        self._client, self._state = daemon, shared
        self._heartbeat = heartbeat
        self._backoff = client.Backoff(0.3, 10.0, rng)
        self._condition = threading.Condition()
        self._reports: collections.deque[tuple[str, typing.Callable[[], None]]] = collections.deque()
        self._poked = True
        self._stopped = False
        self._unreachable = False
        self._thread = threading.Thread(target=self._run, name="reports", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def report(
        self, subject: str, send: typing.Callable[[], None], *, change: typing.Callable[[], None] | None = None
    ) -> None:
        """Queue a report, repeated until it is answered and followed by a heartbeat.

        ``change`` alters the agent's state; no heartbeat mentions the change before the report was sent.
        """
        with self._condition:
            if change is not None:
                change()
            self._reports.append((subject, send))
            self._poked = True
            self._condition.notify_all()

    def poke(self) -> None:
        """Send a heartbeat now."""
        with self._condition:
            self._poked = True
            self._condition.notify_all()

    def flush(self, seconds: float) -> bool:
        """Wait until every report is answered; return False when the time ran out."""
        deadline = time.monotonic() + seconds
        with self._condition:
            while self._reports:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._condition.wait(left)
            return True

    def stop(self) -> None:
        """Stop reporting; a request under way has a second to finish."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()
        self._thread.join(1.0)

    def _run(self) -> None:
        beat_at = retry_at = 0.0
        while True:
            with self._condition:
                while not self._stopped:
                    now = time.monotonic()
                    due = self._poked or now >= beat_at
                    if (self._reports and now >= retry_at) or due:
                        break
                    self._condition.wait(min(beat_at, retry_at if self._reports else beat_at) - now)
                if self._stopped:
                    return
                self._poked = False
                deliver = bool(self._reports) and time.monotonic() >= retry_at
            delivered = deliver and self._deliver()
            if deliver and not delivered:
                retry_at = time.monotonic() + self._backoff.pause()
            if due or delivered:
                with self._condition:
                    if self._reports and time.monotonic() >= retry_at:
                        # Queued meanwhile: it goes first.
                        self._poked = True
                        continue
                    body = self._state.body()
                self._beat(body)
                beat_at = time.monotonic() + self._heartbeat

    def _deliver(self) -> bool:
        """Send all queued reports; return False when one could not be delivered."""
        while True:
            with self._condition:
                if not self._reports or self._stopped:
                    return True
                subject, send = self._reports[0]
            try:
                send()
            except client.Unreachable as error:
                log.warning("%s could not be reported: %s", subject, error)
                return False
            except client.Refused as error:
                # The daemon has decided; repeating the report changes nothing.
                log.error("the report of %s was refused: %s", subject, error)
            else:
                self._backoff.reset()
                self._state.hear(time.monotonic())
            with self._condition:
                self._reports.popleft()
                self._condition.notify_all()

    def _beat(self, body: dict[str, typing.Any]) -> None:
        try:
            answer = self._client.heartbeat(body)
            action = answer.get("action")
            if action not in ("continue", "stop", "end"):
                raise client.Unreachable("the answer to a heartbeat has no known action")
        except client.Unreachable as error:
            if not self._unreachable:
                log.warning("the daemon cannot be reached: %s", error)
            self._unreachable = True
            return
        except client.Refused as error:
            log.error("the heartbeat was refused: %s", error)
            # No longer allowed: irrelevant while a job runs; without one there is no reason to stay.
            if error.status == 403 and not body["worker"]:
                self._state.obey(state.Order("end", "refused", worker=False), now=time.monotonic())
            return
        if self._unreachable:
            log.info("the daemon answers again")
        self._unreachable = False
        try:
            self._heartbeat = client.clamp(answer.get("heartbeat", self._heartbeat))
        except (TypeError, ValueError):
            pass
        order = None
        if action != "continue":
            order = state.Order(action, str(answer.get("reason", "")), worker=bool(body["worker"]))
        self._state.obey(order, now=time.monotonic())
