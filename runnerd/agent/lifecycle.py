"""The phases of an instance, in the agent's main thread: session, GPU preflight, registration, one runner, the end.

Each phase is entered once, and every failure leads to a report and to the end of the instance.  An agent that is
restarted in the same directory continues where the last one stopped.
"""

from __future__ import annotations

import logging
import os
import pathlib
import platform
import queue
import random
import subprocess
import threading
import time
import typing

from runnerd.agent import (
    client,
    config,
    diagnostics,
    environment,
    hooks,
    preflight,
    reporting,
    runner,
    shutdown_notices,
    state,
    state_directory,
    supervisor,
    watchdog,
)

log = logging.getLogger("agent")


class Leave(Exception):
    """The instance is no longer needed, or must not continue."""


class Lifecycle:
    """The agent's work on one instance."""

    def __init__(
        self,
        settings: config.Settings,
        at: state_directory.StateDirectory,
        secrets: diagnostics.Secrets,
        *,
        sources: typing.Sequence[shutdown_notices.Source] = (),
        pace: supervisor.Pace | None = None,
        adopts: bool = False,
        rng: random.Random | None = None,
    ) -> None:
        self._settings, self._home, self._secrets = settings, at, secrets
        self._pace = pace or supervisor.Pace()
        self._adopts = adopts
        self._rng = rng or random.Random()
        self._began = time.monotonic()
        self._state = state.State(self._began)
        self._client = client.Client(settings.url, ca_file=settings.ca_file)
        self._watch = shutdown_notices.Watch(sources, self._on_notice)
        self._asked = -1.0
        self._root = ""
        self._diagnosed = False
        self._welcome: client.Welcome | None = None
        self._reporter: reporting.Reporter | None = None

    def run(self) -> int:
        """Run all phases; return 0 after an orderly end, 1 when there was never a session."""
        log.info("agent of %s, protocol %d, for %s", self._settings.instance, client.PROTOCOL, self._settings.url)
        self._watch.start()
        try:
            self._welcome = self._exchange()
        except Leave as reason:
            log.error("giving up: %s", reason)
            self._watch.stop()
            return 1
        self._reporter = reporting.Reporter(self._client, self._state, heartbeat=self._welcome.heartbeat, rng=self._rng)
        self._reporter.start()
        try:
            self._run_phases(self._welcome, self._reporter)
        except Leave as reason:
            log.info("leaving: %s", reason)
        except Exception:
            # The instance must end, and the daemon learn why, even when the agent itself is at fault.
            log.exception("the agent failed")
            self._reporter.report("a failure", lambda: self._client.failed("runner", "the agent itself failed"))
        self._end(self._reporter)
        return 0

    def _on_notice(self, notice: shutdown_notices.Notice) -> None:
        log.warning("notice: %s", notice.text)
        self._state.warn(notice)
        if self._reporter is not None:
            self._reporter.poke()

    # -- session -----------------------------------------------------------------------------------------------

    def _exchange(self) -> client.Welcome:
        kept = self._home.welcome()
        if kept is not None:
            try:
                return self._enter(kept)
            except client.Unreachable:
                log.error("the stored session cannot be read; asking for a new one")
        token = self._settings.token
        if not token:
            raise Leave(f'{self._settings.path} has no "token", and no session is stored')
        nonce = self._home.nonce()
        backoff = client.Backoff(0.5, 30.0, self._rng)
        while True:
            try:
                answer = self._client.hello(token, nonce)
                welcome = self._enter(answer)
            except client.Refused as error:
                if error.status != 409:
                    raise Leave(str(error)) from error
                # The create call is not confirmed yet, which takes about a second.
                pause = 1.0
            except client.Unreachable as error:
                log.warning("no session yet: %s", error)
                pause = backoff.pause()
            else:
                # The session is stored before the token is removed.
                self._home.keep_welcome(answer)
                config.forget_token(self._settings.path)
                log.info("this is instance %s", welcome.instance)
                return welcome
            if time.monotonic() - self._began > self._settings.patience:
                raise Leave(f"no session within {self._settings.patience:g} seconds")
            self._sleep(pause)

    def _enter(self, answer: dict[str, typing.Any]) -> client.Welcome:
        welcome = client.Welcome.read(answer)
        self._secrets.add(welcome.session)
        self._client.session = welcome.session
        self._state.hear(time.monotonic())
        return welcome

    # -- waiting -----------------------------------------------------------------------------------------------

    def _sleep(self, seconds: float) -> None:
        """Sleep.  Raises :class:`Leave` as soon as there is nothing to wait for."""
        deadline = time.monotonic() + seconds
        while True:
            self._check_wanted()
            left = deadline - time.monotonic()
            if left <= 0:
                return
            self._state.wait(min(left, 0.5))

    def _check_wanted(self) -> None:
        """Raise :class:`Leave` when the daemon, a notice or a watchdog ends an instance without a runner."""
        order, notice = self._state.order, self._state.notice
        if order is not None:
            raise Leave(f"the daemon says {order.action}: {order.reason}")
        if notice is not None:
            raise Leave(f"notice: {notice.text}")
        if self._welcome is None or self._reporter is None:
            return
        now = time.monotonic()
        facts = watchdog.Facts(self._began, self._state.heard, asked=self._asked)
        verdict = watchdog.decide(facts, self._welcome.limits, now)
        if verdict is watchdog.Verdict.ASK:
            self._asked = now
            self._reporter.poke()
        elif verdict is not watchdog.Verdict.GO_ON:
            raise Leave("the daemon cannot be reached")

    # -- the phases --------------------------------------------------------------------------------------------

    def _run_phases(self, welcome: client.Welcome, reporter: reporting.Reporter) -> None:
        record = self._home.runner()
        worker = self._resume(record, welcome) if record is not None else self._start(welcome)
        self._root = worker.record.root if worker.kind == "github" else ""
        self._state.start_runner(worker.record.name)
        outcome = supervisor.Supervisor(
            worker,
            self._state,
            reporter,
            welcome.limits,
            began=self._began,
            reserve=self._settings.notice_reserve,
            pace=self._pace,
            on_job=lambda: reporter.report("the job's start", lambda: self._client.job("started")),
        ).run()
        self._report(outcome, worker, reporter)
        self._await_end(reporter)

    def _start(self, welcome: client.Welcome) -> runner.Runner:
        try:
            models = preflight.check(
                welcome.gpus, welcome.gpu, patience=self._settings.gate_patience, sleep=self._sleep
            )
        except preflight.Failed as error:
            raise self._failure("gate", str(error)) from error
        if models:
            log.info("GPUs: %s", ", ".join(models))
        self._state.enter(state.Phase.WAITING)
        assignment = self._register()
        self._state.enter(state.Phase.STARTING)
        self._secrets.learn(assignment.environment)
        try:
            place = environment.prepare(
                self._home.path, pathlib.Path(self._settings.shared), environment.account(welcome.user)
            )
            worker = runner.Runner.start(
                assignment,
                place,
                self._home,
                instance=welcome.instance,
                base=dict(os.environ),
                adopts=self._adopts,
            )
        except (environment.Unusable, runner.NotStarted, OSError) as error:
            raise self._failure("runner", str(error)) from error
        log.info("runner %s started: process %d", assignment.name, worker.record.pid)
        return worker

    def _register(self) -> client.Assignment:
        """Ask until the daemon answers ``run``."""
        backoff = client.Backoff(0.5, 30.0, self._rng)
        while True:
            try:
                assignment = self._ask()
            except client.Refused as error:
                if error.status in (400, 403):
                    raise Leave(str(error)) from error
                # A daemon with the wrong secret for a minute must not end every waiting instance; if that lasts,
                # the watchdog ends this one.
                log.warning("%s", error)
                self._sleep(backoff.pause())
                continue
            except client.Unreachable as error:
                log.warning("%s", error)
                self._sleep(backoff.pause())
                continue
            backoff.reset()
            self._state.hear(time.monotonic())
            if assignment.action == "end":
                raise Leave(f"the daemon says end: {assignment.reason}")
            if assignment.action == "run":
                self._check_wanted()
                return assignment
            # Never at once: answers that are not held open must not cause a flood of requests.
            self._sleep(max(assignment.after, 0.05))

    def _ask(self) -> client.Assignment:
        """Send one request, held open by the daemon, from a thread of its own so that a notice is not delayed."""
        answers: queue.SimpleQueue[client.Assignment | Exception] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answers.put(self._client.register())
            except Exception as error:
                answers.put(error)
            self._state.wake()

        threading.Thread(target=ask, name="register", daemon=True).start()
        while answers.empty():
            self._check_wanted()
            self._state.wait(self._pace.tick)
        answer = answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _resume(self, record: state_directory.RunnerRecord, welcome: client.Welcome) -> runner.Runner:
        who = environment.account(welcome.user)
        base = self._home.path if who is None else pathlib.Path(self._settings.shared)
        marks = hooks.Hooks(base / "hooks", base / "marks", base / "hooks" / "gpu.txt")
        worker = runner.Runner.resume(record, self._home, marks)
        if worker is None:
            raise self._failure("runner", "the agent was restarted while it started the runner")
        log.info("resuming runner %s: process %d", record.name, worker.record.pid)
        return worker

    def _failure(self, stage: str, detail: str) -> Leave:
        detail = self._secrets.redact(detail)
        log.error("%s: %s", stage, detail)
        assert self._reporter is not None
        self._reporter.report("a failure", lambda: self._client.failed(stage, detail), change=self._state.end_job)
        return Leave(f"{stage} failed")

    # -- the end -----------------------------------------------------------------------------------------------

    def _report(self, outcome: supervisor.Outcome, worker: runner.Runner, reporter: reporting.Reporter) -> None:
        if outcome.job or outcome.stopped or outcome.gone:
            result = outcome.result or ("deregistered" if outcome.gone else "none")
            reporter.report("the job's end", lambda: self._client.job("ended", result), change=self._state.end_job)
            return
        output = worker.last_line()
        detail = f"the runner ended with status {worker.code} and without a job" + (f": {output}" if output else "")
        raise self._failure("runner", detail)

    def _diagnose(self, reporter: reporting.Reporter) -> None:
        if self._diagnosed:
            return
        self._diagnosed = True
        title = f"instance {self._settings.instance} on {platform.node()}, Python {platform.python_version()}"
        text = diagnostics.collect(title, self._home.log, self._home.runner_log, self._secrets, runner_root=self._root)
        reporter.report("diagnostics", lambda: self._client.diagnostics(text))

    def _await_end(self, reporter: reporting.Reporter) -> None:
        """Send heartbeats after the job until the daemon ends the instance, or time runs out."""
        self._diagnose(reporter)
        over = time.monotonic()
        while True:
            order, notice = self._state.order, self._state.notice
            if order is not None or notice is not None:
                return
            assert self._welcome is not None
            facts = watchdog.Facts(self._began, self._state.heard, over_at=over)
            verdict = watchdog.decide(facts, self._welcome.limits, time.monotonic(), patience=self._pace.finished)
            if verdict is not watchdog.Verdict.GO_ON:
                log.info("the daemon did not end this instance in time; ending it")
                return
            self._state.wait(0.5)

    def _end(self, reporter: reporting.Reporter) -> None:
        self._state.enter(state.Phase.ENDING)
        self._diagnose(reporter)
        reporter.report("the end", lambda: typing.cast("None", self._client.heartbeat(self._state.body())))
        if not reporter.flush(self._pace.farewell):
            log.error("the last reports could not be delivered")
        reporter.stop()
        self._watch.stop()


def power_off(command: typing.Sequence[str]) -> bool:
    """Power the machine off; return False when that failed."""
    if not command:
        return True
    log.info("powering off: %s", command[0])
    try:
        done = subprocess.run(tuple(command), stdin=subprocess.DEVNULL, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        log.error("the machine cannot be powered off: %s", error)
        return False
    return done.returncode == 0
