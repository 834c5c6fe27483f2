"""The Actions service over HTTP: scale sets, runner groups, message sessions, the message queue.

It answers below `/_actions/<tenant>/`; the tenant stands for the scope of the admin token. Errors are
`{"typeName", "message"}` as clients match them. The protocol is not documented; its public client is the reference
(actions/scaleset), with measurements of others where it is silent.
"""

from __future__ import annotations

import json
from typing import Any

from runnerd.simulator import http, world
from runnerd.simulator.github import actions_agents, actions_frame, auth, dispatch, entities, runners, state


class Actions:
    """The handlers of the Actions service."""

    def __init__(
        self, tables: state.State, credentials: auth.Auth, jobs: dispatch.Dispatch, registry: runners.Registry
    ) -> None:
        self._state = tables
        self._world = tables.world
        self._options = tables.options
        self._auth = credentials
        self._frame = actions_frame.Frame(tables, credentials)
        self._agents = actions_agents.Agents(tables, self._frame, registry)
        self._dispatch = jobs
        self._registry = registry
        self.sessions: dict[str, entities.Session] = {}

    def routes(self) -> list[http.Route]:
        sets = f"{actions_frame.PREFIX}/runtime/runnerscalesets"
        table: list[tuple[str, str, http.Handler]] = [
            ("GET", sets, self.list_sets),
            ("POST", sets, self.create_set),
            ("GET", sets + "/{id}", self.get_set),
            ("PATCH", sets + "/{id}", self.update_set),
            ("DELETE", sets + "/{id}", self.delete_set),
            ("GET", f"{actions_frame.PREFIX}/runtime/runnergroups", self.groups),
            ("GET", f"{actions_frame.PREFIX}/runtime/runnergroups/", self.groups),
            ("POST", sets + "/{id}/sessions", self.create_session),
            ("PATCH", sets + "/{id}/sessions/{session}", self.refresh_session),
            ("DELETE", sets + "/{id}/sessions/{session}", self.delete_session),
            ("POST", sets + "/{id}/acquirejobs", self.acquire_jobs),
            ("GET", sets + "/{id}/acquirablejobs", self.acquirable_jobs),
            ("GET", sets + "/{id}/messages", self.get_message),
            ("DELETE", sets + "/{id}/messages/{message}", self.delete_message),
        ]
        return [
            *self._agents.routes(),
            *(
                http.Route(method, template, self._frame.with_activity(handler), "github")
                for method, template, handler in table
            ),
        ]

    # Scale sets

    async def list_sets(self, request: http.Request) -> http.Response:
        scope = self._frame.scope(request)
        found = [item for item in self._state.sets.values() if item.scope == scope]
        if request.has("runnerGroupId"):
            group = actions_frame.number(request.param("runnerGroupId"))
            found = [item for item in found if item.group_id == group]
        if request.has("name"):
            found = [item for item in found if item.name.lower() == request.param("name").lower()]
        return actions_frame.listed([self._set_json(item, request) for item in found])

    async def create_set(self, request: http.Request) -> http.Response:
        scope = self._frame.scope(request)
        body = actions_frame.body_of(request)
        name = body.get("name")
        if not isinstance(name, str) or not name.strip():
            raise actions_frame.fail(400, "ArgumentException", "The runner scale set name must not be empty.")
        group_id = body.get("runnerGroupId") or 1
        self._group(scope, group_id)
        self._refuse_duplicate(scope, group_id, name)
        scale_set = entities.ScaleSet(
            id=self._world.next_id("github-scale-set", 1),
            scope=scope,
            name=name,
            group_id=group_id,
            labels=self._labels(body.get("labels"), name),
            created_at=self._world.now(),
            disable_update=bool((body.get("RunnerSetting") or {}).get("disableUpdate", False)),
        )
        self._state.sets[scale_set.id] = scale_set
        self._dispatch.adopt_jobs(scale_set)
        self._world.changed("sets")
        return http.json_response(self._set_json(scale_set, request))

    async def get_set(self, request: http.Request) -> http.Response:
        return http.json_response(self._set_json(self._frame.scale_set(request), request))

    async def update_set(self, request: http.Request) -> http.Response:
        scale_set = self._frame.scale_set(request)
        body = actions_frame.body_of(request)
        name = body.get("name") or scale_set.name
        group_id = body.get("runnerGroupId") or scale_set.group_id
        self._group(scale_set.scope, group_id)
        if (name.lower(), group_id) != (scale_set.name.lower(), scale_set.group_id):
            self._refuse_duplicate(scale_set.scope, group_id, name)
        scale_set.name, scale_set.group_id = name, group_id
        if body.get("labels"):
            scale_set.labels = self._labels(body["labels"], name)
        if "RunnerSetting" in body:
            scale_set.disable_update = bool((body["RunnerSetting"] or {}).get("disableUpdate", False))
        self._dispatch.adopt_jobs(scale_set)
        return http.json_response(self._set_json(scale_set, request))

    async def delete_set(self, request: http.Request) -> http.Response:
        self.drop(self._frame.scale_set(request))
        return http.empty(204)

    def drop(self, scale_set: entities.ScaleSet) -> None:
        """Delete a set with its session; its runners are orphaned."""
        if scale_set.session is not None:
            self.sessions.pop(scale_set.session.id, None)
        self._dispatch.drop_set(scale_set)
        self._world.changed("sets")

    async def groups(self, request: http.Request) -> http.Response:
        scope = self._frame.scope(request)
        found = self._state.groups_of(scope)
        if request.has("groupName"):
            found = [group for group in found if group.name.lower() == request.param("groupName").lower()]
        return actions_frame.listed(
            [
                {
                    "id": group.id,
                    "name": group.name,
                    "size": sum(1 for runner in self._registry.of_scope(scope) if runner.group_id == group.id),
                    "isDefaultGroup": group.default,
                }
                for group in found
            ]
        )

    # Sessions

    async def create_session(self, request: http.Request) -> http.Response:
        scale_set = self._frame.scale_set(request)
        owner = actions_frame.body_of(request).get("ownerName")
        if not isinstance(owner, str) or not owner:
            raise actions_frame.fail(400, "ArgumentException", "The session owner name must not be empty.")
        active = scale_set.session
        if active is not None and self._active(active):
            raise actions_frame.fail(
                409,
                "RunnerScaleSetSessionConflictException",
                f"The runner scale set {scale_set.name} already has an active session for owner {active.owner}.",
            )
        session = self.open_session(scale_set, owner)
        return http.json_response(self._session_json(session, scale_set, request))

    def open_session(self, scale_set: entities.ScaleSet, owner: str, *, held_until: float = 0.0) -> entities.Session:
        """Make the set's session; what an earlier listener announced is forgotten."""
        if scale_set.session is not None:
            self.sessions.pop(scale_set.session.id, None)
        session = entities.Session(self._world.uuid(), scale_set.id, owner, self._world.now(), held_until=held_until)
        scale_set.session, scale_set.capacity, scale_set.uncounted = session, None, False
        self.sessions[session.id] = session
        return session

    async def refresh_session(self, request: http.Request) -> http.Response:
        scale_set = self._frame.scale_set(request)
        session = self._session(request, scale_set)
        if session is None:
            raise actions_frame.fail(
                404,
                "RunnerAdminException",
                f"session ID {request.params['session']} that doesn't exist in redis",
            )
        session.last_seen = self._world.now()
        return http.json_response(self._session_json(session, scale_set, request))

    async def delete_session(self, request: http.Request) -> http.Response:
        scale_set = self._frame.scale_set(request)
        session = self._session(request, scale_set)
        if session is None:
            raise actions_frame.fail(
                400,
                "RunnerScaleSetSessionExpiredException",
                f"The session {request.params['session']} has expired.",
            )
        self.close_session(session)
        return http.empty(204)

    def close_session(self, session: entities.Session) -> None:
        self.sessions.pop(session.id, None)
        scale_set = self._state.sets.get(session.set_id)
        if scale_set is not None and scale_set.session is session:
            scale_set.session, scale_set.capacity, scale_set.uncounted = None, None, False
            self._world.changed(scale_set.queue_key)

    # Message queue

    async def get_message(self, request: http.Request) -> http.Response:
        scale_set, session = self._queue(request)
        raw = request.header("x-scalesetmaxcapacity")
        if raw and not raw.isdigit():
            raise actions_frame.fail(400, "ArgumentException", "X-ScaleSetMaxCapacity must be a number of 0 or more.")
        capacity = int(raw) if raw else None
        last = actions_frame.number(request.param("lastMessageId", "0"))
        session.last_seen = self._world.now()
        self._dispatch.announce_capacity(scale_set, capacity)
        deadline = self._world.now() + self._options.poll_block
        session.polling += 1
        try:
            while True:
                if scale_set.id not in self._state.sets:
                    raise self._frame.gone(scale_set.id)
                if scale_set.session is not session:
                    raise self._token_expired()
                message = self._next_message(scale_set, last)
                if message is not None:
                    return http.json_response(_message_json(message))
                left = deadline - self._world.now()
                if left <= 0:
                    return http.empty(202)
                await self._world.wait(scale_set.queue_key, left)
        finally:
            session.polling -= 1
            session.last_seen = self._world.now()

    async def delete_message(self, request: http.Request) -> http.Response:
        scale_set, session = self._queue(request)
        session.last_seen = self._world.now()
        wanted = actions_frame.number(request.params["message"])
        scale_set.messages = [message for message in scale_set.messages if message.id != wanted]
        return http.empty(204)

    async def acquire_jobs(self, request: http.Request) -> http.Response:
        scale_set, session = self._queue(request)
        session.last_seen = self._world.now()
        try:
            wanted = json.loads(request.body.decode("utf-8-sig"))
        except ValueError:
            wanted = None
        if not isinstance(wanted, list) or not all(isinstance(item, int) for item in wanted):
            raise actions_frame.fail(400, "ArgumentException", "The body must be an array of runner request ids.")
        granted = self._dispatch.acquire(scale_set, wanted)
        return http.json_response({"count": len(granted), "value": granted})

    async def acquirable_jobs(self, request: http.Request) -> http.Response:
        scale_set = self._frame.scale_set(request)
        if not scale_set.offered:
            return http.empty(204)
        offers = [self._state.job(id) for id in scale_set.offered]
        return actions_frame.listed(
            [
                {
                    "acquireJobUrl": "",
                    "messageType": "JobAvailable",
                    "runnerRequestId": job.request_id,
                    "repositoryName": job.repo.split("/")[1],
                    "ownerName": job.repo.split("/")[0],
                    "jobWorkflowRef": f"{job.repo}/.github/workflows/train.yml@{job.ref}",
                    "eventName": job.extra.get("event", "push"),
                    "requestLabels": list(job.labels),
                }
                for job in offers
            ]
        )

    def _next_message(self, scale_set: entities.ScaleSet, last: int) -> entities.Message | None:
        for message in scale_set.messages:
            if message.id > last:
                return message
        if not scale_set.pending:
            return None
        batch = scale_set.pending[: self._options.batch]
        scale_set.pending = [] if self._options.drop_excess else scale_set.pending[self._options.batch :]
        scale_set.last_message = max(scale_set.last_message, last) + 1
        message = entities.Message(
            scale_set.last_message,
            json.dumps(batch, separators=(",", ":")),
            self._dispatch.statistics(scale_set),
        )
        scale_set.messages.append(message)
        return message

    # Parts

    def _token_expired(self) -> http.Refusal:
        return actions_frame.fail(
            401, "MessageQueueTokenExpiredException", "The message queue token is expired or unknown."
        )

    def _queue(self, request: http.Request) -> tuple[entities.ScaleSet, entities.Session]:
        """Set and session of a queue token: 401 when it is expired or its session ended, 404 without the set."""
        found = self._auth.queue.get(self._auth.bearer(request))
        if found is None or found[2] <= self._world.now():
            raise self._token_expired()
        session_id, set_id, _ = found
        scale_set = self._state.sets.get(set_id)
        if scale_set is None:
            raise self._frame.gone(set_id)
        if str(set_id) != request.params["id"]:
            raise self._token_expired()
        if request.template.endswith(("/messages", "/messages/{message}")) and request.param("sessionId") != session_id:
            raise actions_frame.fail(
                400, "ArgumentException", "The query of the message queue URL must be kept: sessionId is missing."
            )
        session = self.sessions.get(session_id)
        if session is None or scale_set.session is not session:
            raise self._token_expired()
        return scale_set, session

    def _session(self, request: http.Request, scale_set: entities.ScaleSet) -> entities.Session | None:
        session = self.sessions.get(request.params["session"])
        if session is None or scale_set.session is not session:
            return None
        return session

    def _active(self, session: entities.Session) -> bool:
        now = self._world.now()
        return session.polling > 0 or now < session.held_until or now < session.last_seen + self._options.session_idle

    def _group(self, scope: str, id: Any) -> entities.Group:
        group = self._state.group(scope, id) if isinstance(id, int) else None
        if group is None:
            raise actions_frame.fail(
                404, "RunnerGroupNotFoundException", f"No runner group found with identifier {id}."
            )
        return group

    def _refuse_duplicate(self, scope: str, group_id: int, name: str) -> None:
        for other in self._state.sets.values():
            if (other.scope, other.group_id, other.name.lower()) == (scope, group_id, name.lower()):
                raise actions_frame.fail(
                    400,
                    "RunnerScaleSetExistsException",
                    f"The runner scale set {name} already exists in runner group {group_id}.",
                )

    def _labels(self, given: Any, name: str) -> list[str]:
        if given is not None and not isinstance(given, list):
            raise actions_frame.fail(400, "ArgumentException", "labels must be an array.")
        names = [str(item.get("name", "")) for item in given or [] if isinstance(item, dict)]
        names = [item for item in names if item]
        if not names:
            return [name]
        return names if self._options.custom_labels else [name]

    def _set_json(self, scale_set: entities.ScaleSet, request: http.Request) -> dict[str, Any]:
        group = self._state.group(scale_set.scope, scale_set.group_id)
        tenant = actions_frame.tenant_of(scale_set.scope)
        own = f"{request.base_url}/_actions/{tenant}/_apis/runtime/runnerscalesets/{scale_set.id}"
        return {
            "id": scale_set.id,
            "name": scale_set.name,
            "runnerGroupId": scale_set.group_id,
            "runnerGroupName": group.name if group else "",
            "labels": [
                {"id": position, "type": "system", "name": name} for position, name in enumerate(scale_set.labels, 1)
            ],
            "RunnerSetting": {
                "ephemeral": True,
                "isElastic": True,
                "disableUpdate": scale_set.disable_update,
            },
            "createdOn": world.iso(scale_set.created_at),
            "runnerJitConfigUrl": f"{own}/generatejitconfig",
            "getAcquirableJobsUrl": f"{own}/acquirablejobs",
            "acquireJobsUrl": f"{own}/acquirejobs",
            "statistics": self._dispatch.statistics(scale_set),
            "status": "online" if scale_set.session is not None else "offline",
            "enabled": True,
        }

    def _session_json(
        self, session: entities.Session, scale_set: entities.ScaleSet, request: http.Request
    ) -> dict[str, Any]:
        tenant = actions_frame.tenant_of(scale_set.scope)
        path = f"/_actions/{tenant}/_apis/runtime/runnerscalesets/{scale_set.id}/messages"
        return {
            "sessionId": session.id,
            "ownerName": session.owner,
            "runnerScaleSet": self._set_json(scale_set, request),
            "messageQueueUrl": f"{request.base_url}{path}?sessionId={session.id}&api-version=6.0-preview",
            "messageQueueAccessToken": self._auth.mint_queue(session.id, scale_set.id),
            "statistics": self._dispatch.statistics(scale_set),
        }


def _message_json(message: entities.Message) -> dict[str, Any]:
    return {
        "messageId": message.id,
        "messageType": "RunnerScaleSetJobMessages",
        "body": message.body,
        "statistics": message.statistics,
    }
