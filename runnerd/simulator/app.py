"""The whole simulator as one function from request to response.

A test calls `App.handle` in process, server.py calls it for each request on a socket. Each forge is a half with its own
routes, rules and refusals; the app only dispatches, counts, and lets the scripted faults act.
"""

from __future__ import annotations

import asyncio
import dataclasses

from runnerd.simulator import control, faults, github, gitlab, http, page, world
from runnerd.simulator.half import Half


class App:
    """Dispatches requests to the halves, the control endpoints and the page."""

    def __init__(
        self,
        state: world.World,
        *,
        github_half: github.Github | None = None,
        gitlab_half: gitlab.Gitlab | None = None,
    ) -> None:
        self.world = state
        self.github = github_half or github.Github(state)
        self.gitlab = gitlab_half or gitlab.Gitlab(state)
        self.faults = faults.Faults(state)
        self.router = http.Router()
        self.halves: dict[str, Half] = {}
        halves: list[Half] = [self.github, self.gitlab]
        for half in halves:
            self.halves[half.forge] = half
            for route in half.routes():
                self.router.add(route)
        for route in [
            *control.routes(state, self.halves, self.faults, self.router),
            *page.routes(state),
        ]:
            self.router.add(route)

    async def handle(self, request: http.Request) -> http.Response:
        """Answer a request. Raises http.ConnectionDropped when a fault cuts the connection."""
        self.world.run_due()
        request = _normalised(request)
        matched = self.router.match(request)
        if matched is None:
            self.router.count(request.method, None)
            half = self._half_of(request.path)
            forge = half.forge if half else "page"
        else:
            route, request = matched
            self.router.count(request.method, route.template)
            forge = route.forge
        hits = self.faults.select(request, forge=forge)
        for fault in hits:
            if fault.latency:
                await self.world.sleep(fault.latency)
            if fault.hang:
                await _for_ever()
            if fault.drop == "before":
                raise http.ConnectionDropped(f"{request.method} {request.path}: dropped before it was applied")
            instead = faults.answer(fault)
            if instead is not None:
                return instead
            if fault.revoke_token:
                self.halves[forge].revoke(request)
            if fault.exhaust_rate:
                self.halves[forge].exhaust(request)
        try:
            if matched is not None:
                response = await matched[0].handler(request)
            elif half is not None:
                response = half.not_found(request)
            else:
                response = http.text_response("Not Found\n", 404)
        except http.Refusal as refusal:
            response = refusal.response
        for fault in hits:
            if fault.hang_after:
                await _for_ever()
            if fault.drop == "after":
                raise http.ConnectionDropped(f"{request.method} {request.path}: answer lost")
            if fault.empty:
                response = dataclasses.replace(response, body=b"")
            if fault.bom:
                response = dataclasses.replace(response, body=b"\xef\xbb\xbf" + response.body)
        return response

    def _half_of(self, path: str) -> Half | None:
        for half in self.halves.values():
            if path.startswith(half.prefixes):
                return half
        return None


def _normalised(request: http.Request) -> http.Request:
    """Serve https://api.github.com/x as the enterprise server's /api/v3/x, so that one set of routes is enough."""
    host = request.base_url.partition("://")[2]
    if host.startswith("api.") and not request.path.startswith(("/api/", "/_")):
        return dataclasses.replace(request, path="/api/v3" + request.path)
    return request


async def _for_ever() -> None:
    await asyncio.get_running_loop().create_future()
