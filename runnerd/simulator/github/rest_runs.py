"""REST: workflow runs and their jobs, cancelling, and running again."""

from __future__ import annotations

from runnerd.simulator import http
from runnerd.simulator.github import auth, entities, rest, rest_access, run_payloads, runs, state

#: a filtered listing of runs never shows more
MOST_RUNS = 1000
_REPO = "/repos/{owner}/{repo}"


class RunEndpoints:
    """Endpoints of runs and jobs."""

    def __init__(self, tables: state.State, frame: rest.Frame, workflow_runs: runs.Runs) -> None:
        self._state = tables
        self._frame = frame
        self._runs = workflow_runs

    def routes(self) -> list[http.Route]:
        route = self._frame.route
        base = _REPO + "/actions"
        return [
            route("GET", f"{base}/runs", self.list_runs),
            route("GET", f"{base}/runs/{{run}}", self.get_run),
            route("GET", f"{base}/runs/{{run}}/jobs", self.list_jobs),
            route("GET", f"{base}/runs/{{run}}/attempts/{{attempt}}", self.get_run),
            route("GET", f"{base}/runs/{{run}}/attempts/{{attempt}}/jobs", self.list_attempt_jobs),
            route("POST", f"{base}/runs/{{run}}/cancel", self.cancel),
            route("POST", f"{base}/runs/{{run}}/force-cancel", self.force_cancel),
            route("POST", f"{base}/runs/{{run}}/rerun", self.rerun),
            route("POST", f"{base}/runs/{{run}}/rerun-failed-jobs", self.rerun_failed),
            route("GET", f"{base}/jobs/{{job}}", self.get_job),
            route("GET", f"{base}/jobs/{{job}}/logs", self.job_log),
            route("POST", f"{base}/jobs/{{job}}/rerun", self.rerun_job),
        ]

    async def list_runs(self, request: http.Request, principal: auth.Principal) -> http.Response:
        repo = self._repo(request, principal)
        status = request.param("status")
        filtered = any(request.param(name) for name in ("status", "branch", "event", "head_sha", "actor", "created"))
        if status in ("queued", "in_progress", "completed", "waiting", "pending", "requested"):
            ids = list(self._state.runs_by_status.get((repo, status), {}))
        else:
            ids = list(self._state.runs_of.get(repo, {}))
        ids.sort(reverse=True)
        found = [self._state.runs[id] for id in ids]
        if status in ("success", "failure", "cancelled", "skipped", "timed_out", "neutral", "action_required"):
            found = [run for run in found if run.status == "completed" and run.conclusion == status]
        for name, field in (("branch", "branch"), ("event", "event"), ("head_sha", "sha")):
            if request.param(name):
                found = [run for run in found if getattr(run, field) == request.param(name)]
        if filtered:
            found = found[:MOST_RUNS]
        repository = self._state.repository(repo)
        return rest.paged(
            request,
            found,
            lambda run: run_payloads.run(request.base_url, run, repository),
            key="workflow_runs",
        )

    async def get_run(self, request: http.Request, principal: auth.Principal) -> http.Response:
        run = self._run(request, principal)
        return http.json_response(run_payloads.run(request.base_url, run, self._state.repository(run.repo)))

    async def list_jobs(self, request: http.Request, principal: auth.Principal) -> http.Response:
        run = self._run(request, principal)
        chosen = request.param("filter", "latest")
        if chosen not in ("latest", "all"):
            raise rest.validation("Invalid filter", field="filter")
        attempts = run.attempts if chosen == "all" else run.attempts[-1:]
        ids = list(dict.fromkeys(id for attempt in attempts for id in attempt))
        return self._jobs(request, run, ids)

    async def list_attempt_jobs(self, request: http.Request, principal: auth.Principal) -> http.Response:
        run = self._run(request, principal)
        attempt = rest.number(request.params["attempt"])
        if not 1 <= attempt <= run.attempt:
            raise state.refuse(404, "Not Found")
        return self._jobs(request, run, run.attempts[attempt - 1])

    async def get_job(self, request: http.Request, principal: auth.Principal) -> http.Response:
        job = self._job(request, principal)
        run = self._state.runs[job.run_id]
        return http.json_response(run_payloads.job(request.base_url, job, run, job.extra.get("runner_group_name")))

    async def job_log(self, request: http.Request, principal: auth.Principal) -> http.Response:
        job = self._job(request, principal)
        if job.status != "completed":
            raise state.refuse(404, "Not Found")
        return http.text_response(job.log.decode("utf-8", "replace"))

    async def cancel(self, request: http.Request, principal: auth.Principal) -> http.Response:
        return self._cancel(request, principal, force=False)

    async def force_cancel(self, request: http.Request, principal: auth.Principal) -> http.Response:
        return self._cancel(request, principal, force=True)

    async def rerun(self, request: http.Request, principal: auth.Principal) -> http.Response:
        run = self._run(request, principal, write=True)
        self._refuse_rerun(run, "This workflow is already running")
        self._runs.rerun(run, run.attempts[-1])
        return http.json_response({}, 201)

    async def rerun_failed(self, request: http.Request, principal: auth.Principal) -> http.Response:
        run = self._run(request, principal, write=True)
        self._refuse_rerun(run, "This workflow is already running")
        failed = [
            id for id in run.attempts[-1] if self._state.job(id).conclusion in ("failure", "cancelled", "timed_out")
        ]
        if not failed:
            raise state.refuse(403, "This workflow run has no failed jobs to retry")
        self._runs.rerun(run, failed)
        return http.json_response({}, 201)

    async def rerun_job(self, request: http.Request, principal: auth.Principal) -> http.Response:
        job = self._job(request, principal, write=True)
        run = self._state.runs[job.run_id]
        self._refuse_rerun(run, "The workflow run containing this job is already running")
        if job.id not in run.attempts[-1]:
            raise state.refuse(403, "This job cannot be retried: it is not of the latest attempt")
        self._runs.rerun(run, [job.id])
        return http.json_response({}, 201)

    def _refuse_rerun(self, run: entities.Run, running: str) -> None:
        if run.status != "completed":
            raise state.refuse(403, running)
        if not run.retryable or self._state.world.now() > run.created_at + 30 * 86_400:
            raise state.refuse(403, "This workflow run cannot be retried")

    def _cancel(self, request: http.Request, principal: auth.Principal, *, force: bool) -> http.Response:
        run = self._run(request, principal, write=True)
        if run.status == "completed":
            raise state.refuse(409, "Cannot cancel a workflow run that is completed.")
        self._runs.cancel(run, force=force)
        return http.json_response({}, 202)

    def _jobs(self, request: http.Request, run: entities.Run, ids: list[int]) -> http.Response:
        return rest.paged(
            request,
            [self._state.job(id) for id in ids],
            lambda job: run_payloads.job(request.base_url, job, run, job.extra.get("runner_group_name")),
            key="jobs",
        )

    def _repo(self, request: http.Request, principal: auth.Principal, *, write: bool = False) -> str:
        repo = self._state.known_repository(request.params["owner"], request.params["repo"])
        rest_access.require_access(principal, repo.name, private=repo.private, write=write)
        return repo.name

    def _run(self, request: http.Request, principal: auth.Principal, *, write: bool = False) -> entities.Run:
        repo = self._repo(request, principal, write=write)
        run = self._state.runs.get(rest.number(request.params["run"]))
        if run is None or run.repo != repo:
            raise state.refuse(404, "Not Found")
        return run

    def _job(self, request: http.Request, principal: auth.Principal, *, write: bool = False) -> entities.GithubJob:
        repo = self._repo(request, principal, write=write)
        try:
            job = self._state.job(rest.number(request.params["job"]))
        except KeyError:
            raise state.refuse(404, "Not Found") from None
        if job.repo != repo:
            raise state.refuse(404, "Not Found")
        return job
