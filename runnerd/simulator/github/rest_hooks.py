"""REST: webhooks of repositories and organisations, and their deliveries."""

from __future__ import annotations

import json
from typing import Any

from runnerd.simulator import http, world
from runnerd.simulator.github import auth, entities, pull_payloads, rest, rest_access, state, webhooks


class HookEndpoints:
    """Endpoints of webhooks."""

    def __init__(self, tables: state.State, frame: rest.Frame, hooks: webhooks.Webhooks) -> None:
        self._state = tables
        self._world = tables.world
        self._frame = frame
        self._hooks = hooks

    def routes(self) -> list[http.Route]:
        """Return the routes of the endpoints."""
        route = self._frame.route
        table: list[http.Route] = []
        for base in ("/orgs/{org}/hooks", rest_access.REPOSITORY + "/hooks"):
            table += [
                route("GET", base, self.list_hooks),
                route("POST", base, self.create_hook),
                route("DELETE", base + "/{hook}", self.delete_hook),
                route("POST", base + "/{hook}/pings", self.ping_hook),
                route("GET", base + "/{hook}/deliveries", self.deliveries),
                route("GET", base + "/{hook}/deliveries/{delivery}", self.delivery),
                route("POST", base + "/{hook}/deliveries/{delivery}/attempts", self.redeliver),
            ]
        return table

    async def list_hooks(self, request: http.Request, principal: auth.Principal) -> http.Response:
        scope = self._hook_scope(request, principal)
        found = [hook for hook in self._world.hooks.values() if hook.forge == "github" and hook.scope == scope]
        return rest.paged(request, found, lambda hook: _hook_json(request, hook), key=None)

    async def create_hook(self, request: http.Request, principal: auth.Principal) -> http.Response:
        scope = self._hook_scope(request, principal)
        body = state.read_json(request)
        config = body.get("config") or {}
        if not isinstance(config, dict) or not str(config.get("url", "")).startswith("http"):
            raise rest.validation("Validation Failed", field="url", code="missing_field")
        events = tuple(str(event) for event in body.get("events") or ["push"])
        same = [hook for hook in self._world.hooks.values() if hook.forge == "github" and hook.scope == scope]
        if any(sum(event in hook.events for hook in same) >= 20 for event in events):
            raise rest.validation("The hook limit of 20 for this event has been reached", field="events")
        hook = world.Hook(
            id=self._world.next_id("github-hook", 9001),
            forge="github",
            url=str(config["url"]),
            secret=str(config.get("secret") or ""),
            scope=scope,
            events=events,
        )
        self._world.hooks[hook.id] = hook
        self._hooks.ping(hook)
        return http.json_response(_hook_json(request, hook), 201)

    async def delete_hook(self, request: http.Request, principal: auth.Principal) -> http.Response:
        del self._world.hooks[self._hook(request, principal).id]
        return http.empty(204)

    async def ping_hook(self, request: http.Request, principal: auth.Principal) -> http.Response:
        self._hooks.ping(self._hook(request, principal))
        return http.empty(204)

    async def deliveries(self, request: http.Request, principal: auth.Principal) -> http.Response:
        hook = self._hook(request, principal)
        found = self._hooks.of_hook(hook.id)
        wanted = request.param("status")
        if wanted in ("success", "failure"):
            found = [item for item in found if (item.status == "OK") == (wanted == "success")]
        cursor = request.param("cursor")
        if cursor:
            found = [item for item in found if str(item.id) < cursor and item.id < rest.number(cursor)]
        size = rest.page_of(request).size
        headers = {}
        if len(found) > size:
            url = f"{request.base_url}{request.path}?per_page={size}&cursor={found[size - 1].id}"
            headers["Link"] = f'<{url}>; rel="next"'
        return http.json_response([pull_payloads.delivery(item) for item in found[:size]], headers=headers)

    async def delivery(self, request: http.Request, principal: auth.Principal) -> http.Response:
        item = self._delivery(request, principal)
        body = {
            **pull_payloads.delivery(item),
            "url": self._world.hooks[item.hook_id].url,
            "request": {"headers": item.headers, "payload": json.loads(item.body)},
            "response": {"headers": {}, "payload": None},
        }
        return http.json_response(body)

    async def redeliver(self, request: http.Request, principal: auth.Principal) -> http.Response:
        item = self._delivery(request, principal)
        if item.delivered_at < self._world.now() - 3 * 86_400:
            raise rest.validation("The delivery is too old to be attempted again", field="delivery_id")
        self._hooks.redeliver(item)
        return http.json_response({}, 202)

    def _hook_scope(self, request: http.Request, principal: auth.Principal) -> str:
        if "org" in request.params:
            owner = rest_access.owner(self._state, request)
            if principal.kind == "pat" and "admin:org_hook" not in principal.scopes:
                raise state.refuse(404, "Not Found")
            return owner
        return rest_access.repository(self._state, request, principal, write=True).name

    def _hook(self, request: http.Request, principal: auth.Principal) -> world.Hook:
        scope = self._hook_scope(request, principal)
        hook = self._world.hooks.get(rest.number(request.params["hook"]))
        if hook is None or hook.forge != "github" or hook.scope not in ("", scope):
            raise state.refuse(404, "Not Found")
        return hook

    def _delivery(self, request: http.Request, principal: auth.Principal) -> entities.Delivery:
        hook = self._hook(request, principal)
        item = self._state.deliveries.get(rest.number(request.params["delivery"]))
        if item is None or item.hook_id != hook.id:
            raise state.refuse(404, "Not Found")
        return item


def _hook_json(request: http.Request, hook: world.Hook) -> dict[str, Any]:
    base = f"/orgs/{hook.scope}" if "/" not in hook.scope else f"/repos/{hook.scope}"
    own = f"{request.base_url}{rest.API}{base}/hooks/{hook.id}"
    return {
        "id": hook.id,
        "url": own,
        "ping_url": f"{own}/pings",
        "deliveries_url": f"{own}/deliveries",
        "name": "web",
        "events": list(hook.events),
        "active": True,
        "config": {"url": hook.url, "content_type": "json", "secret": "********", "insecure_ssl": "0"},
        "created_at": "2020-01-01T00:00:00Z",
        "updated_at": "2020-01-01T00:00:00Z",
        "type": "Organization" if "/" not in hook.scope else "Repository",
    }
