"""Control endpoints that only GitHub needs: scale sets, sessions, runner groups, repositories, runs."""

from __future__ import annotations

import re
from typing import Any

from runnerd.simulator import http
from runnerd.simulator.github import actions, dispatch, entities, state


def bad(message: str) -> http.Refusal:
    return http.Refusal(http.json_response({"error": message}, 400))


def _checked(handler: http.Handler) -> http.Handler:
    async def checked(request: http.Request) -> http.Response:
        try:
            return await handler(request)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            return http.json_response({"error": f"malformed body: {error!r}"}, 400)

    return checked


class GithubControl:
    """Handlers below `/_sim` that act on the GitHub half."""

    def __init__(self, tables: state.State, service: actions.Actions, jobs: dispatch.Dispatch) -> None:
        self._state = tables
        self._world = tables.world
        self._actions = service
        self._dispatch = jobs

    def routes(self) -> list[http.Route]:
        table: list[tuple[str, str, http.Handler]] = [
            ("POST", "/_sim/github/repos", self.make_repository),
            ("POST", "/_sim/github/groups", self.make_group),
            ("POST", "/_sim/github/options", self.set_options),
            ("POST", "/_sim/github/runs/{id}", self.change_run),
            ("POST", "/_sim/scale_sets/{id}/delete", self.delete_set),
            ("POST", "/_sim/scale_sets/{id}/hold", self.hold_set),
            ("POST", "/_sim/sessions/{id}/hold", self.hold_session),
            ("POST", "/_sim/sessions/{id}/end", self.end_session),
            ("POST", "/_sim/runners/{id}/offline", self.runner_offline),
            ("POST", "/_sim/runners/{id}/remove", self.runner_remove),
        ]
        return [http.Route(method, template, _checked(handler), "control") for method, template, handler in table]

    async def make_repository(self, request: http.Request) -> http.Response:
        """{"repo", "private"?, "pulls"?: [{"number", "sha"?, "head_ref"?}], "issues"?: [n]}"""
        body = state.read_json(request)
        name = body.get("repo")
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
            raise bad(f"repo must be owner/name, not {name!r}")
        repo = self._state.repository(name)
        repo.private = bool(body.get("private", repo.private))
        for item in body.get("pulls") or []:
            pull = self._world.pull_request("github", name, int(item["number"]))
            pull.sha = str(item.get("sha") or pull.sha)
            pull.head_ref = str(item.get("head_ref") or pull.head_ref)
            pull.state = str(item.get("state") or pull.state)
        self._state.issues |= {(name, int(number)) for number in body.get("issues") or []}
        return http.json_response({"id": repo.id, "repo": repo.name}, 201)

    async def make_group(self, request: http.Request) -> http.Response:
        """{"scope", "name", "allows_public"?, "repositories"?: [...]}"""
        body = state.read_json(request)
        scope = self._state.canonical_scope(str(body.get("scope") or ""))
        if scope is None or not body.get("name"):
            raise bad("scope must be a known organisation, and name is needed")
        selected = set(body.get("repositories") or [])
        self._state.groups_of(scope)
        group = self._state.add_group(
            scope,
            str(body["name"]),
            allows_public=bool(body.get("allows_public", False)),
            visibility="selected" if selected else "all",
            repositories=selected,
        )
        return http.json_response({"id": group.id}, 201)

    async def set_options(self, request: http.Request) -> http.Response:
        """Change options by name while running."""
        body = state.read_json(request)
        options = self._state.options
        for name, value in body.items():
            if not hasattr(options, name):
                raise bad(f"unknown option {name!r}")
            setattr(options, name, value)
        return http.json_response(self._state.to_json(options))

    async def change_run(self, request: http.Request) -> http.Response:
        """{"retryable": false} makes GitHub refuse to run it again."""
        run = self._state.runs.get(_id(request))
        if run is None:
            raise http.Refusal(http.json_response({"error": "no such run"}, 404))
        run.retryable = bool(state.read_json(request).get("retryable", run.retryable))
        return http.json_response({"id": run.id, "retryable": run.retryable})

    async def delete_set(self, request: http.Request) -> http.Response:
        self._actions.drop(self._set(request))
        return http.empty(204)

    async def hold_set(self, request: http.Request) -> http.Response:
        """Somebody else opens the set's session and keeps it for `seconds`."""
        scale_set = self._set(request)
        seconds = float(state.read_json(request).get("seconds", 600))
        session = self._actions.open_session(scale_set, "somebody-else", held_until=self._world.now() + seconds)
        self._world.changed(scale_set.queue_key)
        return http.json_response({"session": session.id}, 201)

    async def hold_session(self, request: http.Request) -> http.Response:
        """Keep the session active for `seconds` without a poll."""
        session = self._session(request)
        session.held_until = self._world.now() + float(state.read_json(request).get("seconds", 600))
        return http.empty(204)

    async def end_session(self, request: http.Request) -> http.Response:
        self._actions.close_session(self._session(request))
        return http.empty(204)

    async def runner_offline(self, request: http.Request) -> http.Response:
        self._dispatch.offline(self._runner(request))
        return http.empty(204)

    async def runner_remove(self, request: http.Request) -> http.Response:
        """Remove the registration, even a busy one, as if by hand."""
        self._dispatch.forget(self._runner(request))
        return http.empty(204)

    def _set(self, request: http.Request) -> entities.ScaleSet:
        found = self._state.sets.get(_id(request))
        if found is None:
            raise http.Refusal(http.json_response({"error": "no such scale set"}, 404))
        return found

    def _session(self, request: http.Request) -> entities.Session:
        found = self._actions.sessions.get(request.params["id"])
        if found is None:
            raise http.Refusal(http.json_response({"error": "no such session"}, 404))
        return found

    def _runner(self, request: http.Request) -> entities.GithubRunner:
        found = self._state.runners.get(_id(request))
        if found is None:
            raise http.Refusal(http.json_response({"error": "no such runner"}, 404))
        return found


def _id(request: http.Request) -> int:
    text = request.params["id"]
    return int(text) if text.isdigit() else -1


def lists(tables: state.State, service: actions.Actions, jobs: dispatch.Dispatch) -> dict[str, list[dict[str, Any]]]:
    """Return the lists that only GitHub adds to `GET /_sim/state`."""
    return {
        "scale_sets": [
            {
                "id": item.id,
                "name": item.name,
                "scope": item.scope,
                "labels": item.labels,
                "runner_group_id": item.group_id,
                "capacity": item.capacity,
                "stranded": len(item.stranded),
                "unacked": len(item.messages),
                "statistics": jobs.statistics(item),
            }
            for item in tables.sets.values()
        ],
        "sessions": [
            {"id": item.id, "scale_set": item.set_id, "owner": item.owner, "last_seen": item.last_seen}
            for item in service.sessions.values()
        ],
        "runs": [
            {
                "id": run.id,
                "repo": run.repo,
                "status": run.status,
                "conclusion": run.conclusion,
                "attempt": run.attempt,
                "jobs": run.attempts[-1] if run.attempts else [],
            }
            for run in tables.runs.values()
        ],
        "deliveries": [
            {
                "id": item.id,
                "guid": item.guid,
                "event": item.event,
                "action": item.action,
                "status": item.status,
                "redelivery": item.redelivery,
            }
            for item in tables.deliveries.values()
        ],
        "checks": [tables.to_json(item) for item in tables.checks.values()],
    }
