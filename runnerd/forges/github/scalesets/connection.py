"""The connection to the Actions service: its address, and the admin token that it takes.

GitHub does not document this protocol; the reference is its Go client (actions/scaleset, public preview).  Our own
credential gets a registration token from REST, and that gets the service's address with an admin token.  Address and
admin token are renewed together, because the address can move.
"""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass, field

import jwt

from provisioners.support import numbers
from runnerd import __version__, errors
from runnerd.forges.github import backoff, failures
from runnerd.forges.github.rest.rest import Rest
from runnerd.forges.github.wire import Wire
from runnerd.kit import http, redaction

#: Seconds before it expires at which the admin token is renewed.
RENEW_BEFORE_S = 120.0
#: Seconds for which a token without a readable end is used; a 401 renews it sooner.
ASSUMED_LIFE_S = 3600.0


@dataclass(frozen=True, slots=True)
class Connection:
    """The address of the service, and the token that it takes from us."""

    url: str
    token: str = field(repr=False)
    #: Our steady time at which the token expires.
    until: float


class Connector:
    """Keeps a connection to the Actions service of one scope."""

    def __init__(self, wire: Wire, rest: Rest, *, rng: random.Random) -> None:
        self._wire = wire
        self._rest = rest
        self._rng = rng
        self._lock = asyncio.Lock()
        self._connection: Connection | None = None

    async def get(self) -> Connection:
        """Return a connection whose token is valid; connect if need be.  Raises :class:`errors.ForgeError`."""
        if (connection := self._valid()) is not None:
            return connection
        async with self._lock:
            if (connection := self._valid()) is None:
                connection = self._connection = await self._connect()
            return connection

    def _valid(self) -> Connection | None:
        connection = self._connection
        if connection is not None and self._wire.clock.now() < connection.until - RENEW_BEFORE_S:
            return connection
        return None

    def forget(self, connection: Connection) -> None:
        """Drop a connection whose token the service has refused."""
        if self._connection is connection:
            self._connection = None

    async def registration_token(self) -> str:
        """Return a token that may register runners, good for an hour.  Raises :class:`errors.ForgeError`."""
        scope = self._rest.scope
        what = f"get a registration token for {scope.name}"
        response = await self._rest.call(
            "POST",
            "/{scope}/actions/runners/registration-token",
            what,
            accept=(200, 201),
            remedy=f"it needs {scope.permission(app=self._rest.credential.app)}",
        )
        token = failures.decode(self._wire.forge, what, response).get("token")
        if not isinstance(token, str) or not token:
            raise errors.ForgeUnavailable(f"{self._wire.forge}: could not {what}: the answer holds no token")
        redaction.learn(token)
        return token

    async def _connect(self) -> Connection:
        registration = await self.registration_token()
        scope = self._rest.scope
        what = f"reach the Actions service of {scope.name}"
        for delay in (*backoff.HANDSHAKE, None):
            try:
                response = await self._wire.send(
                    "/actions/runner-registration",
                    what,
                    method="POST",
                    url=f"{scope.api}/actions/runner-registration",
                    headers={
                        "Authorization": f"RemoteAuth {registration}",
                        "Content-Type": "application/json",
                        "User-Agent": user_agent(0),
                    },
                    body={"url": scope.url, "runner_event": "register"},
                )
            except errors.ForgeUnavailable:
                if delay is None:
                    raise
            else:
                if 200 <= response.status < 300:
                    return self._read(what, response)
                repeat = response.status in (401, 403, 404, 408, 429) or response.status >= 500
                if delay is None or not repeat:
                    raise failures.refusal(
                        self._wire.forge, what, response, remedy="the registration token was not accepted"
                    )
            await self._wire.clock.sleep(backoff.spread(delay, self._rng))
        raise AssertionError("the last try returns or raises")

    def _read(self, what: str, response: http.Response) -> Connection:
        body = failures.decode(self._wire.forge, what, response)
        url, token = body.get("url"), body.get("token")
        if not isinstance(url, str) or not isinstance(token, str) or not url or not token:
            raise errors.ForgeUnavailable(
                f"{self._wire.forge}: could not {what}: the answer lacks its address or token"
            )
        redaction.learn(token)
        life = token_end(token) - self._wire.server_now()
        return Connection(url, token, self._wire.clock.now() + (life if life > 0 else ASSUMED_LIFE_S))


def token_end(token: str) -> float:
    """Return the ``exp`` of a JWT, unverified because it is the server's own; 0 when it cannot be read."""
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.exceptions.PyJWTError, ValueError, TypeError):
        return 0.0
    return numbers.real(claims.get("exp")) or 0.0


def user_agent(set_id: int) -> str:
    """Return the user agent, one JSON object, as GitHub's support expects it of scale set clients."""
    return json.dumps(
        {
            "system": "runnerd",
            "version": __version__,
            "commit_sha": "",
            "scale_set_id": set_id,
            "subsystem": "daemon",
            "build_version": __version__,
            "build_commit_sha": "",
            "kind": "scaleset",
        }
    )
