"""Supervision of one runner, from its start until its process tree has ended.

Detects the job's start and end, obeys the daemon, enforces the limits and acts on a notice.  A job is ended only by an
explicit order of the daemon, by ``max_job``, or because the machine goes away.
"""

from __future__ import annotations

import logging
import math
import signal
import time
import typing
from dataclasses import dataclass

from runnerd.agent import nvidia, reporting, runner, runner_output, state, watchdog

log = logging.getLogger("agent.supervisor")


@dataclass(frozen=True)
class Pace:
    """Polling intervals and time limits, in seconds."""

    #: Between two polls of the runner.
    tick: float = 0.1
    #: From SIGTERM to SIGKILL.  The listener's own limit for its shutdown is 30.
    grace: float = 30.0
    #: From a job's reported end to SIGTERM, for a runner that does not exit.
    linger: float = 20.0
    #: The same after the hook of a job's end, where the output did not show it: the hook runs before the last uploads.
    linger_hook: float = 300.0
    #: For the rest of a process tree to end by itself after SIGTERM, and in all.
    leftovers: float = 2.0
    leftovers_most: float = 15.0
    #: Between two samples of GPU utilization; orphans are collected then too.
    sample: float = 15.0
    #: For the daemon to end a finished instance.
    finished: float = 600.0
    #: Kept back from a notice's time for the report of the job's end, when the runner must be killed.
    parting: float = 5.0
    #: For the last reports to be delivered before the instance goes.
    farewell: float = 15.0


@dataclass(frozen=True)
class Outcome:
    """The result of the supervision."""

    #: A job was seen.
    job: bool
    #: Its result; empty without one.
    result: str
    #: Why the agent stopped the runner; empty when it exited by itself.
    stopped: str
    #: The forge no longer knew the runner.
    gone: bool


class Supervisor:
    """Supervises one runner."""

    def __init__(
        self,
        worker: runner.Runner,
        shared: state.State,
        reporter: reporting.Reporter,
        limits: watchdog.Limits,
        *,
        began: float,
        reserve: float,
        pace: Pace,
        on_job: typing.Callable[[], None],
    ) -> None:
        self._runner, self._state, self._reporter, self._limits = worker, shared, reporter, limits
        self._began, self._reserve, self._pace, self._on_job = began, reserve, pace, on_job
        self._meter = nvidia.Meter(worker.marks.facts)
        self._job_at = -1.0
        self._asked = -1.0
        self._result = ""
        self._gone = False
        self._ended_at = self._hook_at = -1.0
        self._stopped = ""
        self._forced = False
        self._draining = False
        #: When the runner was asked to stop; None when it was not.
        self._stop_asked_at: float | None = None
        self._sample_at = 0.0

    def run(self) -> Outcome:
        """Wait until the runner and all that it started have ended."""
        if self._runner.record.job_at >= 0:
            self._start_job(self._runner.record.job_at)
        else:
            self._state.enter(state.Phase.IDLE)
            self._reporter.poke()
        while True:
            exited = self._runner.exited()
            self._observe(last=exited)
            if exited:
                break
            now = time.monotonic()
            self._decide(now)
            if now >= self._kill_at():
                log.warning("the runner did not exit by itself and is killed")
                break
            self._measure(now)
            self._state.wait(self._pace.tick)
        now = time.monotonic()
        self._runner.clear(
            grace=0.0 if now >= self._kill_at() else self._pace.leftovers,
            # The end must be reported while the machine still exists.
            patience=min(self._pace.leftovers_most, max(self._pace.parting / 2, (self._state.gone_at - now) / 2)),
        )
        self._observe(last=True)
        job = self._job_at >= 0
        log.info("the runner has ended with status %s", self._runner.code)
        return Outcome(job, self._job_result() if job else "", self._stopped, self._gone)

    def _kill_at(self) -> float:
        """Return when a runner that was asked to stop is killed: after its grace or shortly before the machine goes."""
        if self._stop_asked_at is None:
            return math.inf
        left = self._state.gone_at - self._stop_asked_at
        if left <= 0:
            # The machine should be gone and is not: the announced time was wrong.
            left = math.inf
        return self._stop_asked_at + min(self._pace.grace, max(left - self._pace.parting, left / 2))

    def _job_result(self) -> str:
        if self._result:
            return self._result
        if self._forced:
            return f"interrupted: {self._stopped}"
        code = self._runner.code
        return "unknown" if code is None else f"unknown: the runner ended with status {code}"

    # -- observation ------------------------------------------------------------------------------------------

    def _observe(self, *, last: bool = False) -> None:
        for event in self._runner.read_events(last=last):
            if event.kind is runner_output.Kind.READY:
                log.info("the runner is ready")
            elif event.kind is runner_output.Kind.GONE:
                self._gone = True
            elif event.kind is runner_output.Kind.STARTED:
                log.info("the runner took job %s", event.detail)
                self._start_job(time.monotonic())
            else:
                log.info("the job ended: %s", event.detail)
                # A job that was too short for its start to be seen still counts.
                self._start_job(time.monotonic())
                self._result = event.detail
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
        self._state.start_job()
        self._on_job()
        self._runner.keep_job(at)
        if self._stop_asked_at is not None and not self._forced:
            if self._runner.kind == "gitlab":
                # SIGQUIT lets it finish the job, so there is nothing to force.
                self._stop_asked_at, self._stopped = None, ""
            else:
                # It was asked to stop as the job arrived: it fails the job by itself, if it is given the time.
                self._stop_asked_at = time.monotonic()

    def _measure(self, now: float) -> None:
        if now >= self._sample_at:
            self._sample_at = now + self._pace.sample
            self._runner.collect()
            if self._job_at >= 0:
                self._meter.sample()

    # -- actions ------------------------------------------------------------------------------------------

    def _decide(self, now: float) -> None:
        verdict = watchdog.decide(
            watchdog.Facts(self._began, self._state.heard, asked=self._asked, job_at=self._job_at), self._limits, now
        )
        if verdict is watchdog.Verdict.ASK:
            self._asked = now
            self._reporter.poke()
        order, notice = self._state.order, self._state.notice
        if self._job_at < 0:
            if order is not None:
                self._stop_idle(now, f"the daemon says {order.action}: {order.reason}")
            elif notice is not None:
                self._stop_idle(now, f"notice: {notice.text}")
            elif verdict is watchdog.Verdict.END_UNREACHABLE:
                self._stop_idle(now, "the daemon cannot be reached")
            return
        if 0 <= self._ended_at <= now - self._pace.linger or 0 <= self._hook_at <= now - self._pace.linger_hook:
            self._stop(now, "it did not exit after its job")
        elif verdict is watchdog.Verdict.END_MAX_JOB:
            self._stop(now, "max_job")
        elif order is not None and order.action == "end":
            self._stop(now, f"the daemon says end: {order.reason}")
        elif notice is not None and now >= notice.act_at(self._reserve):
            self._stop(now, f"notice: {notice.text}")
        elif order is not None and self._runner.kind == "gitlab" and not self._draining:
            # It may finish its job; this only keeps it from taking another.
            self._draining = True
            self._runner.send(signal.SIGQUIT)

    def _stop_idle(self, now: float, reason: str) -> None:
        """Ask a runner without a job to exit, in the way that is safest for a job that arrives at this moment."""
        if self._stopped:
            return
        log.info("stopping the idle runner: %s", reason)
        self._stopped = reason
        self._stop_asked_at = now
        self._runner.send(signal.SIGQUIT if self._runner.kind == "gitlab" else signal.SIGTERM)

    def _stop(self, now: float, reason: str) -> None:
        """Stop the runner and its job: asked first, so that the forge learns of the failure at once."""
        if self._forced:
            return
        log.warning("stopping the runner: %s", reason)
        self._forced = True
        self._stopped = reason
        self._stop_asked_at = now
        self._runner.send(signal.SIGTERM)
