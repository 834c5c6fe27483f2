"""The GitHub half: an enterprise-shaped REST API, the Actions service with runner scale sets, webhooks out.

What a client may see is faithful to docs.github.com and to the public scale set client; how a simulated runner learns
of its job is the simulator's own. `Github.connect_runner()` acts as a runner without a process.
"""

from __future__ import annotations

from typing import Any

from runnerd.simulator import http, world
from runnerd.simulator.github import (
    actions,
    auth,
    control,
    dispatch,
    entities,
    limits,
    rest,
    rest_checks,
    rest_hooks,
    rest_repos,
    rest_runners,
    rest_runs,
    runner_service,
    runners,
    runs,
    state,
    webhooks,
)
from runnerd.simulator.github.options import Options
from runnerd.simulator.github.runners import ConnectedRunner, RegistrationGone, SessionConflict

__all__ = ["ConnectedRunner", "Github", "Options", "RegistrationGone", "SessionConflict"]


class Github:
    """A simulated GitHub on a world."""

    forge = "github"
    prefixes = ("/api/v3", "/_actions/")

    def __init__(self, shared: world.World, options: Options | None = None) -> None:
        self.world = shared
        self.options = options or Options()
        self.tables = state.State(shared, self.options)
        self.auth = auth.Auth(self.tables)
        self.hooks = webhooks.Webhooks(self.tables)
        self.dispatch = dispatch.Dispatch(self.tables, self.hooks.workflow_job)
        self.runs = runs.Runs(self.tables, self.dispatch, self.hooks)
        self.registry = runners.Registry(self.tables, self.dispatch)
        self.limits = limits.Limits(shared, self.options)
        self.actions = actions.Actions(self.tables, self.auth, self.dispatch, self.registry)

    def routes(self) -> list[http.Route]:
        frame = rest.Frame(self.tables, self.auth, self.limits)
        return [
            *self.actions.routes(),
            *rest_runners.RunnerEndpoints(self.tables, self.auth, frame, self.registry).routes(),
            *rest_runs.RunEndpoints(self.tables, frame, self.runs).routes(),
            *rest_repos.RepositoryEndpoints(self.tables, frame, self.limits).routes(),
            *rest_checks.CheckEndpoints(self.tables, frame).routes(),
            *rest_hooks.HookEndpoints(self.tables, frame, self.hooks).routes(),
            *runner_service.RunnerService(self.tables, self.auth, self.dispatch, self.registry).routes(),
            *control.GithubControl(self.tables, self.actions, self.dispatch).routes(),
        ]

    def not_found(self, request: http.Request) -> http.Response:
        if request.path.startswith("/_actions/"):
            return http.json_response({"message": "The controller for path was not found.", "typeName": ""}, 404)
        return state.refuse(404, "Not Found").response

    def queue_jobs(self, spec: world.JobSpec) -> list[world.Job]:
        return list(self.runs.queue(spec))

    def cancel_job(self, job: world.Job) -> None:
        self.dispatch.cancel(self.tables.job(job.id))

    def revoke(self, request: http.Request) -> None:
        self.auth.revoke(request)

    def exhaust(self, request: http.Request) -> None:
        try:
            self.limits.exhaust(self.auth.principal(request))
        except http.Refusal:
            return

    def connect_runner(self, jit_config: str, *, version: str = "2.336.0") -> ConnectedRunner:
        """Act as a runner with this JIT configuration, in process: it goes online.

        Raises RegistrationGone when the registration does not exist, SessionConflict when it is in use, ValueError
        when the text is no JIT configuration.
        """
        files = runners.read_jit_config(jit_config)
        registration = self.registry.by_secret(files[".credentials_rsaparams"]["d"])
        if registration is None:
            client = files[".credentials"]["Data"]["ClientId"]
            raise RegistrationGone(f"Registration {client} was not found.")
        registration.version = version
        return ConnectedRunner(self.tables, self.dispatch, self.registry, registration)

    def state(self) -> dict[str, list[dict[str, Any]]]:
        return control.lists(self.tables, self.actions, self.dispatch)

    def default_tokens(self) -> dict[str, str]:
        return {
            "pat": auth.PAT,
            "reader": auth.READER,
            "app_id": str(auth.APP_ID),
            "app_client_id": auth.CLIENT_ID,
            "app_private_key": self.auth.app_key_pem,
        }

    def job(self, id: int) -> entities.GithubJob:
        return self.tables.job(id)
