"""Shared parts of the listeners: bounded bodies, refusals as JSON, an access log that cannot hold a secret.

Every error is answered with a message and none with a traceback.  The log names the *route*, never the requested path,
because paths carry capabilities; bodies and headers are not logged at all.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import http_exceptions, web

from runnerd import errors
from runnerd.kit import redaction
from runnerd.web import peers

log = logging.getLogger(__name__)
access = logging.getLogger("runnerd.web.access")

#: Requests that one listener works on at a time; agents that wait for a runner hold one each.
IN_FLIGHT = 4096
#: Seconds that a client has to send the head of its first request, and to idle between two.
HEAD_TIMEOUT_S = 15.0
KEEP_ALIVE_S = 75.0
#: Bytes of the request line and of one header, and how many headers there may be.
MAX_LINE = 8190
MAX_FIELD = 8190
MAX_HEADERS = 64
#: Seconds after which a refused client may retry.
RETRY_AFTER_S = 5

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: On every answer: no type sniffing, no framing, no referrer.
SAFE_HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Server": "runnerd",
}


class Busy(errors.Refused):
    """The daemon cannot take this now; retry later."""

    def __init__(self, message: str = "", *, status: int = 503, retry_after: float = RETRY_AFTER_S) -> None:
        super().__init__(message, status=status)
        #: Seconds.
        self.retry_after = retry_after


def answer(body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return a JSON answer that no proxy stores."""
    return web.Response(
        text=json.dumps(body),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


def refusal(status: int, message: str, *, retry_after: float | None = None) -> web.Response:
    """Return ``{"error": message}``; a temporary refusal says when to retry."""
    headers = {}
    if retry_after is None and status in (429, 503):
        retry_after = RETRY_AFTER_S
    if retry_after is not None:
        headers["Retry-After"] = str(max(1, round(retry_after)))
    return answer({"error": message}, status=status, headers=headers)


async def body(request: web.Request, *, most: int, seconds: float) -> bytes:
    """Return the raw body.

    Raises :class:`errors.Refused`: 413 when it is longer than ``most`` bytes (its announced length is enough), 408
    when it takes longer than ``seconds``, 400 when it ends too early.
    """
    found = bytearray()
    async for chunk in chunks(request, most=most, seconds=seconds):
        found += chunk
    return bytes(found)


async def chunks(request: web.Request, *, most: int, seconds: float) -> Any:
    """Yield the body like :func:`body`, in chunks."""
    announced = request.content_length
    if announced is not None and announced > most:
        raise errors.Refused(f"the body has {announced} bytes, at most {most} are accepted", status=413)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    size = 0
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                chunk = await request.content.readany()
        except TimeoutError:
            raise errors.Refused(f"the body did not arrive within {seconds:g} s", status=408) from None
        except (web.RequestPayloadError, http_exceptions.HttpProcessingError) as error:
            raise errors.Refused("the body is incomplete or badly encoded", status=400) from error
        if not chunk:
            return
        size += len(chunk)
        if size > most:
            raise errors.Refused(f"the body has more than {most} bytes", status=413)
        yield chunk


def redacted(value: Any) -> Any:
    """Return a JSON value with every secret in its strings masked."""
    if isinstance(value, str):
        return redaction.redact(value)
    if isinstance(value, dict):
        return {key: redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item) for item in value]
    return value


class Gate:
    """The outermost layer of a listener: limits requests in flight, answers errors, and writes the access log."""

    def __init__(self, name: str, *, in_flight: int = IN_FLIGHT) -> None:
        self.name = name
        self._most = in_flight
        self._now_in_flight = 0
        #: Connections that have not sent a whole head yet.
        self.silent: set[Any] = set()

    @web.middleware
    async def middleware(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        self.silent.discard(request.protocol)
        loop = asyncio.get_running_loop()
        started = loop.time()
        if self._now_in_flight >= self._most:
            found: web.StreamResponse = refusal(503, "too many requests at once")
        else:
            self._now_in_flight += 1
            try:
                found = await self._handle(request, handler)
            finally:
                self._now_in_flight -= 1
        if not found.prepared:
            for name, value in SAFE_HEADERS.items():
                found.headers.setdefault(name, value)
        self._note(request, found, loop.time() - started)
        return found

    async def _handle(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Busy as error:
            return refusal(error.status, str(error), retry_after=error.retry_after)
        except errors.Refused as error:
            return refusal(error.status, str(error))
        except errors.IllegalTransition as error:
            log.error("%s: %s", self.name, error)
            return refusal(503, "the request conflicts with the current state; retry later")
        except errors.StoreError:
            return refusal(503, "the state cannot be written now; retry later")
        except web.HTTPException as error:
            made = refusal(error.status, error.reason.lower())
            if "Allow" in error.headers:
                made.headers["Allow"] = error.headers["Allow"]
            return made
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:
            # The message of an unknown error may quote what was sent: the trace goes to the log, not to the client.
            log.exception("%s: a request failed in an unexpected way: %s", self.name, type(error).__name__)
            return refusal(500, "internal error; see the daemon's log")

    def _note(self, request: web.Request, found: web.StreamResponse, seconds: float) -> None:
        level = logging.INFO if found.status >= 400 and found.status != 404 else logging.DEBUG
        if not access.isEnabledFor(level):
            return
        route = request.match_info.route.resource
        place = route.canonical if route is not None else "(no such place)"
        access.log(
            level,
            "%s: %s %s -> %d in %.0f ms, from %s",
            self.name,
            request.method if request.method.isalpha() else "?",
            place,
            found.status,
            seconds * 1000,
            peers.address(request),
            extra={"action": "http", "listener": self.name, "route": place, "status": found.status},
        )


class _Quiet(logging.Filter):
    """Drops records about input that is not HTTP: it is no error of ours, and may hold half a capability."""

    def filter(self, record: logging.LogRecord) -> bool:
        cause = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        return not isinstance(cause, http_exceptions.HttpProcessingError)


def quiet_logger() -> logging.Logger:
    """Return the logger for aiohttp's own messages."""
    made = logging.getLogger("runnerd.web.server")
    if not any(isinstance(one, _Quiet) for one in made.filters):
        made.addFilter(_Quiet())
    return made
