"""The SDK's clients: credentials, endpoint, time-outs, no retries.

This is the seam: tests and the simulation pass a transport that answers in process and a credential that costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from azure.core.pipeline import policies
from azure.core.pipeline.transport import AioHttpTransport, AsyncHttpTransport
from azure.core.rest import HttpRequest
from azure.mgmt.compute.aio import ComputeManagementClient
from azure.mgmt.core.policies import AsyncARMChallengeAuthenticationPolicy

from provisioners import base
from provisioners.azure import credentials, rates
from provisioners.azure.settings import Settings

#: Seconds to make a connection, and to wait for an answer.
_CONNECT, _READ = 10.0, 60.0


class _Once(AioHttpTransport):  # type: ignore[misc]  # azure-core exports it by a lazy import that mypy cannot see
    """Sends what it is given once.

    aiohttp itself sends a PUT again when its connection breaks before the answer; the caller would not know.  There is
    no public switch for that.
    """

    async def open(self) -> None:
        await super().open()
        if self.session is not None:
            self.session._retry_connection = False


class Clients:
    """Azure's management API for the subscriptions of one provider."""

    def __init__(
        self,
        settings: Settings,
        context: base.Context,
        *,
        transport: Callable[[], AsyncHttpTransport[Any, Any]] | None = None,
        credential: Callable[[], Any] | None = None,
    ) -> None:
        self._settings = settings
        self._context = context
        self._transport = transport or self._own_transport
        self._credential_of = credential or (lambda: credentials.make(settings, context))
        self._credential: Any = None
        self._compute: dict[str, ComputeManagementClient] = {}
        self._limits: dict[str, rates.Limits] = {}

    def _own_transport(self) -> AsyncHttpTransport[Any, Any]:
        made: AsyncHttpTransport[Any, Any] = _Once(
            connection_timeout=_CONNECT, read_timeout=_READ, connection_verify=self._settings.ca or True
        )
        return made

    async def close(self) -> None:
        """Let go of connections; the next call opens them again."""
        clients, self._compute = list(self._compute.values()), {}
        credential, self._credential = self._credential, None
        for one in clients:
            await one.close()
        if credential is not None:
            await credential.close()

    def limits(self, subscription: str) -> rates.Limits:
        """The buckets of a subscription; they outlive connections."""
        if subscription not in self._limits:
            self._limits[subscription] = rates.Limits(self._context)
        return self._limits[subscription]

    async def token(self) -> str:
        """A token as it is sent.  Raises what the SDK raises when there is none."""
        return str((await self._signer().get_token(f"{self._settings.audience}/.default")).token)

    def _signer(self) -> Any:
        if self._credential is None:
            self._credential = self._credential_of()
        return self._credential

    def compute(self, subscription: str) -> ComputeManagementClient:
        """Return the SDK's client of a subscription, created when it is first needed."""
        found = self._compute.get(subscription)
        if found is None:
            scopes = [f"{self._settings.audience}/.default"]
            found = ComputeManagementClient(
                self._signer(),
                subscription,
                base_url=self._settings.endpoint,
                credential_scopes=scopes,
                transport=self._transport(),
                # No retries, no redirects, and no registering of resource providers behind our back.
                policies=[
                    policies.RequestIdPolicy(),
                    policies.HeadersPolicy(),
                    policies.UserAgentPolicy(base_user_agent="runnerd"),
                    AsyncARMChallengeAuthenticationPolicy(self._signer(), *scopes),
                    rates.Gauge(self.limits(subscription)),
                ],
            )
            self._compute[subscription] = found
        return found

    async def unsigned(self, url: str) -> tuple[int, bytes]:
        """Return status and content of a URL that is fetched without the credential."""
        transport = self._transport()
        try:
            await transport.open()
            answer = await transport.send(HttpRequest("GET", url))
            return int(answer.status_code), await answer.read()
        finally:
            await transport.close()
