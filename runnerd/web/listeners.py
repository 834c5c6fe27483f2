"""Opens and closes the two TCP listeners.

A client gets bounded time for its head, its body and between requests.  Closing answers who waits, lets requests
under way end, and only then cuts.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from typing import Any, Protocol

from aiohttp import web

from runnerd import assets, config, errors, read_model
from runnerd.kit import clock
from runnerd.metrics import counters
from runnerd.web import ops, public, wire

log = logging.getLogger(__name__)

#: Seconds that requests under way have when a listener closes.
GRACE = 5.0
#: Connections that wait to be accepted.
BACKLOG = 512


class _Application(Protocol):
    """A listener's inside."""

    gate: wire.Gate
    app: web.Application

    def release(self) -> None: ...

    async def close(self) -> None: ...


class _Listener:
    """One open socket with its application."""

    def __init__(self, name: str, application: _Application, *, head_timeout: float) -> None:
        self.name = name
        self._application = application
        self._head_timeout = head_timeout
        self._runner = web.AppRunner(
            application.app,
            handle_signals=False,
            shutdown_timeout=GRACE,
            access_log=None,
            logger=wire.quiet_logger(),
            keepalive_timeout=wire.KEEP_ALIVE,
            max_line_size=wire.MAX_LINE,
            max_field_size=wire.MAX_FIELD,
            max_headers=wire.MAX_HEADERS,
            lingering_time=5.0,
            # Signatures are over the bytes as sent, and a packed body could be a bomb.
            auto_decompress=False,
        )
        self._server: asyncio.Server | None = None

    async def open(self, where: str) -> None:
        """Listen.  Raises :class:`errors.ListenFailed` in words for people."""
        host, _, port = where.rpartition(":")
        await self._runner.setup()
        made = self._runner.server
        assert made is not None
        loop = asyncio.get_running_loop()

        def connected() -> asyncio.Protocol:
            protocol: Any = made()
            self._application.gate.silent.add(protocol)
            loop.call_later(self._head_timeout, self._cut_silent, protocol)
            return protocol  # type: ignore[no-any-return]

        try:
            self._server = await loop.create_server(connected, host.strip("[]"), int(port), backlog=BACKLOG)
        except OSError as error:
            await self._runner.cleanup()
            raise errors.ListenFailed(f"listen.{self.name}: {_words(error, where)}") from error
        log.info("the %s listener is open at %s:%d", self.name, *self.address[:2], extra={"action": "listen"})

    def _cut_silent(self, protocol: Any) -> None:
        silent = self._application.gate.silent
        if protocol in silent:
            silent.discard(protocol)
            if protocol.transport is not None:
                protocol.transport.abort()

    @property
    def address(self) -> tuple[str, int]:
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._application.release()
        with contextlib.suppress(OSError):
            await self._runner.cleanup()
        await self._application.close()


class Listeners:
    """What is open."""

    def __init__(self) -> None:
        self._open: list[_Listener] = []

    @property
    def addresses(self) -> dict[str, tuple[str, int]]:
        """Listener -> host and port where it is; with port 0 configured, the one that was given."""
        return {one.name: one.address for one in self._open}

    async def close(self) -> None:
        """Take nothing more, answer who waits, and end."""
        listeners, self._open = self._open, []
        await asyncio.gather(*(one.close() for one in listeners))


async def start(
    served: read_model.Served,
    metrics: counters.Metrics,
    *,
    assets: assets.Assets | None = None,
    settings: config.Config,
    clock: clock.Clock,
    head_timeout: float = wire.HEAD_TIMEOUT,
) -> Listeners:
    """Open the listeners of ``config.listen``; null means none.

    May be called before the daemon has started: a taken port is then reported before anything else happens, and health
    is answered from the first moment on.  Raises :class:`errors.ListenFailed`; nothing is open then.
    """
    made = Listeners()
    wanted: list[tuple[str, str | None, _Application]] = []
    wanted.append(("ops", settings.listen.ops, ops.Ops(served, metrics, clock=clock)))
    wanted.append(
        ("public", settings.listen.public, public.Public(served, now=clock.now, assets=assets, on_hello=metrics.hello))
    )
    for name, where, application in wanted:
        if where is None:
            continue
        listener = _Listener(name, application, head_timeout=head_timeout)
        try:
            await listener.open(where)
        except BaseException:
            await made.close()
            raise
        made._open.append(listener)
    return made


def _words(error: OSError, where: str) -> str:
    """What is wrong with an address, and what to do about it."""
    if error.errno == errno.EADDRINUSE:
        return f"{where} is taken by another process (a second runnerd?); end that, or configure another port"
    if error.errno == errno.EACCES:
        return f"{where} may not be used by this user; ports below 1024 need a right, take a higher one"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{where} is no address of this host"
    if isinstance(error, socket.gaierror):
        return f"the host of {where} cannot be resolved"
    return f"{where} cannot be listened on: {os.strerror(error.errno) if error.errno else error}"
