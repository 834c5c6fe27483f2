"""REST: check runs and commit statuses."""

from __future__ import annotations

from typing import Any

from runnerd.simulator import http, world
from runnerd.simulator.github import auth, entities, pull_payloads, rest, rest_access, state

_CONCLUSIONS = (
    "action_required cancelled failure neutral success skipped stale timed_out".split()  # noqa: SIM905
)


class CheckEndpoints:
    """Endpoints of check runs and commit statuses."""

    def __init__(self, tables: state.State, frame: rest.Frame) -> None:
        self._state = tables
        self._world = tables.world
        self._frame = frame

    def routes(self) -> list[http.Route]:
        """Return the routes of the endpoints."""
        route = self._frame.route
        return [
            route("POST", rest_access.REPOSITORY + "/check-runs", self.create_check),
            route("PATCH", rest_access.REPOSITORY + "/check-runs/{id}", self.update_check),
            route("GET", rest_access.REPOSITORY + "/check-runs/{id}", self.check),
            route("GET", rest_access.REPOSITORY + "/commits/{sha}/check-runs", self.checks),
            route("POST", rest_access.REPOSITORY + "/statuses/{sha}", self.create_status),
            route("GET", rest_access.REPOSITORY + "/commits/{sha}/statuses", self.list_statuses),
        ]

    async def create_check(self, request: http.Request, principal: auth.Principal) -> http.Response:
        repo = rest_access.repository(self._state, request, principal, write=True)
        if principal.kind not in ("installation", "job"):
            raise state.refuse(403, "You must authenticate via a GitHub App.")
        body = state.read_json(request)
        for key in ("name", "head_sha"):
            if not isinstance(body.get(key), str) or not body[key]:
                raise state.refuse(422, f"Invalid request.\n\n{key} wasn't supplied.")
        check = entities.CheckRun(
            id=self._world.next_id("github-check", 3_000_001),
            repo=repo.name,
            name=body["name"],
            head_sha=body["head_sha"],
            status="queued",
            conclusion=None,
            started_at=None,
            completed_at=None,
            output={},
        )
        self._fill_check(check, body)
        self._state.checks[check.id] = check
        return rest_access.created(pull_payloads.check_run(request.base_url, check))

    async def update_check(self, request: http.Request, principal: auth.Principal) -> http.Response:
        check = self._check(request, principal, write=True)
        self._fill_check(check, state.read_json(request))
        return http.json_response(pull_payloads.check_run(request.base_url, check))

    async def check(self, request: http.Request, principal: auth.Principal) -> http.Response:
        return http.json_response(pull_payloads.check_run(request.base_url, self._check(request, principal)))

    async def checks(self, request: http.Request, principal: auth.Principal) -> http.Response:
        repo = rest_access.repository(self._state, request, principal)
        found = [
            check
            for check in self._state.checks.values()
            if (check.repo, check.head_sha) == (repo.name, request.params["sha"])
        ]
        return rest.paged(
            request, found, lambda item: pull_payloads.check_run(request.base_url, item), key="check_runs"
        )

    async def create_status(self, request: http.Request, principal: auth.Principal) -> http.Response:
        repo = rest_access.repository(self._state, request, principal, write=True)
        body = state.read_json(request)
        if body.get("state") not in ("error", "failure", "pending", "success"):
            raise rest.validation("Validation Failed", field="state")
        status = entities.CommitStatus(
            id=self._world.next_id("github-status", 4_000_001),
            repo=repo.name,
            sha=rest_access.sha(request),
            state=body["state"],
            context=str(body.get("context") or "default"),
            description=body.get("description"),
            target_url=body.get("target_url"),
            created_at=self._world.now(),
        )
        self._state.statuses.append(status)
        return rest_access.created(pull_payloads.status(request.base_url, status))

    async def list_statuses(self, request: http.Request, principal: auth.Principal) -> http.Response:
        repo = rest_access.repository(self._state, request, principal)
        sha = request.params["sha"]
        found = [item for item in reversed(self._state.statuses) if (item.repo, item.sha) == (repo.name, sha)]
        return rest.paged(request, found, lambda item: pull_payloads.status(request.base_url, item), key=None)

    def _check(self, request: http.Request, principal: auth.Principal, *, write: bool = False) -> entities.CheckRun:
        repo = rest_access.repository(self._state, request, principal, write=write)
        check = self._state.checks.get(rest.number(request.params["id"]))
        if check is None or check.repo != repo.name:
            raise state.refuse(404, "Not Found")
        return check

    def _fill_check(self, check: entities.CheckRun, body: dict[str, Any]) -> None:
        status, conclusion = body.get("status"), body.get("conclusion")
        if status not in (None, "queued", "in_progress", "completed"):
            raise rest.validation("Validation Failed", field="status")
        if conclusion is not None and conclusion not in _CONCLUSIONS:
            raise rest.validation("Validation Failed", field="conclusion")
        if status == "completed" and conclusion is None and check.conclusion is None:
            raise rest.validation("Validation Failed", field="conclusion", code="missing_field")
        output = body.get("output")
        if output is not None and (not isinstance(output, dict) or not output.get("summary")):
            raise rest.validation("Validation Failed", field="output", code="missing_field")
        now = world.iso(self._world.now())
        if conclusion is not None:
            check.status, check.conclusion = "completed", conclusion
            check.completed_at = body.get("completed_at") or now
        elif status is not None:
            check.status = status
        check.started_at = body.get("started_at") or check.started_at or now
        check.output = output or check.output
        check.name = body.get("name") or check.name
        check.details_url = body.get("details_url") or check.details_url
        check.external_id = body.get("external_id") or check.external_id
