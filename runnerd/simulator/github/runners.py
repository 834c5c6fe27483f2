"""Registrations of runners: JIT configurations, names, removal, and acting as a runner without a process.

A JIT configuration is what the real one is: base64 of a JSON object that maps file names to base64 contents. The key
in it is random bytes of the right size, good for this simulator only.
"""

from __future__ import annotations

import base64
import collections
import json
import math
from typing import Any

from runnerd.simulator.github import dispatch, entities, state


class NameTaken(Exception):
    """A runner of that name exists in the scope."""


class TooMany(Exception):
    """The scope registered too many runners in five minutes."""


class StillRunning(Exception):
    """The runner has a job."""


class RegistrationGone(Exception):
    """The registration that a runner uses does not exist (any more)."""


class SessionConflict(Exception):
    """A runner with this registration is connected already."""


class Registry:
    """Makes and removes registrations."""

    def __init__(self, tables: state.State, jobs: dispatch.Dispatch) -> None:
        self._state = tables
        self._world = tables.world
        self._dispatch = jobs
        self._recent: dict[str, collections.deque[float]] = {}

    def register(
        self,
        scope: str,
        name: str,
        *,
        labels: list[str],
        group_id: int = 1,
        set_id: int | None = None,
        work_folder: str = "_work",
    ) -> entities.GithubRunner:
        """Make a registration. Raises NameTaken, TooMany."""
        if (scope, name.lower()) in self._state.runner_names:
            raise NameTaken(name)
        self._count(scope)
        runner = entities.GithubRunner(
            id=self._world.next_id("github-runner", 11),
            forge="github",
            name=name,
            scope=scope,
            labels=labels,
            created_at=self._world.now(),
            group_id=group_id,
            set_id=set_id,
            work_folder=work_folder or "_work",
            secret=self._world.secret_bytes(256),
            client_id=self._world.uuid(),
        )
        self._state.runners[runner.id] = runner
        self._state.runner_names[(scope, name.lower())] = runner.id
        self._state.runner_secrets[runner.secret] = runner.id
        self._world.runners[("github", runner.id)] = runner
        if set_id is not None:
            self._state.sets[set_id].runners.add(runner.id)
        self._watch_expiry(runner)
        self._world.changed("runners")
        return runner

    def remove(self, runner: entities.GithubRunner) -> None:
        """Remove a registration. Raises StillRunning when it has a job."""
        if runner.job_id is not None:
            raise StillRunning(runner.name)
        self._dispatch.forget(runner)

    def by_name(self, scope: str, name: str) -> entities.GithubRunner | None:
        id = self._state.runner_names.get((scope, name.lower()))
        return self._state.runners.get(id) if id is not None else None

    def of_scope(self, scope: str) -> list[entities.GithubRunner]:
        return [runner for runner in self._state.runners.values() if runner.scope == scope]

    def jit_config(self, runner: entities.GithubRunner, *, base_url: str) -> str:
        """The encoded configuration that makes a machine this runner."""
        settings = {
            "AgentId": str(runner.id),
            "AgentName": runner.name,
            "PoolId": "1",
            "PoolName": "Default",
            "Ephemeral": "True",
            "DisableUpdate": "True",
            "ServerUrl": f"{base_url}/_actions/",
            "ServerUrlV2": f"{base_url}/_sim/runner/",
            "UseV2Flow": "True",
            "GitHubUrl": f"{base_url}/{runner.scope}",
            "WorkFolder": runner.work_folder,
        }
        credentials = {
            "Scheme": "OAuth",
            "Data": {
                "ClientId": runner.client_id,
                "AuthorizationUrl": f"{base_url}/_actions/_apis/oauth2/token",
                "RequireFipsCryptography": "True",
            },
        }
        key = {
            "d": runner.secret,
            "dp": self._world.secret_bytes(128),
            "dq": self._world.secret_bytes(128),
            "exponent": "AQAB",
            "inverseQ": self._world.secret_bytes(128),
            "modulus": self._world.secret_bytes(256),
            "p": self._world.secret_bytes(128),
            "q": self._world.secret_bytes(128),
        }
        files = {".runner": settings, ".credentials": credentials, ".credentials_rsaparams": key}
        encoded = {name: base64.b64encode(json.dumps(text).encode()).decode() for name, text in files.items()}
        return base64.b64encode(json.dumps(encoded).encode()).decode()

    def by_secret(self, secret: str) -> entities.GithubRunner | None:
        """The registration of a credential; None when it is gone."""
        id = self._state.runner_secrets.get(secret)
        return self._state.runners.get(id) if id is not None else None

    def connect(self, runner: entities.GithubRunner, *, version: str = "2.336.0", attached: bool = False) -> str:
        """Open a runner's session, so that it goes online; return the session id. Raises SessionConflict."""
        if runner.session is not None:
            raise SessionConflict(runner.name)
        runner.session = self._world.uuid()
        runner.version = version
        runner.attached = attached
        self._dispatch.online(runner)
        return runner.session

    def _watch_expiry(self, runner: entities.GithubRunner) -> None:
        due = max(runner.created_at, runner.last_seen) + self._state.options.registration_expiry
        if due > self._world.now():
            runner.removal = self._world.call_at(due, lambda: self._watch_expiry(runner))
        elif runner.job_id is None and runner.session is None:
            self._dispatch.forget(runner)
        else:
            runner.removal = self._world.call_later(60.0, lambda: self._watch_expiry(runner))

    def _count(self, scope: str) -> None:
        limit = self._state.options.registrations
        if limit is None:
            return
        recent = self._recent.setdefault(scope, collections.deque())
        while recent and recent[0] <= self._world.now() - 300:
            recent.popleft()
        if len(recent) >= limit:
            raise TooMany(scope)
        recent.append(self._world.now())


class ConnectedRunner:
    """A runner driven by a test: no process, no network, the same rules.

    It renews its lease by itself while it lives; `die()` is a machine that vanishes.
    """

    def __init__(
        self,
        tables: state.State,
        jobs: dispatch.Dispatch,
        registry: Registry,
        registration: entities.GithubRunner,
    ) -> None:
        self._state = tables
        self._world = tables.world
        self._dispatch = jobs
        self.registration = registration
        self._session = registry.connect(registration, attached=True)

    @property
    def name(self) -> str:
        return self.registration.name

    async def next_job(self, timeout: float = math.inf) -> entities.GithubJob | None:
        """Listen for a job; None when none came in time. Raises RegistrationGone when it was removed."""
        deadline = self._world.now() + timeout
        while True:
            self._check()
            if self.registration.job_id is not None:
                return self._state.job(self.registration.job_id)
            left = deadline - self._world.now()
            if left <= 0:
                return None
            await self._world.wait(("github-runner", self.registration.id), min(left, 86_400.0))

    def start(self, job: entities.GithubJob) -> bool:
        """Begin the job; False when it was taken back or cancelled meanwhile."""
        return self._dispatch.start(job, self.registration)

    def log(self, job: entities.GithubJob, text: str) -> None:
        job.append_log(text.encode())

    def finish(self, job: entities.GithubJob, result: str = "succeeded", *, summary: str = "") -> None:
        """Report the end: "succeeded", "failed" or "canceled". The registration ends with it."""
        conclusion = {"succeeded": "success", "failed": "failure", "canceled": "cancelled"}[result]
        if job.runner_id == self.registration.id and job.stage == "running":
            job.summary += summary
            self._dispatch.complete(job, conclusion)

    async def run(self, job: entities.GithubJob, result: str = "succeeded") -> None:
        """Start the job, work for its `duration`, and finish it; a cancellation ends it early."""
        if not self.start(job):
            return
        deadline = self._world.now() + (job.duration or 0.0)
        while (left := deadline - self._world.now()) > 0 and job.status == "in_progress" and not job.cancelling:
            await self._world.wait(("github-runner", self.registration.id), left)
        self.finish(job, "canceled" if job.cancelling else result)

    def disconnect(self) -> None:
        """End the session in order; the registration stays until it is removed or expires."""
        if self.registration.session == self._session:
            self._dispatch.offline(self.registration)

    def interrupt(self) -> None:
        """Do what a TERM does to the real runner: a running job fails at once, an idle one just goes offline."""
        id = self.registration.job_id
        if id is not None and self._state.job(id).stage == "running":
            self._dispatch.complete(self._state.job(id), "failure")
        self.disconnect()

    def die(self) -> None:
        """Vanish: busy until the lease expires, offline after that."""
        runner = self.registration
        runner.attached = False
        if runner.job_id is not None and self._state.job(runner.job_id).stage == "running":
            self._dispatch.renew(runner)
        if runner.session is not None:
            runner.last_seen = self._world.now()
            self._world.call_later(self._state.options.offline_after, self._unheard)
        scale_set = self._state.sets.get(runner.set_id or 0)
        if scale_set is not None:
            # The service may still hand a job to a runner that it believes to be online; it lapses by pickup.
            self._world.changed(scale_set.queue_key)

    def _unheard(self) -> None:
        if self.registration.session == self._session and not self.registration.attached:
            self._dispatch.offline(self.registration)

    def _check(self) -> None:
        registered = self._state.runners.get(self.registration.id) is self.registration
        if not registered or self.registration.session != self._session:
            raise RegistrationGone(f"Registration {self.registration.client_id} was not found.")


def read_jit_config(encoded: str) -> dict[str, Any]:
    """The files of a JIT configuration, decoded. Raises ValueError when it is not one."""
    files = json.loads(base64.b64decode(encoded, validate=True))
    return {name: json.loads(base64.b64decode(content)) for name, content in files.items()}
