"""One runner's shift: from its start until its process tree has ended.

Sees the job come and go, obeys the daemon, keeps the time, and acts on a notice.  What it never does is end a job for
any reason other than the daemon's express word, ``max_job``, or a machine that goes away.
"""

from __future__ import annotations

import logging
import math
import signal
import time
import typing
from dataclasses import dataclass

from runnerd.agent import lines, nvidia, runner, speaker, state, watchdog

log = logging.getLogger("agent.shift")


@dataclass(frozen=True)
class Pace:
    """How fast things are looked at and how long they are waited for, in seconds."""

    #: Between two looks at the runner.
    tick: float = 0.1
    #: From SIGTERM to SIGKILL.  The listener's own limit for its shutdown is 30.
    grace: float = 30.0
    #: From a job's reported end to SIGTERM, for a runner that does not leave.
    linger: float = 20.0
    #: The same after the hook of a job's end, where the output did not tell it: the hook comes before the last uploads.
    linger_hook: float = 300.0
    #: For what is left of a tree to end by itself after SIGTERM, and altogether.
    leftovers: float = 2.0
    leftovers_most: float = 15.0
    #: Between two looks at how busy the GPUs are, and at orphans.
    sample: float = 15.0
    #: That a finished instance waits for the daemon's word.
    finished: float = 600.0
    #: That is kept of a notice's time for the report of the job's end, when the runner must be killed.
    parting: float = 5.0
    #: For the last reports to be delivered before the instance goes.
    farewell: float = 15.0


@dataclass(frozen=True)
class Outcome:
    """How the shift ended."""

    #: A job was seen.
    job: bool
    #: Its result; empty without one.
    result: str
    #: Why the agent stopped the runner; empty when it left by itself.
    stopped: str
    #: The forge did not know the runner any more.
    gone: bool


class Shift:
    """Watches one runner."""

    def __init__(
        self,
        worker: runner.Runner,
        own: state.State,
        voice: speaker.Speaker,
        limits: watchdog.Limits,
        *,
        began: float,
        reserve: float,
        pace: Pace,
        on_job: typing.Callable[[], None],
    ) -> None:
        self._runner, self._own, self._voice, self._limits = worker, own, voice, limits
        self._began, self._reserve, self._pace, self._on_job = began, reserve, pace, on_job
        self._meter = nvidia.Meter(worker.marks.facts)
        self._job_at = -1.0
        self._asked = -1.0
        self._result = ""
        self._gone = False
        self._ended_at = self._hook_at = -1.0
        self._stopped = ""
        self._forced = False
        self._left_alone = False
        #: When the runner was told to end; None when it was not.
        self._told_at: float | None = None
        self._sample_at = 0.0

    def work(self) -> Outcome:
        """Stay until the runner and all that it started have ended."""
        if self._runner.record.job_at >= 0:
            self._start_job(self._runner.record.job_at)
        else:
            self._own.enter(state.Phase.IDLE)
            self._voice.poke()
        while True:
            exited = self._runner.exited()
            self._see(last=exited)
            if exited:
                break
            now = time.monotonic()
            self._judge(now)
            if now >= self._kill_at():
                log.warning("the runner does not end by itself; it is killed")
                break
            self._measure(now)
            self._own.wait(self._pace.tick)
        now = time.monotonic()
        self._runner.clear(
            grace=0.0 if now >= self._kill_at() else self._pace.leftovers,
            # The end must be reported while there is a machine to do it.
            patience=min(self._pace.leftovers_most, max(self._pace.parting / 2, (self._own.gone_at - now) / 2)),
        )
        self._see(last=True)
        job = self._job_at >= 0
        log.info("the runner has ended with status %s", self._runner.code)
        return Outcome(job, self._verdict() if job else "", self._stopped, self._gone)

    def _kill_at(self) -> float:
        """When the runner that was told to end is killed: after its grace, or shortly before the machine goes."""
        if self._told_at is None:
            return math.inf
        left = self._own.gone_at - self._told_at
        if left <= 0:
            # It should be gone and is not: what was told of the time is worth nothing.
            left = math.inf
        return self._told_at + min(self._pace.grace, max(left - self._pace.parting, left / 2))

    def _verdict(self) -> str:
        if self._result:
            return self._result
        if self._forced:
            return f"interrupted: {self._stopped}"
        code = self._runner.code
        return "unknown" if code is None else f"unknown: the runner ended with status {code}"

    # -- what is seen ------------------------------------------------------------------------------------------

    def _see(self, *, last: bool = False) -> None:
        for seen in self._runner.look(last=last):
            if seen.sight is lines.Sight.READY:
                log.info("the runner is ready")
            elif seen.sight is lines.Sight.GONE:
                self._gone = True
            elif seen.sight is lines.Sight.STARTED:
                log.info("the runner took job %s", seen.detail)
                self._start_job(time.monotonic())
            else:
                log.info("the job ended: %s", seen.detail)
                # A job that was too quick to be seen coming was there all the same.
                self._start_job(time.monotonic())
                self._result = seen.detail
                self._ended_at = time.monotonic()
        if self._runner.kind == "github":
            if self._runner.marks.started:
                self._start_job(time.monotonic())
            if self._hook_at < 0 and self._runner.marks.completed:
                self._hook_at = time.monotonic()

    def _start_job(self, at: float) -> None:
        if self._job_at >= 0:
            return
        self._job_at = at
        self._own.start_job()
        self._on_job()
        self._runner.keep_job(at)
        if self._told_at is not None and not self._forced:
            if self._runner.kind == "gitlab":
                # SIGQUIT lets it finish the job, so there is nothing to force.
                self._told_at, self._stopped = None, ""
            else:
                # It was told to end as the job came: it fails the job by itself, if it is given the time.
                self._told_at = time.monotonic()

    def _measure(self, now: float) -> None:
        if now >= self._sample_at:
            self._sample_at = now + self._pace.sample
            self._runner.collect()
            if self._job_at >= 0:
                self._meter.sample()

    # -- what is done ------------------------------------------------------------------------------------------

    def _judge(self, now: float) -> None:
        verdict = watchdog.decide(
            watchdog.Facts(self._began, self._own.heard, asked=self._asked, job_at=self._job_at), self._limits, now
        )
        if verdict is watchdog.Verdict.ASK:
            self._asked = now
            self._voice.poke()
        order, notice = self._own.order, self._own.notice
        if self._job_at < 0:
            if order is not None:
                self._stop_idle(now, f"the daemon says {order.action}: {order.reason}")
            elif notice is not None:
                self._stop_idle(now, f"notice: {notice.text}")
            elif verdict is watchdog.Verdict.END_UNREACHABLE:
                self._stop_idle(now, "the daemon cannot be reached")
            return
        if 0 <= self._ended_at <= now - self._pace.linger or 0 <= self._hook_at <= now - self._pace.linger_hook:
            self._stop(now, "it does not leave after its job")
        elif verdict is watchdog.Verdict.END_MAX_JOB:
            self._stop(now, "max_job")
        elif order is not None and order.action == "end":
            self._stop(now, f"the daemon says end: {order.reason}")
        elif notice is not None and now >= notice.act_at(self._reserve):
            self._stop(now, f"notice: {notice.text}")
        elif order is not None and self._runner.kind == "gitlab" and not self._left_alone:
            # It has its job and may finish it; this only says that there is no other.
            self._left_alone = True
            self._runner.send(signal.SIGQUIT)

    def _stop_idle(self, now: float, reason: str) -> None:
        """No job yet: ask the runner to go, in the way that costs a job that comes this moment the least."""
        if self._stopped:
            return
        log.info("stopping the idle runner: %s", reason)
        self._stopped = reason
        self._told_at = now
        self._runner.send(signal.SIGQUIT if self._runner.kind == "gitlab" else signal.SIGTERM)

    def _stop(self, now: float, reason: str) -> None:
        """End the runner with its job: asked first, so that the forge hears of a failure at once."""
        if self._forced:
            return
        log.warning("stopping the runner: %s", reason)
        self._forced = True
        self._stopped = reason
        self._told_at = now
        self._runner.send(signal.SIGTERM)
