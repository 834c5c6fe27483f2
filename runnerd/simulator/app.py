"""The whole simulator as one function from request to response.

A test calls `App.handle` in process, server.py calls it for each request on a socket. Each forge is a half with its own
routes, rules and refusals; the app only dispatches, counts, and lets the scripted faults act.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any, Protocol

from runnerd.simulator import control, faults, github, gitlab, http, page, world


class Half(Protocol):
    """What a simulated forge gives to the app.

    A half is made with the world alone (`Github(world)`, `Gitlab(world)`, options as keywords); it does its own
    authentication and limits inside its handlers.
    """

    #: "github" or "gitlab"
    @property
    def forge(self) -> str: ...

    #: path prefixes whose unknown paths this half answers
    @property
    def prefixes(self) -> tuple[str, ...]: ...

    def routes(self) -> list[http.Route]:
        """All routes; each carries the half's name in `forge`."""

    def not_found(self, request: http.Request) -> http.Response:
        """The answer to an unknown path below one of the prefixes."""

    def queue_jobs(self, spec: world.JobSpec) -> list[world.Job]:
        """Queue `spec.count` jobs, with repository and pull request made on demand; hooks are sent."""

    def cancel_job(self, job: world.Job) -> None:
        """Cancel as a person would in the forge."""

    def revoke(self, request: http.Request) -> None:
        """Revoke the token that a request carries, whatever kind it is (fault `revoke_token`)."""

    def exhaust(self, request: http.Request) -> None:
        """Use up the rate quota of the request's token (fault `exhaust_rate`)."""

    def state(self) -> dict[str, list[dict[str, Any]]]:
        """Further lists for `GET /_sim/state`, such as scale_sets and sessions."""

    def default_tokens(self) -> dict[str, str]:
        """Name to value of what is printed at start."""


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
        for route in [*control.routes(self), *page.routes(self)]:
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
