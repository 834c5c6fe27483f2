"""``runnerd check`` for a GitLab: every step of the protocol that changes nothing.

It only reads, so it judges by the scopes of the token if a runner can be created; the first runner proves it.  Each
finding says what works, or what to do.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from provisioners.base import Finding, Level
from provisioners.support import numbers
from runnerd import config, errors
from runnerd.forges.gitlab import discovery, rate_limits, rest, runners
from runnerd.kit import clock as clocks

#: The first version with ``POST /user/runners`` (doc/api/users).
OLDEST = (15, 11)
#: The first version with signed webhooks.
SIGNED = (19, 0)
#: A token that expires sooner gets a warning; seconds.
EXPIRY_WARNING_S = 14 * 86400.0
#: Token scopes that suffice for queues and runners (doc/api/runners); ``api`` covers them all.
NEEDED = frozenset({"create_runner", "manage_runner", "read_api"})


class Check:
    """One check of one forge."""

    def __init__(
        self,
        client: rest.Rest,
        directory: discovery.Directory,
        records: runners.Runners,
        settings: config.GitLabForge,
        *,
        clock: clocks.Clock,
    ) -> None:
        self._rest = client
        self._directory = directory
        self._records = records
        self._settings = settings
        self._clock = clock
        self._place = f"forges.{client.name}"
        self._findings: list[Finding] = []

    async def run(self) -> list[Finding]:
        """Return all findings.  Never raises because of GitLab."""
        self._findings = []
        if not await self._token():
            return self._findings
        version = await self._version()
        for scope in self._directory.scopes:
            await self._scope(scope)
        self._polling()
        self._webhooks(version)
        return self._findings

    def _add(self, level: Level, message: str, remedy: str = "", *, place: str = "") -> None:
        self._findings.append(Finding(level, place or self._place, message, remedy))

    def _failed(self, error: errors.ForgeError, *, place: str = "", remedy: str = "") -> None:
        self._add(Level.ERROR, str(error), remedy, place=place)

    async def _token(self) -> bool:
        place = f"{self._place}.token"
        try:
            about = await self._rest.get("/personal_access_tokens/self", what="read the token")
        except errors.ForgeNotFound:
            self._add(Level.WARNING, "this GitLab does not report the scopes of the token", place=place)
            return True
        except errors.ForgeError as error:
            self._failed(error, place=place)
            return not isinstance(error, errors.ForgeAuthFailed | errors.ForgeUnavailable)
        self._scopes(about, place)
        expires = about.get("expires_at")
        if isinstance(expires, str):
            self._expiry(expires, place)
        return True

    def _scopes(self, about: Mapping[str, Any], place: str) -> None:
        given = about.get("scopes")
        scopes = {str(scope) for scope in given} if isinstance(given, list) else set()
        if about.get("active") is False or about.get("revoked") is True:
            self._add(
                Level.ERROR,
                "the token is not active",
                "create a new one and replace the old one with it",
                place=place,
            )
        elif "api" in scopes:
            self._add(Level.OK, f"the token is valid, scopes {', '.join(sorted(scopes))}", place=place)
        elif scopes >= NEEDED:
            self._add(
                Level.WARNING if self._settings.retry.preempted else Level.OK,
                "the token is enough for queues and runners, but not for cancel and retry",
                "add the scope api if interrupted jobs are to be retried",
                place=place,
            )
        else:
            missing = ", ".join(sorted(NEEDED - scopes))
            self._add(
                Level.ERROR,
                f"the token lacks the scopes {missing}",
                "create one with api, or with create_runner, manage_runner and read_api",
                place=place,
            )

    def _expiry(self, text: str, place: str) -> None:
        try:
            day = datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)
        except ValueError:
            return
        left = day.timestamp() - self._clock.wall()
        if left < EXPIRY_WARNING_S:
            self._add(
                Level.WARNING,
                f"the token expires on {text[:10]}",
                "create a new one before that day; runnerd reads the file again within a minute",
                place=place,
            )

    async def _version(self) -> tuple[int, int] | None:
        try:
            answer = await self._rest.get("/version", what="read the version")
        except errors.ForgeError as error:
            self._add(Level.WARNING, str(error))
            return None
        text = str(answer.get("version"))
        parts = text.split(".")
        major, minor = (numbers.whole(part) for part in [*parts, ""][:2])
        if major is None or minor is None:
            self._add(Level.WARNING, f"GitLab reports the unknown version {text[:40]!r}")
            return None
        version = major, minor
        if version < OLDEST:
            self._add(Level.ERROR, f"GitLab {text} cannot create runners through its API", "upgrade to 15.11 or later")
        else:
            self._add(Level.OK, f"GitLab {text} answers")
        return version

    async def _scope(self, scope: discovery.Scope) -> None:
        place = f"{self._place}.{'groups' if scope.group else 'projects'}.{scope.path}"
        try:
            await self._directory.refresh(scope)
            projects = self._directory.projects(scope.path)
        except errors.ForgeError as error:
            self._failed(error, place=place)
            return
        if projects:
            self._add(Level.OK, f"{len(projects)} projects are watched", place=place)
        else:
            self._add(
                Level.WARNING,
                "no project with CI/CD, or none that the token's user may see",
                "check the path and the role of the token's user",
                place=place,
            )
        public = [project.path for project in projects if project.public]
        if public and scope.group:
            self._add(
                Level.WARNING,
                f"{len(public)} projects are public, for example {public[0]}: GitLab gives their jobs to a group's"
                " runners too, even if a pool does not count them",
                "list the private projects one by one, or make sure that only trusted people run pipelines in them",
                place=place,
            )
        await self._cap(scope, place)

    async def _cap(self, scope: discovery.Scope, place: str) -> None:
        try:
            count = len(await self._records.rows(scope))
        except errors.ForgeError as error:
            self._failed(
                error,
                place=place,
                remedy="give the token's user the role Owner of the group, or Maintainer of the project",
            )
            return
        cap = self._settings.runner_cap
        if count >= cap and self._settings.registration is config.RunnerRecords.INSTANCE:
            self._add(
                Level.ERROR,
                f"{count} runners are registered and runner_cap is {cap}: none can be added",
                "delete old ones, raise runner_cap if the plan allows more, or set registration: auto",
                place=place,
            )
        else:
            self._add(Level.OK, f"{count} of {cap} runners are registered", place=place)

    def _polling(self) -> None:
        count = sum(len(self._directory.projects(scope.path)) for scope in self._directory.scopes)
        budget = self._settings.requests_per_minute * rate_limits.SHARES[rate_limits.Urgency.BACKGROUND]
        needed = count * 60.0 / self._settings.idle_poll
        if needed > budget:
            self._add(
                Level.WARNING,
                f"polling {count} projects every {self._settings.idle_poll:.0f} s takes {needed:.0f} requests a minute,"
                f" and {budget:.0f} are allowed: each is polled every {count * 60.0 / budget:.0f} s instead",
                "raise idle_poll and add webhooks, or raise requests_per_minute",
            )

    def _webhooks(self, version: tuple[int, int] | None) -> None:
        if self._settings.signing_token is not None and version is not None and version < SIGNED:
            self._add(Level.WARNING, "this GitLab cannot sign webhooks", "use webhook_token, or upgrade to 19.0")
        if self._settings.webhook_token is None and self._settings.signing_token is None:
            self._add(
                Level.OK,
                f"no webhook is configured: a job is noticed after up to {self._settings.poll:.0f} s in an active"
                f" project and {self._settings.idle_poll:.0f} s in a quiet one",
                "add a webhook with Job events to the group or the projects; see docs/gitlab.md",
            )
