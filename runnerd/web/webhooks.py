"""Deliveries of forges.  A delivery only wakes the loop: losing one costs an interval, so nothing here waits long.

The forge's client checks the signature over the raw bytes and reads the event; size, time and memory are bounded here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from runnerd import errors, read_model
from runnerd.web import peers, wire

log = logging.getLogger(__name__)

#: Bytes of the largest delivery: both forges cap theirs at 25 MB (reference: GitHub's webhook limits, GitLab's
#: "Webhooks" page); a job's own has some 30 KB.
MAX_DELIVERY = 25 * 2**20
#: Bytes from which a delivery counts as large, and how many large ones are in memory at once.
LARGE = 2**20
MOST_LARGE = 2
#: Bytes from an address that has recently failed to authenticate.
MAX_UNTRUSTED = 256 * 1024
#: Seconds for the body, and for the forge's client.  GitHub and GitLab.com give up after 10 s.
BODY_TIMEOUT_S = 9.0
TAKE_TIMEOUT_S = 5.0


class Webhooks:
    """``POST /webhooks/{forge}``."""

    def __init__(self, served: read_model.Served, peers: peers.Peers) -> None:
        self._served = served
        self._peers = peers
        self._large = MOST_LARGE

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/webhooks/{forge}", self._take)]

    async def _take(self, request: web.Request) -> web.Response:
        forges = self._served.forges
        if forges is None or self._served.progress.stopping:
            raise wire.Busy("the daemon takes no deliveries now; its next poll finds the change")
        forge = forges.get(request.match_info["forge"])
        if forge is None:
            raise errors.Refused("no forge of that name is configured", status=404)
        peer = peers.address(request)
        wait = self._peers.wait(peer)
        async with self._read(request, most=MAX_UNTRUSTED if wait > 0 else MAX_DELIVERY) as body:
            headers = {name.lower(): value for name, value in request.headers.items()}
            try:
                async with asyncio.timeout(TAKE_TIMEOUT_S):
                    answer = await forge.webhook(headers, body)
            except TimeoutError:
                raise wire.Busy("the delivery takes too long now; the next poll finds the change") from None
        if answer.status in (401, 403):
            if wait > 0:
                raise wire.Busy("too many deliveries without a valid signature", status=429, retry_after=wait)
            self._peers.fail(peer)
            log.warning("a webhook for %s from %s was refused: %s", forge.name, peer, answer.message)
        if answer.status >= 400:
            return wire.refusal(answer.status, answer.message)
        return wire.answer({"message": answer.message}, status=answer.status)

    @asynccontextmanager
    async def _read(self, request: web.Request, *, most: int) -> AsyncIterator[bytes]:
        """Read the body; a large one holds one of a few places until it has been handled."""
        found = bytearray()
        placed = False
        try:
            if (request.content_length or 0) > LARGE:
                placed = self._place(most, request.content_length or 0)
            async for chunk in wire.chunks(request, most=most, seconds=BODY_TIMEOUT_S):
                found += chunk
                if not placed and len(found) > LARGE:
                    placed = self._place(most, len(found))
            yield bytes(found)
        finally:
            self._large += placed

    def _place(self, most: int, size: int) -> bool:
        if size > most:
            # The reader raises the better message.
            return False
        if self._large <= 0:
            raise wire.Busy("too many large deliveries at once")
        self._large -= 1
        return True
