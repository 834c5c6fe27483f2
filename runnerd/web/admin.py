"""The admin socket: the routes that commands call, over HTTP on a Unix socket."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypedDict

from aiohttp import web

from provisioners.support import numbers
from runnerd import errors, read_model
from runnerd.admin import commands
from runnerd.kit import redaction
from runnerd.views import costs, documents, events, explain, instance_logs, lists, pricing, status
from runnerd.web import unixsocket, wire

log = logging.getLogger(__name__)

#: Bytes of a request: those of commands are small.
LARGEST = 64 * 1024

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
#: Reads the configuration again; returns the changes.
Reload = Callable[[], Awaitable[list[str]]]


class Admin:
    """The listening socket with the commands behind it."""

    def __init__(
        self, reading: read_model.ReadModel, commands: commands.Commands, path: Path, *, reload: Reload
    ) -> None:
        self._reading = reading
        self._commands = commands
        self._path = path
        self._reload = reload
        self._runner: web.AppRunner | None = None
        self._inode: tuple[int, int] | None = None

    async def start(self) -> None:
        """Listen.  Raises OSError with a message for people when the socket cannot be created."""
        sock, self._inode = unixsocket.bind(self._path)
        self._runner = web.AppRunner(self.app(), access_log=None, shutdown_timeout=2.0)
        try:
            await self._runner.setup()
            await web.SockSite(self._runner, sock).start()
        except BaseException:
            sock.close()
            await self.close()
            raise

    async def close(self) -> None:
        """Stop listening and remove the file, if it is still ours."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
        if self._inode is not None:
            with contextlib.suppress(OSError):
                status = self._path.lstat()
                if (status.st_dev, status.st_ino) == self._inode:
                    self._path.unlink()
            self._inode = None

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(middlewares=[self._guard], client_max_size=LARGEST)
        app.add_routes(
            [
                web.get("/v1/status", self._status),
                web.get("/v1/jobs", self._jobs),
                web.get("/v1/instances", self._instances),
                web.get("/v1/pools", self._pools),
                web.get("/v1/pools/{pool}/offers", self._offers),
                web.get("/v1/explain", self._explain),
                web.get("/v1/events", self._events),
                web.get("/v1/logs", self._logs),
                web.get("/v1/cost", self._cost),
                web.get("/v1/prices", self._prices),
                web.post("/v1/prices/refresh", self._refresh_prices),
                web.post("/v1/pools/{pool}/drain", self._drain),
                web.post("/v1/pools/{pool}/undrain", self._undrain),
                web.post("/v1/instances/{instance}/reap", self._reap),
                web.post("/v1/instances/{instance}/hold", self._hold),
                web.post("/v1/sweep", self._sweep),
                web.post("/v1/reload", self._reload_now),
            ]
        )
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Admit the daemon's own user and root; answer every failure as JSON with a message."""
        try:
            unixsocket.caller(request)
            return await handler(request)
        except errors.Refused as error:
            return _problem(error.status, str(error))
        except errors.ConfigInvalid as error:
            problems = [str(problem) for problem in error.problems]
            return web.json_response({"error": "the new configuration is invalid", "problems": problems}, status=422)
        except errors.RunnerdError as error:
            return _problem(503, str(error))
        except web.HTTPException as error:
            return _problem(error.status, f"{request.method} {request.path}: {error.reason}")
        except (TypeError, ValueError) as error:
            return _problem(400, f"the request is not valid: {error}")
        except Exception as error:
            log.exception("a command failed: %s %s", request.method, request.path)
            return _problem(500, f"{type(error).__name__}: {error}; see the daemon's log")

    # -- inspection -----------------------------------------------------------------------------------------------

    async def _status(self, request: web.Request) -> web.Response:
        found: documents.SocketStatus = {
            **status.status(self._reading),
            "pid": os.getpid(),
            "socket": str(self._path),
        }
        return _answer(found)

    async def _jobs(self, request: web.Request) -> web.Response:
        return _answer(await lists.jobs(self._reading, **_selection(request)))

    async def _instances(self, request: web.Request) -> web.Response:
        return _answer(await lists.instances(self._reading, **_selection(request)))

    async def _pools(self, request: web.Request) -> web.Response:
        return _answer(lists.pools(self._reading))

    async def _offers(self, request: web.Request) -> web.Response:
        return _answer(lists.offer_list(self._reading, request.match_info["pool"]))

    async def _explain(self, request: web.Request) -> web.Response:
        return _answer(await explain.explain(self._reading, request.query.get("job", "")))

    async def _events(self, request: web.Request) -> web.Response:
        query = request.query
        return _answer(
            await events.events(
                self._reading,
                subject=query.get("subject", ""),
                id=query.get("id", ""),
                since=_number(query, "since", 0.0),
                after=_whole(query, "after", 0),
                limit=_whole(query, "limit", 200),
                hold=_number(query, "hold", 0.0),
            )
        )

    async def _logs(self, request: web.Request) -> web.Response:
        return _answer(await instance_logs.logs(self._reading, request.query.get("name", "")))

    async def _cost(self, request: web.Request) -> web.Response:
        query = request.query
        since = _number(query, "since", 0.0) if "since" in query else None
        until = _number(query, "until", 0.0) if "until" in query else None
        return _answer(await costs.cost(self._reading, by=query.get("by", "pool"), since=since, until=until))

    async def _prices(self, request: web.Request) -> web.Response:
        query = request.query
        return _answer(pricing.prices(self._reading, pool=query.get("pool", ""), provider=query.get("provider", "")))

    # -- commands ----------------------------------------------------------------------------------------------

    async def _drain(self, request: web.Request) -> web.Response:
        pool = request.match_info["pool"]
        return _answer(await self._commands.drain(pool, on=True, who=unixsocket.caller(request)))

    async def _undrain(self, request: web.Request) -> web.Response:
        pool = request.match_info["pool"]
        return _answer(await self._commands.drain(pool, on=False, who=unixsocket.caller(request)))

    async def _reap(self, request: web.Request) -> web.Response:
        body = await _body(request)
        id = request.match_info["instance"]
        return _answer(await self._commands.reap(id, force=body.get("force") is True, who=unixsocket.caller(request)))

    async def _hold(self, request: web.Request) -> web.Response:
        body = await _body(request)
        given = body.get("seconds")
        seconds = None if isinstance(given, str) else numbers.real(given)
        if seconds is None:
            raise errors.Refused('"seconds" must be a number; 0 releases', status=400)
        id = request.match_info["instance"]
        return _answer(await self._commands.hold(id, seconds=seconds, who=unixsocket.caller(request)))

    async def _sweep(self, request: web.Request) -> web.Response:
        body = await _body(request)
        return _answer(await self._commands.sweep(dry_run=body.get("dry_run") is True))

    async def _refresh_prices(self, request: web.Request) -> web.Response:
        body = await _body(request)
        return _answer(await self._commands.refresh_prices(provider=str(body.get("provider") or "")))

    async def _reload_now(self, request: web.Request) -> web.Response:
        return _answer({"done": await self._reload()})


async def _body(request: web.Request) -> dict[str, Any]:
    raw = await request.read()
    if not raw:
        return {}
    found = numbers.loads(raw)
    if not isinstance(found, dict):
        raise errors.Refused("the body must be a JSON object", status=400)
    return found


def _answer(document: Mapping[str, object]) -> web.Response:
    # A provider's or forge's error text may quote what it was sent.
    return web.json_response(wire.redacted(document))


def _problem(status: int, words: str) -> web.Response:
    return web.json_response({"error": redaction.redact(words)}, status=status)


class _Selection(TypedDict):
    state: str
    pool: str
    every: bool
    limit: int


def _selection(request: web.Request) -> _Selection:
    """Return what selects the rows of a list."""
    query = request.query
    return {
        "state": query.get("state", ""),
        "pool": query.get("pool", ""),
        "every": query.get("all") == "1",
        "limit": _whole(query, "limit", 500),
    }


def _number(query: Mapping[str, str], name: str, default: float) -> float:
    found = numbers.real(query.get(name, default))
    if found is None:
        raise errors.Refused(f'"{name}" must be a number', status=400)
    return found


def _whole(query: Mapping[str, str], name: str, default: int) -> int:
    found = numbers.whole(query.get(name, default))
    if found is None:
        raise errors.Refused(f'"{name}" must be a whole number', status=400)
    return found
