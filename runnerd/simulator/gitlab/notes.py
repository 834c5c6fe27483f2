"""Merge requests, issues, their notes, commit comments and commit statuses.

Where CML reports to. Commits are not checked against a repository, there being no Git server: any
hexadecimal name is one.
A note is edited by its author or a Maintainer; a commit comment cannot be edited.
"""

from __future__ import annotations

import re
from typing import Any

from runnerd.simulator import http, world
from runnerd.simulator.gitlab import access, builds, paging, parameters, projects, views

LONGEST_NOTE = 1_000_000
STATES = ("pending", "running", "success", "failed", "canceled", "skipped")
_PLACES = {"merge_requests": ("pull", "MergeRequest", "Merge request"), "issues": ("issue", "Issue", "Issue")}


class Notes:
    """Handlers of what people read beside the code."""

    def __init__(self, jobs: builds.Builds, gate: access.Access, places: projects.Projects) -> None:
        self.jobs = jobs
        self.world = jobs.world
        self.gate = gate
        self.places = places

    def routes(self) -> list[tuple[str, str, http.Handler]]:
        commit = "/projects/{id}/repository/commits/{sha}"
        table: list[tuple[str, str, http.Handler]] = [
            ("GET", "/projects/{id}/merge_requests", self.list_merge_requests),
            ("POST", "/projects/{id}/merge_requests", self.create_merge_request),
            ("GET", "/projects/{id}/merge_requests/{iid}", self.show_merge_request),
            ("PUT", "/projects/{id}/merge_requests/{iid}", self.edit_merge_request),
            ("PUT", "/projects/{id}/merge_requests/{iid}/merge", self.merge),
            ("POST", "/projects/{id}/issues", self.create_issue),
            ("GET", "/projects/{id}/issues/{iid}", self.show_issue),
            ("GET", commit, self.show_commit),
            ("GET", commit + "/merge_requests", self.list_merge_requests_of_commit),
            ("GET", commit + "/comments", self.list_commit_comments),
            ("POST", commit + "/comments", self.create_commit_comment),
            ("GET", commit + "/statuses", self.list_statuses),
            ("POST", "/projects/{id}/statuses/{sha}", self.create_status),
        ]
        for place in _PLACES:
            base = f"/projects/{{id}}/{place}/{{iid}}/notes"
            table += [
                ("GET", base, self.list_notes),
                ("POST", base, self.create_note),
                ("GET", base + "/{note_id}", self.show_note),
                ("PUT", base + "/{note_id}", self.edit_note),
                ("DELETE", base + "/{note_id}", self.delete_note),
            ]
        return table

    # Merge requests and issues

    def _pulls(self, project: world.Repository) -> list[world.PullRequest]:
        found = [one for one in self.world.pulls.values() if one.forge == access.FORGE and one.repo == project.name]
        return sorted(found, key=lambda one: one.number, reverse=True)

    def _pull(self, request: http.Request) -> tuple[world.PullRequest, world.Repository, access.Caller]:
        project, caller = self.places.of(request)
        number = request.params["iid"]
        found = self.world.pulls.get((access.FORGE, project.name, int(number))) if number.isdecimal() else None
        if found is None:
            raise parameters.refuse("404 Merge Request Not Found" if number.isdecimal() else "404 Not found", 404)
        return found, project, caller

    def _listed(
        self, request: http.Request, project: world.Repository, caller: access.Caller, found: list[world.PullRequest]
    ) -> http.Response:
        params = parameters.read(request)
        state = params.choice("state", ("opened", "closed", "locked", "merged", "all"), "all")
        branch = params.text("source_branch")
        chosen = [
            one
            for one in found
            if (state == "all" or views.merge_request(one, project.id, "")["state"] == state)
            and (branch is None or one.head_ref == branch)
        ]
        page = paging.offset(
            request, params, chosen, lambda one: views.merge_request(one, project.id, request.base_url)
        )
        return page.with_headers(caller.headers)

    async def list_merge_requests(self, request: http.Request) -> http.Response:
        project, caller = self.places.of(request)
        return self._listed(request, project, caller, self._pulls(project))

    async def list_merge_requests_of_commit(self, request: http.Request) -> http.Response:
        project, caller = self.places.of(request)
        sha = self._sha(request)
        found = [one for one in self._pulls(project) if one.sha.startswith(sha)]
        return self._listed(request, project, caller, found)

    async def create_merge_request(self, request: http.Request) -> http.Response:
        project, caller = self.places.of(request)
        params = parameters.read(request)
        source, target, title = (params.required(name) for name in ("source_branch", "target_branch", "title"))
        pulls = self._pulls(project)
        same = next((one for one in pulls if (one.head_ref, one.base_ref, one.state) == (source, target, "open")), None)
        if same is not None:
            text = f"Another open merge request already exists for this source branch: !{same.number}"
            raise http.Refusal(http.json_response({"message": [text]}, 409))
        number = max((one.number for one in pulls), default=0) + 1
        made = self.world.pull_request(access.FORGE, project.name, number)
        made.head_ref, made.base_ref, made.title = source, target, title
        made.extra["description"] = params.text("description", "")
        return http.json_response(views.merge_request(made, project.id, request.base_url), 201, headers=caller.headers)

    async def show_merge_request(self, request: http.Request) -> http.Response:
        found, project, caller = self._pull(request)
        return http.json_response(views.merge_request(found, project.id, request.base_url), headers=caller.headers)

    async def edit_merge_request(self, request: http.Request) -> http.Response:
        found, project, caller = self._pull(request)
        params = parameters.read(request)
        found.title = params.text("title", found.title) or found.title
        if "description" in params:
            found.extra["description"] = params.text("description", "")
        event = params.choice("state_event", ("close", "reopen"))
        if event is not None:
            found.state = {"close": "closed", "reopen": "open"}[event]
        found.extra["updated_at"] = self.world.now()
        self.world.changed("pulls")
        return http.json_response(views.merge_request(found, project.id, request.base_url), headers=caller.headers)

    async def merge(self, request: http.Request) -> http.Response:
        """Merge at once, or when the pipeline succeeds; 405 when the merge request is not open."""
        found, project, caller = self._pull(request)
        params = parameters.read(request)
        if found.state != "open":
            raise parameters.refuse("405 Method Not Allowed", 405)
        if not (params.flag("merge_when_pipeline_succeeds") or params.flag("auto_merge")):
            found.state = "merged"
        self.world.changed("pulls")
        return http.json_response(views.merge_request(found, project.id, request.base_url), headers=caller.headers)

    def _issue(self, project: world.Repository, number: int, base_url: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = project.extra.get("issues", {}).get(number)
        return None if found is None else {**found, "web_url": f"{base_url}/{project.name}/-/issues/{number}"}

    async def create_issue(self, request: http.Request) -> http.Response:
        project, caller = self.places.of(request)
        params = parameters.read(request)
        title = params.required("title")
        issues = project.extra.setdefault("issues", {})
        number = params.number("iid") or max(issues, default=0) + 1
        if number in issues:
            raise parameters.refuse("409 Duplicated issue", 409)
        issues[number] = {
            "id": self.world.next_id("gitlab-issue", 80_001),
            "iid": number,
            "project_id": project.id,
            "title": title,
            "description": params.text("description", ""),
            "state": "opened",
        }
        return http.json_response(self._issue(project, number, request.base_url), 201, headers=caller.headers)

    async def show_issue(self, request: http.Request) -> http.Response:
        project, caller = self.places.of(request)
        number = request.params["iid"]
        found = self._issue(project, int(number), request.base_url) if number.isdecimal() else None
        if found is None:
            raise parameters.refuse("404 Not found", 404)
        return http.json_response(found, headers=caller.headers)

    # Notes

    def _target(self, request: http.Request) -> tuple[world.Repository, access.Caller, str, dict[str, Any]]:
        """Return the project, the caller, the target as the world names it, and what a shown note says of it."""
        project, caller = self.places.of(request)
        word, kind, title = _PLACES[request.template.split("/")[5]]
        number = int(request.params["iid"]) if request.params["iid"].isdecimal() else 0
        if word == "pull":
            pull = self.world.pulls.get((access.FORGE, project.name, number))
            noteable = pull.id if pull is not None else None
        else:
            issue = self._issue(project, number, "")
            noteable = issue["id"] if issue is not None else None
        if noteable is None:
            raise parameters.refuse(f"404 {title} Not Found" if word == "issue" else "404 Not found", 404)
        return project, caller, f"{word}/{number}", {"kind": kind, "noteable_id": noteable, "number": number}

    def _note(self, request: http.Request) -> tuple[world.Comment, access.Caller, dict[str, Any]]:
        project, caller, target, about = self._target(request)
        number = request.params["note_id"]
        found = self.world.comments.get(int(number)) if number.isdecimal() else None
        if found is None or (found.forge, found.repo, found.target) != (access.FORGE, project.name, target):
            raise parameters.refuse("404 Note Not Found", 404)
        return found, caller, about

    @staticmethod
    def _body(params: parameters.Parameters) -> str:
        body = params.text("body")
        if body is None:
            raise parameters.invalid("body is missing")
        problem = "can't be blank" if not body.strip() else ""
        if len(body) > LONGEST_NOTE:
            problem = f"is too long (maximum is {LONGEST_NOTE} characters)"
        if problem:
            raise http.Refusal(http.json_response({"message": {"note": [problem]}}, 400))
        return body

    async def list_notes(self, request: http.Request) -> http.Response:
        project, caller, target, about = self._target(request)
        params = parameters.read(request)
        key = params.choice("order_by", ("created_at", "updated_at"), "created_at")
        found = [
            one
            for one in self.world.comments.values()
            if one.target == target and one.forge == access.FORGE and one.repo == project.name
        ]
        found.sort(
            key=lambda one: (one.updated_at if key == "updated_at" else one.created_at, one.id),
            reverse=params.choice("sort", ("asc", "desc"), "desc") == "desc",
        )
        page = paging.offset(request, params, found, lambda one: views.note(one, request.base_url, **about))
        return page.with_headers(caller.headers)

    async def create_note(self, request: http.Request) -> http.Response:
        project, caller, target, about = self._target(request)
        self.gate.spend(caller, "notes_create", self.gate.settings.rate_notes_create)
        body = self._body(parameters.read(request))
        made = self.world.add_comment(
            access.FORGE, project.name, target, body, user=caller.user, id=self.world.next_id("gitlab-note", 40_001)
        )
        return http.json_response(views.note(made, request.base_url, **about), 201, headers=caller.headers)

    async def show_note(self, request: http.Request) -> http.Response:
        found, caller, about = self._note(request)
        return http.json_response(views.note(found, request.base_url, **about), headers=caller.headers)

    async def edit_note(self, request: http.Request) -> http.Response:
        found, caller, about = self._note(request)
        self._own(found, caller)
        found.body = self._body(parameters.read(request))
        found.updated_at = self.world.now()
        self.world.changed("comments")
        return http.json_response(views.note(found, request.base_url, **about), headers=caller.headers)

    async def delete_note(self, request: http.Request) -> http.Response:
        found, caller, _ = self._note(request)
        self._own(found, caller)
        del self.world.comments[found.id]
        self.world.changed("comments")
        return http.empty(204, headers=caller.headers)

    @staticmethod
    def _own(found: world.Comment, caller: access.Caller) -> None:
        if found.user != caller.user:
            caller.need(access.MAINTAINER)

    # Commits

    @staticmethod
    def _sha(request: http.Request) -> str:
        sha = request.params["sha"]
        if not re.fullmatch(r"[0-9a-f]{7,64}", sha):
            raise parameters.refuse("404 Commit Not Found", 404)
        return sha

    async def show_commit(self, request: http.Request) -> http.Response:
        project, caller = self.places.of(request)
        sha = self._sha(request)
        return http.json_response(views.commit(sha, project.extra["created_at"]), headers=caller.headers)

    async def list_commit_comments(self, request: http.Request) -> http.Response:
        project, caller = self.places.of(request)
        target = f"commit/{self._sha(request)}"
        found = [
            one
            for one in self.world.comments.values()
            if one.target == target and one.forge == access.FORGE and one.repo == project.name
        ]
        page = paging.offset(
            request, parameters.read(request), found, lambda one: self._commit_comment(one, request.base_url)
        )
        return page.with_headers(caller.headers)

    async def create_commit_comment(self, request: http.Request) -> http.Response:
        project, caller = self.places.of(request)
        sha = self._sha(request)
        params = parameters.read(request)
        note = params.text("note")
        if note is None:
            raise parameters.invalid("note is missing")
        self._body(parameters.Parameters({"body": note}))
        self.gate.spend(caller, "notes_create", self.gate.settings.rate_notes_create)
        made = self.world.add_comment(
            access.FORGE,
            project.name,
            f"commit/{sha}",
            note,
            user=caller.user,
            id=self.world.next_id("gitlab-note", 40_001),
        )
        return http.json_response(self._commit_comment(made, request.base_url), 201, headers=caller.headers)

    @staticmethod
    def _commit_comment(found: world.Comment, base_url: str) -> dict[str, Any]:
        """Create a commit comment; its answer has no id, which is why it cannot be edited."""
        return {
            "note": found.body,
            "path": None,
            "line": None,
            "line_type": None,
            "author": views.user(found.user, base_url),
            "created_at": views.iso(found.created_at),
        }

    async def list_statuses(self, request: http.Request) -> http.Response:
        project, caller = self.places.of(request)
        found = list(project.extra.get("statuses", {}).get(self._sha(request), {}).values())
        return paging.offset(request, parameters.read(request), found, dict).with_headers(caller.headers)

    async def create_status(self, request: http.Request) -> http.Response:
        project, caller = self.places.of(request)
        caller.need(access.DEVELOPER)
        sha = self._sha(request)
        params = parameters.read(request)
        state = params.choice("state", STATES)
        if state is None:
            raise parameters.invalid("state is missing, state does not have a valid value")
        name = params.text("name") or params.text("context") or "default"
        statuses = project.extra.setdefault("statuses", {}).setdefault(sha, {})
        before = statuses.get(name)
        if before is not None and before["status"] == state:
            text = f"Cannot transition status via :{state} from :{state}"
            raise http.Refusal(http.json_response({"message": text}, 400))
        statuses[name] = {
            "id": before["id"] if before is not None else self.world.next_id("gitlab-status", 95_001),
            "sha": sha,
            "status": state,
            "name": name,
            "ref": params.text("ref"),
            "description": params.text("description"),
            "target_url": params.text("target_url"),
            "coverage": params.raw("coverage"),
            "created_at": views.iso(self.world.now()),
            "author": views.user(caller.user, request.base_url),
        }
        return http.json_response(statuses[name], 201, headers=caller.headers)
