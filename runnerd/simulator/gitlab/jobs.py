"""Jobs and pipelines over REST: list by status, look, retry, cancel, erase, log.

The list per project is the only view of the queue that the API gives; it pages by offset without totals, or by keyset.
"""

from __future__ import annotations

from runnerd.simulator import http, world
from runnerd.simulator.gitlab import access, builds, entities, paging, parameters, projects, views


class Jobs:
    """Handlers of `/projects/:id/jobs` and `/projects/:id/pipelines`."""

    def __init__(self, jobs: builds.Builds, gate: access.Access, places: projects.Projects) -> None:
        self.jobs = jobs
        self.gate = gate
        self.places = places

    def routes(self) -> list[tuple[str, str, http.Handler]]:
        job, line = "/projects/{id}/jobs/{job_id}", "/projects/{id}/pipelines/{pipeline_id}"
        return [
            ("GET", "/job", self.own),
            ("GET", "/projects/{id}/jobs", self.list_jobs),
            ("GET", job, self.show),
            ("POST", job + "/retry", self.retry),
            ("POST", job + "/cancel", self.cancel),
            ("POST", job + "/play", self.play),
            ("POST", job + "/erase", self.erase),
            ("GET", job + "/trace", self.trace),
            ("GET", "/projects/{id}/pipelines", self.list_pipelines),
            ("GET", line, self.show_pipeline),
            ("GET", line + "/jobs", self.list_pipeline_jobs),
            ("GET", line + "/bridges", self.list_bridges),
            ("POST", line + "/retry", self.retry_pipeline),
            ("POST", line + "/cancel", self.cancel_pipeline),
        ]

    def _scope(self, params: parameters.Parameters) -> list[str] | None:
        """`scope` is one status or an array of them."""
        raw = params.raw("scope")
        if raw is None:
            return None
        words = [str(word) for word in raw] if isinstance(raw, list) else [str(raw)]
        if any(word not in entities.STATUSES for word in words):
            raise parameters.invalid("scope does not have a valid value")
        return words

    def _job(self, request: http.Request, level: int) -> tuple[entities.Build, access.Caller]:
        project, caller = self.places.of(request)
        number = request.params["job_id"]
        build = self.jobs.get(int(number)) if number.isdecimal() else None
        if build is None or build.project_id != project.id:
            raise parameters.refuse("404 Not found" if number.isdecimal() else "404 Job Not Found", 404)
        caller.need(level)
        return build, caller

    def _shown(
        self, build: entities.Build, request: http.Request, caller: access.Caller, status: int = 200
    ) -> http.Response:
        return http.json_response(views.job(self.jobs, build, request.base_url), status, headers=caller.headers)

    async def own(self, request: http.Request) -> http.Response:
        """`GET /job`: the job of a job token, the one place where CI_JOB_TOKEN is asked for itself."""
        token = request.header("job-token") or request.param("job_token")
        found = (job for job in self.jobs.world.jobs.values() if isinstance(job, entities.Build) and job.token == token)
        build = next(found, None) if token else None
        if build is None or build.state not in ("running", "canceling"):
            raise parameters.refuse("404 Job Not Found" if build is None else "403 Forbidden - Job is not running", 404)
        return http.json_response(views.job(self.jobs, build, request.base_url))

    async def list_jobs(self, request: http.Request) -> http.Response:
        project, caller = self.places.of(request)
        self.gate.spend(caller, "project_jobs_api", self.gate.settings.rate_project_jobs)
        params = parameters.read(request)
        ids = self.jobs.ids(project.id, self._scope(params))

        def show(id: int) -> object:
            return views.job(self.jobs, self.jobs.world.jobs[id], request.base_url)  # type: ignore[arg-type]

        if paging.wants_keyset(params):
            return paging.keyset(request, params, ids, show, cursor=True).with_headers(caller.headers)
        if params.choice("sort", ("asc", "desc"), "desc") == "desc":
            ids = ids[::-1]
        return paging.offset(request, params, ids, show, counted=False).with_headers(caller.headers)

    async def show(self, request: http.Request) -> http.Response:
        build, caller = self._job(request, 0)
        return self._shown(build, request, caller)

    async def retry(self, request: http.Request) -> http.Response:
        """Only a finished job that is the latest attempt; the answer is the new job with its new id."""
        build, caller = self._job(request, access.DEVELOPER)
        if build.state not in entities.FINAL or build.retried:
            raise parameters.refuse("403 Forbidden - Job is not retryable", 403)
        return self._shown(self.jobs.retry(build), request, caller, 201)

    async def cancel(self, request: http.Request) -> http.Response:
        """`force=true` ends a job that hangs in `canceling`; it needs Maintainer."""
        build, caller = self._job(request, access.DEVELOPER)
        force = parameters.read(request).flag("force")
        if force:
            caller.need(access.MAINTAINER)
            if build.state != "canceling":
                raise parameters.refuse("403 Forbidden - Job cannot be force canceled", 403)
        self.jobs.cancel(build, force=force)
        return self._shown(build, request, caller, 201)

    async def play(self, request: http.Request) -> http.Response:
        build, caller = self._job(request, access.DEVELOPER)
        if build.state != "manual":
            raise parameters.refuse("400 Bad request - Unplayable Job", 400)
        self.jobs.enter(build, "pending")
        return self._shown(build, request, caller)

    async def erase(self, request: http.Request) -> http.Response:
        build, caller = self._job(request, access.DEVELOPER)
        if build.state not in entities.FINAL:
            raise parameters.refuse("403 Forbidden - Job is not erasable!", 403)
        build.log.clear()
        return self._shown(build, request, caller, 201)

    async def trace(self, request: http.Request) -> http.Response:
        build, caller = self._job(request, 0)
        return http.Response(200, bytes(build.log), {"Content-Type": "text/plain", **caller.headers})

    # Pipelines

    def _line(self, request: http.Request, level: int) -> tuple[entities.Pipeline, world.Repository, access.Caller]:
        project, caller = self.places.of(request)
        number = request.params["pipeline_id"]
        line = self.jobs.pipelines.get(int(number)) if number.isdecimal() else None
        if line is None or line.repo != project.name:
            raise parameters.refuse("404 Not found", 404)
        caller.need(level)
        return line, project, caller

    def _shown_line(
        self,
        line: entities.Pipeline,
        project: world.Repository,
        request: http.Request,
        caller: access.Caller,
        status: int,
    ) -> http.Response:
        body = views.pipeline(line, project.id, views.pipeline_status(self.jobs, line), request.base_url)
        return http.json_response(body, status, headers=caller.headers)

    def _of(self, line: entities.Pipeline, *, retried: bool = False) -> list[entities.Build]:
        found = [job for id in line.jobs if (job := self.jobs.get(id)) is not None]
        return [job for job in found if retried or not job.retried]

    async def list_pipelines(self, request: http.Request) -> http.Response:
        project, caller = self.places.of(request)
        lines = [line for line in reversed(self.jobs.pipelines.values()) if line.repo == project.name]
        page = paging.offset(
            request,
            parameters.read(request),
            lines,
            lambda line: views.pipeline(line, project.id, views.pipeline_status(self.jobs, line), request.base_url),
        )
        return page.with_headers(caller.headers)

    async def show_pipeline(self, request: http.Request) -> http.Response:
        line, project, caller = self._line(request, 0)
        return self._shown_line(line, project, request, caller, 200)

    async def list_pipeline_jobs(self, request: http.Request) -> http.Response:
        """The latest attempts, or all with `include_retried`."""
        line, _, caller = self._line(request, 0)
        params = parameters.read(request)
        states = self._scope(params)
        found = [
            job
            for job in reversed(self._of(line, retried=params.flag("include_retried")))
            if states is None or job.state in states
        ]
        page = paging.offset(
            request, params, found, lambda job: views.job(self.jobs, job, request.base_url), counted=False
        )
        return page.with_headers(caller.headers)

    async def list_bridges(self, request: http.Request) -> http.Response:
        _, _, caller = self._line(request, 0)
        return http.json_response([], headers=caller.headers)

    async def retry_pipeline(self, request: http.Request) -> http.Response:
        """New attempts of what failed or was canceled."""
        line, project, caller = self._line(request, access.DEVELOPER)
        for build in self._of(line):
            if build.state in ("failed", "canceled"):
                self.jobs.retry(build)
        return self._shown_line(line, project, request, caller, 201)

    async def cancel_pipeline(self, request: http.Request) -> http.Response:
        line, project, caller = self._line(request, access.DEVELOPER)
        for build in self._of(line):
            self.jobs.cancel(build)
        return self._shown_line(line, project, request, caller, 200)
