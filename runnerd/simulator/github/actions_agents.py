"""The Actions service over HTTP: runners, here called agents, and their JIT configurations."""

from __future__ import annotations

from typing import Any

from runnerd.simulator import http, world
from runnerd.simulator.github import actions_frame, entities, runners, state


class Agents:
    """The handlers of agents."""

    def __init__(self, tables: state.State, frame: actions_frame.Frame, registry: runners.Registry) -> None:
        self._state = tables
        self._frame = frame
        self._registry = registry

    def routes(self) -> list[http.Route]:
        """Return the routes of the endpoints."""
        sets = f"{actions_frame.PREFIX}/runtime/runnerscalesets"
        agents = f"{actions_frame.PREFIX}/distributedtask/pools/0/agents"
        table: list[tuple[str, str, http.Handler]] = [
            ("POST", sets + "/{id}/generatejitconfig", self.generate_jit_config),
            ("GET", agents, self.list_agents),
            ("GET", agents + "/{agent}", self.get_agent),
            ("DELETE", agents + "/{agent}", self.delete_agent),
        ]
        return [
            http.Route(method, template, self._frame.with_activity(handler), "github")
            for method, template, handler in table
        ]

    async def generate_jit_config(self, request: http.Request) -> http.Response:
        scale_set = self._frame.scale_set(request)
        body = actions_frame.body_of(request)
        name = body.get("name")
        if not isinstance(name, str) or not name or len(name) > 64:
            raise actions_frame.fail(400, "ArgumentException", "The runner name must have 1 to 64 characters.")
        try:
            runner = self._registry.register(
                scale_set.scope,
                name,
                labels=list(scale_set.labels),
                group_id=scale_set.group_id,
                set_id=scale_set.id,
                work_folder=str(body.get("workFolder") or "_work"),
            )
        except runners.NameTaken:
            raise actions_frame.fail(
                409, "AgentExistsException", f"A runner with the name {name} already exists."
            ) from None
        except runners.TooMany:
            refusal = actions_frame.fail(
                429, "RequestBlockedException", "Too many runner registrations in five minutes."
            )
            raise http.Refusal(refusal.response.with_headers({"Retry-After": "60"})) from None
        return http.json_response(
            {
                "runner": _agent_json(runner),
                "encodedJITConfig": self._registry.jit_config(runner, base_url=request.base_url),
            }
        )

    async def list_agents(self, request: http.Request) -> http.Response:
        scope = self._frame.scope(request)
        if request.has("agentName"):
            found = self._registry.by_name(scope, request.param("agentName"))
            return actions_frame.listed([_agent_json(found)] if found else [])
        return actions_frame.listed([_agent_json(runner) for runner in self._registry.of_scope(scope)])

    async def get_agent(self, request: http.Request) -> http.Response:
        runner = self._agent(request)
        if runner is None:
            raise actions_frame.fail(
                404, "AgentNotFoundException", f"No agent exists with identifier {request.params['agent']}."
            )
        return http.json_response(_agent_json(runner))

    async def delete_agent(self, request: http.Request) -> http.Response:
        runner = self._agent(request)
        if runner is not None:
            try:
                self._registry.remove(runner)
            except runners.StillRunning:
                raise actions_frame.fail(
                    400, "JobStillRunningException", f"The job is still running on runner {runner.name}."
                ) from None
        return http.empty(204)

    def _agent(self, request: http.Request) -> entities.GithubRunner | None:
        scope = self._frame.scope(request)
        runner = self._state.runners.get(actions_frame.number(request.params["agent"]))
        return runner if runner is not None and runner.scope == scope else None


def _agent_json(runner: entities.GithubRunner) -> dict[str, Any]:
    return {
        "id": runner.id,
        "name": runner.name,
        "runnerScaleSetId": runner.set_id or 0,
        "version": runner.version or "",
        "os": "Linux" if runner.version else "unknown",
        "enabled": True,
        "ephemeral": runner.ephemeral,
        "status": runner.status,
        "busy": runner.busy,
        "provisioningState": "Provisioned",
        "createdOn": world.iso(runner.created_at),
        "labels": [{"id": 0, "name": label, "type": "system"} for label in runner.labels],
    }
