"""The last step before the transport, shared by REST and the Actions service.

It turns a lost answer into a :class:`errors.ForgeError` whose ``maybe_created`` is True when the request may have been
applied, counts requests by endpoint, and remembers the server's clock.  It judges no status and repeats nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from runnerd import errors
from runnerd.kit import clock as clocks
from runnerd.kit import http

#: Gets the endpoint and the status of every request; status 0 means no answer.
OnRequest = Callable[[str, int], None]


class Wire:
    """Sends requests of one forge."""

    def __init__(
        self,
        forge: str,
        *,
        clock: clocks.Clock,
        transport: http.Transport,
        on_request: OnRequest | None = None,
    ) -> None:
        self.forge = forge
        self.clock = clock
        self._transport = transport
        self._on_request = on_request
        self._date: tuple[float, float] | None = None

    async def send(
        self,
        endpoint: str,
        what: str,
        *,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Any = None,
        timeout: float = 30.0,
    ) -> http.Response:
        """Send one request; ``body`` is encoded as JSON unless it is None, ``timeout`` is in seconds.

        ``endpoint`` names the request in metrics, ``what`` in errors, as an infinitive ("list the runners").

        Raises :class:`errors.ForgeUnavailable` when no answer came, ``maybe_created`` when it may have been applied.
        """
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        try:
            response = await self._transport.send(http.Request(method, url, headers, data, timeout))
        except errors.TransportError as error:
            if self._on_request is not None:
                self._on_request(endpoint, 0)
            raise errors.ForgeUnavailable(
                f"{self.forge}: could not {what}: {error}", maybe_created=error.maybe_applied
            ) from error
        if self._on_request is not None:
            self._on_request(endpoint, response.status)
        date = response.date()
        if date is not None:
            self._date = (date, self.clock.now())
        return response

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    def server_date(self) -> tuple[float, float] | None:
        """Return the server's clock as last reported and our steady time of then; None before the first answer."""
        return self._date

    def server_now(self) -> float:
        """Return the time by the server's clock; by our own civil time before the first answer."""
        if self._date is None:
            return self.clock.wall()
        date, read_at = self._date
        return date + (self.clock.now() - read_at)
