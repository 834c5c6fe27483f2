"""The life of an instance, in the agent's main thread: session, gate, registration, one runner, the end.

One pass, no way back: each phase is entered once, and whatever goes wrong leads to a report and to the end of the
instance.  An agent that is started again in the same directory goes on where the last one was.
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
    gate,
    home,
    hooks,
    notices,
    runner,
    shift,
    speaker,
    state,
    watchdog,
)

log = logging.getLogger("agent")


class Leave(Exception):
    """The instance is not wanted, or may not go on."""


class Life:
    """One instance's life."""

    def __init__(
        self,
        settings: config.Settings,
        at: home.Home,
        secrets: diagnostics.Secrets,
        *,
        sources: typing.Sequence[notices.Source] = (),
        pace: shift.Pace | None = None,
        adopts: bool = False,
        rng: random.Random | None = None,
    ) -> None:
        self._settings, self._home, self._secrets = settings, at, secrets
        self._pace = pace or shift.Pace()
        self._adopts = adopts
        self._rng = rng or random.Random()
        self._began = time.monotonic()
        self._own = state.State(self._began)
        self._line = client.Client(settings.url, ca_file=settings.ca_file)
        self._watch = notices.Watch(sources, self._warned)
        self._asked = -1.0
        self._root = ""
        self._diagnosed = False
        self._welcome: client.Welcome | None = None
        self._voice: speaker.Speaker | None = None

    def run(self) -> int:
        """Live it; 0 when it ended in good order, 1 when it never got a session."""
        log.info("agent of %s, protocol %d, for %s", self._settings.instance, client.PROTOCOL, self._settings.url)
        self._watch.start()
        try:
            self._welcome = self._exchange()
        except Leave as reason:
            log.error("giving up: %s", reason)
            self._watch.stop()
            return 1
        self._voice = speaker.Speaker(self._line, self._own, heartbeat=self._welcome.heartbeat, rng=self._rng)
        self._voice.start()
        try:
            self._live(self._welcome, self._voice)
        except Leave as reason:
            log.info("leaving: %s", reason)
        except Exception:
            # An instance must end, and the daemon hear why, also when the agent itself is at fault.
            log.exception("the agent failed")
            self._voice.report("a failure", lambda: self._line.failed("runner", "the agent itself failed"))
        self._depart(self._voice)
        return 0

    def _warned(self, notice: notices.Notice) -> None:
        log.warning("notice: %s", notice.text)
        self._own.warn(notice)
        if self._voice is not None:
            self._voice.poke()

    # -- session -----------------------------------------------------------------------------------------------

    def _exchange(self) -> client.Welcome:
        kept = self._home.welcome()
        if kept is not None:
            try:
                return self._enter(kept)
            except client.Unreachable:
                log.error("the kept session cannot be read; asking again")
        token = self._settings.token
        if not token:
            raise Leave(f'{self._settings.path} holds no "token", and no session is kept')
        nonce = self._home.nonce()
        backoff = client.Backoff(0.5, 30.0, self._rng)
        while True:
            try:
                answer = self._line.hello(token, nonce)
                welcome = self._enter(answer)
            except client.Refused as error:
                if error.status != 409:
                    raise Leave(str(error)) from error
                # The create call is not confirmed yet; that takes about a second.
                pause = 1.0
            except client.Unreachable as error:
                log.warning("no session yet: %s", error)
                pause = backoff.pause()
            else:
                # First the session is safe, then the token goes.
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
        self._line.session = welcome.session
        self._own.hear(time.monotonic())
        return welcome

    # -- waiting -----------------------------------------------------------------------------------------------

    def _sleep(self, seconds: float) -> None:
        """Raises :class:`Leave` as soon as there is nothing to wait for."""
        deadline = time.monotonic() + seconds
        while True:
            self._look()
            left = deadline - time.monotonic()
            if left <= 0:
                return
            self._own.wait(min(left, 0.5))

    def _look(self) -> None:
        """Without a runner: raises :class:`Leave` when the daemon, a notice or a watchdog says so."""
        order, notice = self._own.order, self._own.notice
        if order is not None:
            raise Leave(f"the daemon says {order.action}: {order.reason}")
        if notice is not None:
            raise Leave(f"notice: {notice.text}")
        if self._welcome is None or self._voice is None:
            return
        now = time.monotonic()
        facts = watchdog.Facts(self._began, self._own.heard, asked=self._asked)
        verdict = watchdog.decide(facts, self._welcome.limits, now)
        if verdict is watchdog.Verdict.ASK:
            self._asked = now
            self._voice.poke()
        elif verdict is not watchdog.Verdict.GO_ON:
            raise Leave("the daemon cannot be reached")

    # -- the phases --------------------------------------------------------------------------------------------

    def _live(self, welcome: client.Welcome, voice: speaker.Speaker) -> None:
        record = self._home.runner()
        worker = self._resume(record, welcome) if record is not None else self._begin(welcome)
        self._root = worker.record.root if worker.kind == "github" else ""
        self._own.start_runner(worker.record.name)
        outcome = shift.Shift(
            worker,
            self._own,
            voice,
            welcome.limits,
            began=self._began,
            reserve=self._settings.notice_reserve,
            pace=self._pace,
            on_job=lambda: voice.report("the job's start", lambda: self._line.job("started")),
        ).work()
        self._report(outcome, worker, voice)
        self._linger(voice)

    def _begin(self, welcome: client.Welcome) -> runner.Runner:
        try:
            models = gate.prove(welcome.gpus, welcome.gpu, patience=self._settings.gate_patience, sleep=self._sleep)
        except gate.Failed as error:
            raise self._failure("gate", str(error)) from error
        if models:
            log.info("GPUs: %s", ", ".join(models))
        self._own.enter(state.Phase.WAITING)
        orders = self._register()
        self._own.enter(state.Phase.STARTING)
        self._secrets.learn(orders.environment)
        try:
            place = environment.prepare(
                self._home.path, pathlib.Path(self._settings.shared), environment.account(welcome.user)
            )
            worker = runner.Runner.start(
                orders,
                place,
                self._home,
                instance=welcome.instance,
                base=dict(os.environ),
                adopts=self._adopts,
            )
        except (environment.Unusable, runner.NotStarted, OSError) as error:
            raise self._failure("runner", str(error)) from error
        log.info("runner %s started: process %d", orders.name, worker.record.pid)
        return worker

    def _register(self) -> client.Orders:
        """Ask until the daemon says ``run``."""
        backoff = client.Backoff(0.5, 30.0, self._rng)
        while True:
            try:
                orders = self._ask()
            except client.Refused as error:
                if error.status in (400, 403):
                    raise Leave(str(error)) from error
                # A daemon with the wrong secret for a minute must not end every waiting instance; the watchdog
                # ends this one if it stays so.
                log.warning("%s", error)
                self._sleep(backoff.pause())
                continue
            except client.Unreachable as error:
                log.warning("%s", error)
                self._sleep(backoff.pause())
                continue
            backoff.reset()
            self._own.hear(time.monotonic())
            if orders.action == "end":
                raise Leave(f"the daemon says end: {orders.reason}")
            if orders.action == "run":
                self._look()
                return orders
            # Never quite at once: an answer that holds nothing open must not become a flood.
            self._sleep(max(orders.after, 0.05))

    def _ask(self) -> client.Orders:
        """One request, held open by the daemon, from a thread of its own so that a notice is not kept waiting."""
        box: queue.SimpleQueue[client.Orders | Exception] = queue.SimpleQueue()

        def ask() -> None:
            try:
                box.put(self._line.register())
            except Exception as error:
                box.put(error)
            self._own.wake()

        threading.Thread(target=ask, name="register", daemon=True).start()
        while box.empty():
            self._look()
            self._own.wait(self._pace.tick)
        answer = box.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _resume(self, record: home.RunnerRecord, welcome: client.Welcome) -> runner.Runner:
        who = environment.account(welcome.user)
        base = self._home.path if who is None else pathlib.Path(self._settings.shared)
        marks = hooks.Hooks(base / "hooks", base / "marks", base / "hooks" / "gpu.txt")
        worker = runner.Runner.resume(record, self._home, marks)
        if worker is None:
            raise self._failure("runner", "the agent was started again while it started the runner")
        log.info("taking up runner %s again: process %d", record.name, worker.record.pid)
        return worker

    def _failure(self, stage: str, detail: str) -> Leave:
        detail = self._secrets.redact(detail)
        log.error("%s: %s", stage, detail)
        assert self._voice is not None
        self._voice.report("a failure", lambda: self._line.failed(stage, detail), change=self._own.end_job)
        return Leave(f"{stage} failed")

    # -- the end -----------------------------------------------------------------------------------------------

    def _report(self, outcome: shift.Outcome, worker: runner.Runner, voice: speaker.Speaker) -> None:
        if outcome.job or outcome.stopped or outcome.gone:
            result = outcome.result or ("deregistered" if outcome.gone else "none")
            voice.report("the job's end", lambda: self._line.job("ended", result), change=self._own.end_job)
            return
        said = worker.last_line()
        detail = f"the runner ended with status {worker.code} and without a job" + (f": {said}" if said else "")
        raise self._failure("runner", detail)

    def _diagnose(self, voice: speaker.Speaker) -> None:
        if self._diagnosed:
            return
        self._diagnosed = True
        title = f"instance {self._settings.instance} on {platform.node()}, Python {platform.python_version()}"
        text = diagnostics.collect(title, self._home.log, self._home.runner_log, self._secrets, runner_root=self._root)
        voice.report("diagnostics", lambda: self._line.diagnostics(text))

    def _linger(self, voice: speaker.Speaker) -> None:
        """The job is over: heartbeats until the daemon ends the instance, or long enough has passed."""
        self._diagnose(voice)
        over = time.monotonic()
        while True:
            order, notice = self._own.order, self._own.notice
            if order is not None or notice is not None:
                return
            assert self._welcome is not None
            facts = watchdog.Facts(self._began, self._own.heard, over_at=over)
            verdict = watchdog.decide(facts, self._welcome.limits, time.monotonic(), patience=self._pace.finished)
            if verdict is not watchdog.Verdict.GO_ON:
                log.info("nobody came for this instance")
                return
            self._own.wait(0.5)

    def _depart(self, voice: speaker.Speaker) -> None:
        self._own.enter(state.Phase.ENDING)
        self._diagnose(voice)
        voice.report("the end", lambda: typing.cast("None", self._line.heartbeat(self._own.body())))
        if not voice.flush(self._pace.farewell):
            log.error("the last reports could not be delivered")
        voice.stop()
        self._watch.stop()


def power_off(command: typing.Sequence[str]) -> bool:
    """Switch the machine off; False when that did not work."""
    if not command:
        return True
    log.info("switching off: %s", command[0])
    try:
        done = subprocess.run(tuple(command), stdin=subprocess.DEVNULL, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        log.error("the machine cannot be switched off: %s", error)
        return False
    return done.returncode == 0
