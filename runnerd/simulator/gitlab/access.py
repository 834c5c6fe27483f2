"""The caller of a request and its rights: tokens, scopes, roles and what a token can see.

A personal, project or group access token comes as `PRIVATE-TOKEN` or `Authorization: Bearer`. A job token is not one of
them: with it nothing but the few job endpoints works, the reason why CML needs a token of its own.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from runnerd.simulator import http, world
from runnerd.simulator.gitlab import limits, parameters, settings

FORGE = "gitlab"
DEVELOPER, MAINTAINER, OWNER = 30, 40, 50
SCOPES = ("api", "read_api", "create_runner", "manage_runner", "read_repository", "write_repository")


@dataclasses.dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated person or bot."""

    token: world.Token
    #: headers for the answer (what is left of the rate)
    headers: dict[str, str]

    @property
    def user(self) -> str:
        return self.token.user

    @property
    def admin(self) -> bool:
        return bool(self.token.extra.get("admin"))

    @property
    def level(self) -> int:
        return OWNER if self.admin else int(self.token.extra.get("access_level", OWNER))

    def sees(self, path: str) -> bool:
        """Return True when a group or project of that path is visible: a group token reaches its own subtree only."""
        inside = str(self.token.extra.get("namespace", ""))
        return not inside or path == inside or path.startswith(inside + "/")

    def need(self, level: int) -> None:
        """Refuse with 403 below a role."""
        if self.level < level:
            raise parameters.refuse("403 Forbidden", 403)


class Access:
    """Checks credentials against the world's tokens."""

    def __init__(self, state: world.World, config: settings.Settings) -> None:
        self._world = state
        self.settings = config
        self.limits = limits.Limits(state)

    def add(
        self,
        *,
        user: str,
        scopes: tuple[str, ...] = ("api",),
        value: str | None = None,
        access_level: int = OWNER,
        admin: bool = False,
        namespace: str = "",
        expires_at: float | None = None,
    ) -> world.Token:
        """Make a token. Raises ValueError for an unknown scope."""
        unknown = [scope for scope in scopes if scope not in SCOPES]
        if unknown or not scopes:
            raise ValueError(f"unknown scope {unknown[:1]}; known: {', '.join(SCOPES)}")
        extra: dict[str, Any] = {"access_level": access_level, "admin": admin, "namespace": namespace}
        value = value or "glpat-" + self._world.secret(20)
        token = world.Token(value, FORGE, "pat", user, scopes, expires_at, extra=extra)
        self._world.tokens[value] = token
        return token

    def token_of(self, request: http.Request) -> world.Token | None:
        """Return the token that a request carries, valid or not."""
        value = request.header("private-token")
        scheme, _, bearer = request.header("authorization").partition(" ")
        if not value and scheme.lower() == "bearer":
            value = bearer.strip()
        found = self._world.tokens.get(value)
        return found if found is not None and found.forge == FORGE and found.kind == "pat" else None

    def caller(self, request: http.Request, *scopes: str) -> Caller:
        """Authenticate; `scopes` are accepted beside `api` (and `read_api` for GET).

        Refuses with 401 an unknown, revoked or expired token and with 403 `insufficient_scope` one that has too little.
        """
        token = self.token_of(request)
        if token is None:
            raise parameters.refuse("401 Unauthorized", 401)
        ended = "revoked" if token.revoked else "expired" if self._expired(token) else ""
        if ended:
            text = {
                "revoked": "Token was revoked. You have to re-authorize from the user.",
                "expired": "Token is expired. You can either do re-authorization or token refresh.",
            }[ended]
            body = {"error": "invalid_token", "error_description": text}
            raise http.Refusal(http.json_response(body, 401))
        accepted = ("api", *(("read_api",) if request.method in ("GET", "HEAD") else ()), *scopes)
        if not set(accepted) & set(token.scopes):
            body = {
                "error": "insufficient_scope",
                "error_description": "The request requires higher privileges than provided by the access token.",
                "scope": " ".join(accepted),
            }
            raise http.Refusal(http.json_response(body, 403))
        headers = self.limits.spend("authenticated_api", token.user, self.settings.rate_authenticated_api)
        return Caller(token, headers if self.settings.rate_headers_always else {})

    def spend(self, caller: Caller, name: str, limit: int) -> None:
        """Count against a limit of one endpoint; its headers replace the general ones."""
        headers = self.limits.spend(name, caller.user, limit)
        if self.settings.rate_headers_always:
            caller.headers.update(headers)

    def _expired(self, token: world.Token) -> bool:
        return token.expires_at is not None and token.expires_at <= self._world.now()
