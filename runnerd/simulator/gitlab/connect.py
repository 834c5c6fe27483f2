"""A runner in the same process: for tests on a virtual clock, without sockets or child processes.

It does what a runner's requests would do to the world, under the same rules of assignment, acknowledgement and loss.
It runs no script; the test says when and how the job ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runnerd.simulator import world
from runnerd.simulator.gitlab import builds, entities

if TYPE_CHECKING:
    from runnerd.simulator.gitlab import protocol

#: How often a connected runner refreshes the job that it runs; far below the 30 minutes of the drop.
BEAT = 600.0
_STATES = {"success": "success", "succeeded": "success", "failed": "failed", "failure": "failed"}


class Refused(Exception):
    """The server would have answered 403: no such runner, or the job is not this runner's (any more)."""


class Connected:
    """One machine that holds a runner's token."""

    def __init__(
        self,
        jobs: builds.Builds,
        speaker: protocol.Protocol,
        token: str,
        *,
        system_id: str,
        features: frozenset[str],
    ) -> None:
        self._jobs = jobs
        self._speaker = speaker
        self._token = token
        self.system_id = system_id
        self._features = features
        self._tokens: dict[int, str] = {}
        self._timers: dict[int, world.Timer] = {}
        self.alive = True
        self._record().labels  # noqa: B018 - an unknown token is refused here and now

    def _record(self) -> entities.RunnerRecord:
        record = self._jobs.runner_by_token.get(self._token)
        if record is None:
            raise Refused("403 Forbidden: no runner has this token")
        if not self.alive:
            raise RuntimeError("this runner is dead or disconnected")
        return record

    async def next_job(self, timeout: float) -> entities.Build | None:
        """Ask for a job and wait for one at most `timeout` seconds. Raises Refused when the runner is gone."""
        deadline = self._jobs.world.now() + timeout
        while True:
            record = self._record()
            self._jobs.contact(record, self.system_id, {"name": "gitlab-runner", "version": "simulated"})
            build = None
            if not record.paused:
                build = self._speaker.take(record, system_id=self.system_id, features=self._features)
            if build is not None:
                self._tokens[build.id] = build.token
                return build
            left = deadline - self._jobs.world.now()
            if left <= 0:
                return None
            await self._jobs.world.wait(("queue", record.profile), left)

    def _held(self, build: world.Job) -> entities.Build:
        if not self.alive:
            raise RuntimeError("this runner is dead or disconnected")
        mine = isinstance(build, entities.Build) and build.token == self._tokens.get(build.id, "")
        if not isinstance(build, entities.Build) or not mine:
            raise Refused(f"403 Forbidden: job {build.id} is not processing on this runner")
        if not (build.waiting or build.state in ("running", "canceling")):
            raise Refused(f"403 Forbidden: job {build.id} is {build.state}")
        return build

    def start(self, build: world.Job) -> None:
        """Acknowledge the job. Raises Refused when the two minutes are over or it was canceled."""
        held = self._held(build)
        if held.waiting:
            self._jobs.enter(held, "running")
        self._plan(held)

    def log(self, build: world.Job, text: str) -> None:
        """Append to the job's log."""
        held = self._held(build)
        held.append_log(text.encode())
        held.trace_size += len(text.encode())
        held.updated_at = self._jobs.world.now()

    def finish(self, build: world.Job, state: str = "success", *, failure_reason: str = "script_failure") -> None:
        """Report the end: success or failed. Raises Refused when the job is not this runner's."""
        held = self._held(build)
        if held.waiting:
            self._jobs.enter(held, "running")
        self._forget(held)
        if held.state == "canceling":
            self._jobs.enter(held, "canceled")
        else:
            self._jobs.enter(held, _STATES[state], reason=failure_reason)

    def disconnect(self) -> None:
        """Stop as SIGTERM stops the real runner: a held job fails as runner_interrupted."""
        for id in list(self._tokens):
            build = self._jobs.get(id)
            if build is not None and build.token == self._tokens[id] and build.state in ("running", "canceling"):
                self.finish(build, "failed", failure_reason="runner_interrupted")
        self.die()

    def die(self) -> None:
        """Vanish without a word; what it held stays as it is until the server's own timeouts."""
        self.alive = False
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _plan(self, build: entities.Build) -> None:
        if build.id in self._timers:
            self._timers[build.id].cancel()
        self._timers[build.id] = self._jobs.world.call_later(BEAT, lambda: self._beat(build))

    def _beat(self, build: entities.Build) -> None:
        if not self.alive or build.token != self._tokens.get(build.id) or build.state not in ("running", "canceling"):
            self._forget(build)
            return
        build.updated_at = self._jobs.world.now()
        record = self._jobs.runners.get(build.runner_id or 0)
        if record is not None:
            self._jobs.contact(record, self.system_id)
        self._plan(build)

    def _forget(self, build: entities.Build) -> None:
        timer = self._timers.pop(build.id, None)
        if timer is not None:
            timer.cancel()
        self._tokens.pop(build.id, None)
