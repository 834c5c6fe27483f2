"""Report images over HTTP: uploads in, files out.

The contract of an upload is CML's (reference: its asset server): raw bytes in, the address as the body out, a query
on the address tolerated.  Files are served so that a browser runs nothing in them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from runnerd import assets, errors
from runnerd.web import peers, wire

#: Seconds for an upload to arrive, and for a client to read a file.
UPLOAD_TIMEOUT_S = 300.0
READ_TIMEOUT_S = 300.0

#: No script, no plug-in, no request of its own; an SVG keeps its inline style.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"


class Reports:
    """``POST /assets/upload/{capability}`` and ``GET /assets/{name}``."""

    def __init__(self, assets: assets.Assets, peers: peers.Peers) -> None:
        self._assets = assets
        self._peers = peers

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/assets/upload/{capability}", self._upload),
            web.get("/assets/{name}", self._serve),
        ]

    # -- in ----------------------------------------------------------------------------------------------------

    async def _upload(self, request: web.Request) -> web.Response:
        try:
            url = await self._receive(request)
        except errors.StoreError as error:
            return self._refuse(request, 503, str(error))
        except errors.Refused as error:
            return self._refuse(request, error.status, str(error))
        return web.Response(text=url, headers={"Cache-Control": "no-store"})

    async def _receive(self, request: web.Request) -> str:
        capability = request.match_info["capability"]
        peer = peers.address(request)
        try:
            self._assets.holder(capability)
        except errors.Refused as error:
            if error.status != 401:
                raise
            wait = self._peers.wait(peer)
            if wait > 0:
                raise wire.Busy("too many uploads without a valid address", status=429, retry_after=wait) from None
            self._peers.fail(peer)
            raise
        most = self._assets.settings.max_bytes
        chunks: AsyncIterator[bytes] = wire.chunks(request, most=most, seconds=UPLOAD_TIMEOUT_S)
        return await self._assets.receive(capability, chunks, length=request.content_length)

    def _refuse(self, request: web.Request, status: int, words: str) -> web.Response:
        # Upstream's client takes any body as the address, with any status; only an empty one is an error to it.
        upstream = request.headers.get("User-Agent", "").startswith("node-fetch/")
        headers = {"Retry-After": str(wire.RETRY_AFTER_S)} if status in (429, 503) else {}
        return web.Response(status=status, text="" if upstream else words, headers=headers)

    # -- out ---------------------------------------------------------------------------------------------------

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        found = await self._assets.find(request.match_info["name"])
        if found is None:
            raise errors.Refused("there is no such image, or its retention has ended", status=404)
        tag = f'"{found.address}"'
        headers = {
            **wire.SAFE_HEADERS,
            "ETag": tag,
            # The content of an address never changes; the configuration sets its retention.
            "Cache-Control": f"public, max-age={int(self._assets.settings.retention)}, immutable",
            "Content-Security-Policy": POLICY,
            "Cross-Origin-Resource-Policy": "cross-origin",
        }
        if found.mime == "application/pdf":
            headers["Content-Disposition"] = "attachment"
        asked = request.headers.get("If-None-Match", "")
        if asked.strip() == "*" or tag in asked:
            return web.Response(status=304, headers=headers)
        made = web.StreamResponse(headers=headers)
        made.content_type = found.mime
        made.content_length = found.size
        if request.method == "HEAD":
            return made
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                await made.prepare(request)
                async for piece in self._assets.read(found):
                    await made.write(piece)
                await made.write_eof()
        except (TimeoutError, OSError):
            # The head has been sent: aborting the connection is the only way to report the failure.
            if request.transport is not None:
                request.transport.abort()
        return made
