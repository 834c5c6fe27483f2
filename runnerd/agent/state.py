"""What the agent knows of itself, shared by its threads under one lock."""

from __future__ import annotations

import enum
import math
import threading
import time
import typing
from dataclasses import dataclass

from runnerd.agent import notices


class Phase(enum.Enum):
    """Where the instance is in its life; the words of the protocol."""

    #: Its hardware is being proven.
    GATE = "gate"
    #: It asks for a runner.
    WAITING = "waiting"
    #: The runner is being started.
    STARTING = "starting"
    #: The runner is up and has no job.
    IDLE = "idle"
    #: A job runs.
    JOB = "job"
    #: The job is over.
    FINISHED = "finished"
    #: The instance is about to go.
    ENDING = "ending"


@dataclass(frozen=True)
class Order:
    """What the daemon wants, and what it was told when it said so."""

    #: ``stop`` or ``end``.
    action: str
    reason: str
    #: The order answers a heartbeat that said so.
    worker: bool


class State:
    """The agent's state.  Every method may be called by any thread."""

    def __init__(self, now: float) -> None:
        self._condition = threading.Condition()
        self._phase = Phase.GATE
        self._runner = ""
        self._worker = False
        self._job_started = False
        self._order: Order | None = None
        self._notice: notices.Notice | None = None
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
        """A job is there.  An order from when there was none is void: the daemon must decide anew."""
        with self._condition:
            self._worker = self._job_started = True
            self._phase = Phase.JOB
            if self._order is not None and not self._order.worker:
                self._order = None
            self._condition.notify_all()

    def end_job(self) -> None:
        """The runner's process tree is gone."""
        with self._condition:
            self._worker = False
            self._phase = Phase.FINISHED
            self._condition.notify_all()

    def body(self) -> dict[str, typing.Any]:
        """A heartbeat."""
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
        """Take the daemon's answer to a heartbeat; None for ``continue``."""
        with self._condition:
            self._heard = max(self._heard, now)
            if order is not None and order.worker != self._worker:
                # Said about another state of affairs; the next heartbeat brings the answer to this one.
                return
            self._order = order
            self._condition.notify_all()

    def hear(self, now: float) -> None:
        """The daemon answered something."""
        with self._condition:
            self._heard = max(self._heard, now)

    def warn(self, notice: notices.Notice) -> None:
        """The machine will be taken away; the soonest notice counts."""
        with self._condition:
            if notice.at > 0:
                self._gone_at = min(self._gone_at, notice.at)
            if self._notice is None or notice.at < self._notice.at:
                self._notice = notice
            self._condition.notify_all()

    def wake(self) -> None:
        """End the waits: something else has happened."""
        with self._condition:
            self._condition.notify_all()

    def wait(self, seconds: float) -> None:
        """Until something changes, for that long at most."""
        with self._condition:
            self._condition.wait(seconds)

    @property
    def order(self) -> Order | None:
        with self._condition:
            return self._order

    @property
    def notice(self) -> notices.Notice | None:
        with self._condition:
            return self._notice

    @property
    def gone_at(self) -> float:
        """When the machine goes at the latest, as far as any notice has told (monotonic seconds); else infinity."""
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
