"""The frame of the Actions service's endpoints: its refusals, and the scope and the set that a request names."""

from __future__ import annotations

import json
from typing import Any

from runnerd.simulator import http
from runnerd.simulator.github import auth, entities, state

PREFIX = "/_actions/{tenant}/_apis"
_ASSEMBLY = "GitHub.Actions.Runtime.WebApi"


def fail(status: int, name: str, message: str) -> http.Refusal:
    """A refusal of the Actions service."""
    body = {
        "$id": "1",
        "innerException": None,
        "message": message,
        "typeName": f"{_ASSEMBLY}.{name}, {_ASSEMBLY}",
        "typeKey": name,
        "errorCode": 0,
        "eventId": 3000,
    }
    return http.Refusal(http.json_response(body, status))


class Frame:
    """Finds what a request names, and gives answers their ActivityId."""

    def __init__(self, tables: state.State, credentials: auth.Auth) -> None:
        self._state = tables
        self._world = tables.world
        self._auth = credentials

    def scope(self, request: http.Request) -> str:
        """Return the scope of the admin token.  Refuses with 401, with 400 when no api-version is given."""
        found = self._auth.admin.get(self._auth.bearer(request))
        if found is None or found[1] <= self._world.now():
            raise fail(401, "VssUnauthorizedException", "The request is not authorized: token expired or unknown.")
        if tenant_of(found[0]) != request.params["tenant"]:
            raise fail(404, "HostDoesNotExistException", f"The tenant {request.params['tenant']} does not exist.")
        if not request.has("api-version") and "api-version" not in request.header("accept"):
            raise fail(
                400,
                "VssVersionNotSpecifiedException",
                f'No api-version was supplied for the "{request.method}" request.',
            )
        return found[0]

    def scale_set(self, request: http.Request) -> entities.ScaleSet:
        """Return the scale set of the path; refuse with 404 one that is not of the token's scope."""
        scope = self.scope(request)
        found = self._state.sets.get(number(request.params["id"]))
        if found is None or found.scope != scope:
            raise self.gone(request.params["id"])
        return found

    def gone(self, id: object) -> http.Refusal:
        """Return the refusal for a scale set that does not exist."""
        return fail(404, "RunnerScaleSetNotFoundException", f"No runner scale set found with identifier {id}.")

    def with_activity(self, handler: http.Handler) -> http.Handler:
        """Return the handler with an ActivityId on every answer."""

        async def answer(request: http.Request) -> http.Response:
            try:
                response = await handler(request)
            except http.Refusal as refusal:
                response = refusal.response
            return response.with_headers({"ActivityId": self._world.uuid()})

        return answer


def tenant_of(scope: str) -> str:
    """Return the path segment that stands for a scope."""
    return "tenant-" + scope.replace("/", "--")


def body_of(request: http.Request) -> dict[str, Any]:
    """Return the JSON object of a body.  Refuses anything else with 400."""
    try:
        data = json.loads(request.body.decode("utf-8-sig")) if request.body.strip() else {}
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise fail(400, "ArgumentException", "The body must be a JSON object.")
    return data


def number(text: str) -> int:
    """Return a number of a path or query; -1 for anything else."""
    return int(text) if text.isdigit() else -1


def listed(items: list[dict[str, Any]]) -> http.Response:
    """Return the answer of a list."""
    return http.json_response({"count": len(items), "value": items})
