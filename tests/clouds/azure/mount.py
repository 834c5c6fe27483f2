"""The provider's clients over a simulated Azure in process: the SDK as it is, with another transport and credential."""

from __future__ import annotations

import asyncio
import http
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
from azure.core import exceptions
from azure.core.credentials import AccessToken
from azure.core.pipeline.transport import AsyncHttpTransport
from azure.core.rest._http_response_impl_async import AsyncHttpResponseImpl
from azure.core.utils import case_insensitive_dict

from provisioners import base, catalogue
from provisioners.azure import client, settings
from tests.clouds import wire
from tests.clouds.azure.cloud import CLIENT, TENANT, Arm

#: Far away: the SDK asks the host's clock, which has nothing to do with the simulation's.
_NEVER = 2**33


def options(arm: Arm, *regions: str, **more: Any) -> dict[str, Any]:
    """Options of a provider that buys in these regions of a simulated subscription (all that it has by default)."""
    return {
        "subscription": arm.subscription,
        "resource_group": arm.group,
        "regions": {
            region: {"subnet": arm.subnet(region), "zones": list(arm.regions[region])}
            for region in regions or arm.regions
        },
        **more,
    }


def socket_options(arm: Arm, url: str, ca: Path, *regions: str, **more: Any) -> dict[str, Any]:
    """The same for a simulation that is served with TLS at a URL and signs in its own client there.

    ``client_secret`` is the reference under which the daemon reads :data:`tests.clouds.azure.SECRET`.
    """
    given = {
        "endpoint": url,
        "authority": url.removeprefix("https://"),
        "ca": str(ca),
        "tenant": TENANT,
        "client_id": CLIENT,
        "client_secret": "env:AZURE_SIMULATED_SECRET",
    }
    return options(arm, *regions, **{**given, **more})


def mount(
    arm: Arm,
    context: base.Context,
    given: Mapping[str, Any],
    *,
    latency: Callable[[], float] | None = None,
    handler: wire.Handler | None = None,
) -> client.Clients:
    """Clients that the simulation answers, or a handler in front of it; ``latency`` gives the seconds of each call."""
    chosen, problems = settings.read(given, catalogue.load("azure"))
    if problems:
        raise ValueError("; ".join(problems))
    sleep = context.sleep if latency is not None else None
    return client.Clients(
        chosen,
        context,
        transport=lambda: Transport(handler or arm.handle, sleep, latency or (lambda: 0.0)),
        credential=lambda: Credential(arm),
    )


class Credential:
    """The daemon's, without signing in."""

    def __init__(self, arm: Arm) -> None:
        self._arm = arm

    async def get_token(self, *scopes: str, **kwargs: Any) -> AccessToken:
        return AccessToken(self._arm.token(self._arm.daemon), _NEVER)

    async def close(self) -> None:
        """Nothing is open."""


class Transport(AsyncHttpTransport[Any, Any]):
    """Answers from a handler.  Others run before and after, so that a call can be cancelled on either side of it."""

    def __init__(
        self, handler: wire.Handler, sleep: Callable[[float], Awaitable[None]] | None, latency: Callable[[], float]
    ) -> None:
        self._handler = handler
        self._sleep = sleep
        self._latency = latency

    async def send(self, request: Any, **kwargs: Any) -> Any:
        body = request.content or b""
        sent = wire.Request(
            request.method,
            request.url,
            dict(request.headers),
            body.encode() if isinstance(body, str) else bytes(body),
        )
        await self._pause()
        try:
            told = self._handler(sent)
        except wire.Lost as lost:
            # As azure-core's transport over aiohttp has it: a request error in both cases.
            cause: Exception = aiohttp.ServerDisconnectedError()
            if not lost.sent:
                key = aiohttp.client_reqrep.ConnectionKey("management.azure.com", 443, True, True, None, None, None)
                cause = aiohttp.ClientConnectorError(key, OSError(111, "Connection refused"))
            raise exceptions.ServiceRequestError(cause, error=cause) from cause
        await self._pause()
        return Response(request, told)

    async def _pause(self) -> None:
        await asyncio.sleep(0)
        if self._sleep is not None:
            await self._sleep(self._latency() / 2)

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""

    async def __aexit__(self, *details: Any) -> None:
        """Nothing to close."""


class _Closed:
    async def close(self) -> None:
        """Nothing is open."""


class Response(AsyncHttpResponseImpl):
    """An answer whose body is there already."""

    def __init__(self, request: Any, answer: wire.Answer) -> None:
        headers = case_insensitive_dict(answer.headers)
        super().__init__(
            request=request,
            internal_response=_Closed(),
            status_code=answer.status,
            reason=http.HTTPStatus(answer.status).phrase,
            content_type=str(headers.get("Content-Type", "")),
            headers=headers,
            stream_download_generator=None,
        )
        self._content = answer.body
