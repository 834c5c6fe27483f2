"""The protocol between the app and a simulated forge, called a half."""

from __future__ import annotations

from typing import Any, Protocol

from runnerd.simulator import http, world


class Half(Protocol):
    """A simulated forge, as the app uses it.

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
        """Return all routes; each carries the half's name in `forge`."""

    def not_found(self, request: http.Request) -> http.Response:
        """Return the answer to an unknown path below one of the prefixes."""

    def queue_jobs(self, spec: world.JobSpec) -> list[world.Job]:
        """Queue `spec.count` jobs, with repository and pull request made on demand; hooks are sent."""

    def cancel_job(self, job: world.Job) -> None:
        """Cancel as a person would in the forge."""

    def revoke(self, request: http.Request) -> None:
        """Revoke the token that a request carries, of every kind (fault `revoke_token`)."""

    def exhaust(self, request: http.Request) -> None:
        """Use up the rate quota of the request's token (fault `exhaust_rate`)."""

    def state(self) -> dict[str, list[dict[str, Any]]]:
        """Further lists for `GET /_sim/state`, such as scale_sets and sessions."""

    def default_tokens(self) -> dict[str, str]:
        """Name to value of what is printed at start."""
