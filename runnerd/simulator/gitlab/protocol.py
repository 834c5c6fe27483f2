"""The runner protocol: ask for a job, report its log and its end.

`POST /jobs/request` behaves as Workhorse (long poll) in front of Rails (assignment) do together; the statuses are those
of `lib/api/ci/runner.rb`. A job that needs no artifact, cache or service is all that is handed out here.
"""

from __future__ import annotations

import re
from typing import Any

from runnerd.simulator import http, world
from runnerd.simulator.gitlab import access, builds, entities, parameters, projects, reasons, runners

#: Workhorse watches only for bodies up to this size.
WATCHED_BODY = 32 * 1024
#: Features without which a job of this simulator cannot run (merge request pipelines need refspecs).
NEEDED_FEATURES = ("variables", "refspecs")


class Protocol:
    """Handlers of `/jobs/request`, `/jobs/:id` and `/jobs/:id/trace`."""

    def __init__(
        self,
        jobs: builds.Builds,
        gate: access.Access,
        places: projects.Projects,
        records: runners.Runners,
    ) -> None:
        self.jobs = jobs
        self.world = jobs.world
        self.gate = gate
        self.places = places
        self.records = records

    def routes(self) -> list[tuple[str, str, http.Handler]]:
        return [
            ("POST", "/jobs/request", self.request_job),
            ("PUT", "/jobs/{id}", self.update),
            ("PATCH", "/jobs/{id}/trace", self.trace),
        ]

    # Asking for work

    async def request_job(self, request: http.Request) -> http.Response:
        """201 a job, 204 none, 403 no such runner, 409 ask again, 422 orphaned, 429 too often."""
        watched = await self._watch(request)
        if watched is not None:
            return watched
        params = parameters.read(request)
        token = params.required("token")
        self.gate.limits.spend("runner_jobs_request_api", token, self.gate.settings.rate_jobs_request)
        runner = self.records.by_token(params, request)
        if runner.kind == "project_type" and (access.FORGE, runner.scope) not in self.world.repositories:
            raise parameters.refuse("422 Unprocessable Entity - Runner is orphaned", 422)
        info = params.raw("info")
        info = info if isinstance(info, dict) else {}
        system_id = params.text("system_id") or "<legacy>"
        self.jobs.contact(runner, system_id, info)
        if runner.paused:
            return http.empty()
        value = self.jobs.queue_value(runner)
        if params.text("last_update") == value:
            return http.empty(headers={"X-GitLab-Last-Update": value})
        declared = info.get("features")
        features = frozenset(name for name, on in declared.items() if on) if isinstance(declared, dict) else frozenset()
        build = self.take(runner, system_id=system_id, features=features)
        if build is None:
            return http.empty(headers={"X-GitLab-Last-Update": value})
        return http.json_response(self.payload(build, runner, request.base_url), 201)

    def take(self, runner: entities.RunnerRecord, *, system_id: str, features: frozenset[str]) -> entities.Build | None:
        """Assign the oldest fitting job; jobs that the runner's features cannot run are dropped on the way."""
        while (build := self.jobs.pick(runner)) is not None:
            if all(name in features for name in NEEDED_FEATURES):
                self.jobs.assign(build, runner, system_id=system_id, features=features)
                return build
            self.jobs.enter(build, "failed", reason="runner_unsupported")
        return None

    async def _watch(self, request: http.Request) -> http.Response | None:
        """Workhorse's part: hold the request while the queue value is the one that the runner knows.

        None means that the request goes through to Rails. A change while watching is an immediate 204.
        """
        limit = self.gate.settings.long_poll
        kind = request.header("content-type").partition(";")[0].strip().lower()
        if limit <= 0 or kind != "application/json" or len(request.body) > WATCHED_BODY:
            return None
        try:
            data = request.json()
        except ValueError:
            return None
        if not isinstance(data, dict) or not data.get("token") or not data.get("last_update"):
            return None
        known = str(data["last_update"])
        until = self.world.now() + limit
        watching = False
        while True:
            runner = self.jobs.runner_by_token.get(str(data["token"]))
            same = runner is not None and self.jobs.queue_value(runner) == known
            if runner is None or not same:
                return http.empty(headers={"Gitlab-Ci-Builds-Polling": "yes"}) if watching else None
            left = until - self.world.now()
            if left <= 0:
                return http.empty(headers={"Gitlab-Ci-Builds-Polling": "yes"})
            watching = True
            await self.world.wait(("queue", runner.profile), left)

    def payload(self, build: entities.Build, runner: entities.RunnerRecord, base_url: str) -> dict[str, Any]:
        """The body of the 201. The job's tags are not in it, as in the real one."""
        project = self.places.make_project(build.repo)
        timeout = build.timeout if runner.maximum_timeout is None else min(build.timeout, runner.maximum_timeout)
        script = build.script or [f"sleep {build.duration:g}" if build.duration else "true"]
        group = self.places.groups[project.owner]
        root = self.places.groups[project.owner.split("/")[0]]
        waiting = self.jobs.ids(build.project_id, ("pending",))
        return {
            "id": build.id,
            "token": build.token,
            "allow_git_fetch": True,
            "job_info": {
                "id": build.id,
                "name": build.name,
                "stage": "test",
                "pipeline_id": build.run_id,
                "project_id": build.project_id,
                "project_name": project.short,
                "project_full_path": project.name,
                "namespace_id": group.id,
                "root_namespace_id": root.id,
                "organization_id": 1,
                "instance_id": "00000000-0000-4000-8000-000000000001",
                "instance_uuid": "00000000-0000-4000-8000-000000000001",
                "user_id": 2,
                "scoped_user_id": None,
                "time_in_queue_seconds": int(self.world.now() - build.queued_at),
                "project_jobs_running_on_instance_runners_count": "0",
                "queue_size": len(waiting),
                "queue_depth": 1,
            },
            "git_info": {
                "repo_url": _clone_url(base_url, project.name, build.token),
                "repo_object_format": "sha1",
                "ref": build.ref,
                "sha": build.sha,
                "before_sha": "0" * 40,
                "ref_type": "branch",
                "refspecs": [f"+{build.sha}:refs/pipelines/{build.run_id}"],
                "depth": 20,
                "protected": build.protected,
            },
            "runner_info": {"uuid": "", "timeout": timeout, "runner_session_url": None},
            "inputs": [],
            "variables": self.variables(build, runner, base_url),
            "steps": [
                {"name": "script", "script": script, "timeout": timeout, "when": "on_success", "allow_failure": False}
            ],
            "image": None,
            "services": [],
            "artifacts": [],
            "cache": [],
            "credentials": [],
            "dependencies": [],
            "features": {
                "trace_sections": True,
                "token_mask_prefixes": ["glpat-", "glrt-"],
                "failure_reasons": reasons.failure_reasons(self.gate.settings),
            },
            "secrets": {},
            "hooks": [],
            "run": None,
            "policy_options": None,
        }

    def variables(self, build: entities.Build, runner: entities.RunnerRecord, base_url: str) -> list[dict[str, Any]]:
        """Predefined variables, then the project's, then the job's.

        `GIT_STRATEGY` is none, because there is no Git server; a stand-in runner finds the files by
        `SIMULATED_ARCHIVE_PATH` and makes the repository nevertheless.
        """
        project = self.places.make_project(build.repo)
        pipeline = self.jobs.pipelines[build.run_id]
        plain = {
            "CI": "true",
            "GITLAB_CI": "true",
            "CI_SERVER": "yes",
            "CI_SERVER_NAME": "GitLab",
            "CI_SERVER_URL": base_url,
            "CI_SERVER_HOST": base_url.partition("://")[2].partition(":")[0],
            "CI_SERVER_VERSION": self.gate.settings.version,
            "CI_API_V4_URL": f"{base_url}/api/v4",
            "CI_PIPELINE_ID": str(pipeline.id),
            "CI_PIPELINE_IID": str(pipeline.iid),
            "CI_PIPELINE_SOURCE": pipeline.source,
            "CI_PIPELINE_URL": f"{base_url}/{project.name}/-/pipelines/{pipeline.id}",
            "CI_JOB_ID": str(build.id),
            "CI_JOB_NAME": build.name,
            "CI_JOB_STAGE": "test",
            "CI_JOB_URL": f"{base_url}/{project.name}/-/jobs/{build.id}",
            "CI_JOB_STARTED_AT": world.iso(self.world.now()) or "",
            "CI_PROJECT_ID": str(project.id),
            "CI_PROJECT_NAME": project.short,
            "CI_PROJECT_PATH": project.name,
            "CI_PROJECT_NAMESPACE": project.owner,
            "CI_PROJECT_URL": f"{base_url}/{project.name}",
            "CI_DEFAULT_BRANCH": project.default_branch,
            "CI_COMMIT_SHA": build.sha,
            "CI_COMMIT_SHORT_SHA": build.sha[:8],
            "CI_COMMIT_REF_NAME": build.ref,
            "CI_COMMIT_REF_PROTECTED": str(build.protected).lower(),
            "CI_RUNNER_ID": str(runner.id),
            "CI_RUNNER_DESCRIPTION": runner.description,
            "CI_RUNNER_TAGS": str(list(runner.labels)).replace("'", '"'),
            "GITLAB_USER_ID": "2",
            "GITLAB_USER_LOGIN": "scientist",
            "GITLAB_USER_NAME": "Data Scientist",
            "GITLAB_USER_EMAIL": "scientist@acme.example",
            "GIT_STRATEGY": "none",
        }
        pull = self.world.pulls.get((access.FORGE, build.repo, build.pull_number or 0))
        if pull is not None:
            plain |= {
                "CI_MERGE_REQUEST_ID": str(pull.id),
                "CI_MERGE_REQUEST_IID": str(pull.number),
                "CI_MERGE_REQUEST_TITLE": pull.title,
                "CI_MERGE_REQUEST_PROJECT_ID": str(project.id),
                "CI_MERGE_REQUEST_PROJECT_PATH": project.name,
                "CI_MERGE_REQUEST_PROJECT_URL": f"{base_url}/{project.name}",
                "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": pull.head_ref,
                "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": pull.base_ref,
            }
        else:
            plain["CI_COMMIT_BRANCH"] = build.ref
        if project.directory is not None:
            plain["SIMULATED_ARCHIVE_PATH"] = f"/projects/{project.id}/repository/archive.tar.gz"
        listed = [
            {"key": key, "value": value, "public": True, "file": False, "masked": False, "raw": True}
            for key, value in plain.items()
        ]
        clone_url = _clone_url(base_url, project.name, build.token)
        listed.append(
            {
                "key": "CI_REPOSITORY_URL",
                "value": clone_url,
                "public": False,
                "file": False,
                "masked": False,
                "raw": True,
            }
        )
        for key, value in {"CI_JOB_TOKEN": build.token, "CI_REGISTRY_PASSWORD": build.token}.items():
            listed.append({"key": key, "value": value, "public": False, "file": False, "masked": True, "raw": True})
        return [*listed, *project.extra["variables"], *build.variables]

    # Reporting

    def _job(self, request: http.Request, params: parameters.Parameters) -> entities.Build:
        """The job by its token; 403 for a wrong token and for a job that this assignment does not hold (any more)."""
        token = request.header("job-token") or params.text("token") or ""
        number = request.params["id"]
        build = self.jobs.get(int(number)) if number.isdecimal() else None
        if build is None or not token or build.token != token:
            raise parameters.refuse("403 Forbidden", 403)
        if not (build.waiting or build.state in ("running", "canceling")):
            text = "403 Forbidden  - Job is not processing on runner"
            raise http.Refusal(parameters.message(text, 403).with_headers({"Job-Status": build.state}))
        runner = self.jobs.runners.get(build.runner_id or 0)
        if runner is not None:
            self.jobs.contact(runner, build.system_id)
        return build

    def _headers(self, build: entities.Build) -> dict[str, str]:
        return {
            "Job-Status": build.state,
            "X-GitLab-Trace-Update-Interval": str(self.gate.settings.trace_update_interval),
        }

    async def update(self, request: http.Request) -> http.Response:
        """`PUT /jobs/:id`: heartbeat, acknowledgement (two-phase commit) or the end."""
        params = parameters.read(request)
        build = self._job(request, params)
        self.gate.limits.spend("runner_jobs_endpoints_api", build.token, self.gate.settings.rate_jobs_endpoints)
        state = params.text("state")
        status = 200
        if build.waiting:
            if state == "pending":
                self.jobs.keep_waiting(build)
            elif state in ("running", "success", "failed"):
                self.jobs.enter(build, "running")
            else:
                status = 400
        build.updated_at = self.world.now()
        if state in ("success", "failed") and build.state in ("running", "canceling"):
            status = self._end(build, state, params)
        elif state not in ("pending", "running"):
            status = 400
        if build.state == "pending" and state == "running":
            status = 409
        response = http.json_response(str(status), status)
        return response.with_headers(self._headers(build))

    def _end(self, build: entities.Build, state: str, params: parameters.Parameters) -> int:
        """Take the end: 202 while log is missing that the runner says it has sent."""
        output = params.raw("output")
        size = output.get("bytesize") if isinstance(output, dict) else None
        if isinstance(size, int) and size > build.trace_size:
            build.held_since = self.world.now() if build.held_since is None else build.held_since
            if self.world.now() - build.held_since < self.gate.settings.trace_grace:
                return 202
        build.exit_code = params.number("exit_code")
        if build.state == "canceling":
            self.jobs.enter(build, "canceled")
            return 200
        reason = params.text("failure_reason")
        if reason not in reasons.failure_reasons(self.gate.settings):
            reason = "unknown_failure"
        self.jobs.enter(build, state, reason=reason if state == "failed" else None)
        return 200

    async def trace(self, request: http.Request) -> http.Response:
        """`PATCH /jobs/:id/trace`: append at exactly where the log ends, else 416 with where that is."""
        build = self._job(request, parameters.Parameters({}))
        self.gate.limits.spend("runner_jobs_patch_trace_api", build.token, self.gate.settings.rate_jobs_trace)
        span = re.fullmatch(r"(\d+)-(\d+)", request.header("content-range"))
        if span is None:
            raise http.Refusal(http.json_response({"error": "400 Missing header Content-Range"}, 400))
        start, end = int(span.group(1)), int(span.group(2))
        if start != build.trace_size:
            refused = http.json_response({"error": "416 Range Not Satisfiable"}, 416)
            raise http.Refusal(refused.with_headers({"Range": f"0-{build.trace_size}"}))
        if end - start + 1 != len(request.body):
            raise http.Refusal(http.json_response({"error": "400 Content-Range does not fit the body"}, 400))
        build.append_log(request.body)
        build.trace_size += len(request.body)
        build.updated_at = self.world.now()
        headers = {**self._headers(build), "Range": f"0-{build.trace_size}"}
        return http.Response(202, b"", headers)


def _clone_url(base_url: str, name: str, token: str) -> str:
    """Return the address for cloning with the job's token (docs: predefined variables, `CI_REPOSITORY_URL`)."""
    scheme, _, host = base_url.partition("://")
    return f"{scheme}://gitlab-ci-token:{token}@{host}/{name}.git"
