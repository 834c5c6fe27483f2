"""HTTP of a simulated cloud as plain values, answered in process or over a socket.

A simulated cloud is a :data:`Handler`: synchronous, without threads, and with a clock of its own.  Whoever mounts it
in process turns an SDK's prepared request into a :class:`Request` and the :class:`Answer` back, and raises for
:class:`Lost` what the SDK raises when a connection breaks.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from aiohttp import web


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it was sent."""

    method: str
    #: Absolute, with its query.
    url: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    @property
    def path(self) -> str:
        return urlsplit(self.url).path

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.url).query, keep_blank_values=True))

    def header(self, name: str, default: str = "") -> str:
        """A header whatever its case."""
        wanted = name.lower()
        return next((value for key, value in self.headers.items() if key.lower() == wanted), default)


@dataclass(frozen=True, slots=True)
class Answer:
    """One response."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class Lost(Exception):
    """No answer comes.  ``sent``: the request may have arrived (a timeout, a reset); else no connection was made."""

    def __init__(self, message: str = "the answer was lost", *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


Handler = Callable[[Request], Answer]

#: Bytes of a request that are read at most.
_LIMIT = 64 * 2**20


@contextlib.asynccontextmanager
async def serve(handler: Handler, *, tls: ssl.SSLContext | None = None, port: int = 0) -> AsyncIterator[str]:
    """The handler on 127.0.0.1; yields its URL.  Requests are answered one after the other, in the caller's loop.

    A :class:`Lost` answer closes the connection: over a socket no client can tell whether it was carried out.
    """

    async def answer(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        try:
            told = handler(Request(request.method, str(request.url), dict(request.headers), body))
        except Lost:
            if request.transport is not None:
                request.transport.abort()
            raise asyncio.CancelledError from None
        return web.Response(status=told.status, headers=dict(told.headers), body=told.body)

    application = web.Application(client_max_size=_LIMIT)
    application.router.add_route("*", "/{anything:.*}", answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls)
        await site.start()
        yield f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
