"""The simulator on a socket: an aiohttp adapter around `App.handle`.

It adds what only a socket has: TLS, a dropped connection, and webhooks going out. It decides nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
import time
import urllib.parse
from collections.abc import Mapping

import aiohttp
from aiohttp import web

from runnerd.simulator import app, http, world

#: largest request body that is read
LARGEST_BODY = 64 * 1024 * 1024
#: headers that the server sets itself
_OWN_HEADERS = {"content-length", "transfer-encoding", "connection"}


class Sender:
    """Sends webhooks over HTTP; certificates of receivers are not checked, they are the tester's own."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> world.HookAnswer:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30))
        began = time.monotonic()
        try:
            async with self._session.post(
                url, data=body, headers=dict(headers), ssl=False, allow_redirects=False
            ) as answer:
                text = await answer.content.read(65_536)
                return world.HookAnswer(answer.status, text, time.monotonic() - began)
        except aiohttp.ClientError as error:
            raise OSError(str(error)) from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


class Server:
    """A listening simulator; `url` is known after `start()`."""

    def __init__(
        self,
        simulator: app.App,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        sender: Sender | None = None,
        public_url: str | None = None,
    ) -> None:
        self.app = simulator
        self._host = host
        self._port = port
        self._tls = tls
        self._sender = sender
        self._public_url = public_url
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self) -> str:
        """Listen; the base URL. Raises OSError when the address cannot be had."""
        application = web.Application(client_max_size=LARGEST_BODY)
        application.router.add_route("*", "/{path:.*}", self._handle)
        # A killed client must not hold a poll: its handler ends with its connection.
        self._runner = web.AppRunner(application, handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port, ssl_context=self._tls, backlog=1024)
        await site.start()
        port = self._runner.addresses[0][1]
        shown = "127.0.0.1" if self._host in ("", "0.0.0.0", "::") else self._host
        scheme = "https" if self._tls else "http"
        self.url = self._public_url or f"{scheme}://{shown}:{port}"
        self.app.world.base_url = self.url
        return self.url

    async def close(self) -> None:
        await self.app.world.close()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._sender is not None:
            await self._sender.close()

    async def _handle(self, incoming: web.Request) -> web.StreamResponse:
        path, _, query = incoming.raw_path.partition("?")
        scheme = incoming.headers.get("X-Forwarded-Proto") or ("https" if self._tls else "http")
        request = http.Request(
            method=incoming.method,
            path=path,
            query=tuple(urllib.parse.parse_qsl(query, keep_blank_values=True)),
            headers={name.lower(): value for name, value in incoming.headers.items()},
            body=await incoming.read(),
            base_url=f"{scheme}://{incoming.headers.get('Host') or self.url.partition('://')[2]}",
        )
        head = request.method == "HEAD"
        if head:
            request = dataclasses.replace(request, method="GET")
        try:
            response = await self.app.handle(request)
        except http.ConnectionDropped:
            return await self._drop(incoming)
        headers = {name: value for name, value in response.headers.items() if name.lower() not in _OWN_HEADERS}
        return web.Response(status=response.status, body=b"" if head else response.body, headers=headers)

    async def _drop(self, incoming: web.Request) -> web.StreamResponse:
        """Cut the connection without a byte of answer."""
        if incoming.transport is not None:
            incoming.transport.abort()
        await asyncio.sleep(0)
        raise asyncio.CancelledError
