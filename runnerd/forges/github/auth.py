"""Our credential at GitHub: the installation of an App, or a token.

Tokens are opaque (their format changes, GitHub changelog 2026-05-15), live in memory only, and are masked in logs.
The App's JWT is dated by the server's clock once that is known: otherwise a host clock that is ahead by seconds gets
401.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import jwt

from runnerd import __version__, config, errors
from runnerd.forges import fields
from runnerd.forges.github import backoff, failures
from runnerd.forges.github.scope import Kind, Scope
from runnerd.forges.github.wire import Wire
from runnerd.kit import http, redaction, secrets

#: Seconds before it expires at which an installation token is renewed.
RENEW_BEFORE_S = 300.0
#: Life of the JWT in seconds; GitHub allows ten minutes.
JWT_LIFE_S = 540
#: Life of an installation token whose end cannot be read; seconds.
ASSUMED_LIFE_S = 3600.0
USER_AGENT = f"runnerd/{__version__}"
HEADERS = {
    "Accept": "application/vnd.github+json",
    "X-GitHub-Api-Version": "2022-11-28",
    "User-Agent": USER_AGENT,
}


class Credential(Protocol):
    """A source of the token for REST requests."""

    async def token(self) -> str:
        """Return the token for the next request.  Raises :class:`errors.ForgeError`."""
        ...

    def forget(self, token: str) -> bool:
        """Drop a token that the server has refused; return True when another can be had now."""
        ...

    @property
    def remedy(self) -> str:
        """Advice for people when the credential is refused."""
        ...

    @property
    def app(self) -> bool:
        """True for an App, which needs other permissions than a token."""
        ...


class PersonalToken:
    """A personal access token.  It is read again for each request, so a rotated file works at once."""

    app = False
    remedy = "check that the token exists, has not expired and is authorised for the organisation (SSO)"

    def __init__(self, secret: secrets.Secret) -> None:
        self._secret = secret

    async def token(self) -> str:
        try:
            return self._secret.reveal()
        except errors.SecretMissing as error:
            raise errors.ForgeAuthFailed(str(error)) from error

    def forget(self, token: str) -> bool:
        try:
            return self._secret.reveal() != token
        except errors.SecretMissing:
            return False


class App:
    """A GitHub App; its installation tokens live an hour."""

    app = True
    remedy = "check the App's id and private key, that its installation is not suspended, and this host's clock"

    def __init__(self, wire: Wire, scope: Scope, settings: config.GitHubApp) -> None:
        self._wire = wire
        self._scope = scope
        self._id = str(settings.id)
        self._key = settings.key
        self._installation = settings.installation
        self._lock = asyncio.Lock()
        self._token = ""
        self._expires = 0.0

    async def token(self) -> str:
        if self._valid():
            return self._token
        async with self._lock:
            if not self._valid():
                await self._mint()
            return self._token

    def forget(self, token: str) -> bool:
        if token == self._token:
            self._expires = 0.0
        return True

    def _valid(self) -> bool:
        return bool(self._token) and self._wire.clock.now() < self._expires - RENEW_BEFORE_S

    async def installation(self) -> int:
        """Return the installation's number.  Raises :class:`errors.ForgeError`."""
        if self._installation is None:
            if self._scope.kind is Kind.ENTERPRISE:
                raise errors.ForgeForbidden(f"{self._wire.forge}: an App cannot serve an enterprise; use a token")
            what = f"find the App's installation for {self._scope.name}"
            path = f"/{self._scope.path}/installation"
            response = await self._request("GET", path, f"/{self._scope.template}/installation", what)
            if response.status != 200:
                remedy = self.remedy
                if response.status == 404:
                    remedy = f"install the App for {self._scope.name}"
                raise failures.refusal(self._wire.forge, what, response, remedy=remedy)
            self._installation = int(failures.decode(self._wire.forge, what, response).get("id") or 0)
        return self._installation

    async def _mint(self) -> None:
        number = await self.installation()
        what = f"mint a token for installation {number}"
        response = await self._request(
            "POST", f"/app/installations/{number}/access_tokens", "/app/installations/{id}/access_tokens", what
        )
        if response.status not in (200, 201):
            remedy = self.remedy
            if response.status == 404:
                remedy = f"the App is not installed there any more: install it for {self._scope.name}"
            raise failures.refusal(self._wire.forge, what, response, remedy=remedy)
        body = failures.decode(self._wire.forge, what, response)
        token = body.get("token")
        if not isinstance(token, str) or not token:
            raise errors.ForgeUnavailable(f"{self._wire.forge}: could not {what}: the answer holds no token")
        redaction.learn(token)
        life = fields.timestamp(body.get("expires_at")) - self._wire.server_now()
        self._token = token
        self._expires = self._wire.clock.now() + (life if life > 0 else ASSUMED_LIFE_S)

    async def _request(self, method: str, path: str, endpoint: str, what: str) -> http.Response:
        """Send a request as the App itself; repeat it after 401, now dated by the server's clock, and after 5xx."""
        response = await self._send(method, path, endpoint, what)
        if response.status == 401 and response.date() is not None:
            response = await self._send(method, path, endpoint, what)
        for delay in backoff.AGAIN:
            if response.status < 500:
                break
            await self._wire.clock.sleep(delay)
            response = await self._send(method, path, endpoint, what)
        return response

    async def _send(self, method: str, path: str, endpoint: str, what: str) -> http.Response:
        now = int(self._wire.server_now())
        try:
            signed = jwt.encode(
                {"iat": now - 60, "exp": now + JWT_LIFE_S, "iss": self._id}, self._key.reveal(), algorithm="RS256"
            )
        except errors.SecretMissing as error:
            raise errors.ForgeAuthFailed(str(error)) from error
        except (ValueError, TypeError, jwt.exceptions.PyJWTError):
            # Not chained: some errors of the key parser quote the key.
            raise errors.ForgeAuthFailed(
                f"{self._wire.forge}: the App's private key ({self._key.reference}) is not a PEM private key; "
                "download a new one from the App's settings"
            ) from None
        return await self._wire.send(
            endpoint,
            what,
            method=method,
            url=self._scope.api + path,
            headers={**HEADERS, "Authorization": f"Bearer {signed}"},
        )
