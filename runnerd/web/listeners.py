"""The two TCP listeners: open and close.

A client gets bounded time for its head, its body and between requests.  Closing answers waiting clients, lets requests
in flight end, and only then aborts connections.
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

#: Seconds that requests in flight have when a listener closes.
GRACE_S = 5.0
#: Connections that wait to be accepted.
BACKLOG = 512


class _Application(Protocol):
    """The application behind a listener."""

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
            shutdown_timeout=GRACE_S,
            access_log=None,
            logger=wire.quiet_logger(),
            keepalive_timeout=wire.KEEP_ALIVE_S,
            max_line_size=wire.MAX_LINE,
            max_field_size=wire.MAX_FIELD,
            max_headers=wire.MAX_HEADERS,
            lingering_time=5.0,
            # Signatures are over the bytes as sent, and a packed body could be a bomb.
            auto_decompress=False,
        )
        self._server: asyncio.Server | None = None

    async def open(self, where: str) -> None:
        """Listen.  Raises :class:`errors.ListenFailed` with a message for people."""
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
            raise errors.ListenFailed(f"listen.{self.name}: {_reason(error, where)}") from error
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
    """The open listeners."""

    def __init__(self) -> None:
        self._open: list[_Listener] = []

    @property
    def addresses(self) -> dict[str, tuple[str, int]]:
        """Listener -> its host and port; with port 0 configured, the port that was assigned."""
        return {one.name: one.address for one in self._open}

    async def close(self) -> None:
        """Accept no more connections, answer waiting clients, and close."""
        listeners, self._open = self._open, []
        await asyncio.gather(*(one.close() for one in listeners))


async def start(
    served: read_model.Served,
    metrics: counters.Metrics,
    *,
    assets: assets.Assets | None = None,
    settings: config.Config,
    clock: clock.Clock,
    head_timeout: float = wire.HEAD_TIMEOUT_S,
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


def _reason(error: OSError, where: str) -> str:
    """Return the reason why an address cannot be used, and the remedy."""
    if error.errno == errno.EADDRINUSE:
        return f"{where} is in use by another process (a second runnerd?); stop it, or configure another port"
    if error.errno == errno.EACCES:
        return f"{where} is not permitted for this user; ports below 1024 need a capability, use a higher one"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{where} is not an address of this host"
    if isinstance(error, socket.gaierror):
        return f"the host of {where} cannot be resolved"
    return f"{where} cannot be listened on: {os.strerror(error.errno) if error.errno else error}"
