"""The GitLab half as the app sees it: routes, queueing of jobs, default tokens, and runners in process."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from runnerd.simulator import http, world
from runnerd.simulator.gitlab import (
    access,
    builds,
    connect,
    entities,
    hooks,
    jobs,
    notes,
    parameters,
    projects,
    protocol,
    runners,
    settings,
    uploads,
)

API = "/api/v4"
LIMITS = (
    "authenticated_api",
    "project_jobs_api",
    "group_projects",
    "project",
    "notes_create",
    "runner_jobs_request_api",
    "runner_jobs_endpoints_api",
    "runner_jobs_patch_trace_api",
)
#: What a current runner declares.
FEATURES = frozenset(
    [
        "variables",
        "refspecs",
        "masking",
        "proxy",
        "raw_variables",
        "trace_reset",
        "trace_checksum",
        "trace_size",
        "cancelable",
        "return_exit_code",
        "cancel_gracefully",
        "two_phase_job_commit",
    ]
)


class Gitlab:
    """A GitLab whose state lives in the world."""

    forge = access.FORGE
    prefixes = ("/api/v4", "/-/project/", "/uploads/")

    def __init__(self, state: world.World, *, options: settings.Settings | None = None) -> None:
        self.world = state
        config = options or settings.Settings()
        self.gate = access.Access(state, config)
        self.jobs = builds.Builds(state, config)
        self.places = projects.Projects(self.jobs, self.gate)
        self.runners = runners.Runners(self.jobs, self.gate, self.places)
        self.protocol = protocol.Protocol(self.jobs, self.gate, self.places, self.runners)
        self.rest = jobs.Jobs(self.jobs, self.gate, self.places)
        self.notes = notes.Notes(self.jobs, self.gate, self.places)
        self.uploads = uploads.Uploads(self.jobs, self.gate, self.places)
        self.hooks = hooks.Hooks(self.jobs, self.gate, self.places)
        #: the token of an owner of every group, scope api
        self.token = self.gate.add(user="group_bot", value="glpat-simulated-000000000").value
        #: the token of an administrator
        self.admin_token = self.gate.add(user="root", value="glpat-simulated-admin0000", admin=True).value

    @property
    def settings(self) -> settings.Settings:
        return self.jobs.settings

    def configure(self, **changes: Any) -> None:
        """Replace settings. Raises ValueError naming what is wrong."""
        changed = settings.changed(self.settings, changes)
        self.jobs.settings = self.gate.settings = changed
        for group in changed.groups:
            self.places.make_group(group)

    def lift_limits(self) -> None:
        """No rate limits and no cap on registered runners, for a benchmark of something else."""
        names = [field.name for field in dataclasses.fields(settings.Settings)]
        lifted = [
            name for name in names if name.startswith(("rate_", "runners_per_")) and name != "rate_headers_always"
        ]
        self.configure(**dict.fromkeys(lifted, 0))

    def routes(self) -> list[http.Route]:
        tables = (
            self.places.routes(),
            self.runners.routes(),
            self.protocol.routes(),
            self.rest.routes(),
            self.notes.routes(),
            self.uploads.routes(),
            self.hooks.routes(),
        )
        found = [
            http.Route(method, API + path, handler, self.forge) for table in tables for method, path, handler in table
        ]
        found += [http.Route(method, path, handler, self.forge) for method, path, handler in self.uploads.web_routes()]
        return [
            *found,
            http.Route("POST", "/_sim/gitlab/tokens", self._add_token, "control"),
            http.Route("PUT", "/_sim/gitlab/settings", self._configure, "control"),
        ]

    def not_found(self, request: http.Request) -> http.Response:
        return http.json_response({"error": "404 Not Found"}, 404)

    # Jobs

    def queue_jobs(self, spec: world.JobSpec) -> list[world.Job]:
        """Queue jobs in one pipeline of their project.

        `spec.extra` may hold `ref`, `sha`, `variables` (a map), `retry` (as in .gitlab-ci.yml) and `timeout` (seconds).
        Raises ValueError naming what is wrong with them.
        """
        extra = _checked(spec.extra)
        project = self.places.make_project(spec.repo)
        pull: world.PullRequest | None = None
        if spec.event == "pull_request":
            pull = self.world.pull_request(self.forge, spec.repo, spec.pull_number)
            pull.sha = extra.get("sha", pull.sha)
        ref = extra.get("ref") or (f"refs/merge-requests/{pull.number}/head" if pull else project.default_branch)
        sha = pull.sha if pull else extra.get("sha") or self.world.hex(40)
        now = self.world.now()
        number = self.world.next_id("gitlab-pipeline", 90_001)
        pipeline = self.jobs.pipelines[number] = entities.Pipeline(
            id=number,
            iid=self.world.next_id(f"gitlab-pipeline-{project.id}"),
            repo=project.name,
            ref=ref,
            sha=sha,
            source="merge_request_event" if pull else "push",
            created_at=now,
            pull_number=pull.number if pull else None,
            updated_at=now,
        )
        variables = [
            {"key": key, "value": value, "public": False, "file": False, "masked": False, "raw": False}
            for key, value in extra.get("variables", {}).items()
        ]
        name = spec.name or "train"
        made: list[world.Job] = []
        for index in range(spec.count):
            build = entities.Build(
                id=self.jobs.next_id(),
                forge=self.forge,
                repo=project.name,
                name=name if spec.count == 1 else f"{name} {index + 1}/{spec.count}",
                labels=list(dict.fromkeys(spec.labels)),
                queued_at=now,
                run_id=pipeline.id,
                sha=sha,
                ref=ref,
                pull_number=pipeline.pull_number,
                script=list(spec.script),
                duration=spec.duration,
                project_id=project.id,
                protected=ref in project.extra["protected"],
                variables=variables,
                retry=extra.get("retry", {}),
                timeout=extra.get("timeout", self.settings.job_timeout),
            )
            self.jobs.add(build)
            self.jobs.enter(build, "pending")
            made.append(build)
        return made

    def cancel_job(self, job: world.Job) -> None:
        if isinstance(job, entities.Build):
            self.jobs.cancel(job)

    # Runners in process

    def connect_runner(
        self, token: str, *, system_id: str = "s_000000000001", features: frozenset[str] = FEATURES
    ) -> connect.Connected:
        """A machine that uses a runner's `glrt-` token. Raises connect.Refused for an unknown one."""
        return connect.Connected(self.jobs, self.protocol, token, system_id=system_id, features=features)

    # For the app

    def _runner_token(self, request: http.Request) -> str:
        token = request.header("runner-token")
        if not token and request.body:
            try:
                token = str(parameters.read(request).raw("token") or "")
            except http.Refusal:
                token = ""
        return token

    def revoke(self, request: http.Request) -> None:
        """Revoke the person's token of a request, or make the runner's token void."""
        token = self.gate.token_of(request)
        if token is not None:
            token.revoked = True
            return
        runner = self.jobs.runner_by_token.get(self._runner_token(request))
        if runner is not None:
            self.jobs.rotate(runner)

    def exhaust(self, request: http.Request) -> None:
        token = self.gate.token_of(request)
        caller = token.user if token is not None else request.header("job-token") or self._runner_token(request)
        if caller:
            self.gate.limits.exhaust(caller, LIMITS)

    def state(self) -> dict[str, list[dict[str, Any]]]:
        """Return the lists that only GitLab adds to `GET /_sim/state`: managers by runner, and hooks."""
        return {
            "gitlab_managers": [
                {
                    "runner": runner.id,
                    "system_id": manager.system_id,
                    "contacted_at": manager.contacted_at,
                    "paused": runner.paused,
                }
                for runner in self.jobs.runners.values()
                for manager in runner.managers.values()
            ],
            "gitlab_jobs": [
                {
                    "id": build.id,
                    "status": build.state,
                    "failure_reason": build.failure_reason,
                    "waiting": build.waiting,
                    "system_id": build.system_id,
                    "retried": build.retried,
                }
                for build in self.world.jobs.values()
                if isinstance(build, entities.Build)
            ],
            "gitlab_hooks": [
                {"id": id, "failures": health.failures, "disabled_until": health.disabled_until}
                for id, health in self.hooks.health.items()
            ],
        }

    def default_tokens(self) -> dict[str, str]:
        return {"token": self.token, "admin_token": self.admin_token}

    async def _add_token(self, request: http.Request) -> http.Response:
        """`POST /_sim/gitlab/tokens` {user, scopes, access_level, admin, namespace, expires_at} -> {token}."""
        data = _object(request)
        if isinstance(data, http.Response):
            return data
        known = {"user", "scopes", "access_level", "admin", "namespace", "expires_at"}
        try:
            if set(data) - known:
                raise ValueError(f"unknown field {sorted(set(data) - known)[0]!r}; known: {', '.join(sorted(known))}")
            scopes = tuple(data.pop("scopes", ["api"]))
            made = self.gate.add(user=str(data.pop("user", "bot")), scopes=scopes, **data)
        except (ValueError, TypeError) as error:
            return http.json_response({"error": str(error)}, 400)
        return http.json_response({"token": made.value, "user": made.user, "scopes": list(made.scopes)}, 201)

    async def _configure(self, request: http.Request) -> http.Response:
        """`PUT /_sim/gitlab/settings` {name: value}."""
        data = _object(request)
        if isinstance(data, http.Response):
            return data
        try:
            self.configure(**data)
        except ValueError as error:
            return http.json_response({"error": str(error)}, 400)
        return http.empty()


def _object(request: http.Request) -> dict[str, Any] | http.Response:
    try:
        data = request.json()
    except json.JSONDecodeError as error:
        return http.json_response({"error": f"the body is not JSON: {error}"}, 400)
    if not isinstance(data, dict):
        return http.json_response({"error": "the body must be a JSON object"}, 400)
    return data


def _checked(extra: Any) -> dict[str, Any]:
    """The further fields of a job, each of the right kind."""
    kinds: dict[str, type] = {"ref": str, "sha": str, "variables": dict, "retry": dict, "timeout": int}
    for name, value in extra.items():
        if name not in kinds:
            raise ValueError(f"unknown field {name!r} of a GitLab job; known: {', '.join(kinds)}")
        if not isinstance(value, kinds[name]):
            raise ValueError(f"{name} must be a {kinds[name].__name__}, not {value!r}")
    if any(not isinstance(value, str) for value in extra.get("variables", {}).values()):
        raise ValueError("the values of variables must be text")
    return dict(extra)
