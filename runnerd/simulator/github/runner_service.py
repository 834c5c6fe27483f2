"""The service of the stand-in runner: its session, its job, log, lease and end.

The real runner's protocol to the broker is not public, so this one is the simulator's own, below `/_sim/runner`. Its
rules are the observed ones: one session per registration, a registration that is gone is not found, a lease that must
be renewed, a registration that ends with its one job.
"""

from __future__ import annotations

import io
import pathlib
import tarfile
from typing import Any

from runnerd.simulator import http
from runnerd.simulator.github import auth, dispatch, entities, payloads, pull_payloads, runners, state

PREFIX = "/_sim/runner/sessions"


class RunnerService:
    """Handlers for the runner process."""

    def __init__(
        self, tables: state.State, credentials: auth.Auth, jobs: dispatch.Dispatch, registry: runners.Registry
    ) -> None:
        self._state = tables
        self._world = tables.world
        self._auth = credentials
        self._dispatch = jobs
        self._registry = registry

    def routes(self) -> list[http.Route]:
        job = PREFIX + "/{session}/jobs/{job}"
        table: list[tuple[str, str, http.Handler]] = [
            ("POST", PREFIX, self.connect),
            ("DELETE", PREFIX + "/{session}", self.disconnect),
            ("GET", PREFIX + "/{session}/job", self.next_job),
            ("POST", job + "/start", self.start),
            ("POST", job + "/log", self.log),
            ("POST", job + "/renew", self.renew),
            ("POST", job + "/finish", self.finish),
            ("GET", job + "/archive", self.archive),
        ]
        return [http.Route(method, template, handler, "github") for method, template, handler in table]

    async def connect(self, request: http.Request) -> http.Response:
        runner = self._registry.by_secret(self._auth.bearer(request))
        body = state.read_json(request)
        if runner is None:
            client = body.get("client_id", "")
            raise state.refuse(404, f"Registration {client} was not found.")
        version = str(body.get("version") or "")
        if _parsed(version) < _parsed(self._state.options.oldest_runner):
            raise state.refuse(400, f"RunnerVersionTooOld: runner version {version} is deprecated")
        nonce = str(body.get("nonce") or "")
        if runner.session is not None and nonce and runner.extra.get("nonce") == nonce:
            # The same process asks again because our answer was lost.
            return http.json_response({"session": runner.session, "id": runner.id, "name": runner.name}, 201)
        try:
            session = self._registry.connect(runner, version=version)
        except runners.SessionConflict:
            raise state.refuse(409, "A session for this runner already exists.") from None
        runner.extra["nonce"] = nonce
        return http.json_response({"session": session, "id": runner.id, "name": runner.name}, 201)

    async def disconnect(self, request: http.Request) -> http.Response:
        self._dispatch.offline(self._runner(request))
        return http.empty(204)

    async def next_job(self, request: http.Request) -> http.Response:
        runner = self._runner(request)
        wait = request.param("wait", "20")
        deadline = self._world.now() + min(50.0, float(wait) if wait.replace(".", "", 1).isdigit() else 20.0)
        while runner.job_id is None:
            left = deadline - self._world.now()
            if left <= 0:
                return http.empty(202)
            await self._world.wait(("github-runner", runner.id), left)
            runner = self._runner(request)
        job = self._state.job(runner.job_id)
        return http.json_response({"id": job.id, "name": job.name})

    async def start(self, request: http.Request) -> http.Response:
        runner, job = self._held(request)
        if job.stage == "running":
            # Begun by this very session, whose answer was lost; it does not begin twice.
            return http.json_response(self._job_json(request, runner, job))
        if not self._dispatch.start(job, runner):
            raise state.refuse(409, "The job is not assigned to this runner any more.")
        job.token = self._auth.mint_job_token(job.repo, job.id)
        return http.json_response(self._job_json(request, runner, job))

    async def log(self, request: http.Request) -> http.Response:
        runner, job = self._held(request)
        job.append_log(request.body)
        self._dispatch.renew(runner)
        return http.json_response({"cancel": job.cancelling})

    async def renew(self, request: http.Request) -> http.Response:
        runner, job = self._held(request)
        self._dispatch.renew(runner)
        return http.json_response({"cancel": job.cancelling})

    async def finish(self, request: http.Request) -> http.Response:
        _, job = self._held(request)
        body = state.read_json(request)
        conclusion = {"Succeeded": "success", "Failed": "failure", "Canceled": "cancelled"}.get(str(body.get("result")))
        if conclusion is None:
            raise state.refuse(422, "result must be Succeeded, Failed or Canceled")
        job.summary = str(body.get("summary") or "")
        self._dispatch.complete(job, conclusion)
        return http.empty(204)

    async def archive(self, request: http.Request) -> http.Response:
        _, job = self._held(request)
        return http.Response(200, _archive(self._state.repository(job.repo).directory))

    def _runner(self, request: http.Request) -> entities.GithubRunner:
        """The runner of the session, or a 404 refusal when registration or session is gone."""
        runner = self._registry.by_secret(self._auth.bearer(request))
        if runner is None:
            raise state.refuse(404, "Registration was not found.")
        if runner.session != request.params["session"]:
            raise state.refuse(404, "The session of this runner has ended.")
        runner.last_seen = self._world.now()
        return runner

    def _held(self, request: http.Request) -> tuple[entities.GithubRunner, entities.GithubJob]:
        runner = self._runner(request)
        if str(runner.job_id) != request.params["job"]:
            raise state.refuse(409, "The job is not assigned to this runner any more.")
        return runner, self._state.job(int(request.params["job"]))

    def _job_json(
        self, request: http.Request, runner: entities.GithubRunner, job: entities.GithubJob
    ) -> dict[str, Any]:
        repo = self._state.repository(job.repo)
        run = self._state.runs[job.run_id]
        base = request.base_url
        environment = {
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_ACTOR": "octocat",
            "GITHUB_API_URL": f"{base}{payloads.API}",
            "GITHUB_EVENT_NAME": run.event,
            "GITHUB_GRAPHQL_URL": f"{base}/api/graphql",
            "GITHUB_JOB": job.name.split(" ")[0],
            "GITHUB_REF": job.ref,
            "GITHUB_REF_NAME": job.ref.removeprefix("refs/heads/").removeprefix("refs/pull/"),
            "GITHUB_REF_TYPE": "branch",
            "GITHUB_REPOSITORY": job.repo,
            "GITHUB_REPOSITORY_ID": str(repo.id),
            "GITHUB_REPOSITORY_OWNER": repo.owner,
            "GITHUB_RUN_ATTEMPT": str(job.run_attempt),
            "GITHUB_RUN_ID": str(job.run_id),
            "GITHUB_RUN_NUMBER": str(run.number),
            "GITHUB_SERVER_URL": base,
            "GITHUB_SHA": job.sha,
            "GITHUB_TOKEN": job.token,
            "GITHUB_WORKFLOW": run.name,
            "GITHUB_WORKFLOW_REF": f"{job.repo}/.github/workflows/train.yml@{job.ref}",
            "REPO_TOKEN": job.token,
            "RUNNER_ENVIRONMENT": "self-hosted",
            "RUNNER_NAME": runner.name,
        }
        event: dict[str, Any] = {
            "repository": payloads.repository(base, repo),
            "sender": payloads.user(base, "octocat"),
        }
        if run.pull_number is not None:
            pull = self._world.pull_request("github", job.repo, run.pull_number)
            environment |= {"GITHUB_HEAD_REF": pull.head_ref, "GITHUB_BASE_REF": pull.base_ref}
            event |= {
                "action": "synchronize",
                "number": pull.number,
                "pull_request": pull_payloads.full_pull(base, pull, repo, 0),
            }
        else:
            event |= {"ref": job.ref, "before": "0" * 40, "after": job.sha, "commits": []}
        return {
            "id": job.id,
            "name": job.name,
            "repository": job.repo,
            "script": job.script,
            "duration": job.duration,
            "environment": environment | job.extra.get("env", {}),
            "event": event,
            "origin": f"{base}/{job.repo}",
            "archive": repo.directory is not None,
            "lease_seconds": self._state.options.lease,
        }


def _archive(directory: str | None) -> bytes:
    """The repository's files as a gzipped tar; without its .git."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path in sorted(pathlib.Path(directory).rglob("*")) if directory else []:
            relative = path.relative_to(str(directory))
            if path.is_file() and ".git" not in relative.parts and "__pycache__" not in relative.parts:
                archive.add(path, arcname=str(relative), recursive=False)
    return buffer.getvalue()


def _parsed(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in version.split("."))
