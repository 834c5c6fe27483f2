"""The agent's state, shared by its threads under one lock."""

from __future__ import annotations

import enum
import math
import threading
import time
import typing
from dataclasses import dataclass

from runnerd.agent import shutdown_notices


class Phase(enum.Enum):
    """The phases of an instance; the values are those of the protocol."""

    #: The GPU preflight runs.
    GATE = "gate"
    #: The agent asks for a runner.
    WAITING = "waiting"
    #: The runner is being started.
    STARTING = "starting"
    #: The runner is up and has no job.
    IDLE = "idle"
    #: A job runs.
    JOB = "job"
    #: The job has ended.
    FINISHED = "finished"
    #: The instance is about to end.
    ENDING = "ending"


@dataclass(frozen=True)
class Order:
    """An order of the daemon, with the state that it was given for."""

    #: ``stop`` or ``end``.
    action: str
    reason: str
    #: ``worker`` of the heartbeat that the order answers.
    worker: bool


class State:
    """The agent's state.  Thread-safe."""

    def __init__(self, now: float) -> None:
        self._condition = threading.Condition()
        self._phase = Phase.GATE
        self._runner = ""
        self._worker = False
        self._job_started = False
        self._order: Order | None = None
        self._notice: shutdown_notices.Notice | None = None
        self._gone_at = math.inf
        self._heard = now

    def enter(self, phase: Phase) -> None:
        with self._condition:
            self._phase = phase
            self._condition.notify_all()

    def start_runner(self, name: str) -> None:
        with self._condition:
            self._runner = name
            self._phase = Phase.STARTING

    def start_job(self) -> None:
        """Record a job's start.  An order given before it is void: the daemon must decide again."""
        with self._condition:
            self._worker = self._job_started = True
            self._phase = Phase.JOB
            if self._order is not None and not self._order.worker:
                self._order = None
            self._condition.notify_all()

    def end_job(self) -> None:
        """Record that the runner's process tree has ended."""
        with self._condition:
            self._worker = False
            self._phase = Phase.FINISHED
            self._condition.notify_all()

    def body(self) -> dict[str, typing.Any]:
        """Return the body of a heartbeat."""
        with self._condition:
            body: dict[str, typing.Any] = {
                "phase": self._phase.value,
                "worker": self._worker,
                "runner": self._runner,
                "job_started": self._job_started,
            }
            if self._notice is not None:
                body["notice"] = self._notice.text
            if math.isfinite(self._gone_at):
                body["notice_left"] = max(0, int(self._gone_at - time.monotonic()))
            return body

    def obey(self, order: Order | None, *, now: float) -> None:
        """Store the daemon's answer to a heartbeat; None for ``continue``."""
        with self._condition:
            self._heard = max(self._heard, now)
            if order is not None and order.worker != self._worker:
                # Given for a state that has changed; the next heartbeat brings the answer to the current one.
                return
            self._order = order
            self._condition.notify_all()

    def hear(self, now: float) -> None:
        """Record that the daemon answered."""
        with self._condition:
            self._heard = max(self._heard, now)

    def warn(self, notice: shutdown_notices.Notice) -> None:
        """Record a notice that the machine goes away; the earliest counts."""
        with self._condition:
            if notice.at > 0:
                self._gone_at = min(self._gone_at, notice.at)
            if self._notice is None or notice.at < self._notice.at:
                self._notice = notice
            self._condition.notify_all()

    def wake(self) -> None:
        """End all waits."""
        with self._condition:
            self._condition.notify_all()

    def wait(self, seconds: float) -> None:
        """Wait until the state changes, at most for that long."""
        with self._condition:
            self._condition.wait(seconds)

    @property
    def order(self) -> Order | None:
        with self._condition:
            return self._order

    @property
    def notice(self) -> shutdown_notices.Notice | None:
        with self._condition:
            return self._notice

    @property
    def gone_at(self) -> float:
        """The time by which the machine goes, by the notices so far (monotonic seconds); infinity without one."""
        with self._condition:
            return self._gone_at

    @property
    def heard(self) -> float:
        with self._condition:
            return self._heard

    @property
    def worker(self) -> bool:
        with self._condition:
            return self._worker

    @property
    def phase(self) -> Phase:
        with self._condition:
            return self._phase
