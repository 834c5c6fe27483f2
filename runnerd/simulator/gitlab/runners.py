"""Runner records over REST: create, look, edit, list, remove; and what a runner may do with its own token.

The checks and their words are those of `lib/api/user_runners.rb`, `lib/api/ci/runners.rb` and `lib/api/ci/runner.rb`.
Registration tokens are refused with 410, the default since GitLab 17.0. What deleting a runner does to its running job
is not documented: here the job goes on by its own token.
"""

from __future__ import annotations

import re
from typing import Any

from runnerd.simulator import http
from runnerd.simulator.gitlab import access, builds, entities, paging, parameters, projects, views

KINDS = ("instance_type", "group_type", "project_type")
STATUSES = ("online", "offline", "stale", "never_contacted", "active", "paused")
ACCESS_LEVELS = ("not_protected", "ref_protected")
MOST_TAGS = 50
LONGEST_TEXT = 1024
SHORTEST_TIMEOUT = 600


class Runners:
    """Handlers of `/user/runners` and `/runners`."""

    def __init__(self, jobs: builds.Builds, gate: access.Access, places: projects.Projects) -> None:
        self.jobs = jobs
        self.gate = gate
        self.places = places
        self.world = jobs.world

    def routes(self) -> list[tuple[str, str, http.Handler]]:
        return [
            ("POST", "/user/runners", self.create),
            ("GET", "/runners", self.list_own),
            ("GET", "/runners/all", self.list_all),
            ("POST", "/runners", self.register),
            ("DELETE", "/runners", self.delete_by_token),
            ("DELETE", "/runners/managers", self.delete_manager),
            ("POST", "/runners/verify", self.verify),
            ("POST", "/runners/reset_authentication_token", self.reset_by_token),
            ("GET", "/runners/router/discovery", self.discovery),
            ("GET", "/runners/{id}", self.show),
            ("PUT", "/runners/{id}", self.edit),
            ("DELETE", "/runners/{id}", self.delete),
            ("GET", "/runners/{id}/jobs", self.list_jobs),
            ("GET", "/runners/{id}/managers", self.list_managers),
            ("POST", "/runners/{id}/reset_authentication_token", self.reset),
            ("GET", "/groups/{id}/runners", self.list_group),
            ("GET", "/projects/{id}/runners", self.list_project),
        ]

    # By a person's token

    async def create(self, request: http.Request) -> http.Response:
        """`POST /user/runners`: the token in the answer is shown this once."""
        caller = self.gate.caller(request, "create_runner")
        params = parameters.read(request)
        kind = params.choice("runner_type", KINDS)
        if kind is None:
            raise parameters.invalid("runner_type is missing, runner_type does not have a valid value")
        if "token" in params:
            raise parameters.invalid("token is not allowed")
        scope = self._scope(kind, params, caller)
        values = self._attributes(params)
        values.setdefault("run_untagged", True)
        self._check_tags(values.get("labels", []), run_untagged=values["run_untagged"])
        cap = {
            "group_type": self.gate.settings.runners_per_group,
            "project_type": self.gate.settings.runners_per_project,
        }.get(kind, 0)
        have = sum(1 for runner in self.jobs.runners.values() if runner.kind == kind and runner.scope == scope)
        if cap and have >= cap:
            what = "group" if kind == "group_type" else "project"
            text = f"Maximum number of ci registered {what} runners ({cap}) exceeded"
            raise http.Refusal(http.json_response({"message": {"base": [text]}}, 400))
        number = self.world.next_id("gitlab-runner", 501)
        runner = entities.RunnerRecord(
            id=number,
            forge=access.FORGE,
            name=values.get("description") or f"runner-{number}",
            scope=scope,
            labels=list(values.get("labels", [])),
            created_at=self.world.now(),
            status="never_contacted",
            kind=kind,
            token="glrt-t3_" + self.world.secret(20),
        )
        for name, value in values.items():
            setattr(runner, name, value)
        self.jobs.add_runner(runner)
        body = {"id": runner.id, "token": runner.token, "token_expires_at": None}
        return http.json_response(body, 201, headers=caller.headers)

    def _scope(self, kind: str, params: parameters.Parameters, caller: access.Caller) -> str:
        group_id, project_id = params.text("group_id"), params.text("project_id")
        if kind == "instance_type":
            if group_id is not None or project_id is not None:
                raise parameters.invalid("group_id, project_id are mutually exclusive with runner_type instance_type")
            if not caller.admin:
                raise parameters.refuse("403 Forbidden - Insufficient permissions", 403)
            return ""
        if kind == "group_type":
            if group_id is None or not re.fullmatch(r"\d+", group_id):
                raise parameters.invalid("group_id is missing" if group_id is None else "group_id is invalid")
            group = self.places.group(group_id, caller)
            caller.need(access.OWNER)
            return group.path
        if project_id is None or not re.fullmatch(r"\d+", project_id):
            raise parameters.invalid("project_id is missing" if project_id is None else "project_id is invalid")
        project = self.places.project(project_id, caller)
        caller.need(access.MAINTAINER)
        return project.name

    def _attributes(self, params: parameters.Parameters) -> dict[str, Any]:
        """Return the editable attributes of a request, checked."""
        values: dict[str, Any] = {}
        tags = params.words("tag_list")
        if tags is not None:
            values["labels"] = tags
        for name in ("run_untagged", "locked", "paused"):
            if params.raw(name) is not None:
                values[name] = params.flag(name)
        if params.raw("active") is not None and "paused" not in values:
            values["paused"] = not params.flag("active", True)
        for name in ("description", "maintenance_note"):
            if name in params:
                values[name] = params.text(name, limit=LONGEST_TEXT) or ""
        level = params.choice("access_level", ACCESS_LEVELS)
        if level is not None:
            values["access_level"] = level
        if "maximum_timeout" in params:
            timeout = params.number("maximum_timeout")
            if timeout is not None and timeout < SHORTEST_TIMEOUT:
                text = f"needs to be at least {SHORTEST_TIMEOUT // 60} minutes"
                raise http.Refusal(http.json_response({"message": {"maximum_timeout": [text]}}, 400))
            values["maximum_timeout"] = timeout
        return values

    def _check_tags(self, tags: list[str], *, run_untagged: bool) -> None:
        problems = []
        if not tags and not run_untagged:
            problems.append("can not be empty when runner is not allowed to pick untagged jobs")
        if len(tags) > MOST_TAGS:
            problems.append(f"Too many tags specified. Please limit the number of tags to {MOST_TAGS}")
        if problems:
            raise http.Refusal(http.json_response({"message": {"tags_list": problems}}, 400))

    def _runner(self, request: http.Request, *, level: int) -> tuple[entities.RunnerRecord, access.Caller]:
        caller = self.gate.caller(request, "manage_runner")
        number = request.params["id"]
        if not number.isdecimal():
            raise parameters.invalid("id is invalid")
        runner = self.jobs.runners.get(int(number))
        if runner is None:
            raise parameters.refuse("404 Runner Not Found", 404)
        if not caller.sees(runner.scope) or (runner.kind == "instance_type" and not caller.admin):
            raise parameters.refuse("403 Forbidden - No access granted", 403)
        caller.need(access.OWNER if runner.kind == "group_type" and level > access.DEVELOPER else level)
        return runner, caller

    async def show(self, request: http.Request) -> http.Response:
        runner, caller = self._runner(request, level=access.MAINTAINER)
        return http.json_response(views.runner_details(self.jobs, runner, request.base_url), headers=caller.headers)

    async def edit(self, request: http.Request) -> http.Response:
        runner, caller = self._runner(request, level=access.MAINTAINER)
        values = self._attributes(parameters.read(request))
        if not values:
            raise parameters.invalid(
                "description, active, paused, tag_list, run_untagged, locked, access_level, maximum_timeout,"
                " maintenance_note are missing, at least one parameter must be provided"
            )
        self._check_tags(
            values.get("labels", runner.labels), run_untagged=values.get("run_untagged", runner.run_untagged)
        )
        if "description" in values:
            values["name"] = values["description"] or runner.name
        self.jobs.edit_runner(runner, values)
        return http.json_response(views.runner_details(self.jobs, runner, request.base_url), headers=caller.headers)

    async def delete(self, request: http.Request) -> http.Response:
        runner, caller = self._runner(request, level=access.MAINTAINER)
        self.jobs.remove_runner(runner)
        return http.empty(204, headers=caller.headers)

    async def reset(self, request: http.Request) -> http.Response:
        runner, caller = self._runner(request, level=access.MAINTAINER)
        body = {"token": self.jobs.rotate(runner), "token_expires_at": None}
        return http.json_response(body, 201, headers=caller.headers)

    async def list_managers(self, request: http.Request) -> http.Response:
        runner, caller = self._runner(request, level=access.MAINTAINER)
        managers = sorted(runner.managers.values(), key=lambda manager: manager.id, reverse=True)
        page = paging.offset(
            request, parameters.read(request), managers, lambda manager: views.manager(self.jobs, manager)
        )
        return page.with_headers(caller.headers)

    async def list_jobs(self, request: http.Request) -> http.Response:
        """Jobs that the runner has or had; one assigned but not acknowledged shows as pending."""
        runner, caller = self._runner(request, level=access.DEVELOPER)
        params = parameters.read(request)
        status = params.choice("status", tuple(entities.STATUSES))
        params.choice("order_by", ("id",))
        machine = params.text("system_id")
        if status in ("running", "canceling"):
            numbers = sorted(runner.held)
        else:
            numbers = runner.jobs
        chosen = [
            job
            for id in numbers
            if (job := self.jobs.get(id)) is not None
            and job.runner_id == runner.id
            and (status is None or job.state == status)
            and (machine is None or job.system_id == machine)
        ]
        if params.choice("sort", ("asc", "desc"), "desc") == "desc":
            chosen.reverse()
        page = paging.offset(
            request,
            params,
            chosen,
            lambda job: views.job(self.jobs, job, request.base_url, project=True),
            counted=False,
        )
        return page.with_headers(caller.headers)

    # Lists

    async def list_own(self, request: http.Request) -> http.Response:
        caller = self.gate.caller(request, "manage_runner")
        return self._listed(
            request, caller, [r for r in self._all() if r.kind != "instance_type" and caller.sees(r.scope)]
        )

    async def list_all(self, request: http.Request) -> http.Response:
        caller = self.gate.caller(request, "manage_runner")
        if not caller.admin:
            raise parameters.refuse("403 Forbidden", 403)
        return self._listed(request, caller, self._all())

    async def list_group(self, request: http.Request) -> http.Response:
        """Runners of the group, of the groups above it and of the instance."""
        caller = self.gate.caller(request, "manage_runner")
        group = self.places.group(request.params["id"], caller)
        caller.need(access.MAINTAINER)
        chosen = [
            runner
            for runner in self._all()
            if runner.kind == "instance_type" or (runner.kind == "group_type" and runner.serves(group.path + "/*"))
        ]
        return self._listed(request, caller, chosen)

    async def list_project(self, request: http.Request) -> http.Response:
        caller = self.gate.caller(request, "manage_runner")
        project = self.places.project(request.params["id"], caller)
        caller.need(access.MAINTAINER)
        return self._listed(request, caller, [runner for runner in self._all() if runner.serves(project.name)])

    def _all(self) -> list[entities.RunnerRecord]:
        return [self.jobs.runners[id] for id in sorted(self.jobs.runners, reverse=True)]

    def _listed(
        self, request: http.Request, caller: access.Caller, found: list[entities.RunnerRecord]
    ) -> http.Response:
        params = parameters.read(request)
        kind = params.choice("type", KINDS)
        status = params.choice("status", STATUSES)
        tags = set(params.words("tag_list") or ())
        version = params.text("version_prefix")
        paused = params.flag("paused") if params.raw("paused") is not None else None
        if status in ("active", "paused"):
            paused, status = status == "paused", None

        def wanted(runner: entities.RunnerRecord) -> bool:
            versions = [str(manager.info.get("version", "")) for manager in runner.managers.values()]
            return (
                (kind is None or runner.kind == kind)
                and (status is None or self.jobs.liveness(runner.contacted_at, runner.created_at) == status)
                and (paused is None or runner.paused == paused)
                and tags <= set(runner.labels)
                and (version is None or any(text.startswith(version) for text in versions))
            )

        chosen = [runner for runner in found if wanted(runner)]
        page = paging.offset(request, params, chosen, lambda runner: views.runner(self.jobs, runner))
        return page.with_headers(caller.headers)

    # By a runner's token

    def by_token(self, params: parameters.Parameters, request: http.Request) -> entities.RunnerRecord:
        """Return the runner whose token was sent (body, else header); 403 when there is none of that token."""
        token = params.text("token") or request.header("runner-token")
        if not token:
            raise parameters.invalid("token is missing")
        runner = self.jobs.runner_by_token.get(token)
        if runner is None:
            raise parameters.refuse("403 Forbidden", 403)
        return runner

    async def register(self, request: http.Request) -> http.Response:
        params = parameters.read(request)
        params.required("token")
        return parameters.message("410 Gone - runner registration disallowed", 410)

    async def delete_by_token(self, request: http.Request) -> http.Response:
        runner = self.by_token(parameters.read(request), request)
        self.jobs.remove_runner(runner)
        return http.empty()

    async def delete_manager(self, request: http.Request) -> http.Response:
        params = parameters.read(request)
        runner = self.by_token(params, request)
        if runner.managers.pop(params.required("system_id"), None) is None:
            raise parameters.refuse("404 Runner not found with system_id", 404)
        return http.empty()

    async def verify(self, request: http.Request) -> http.Response:
        """Check a token; counts as contact of that machine (`heartbeat` in lib/api/ci/runner.rb).

        That contact is what keeps pending jobs from the one-hour drop; not confirmed against a live server.
        """
        params = parameters.read(request)
        runner = self.by_token(params, request)
        if not params.text("system_id"):
            raise parameters.refuse('400 (Bad request) "system_id" not given', 400)
        info = params.raw("info")
        self.jobs.contact(runner, params.text("system_id"), info if isinstance(info, dict) else None)
        return http.json_response({"id": runner.id, "token": runner.token, "token_expires_at": None})

    async def reset_by_token(self, request: http.Request) -> http.Response:
        runner = self.by_token(parameters.read(request), request)
        return http.json_response({"token": self.jobs.rotate(runner), "token_expires_at": None}, 201)

    async def discovery(self, request: http.Request) -> http.Response:
        """Answer that there is no job router, which is an experiment of one tier."""
        self.by_token(parameters.Parameters({}), request)
        return parameters.message("501 Not Implemented", 501)
