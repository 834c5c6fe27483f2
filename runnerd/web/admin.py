"""The commands' way in: HTTP over a Unix socket, for the daemon's own user and root alone.

The kernel says who calls (SO_PEERCRED), so there is no password to lose; the file's mode keeps everybody else from
even connecting.  A socket file that somebody still listens on is never replaced.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from provisioners.support import numbers
from runnerd import errors, read_model
from runnerd.admin import commands
from runnerd.kit import redaction
from runnerd.views import costs, explain, lists, pricing, trail

log = logging.getLogger(__name__)

#: A request of a command is small; bytes.
LARGEST = 64 * 1024
#: ``struct ucred`` of Linux: process, user and group id; unix(7), SO_PEERCRED.
_CREDENTIALS = struct.Struct("3i")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
#: Reads the configuration again; returns what was done.
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
        """Listen.  Raises OSError when the socket cannot be made, with words for people."""
        sock, self._inode = bind(self._path)
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
        """Let the right users in, and answer every failure as JSON in plain words."""
        try:
            _who(request)
            return await handler(request)
        except errors.Refused as error:
            return _problem(error.status, str(error))
        except errors.ConfigInvalid as error:
            problems = [str(problem) for problem in error.problems]
            return web.json_response({"error": "the new configuration is bad", "problems": problems}, status=422)
        except errors.RunnerdError as error:
            return _problem(503, str(error))
        except web.HTTPException as error:
            return _problem(error.status, f"{request.method} {request.path}: {error.reason}")
        except (TypeError, ValueError) as error:
            return _problem(400, f"the request cannot be read: {error}")
        except Exception as error:
            log.exception("a command failed: %s %s", request.method, request.path)
            return _problem(500, f"{type(error).__name__}: {error}; the daemon's log tells more")

    # -- looking -----------------------------------------------------------------------------------------------

    async def _status(self, request: web.Request) -> web.Response:
        return _answer({**lists.status(self._reading), "pid": os.getpid(), "socket": str(self._path)})

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
            await trail.events(
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
        return _answer(await trail.logs(self._reading, request.query.get("name", "")))

    async def _cost(self, request: web.Request) -> web.Response:
        query = request.query
        since = _number(query, "since", 0.0) if "since" in query else None
        until = _number(query, "until", 0.0) if "until" in query else None
        return _answer(await costs.cost(self._reading, by=query.get("by", "pool"), since=since, until=until))

    async def _prices(self, request: web.Request) -> web.Response:
        query = request.query
        return _answer(pricing.prices(self._reading, pool=query.get("pool", ""), provider=query.get("provider", "")))

    # -- ordering ----------------------------------------------------------------------------------------------

    async def _drain(self, request: web.Request) -> web.Response:
        pool = request.match_info["pool"]
        return _answer(await self._commands.drain(pool, on=True, who=_who(request)))

    async def _undrain(self, request: web.Request) -> web.Response:
        pool = request.match_info["pool"]
        return _answer(await self._commands.drain(pool, on=False, who=_who(request)))

    async def _reap(self, request: web.Request) -> web.Response:
        body = await _body(request)
        id = request.match_info["instance"]
        return _answer(await self._commands.reap(id, force=body.get("force") is True, who=_who(request)))

    async def _hold(self, request: web.Request) -> web.Response:
        body = await _body(request)
        given = body.get("seconds")
        seconds = None if isinstance(given, str) else numbers.real(given)
        if seconds is None:
            raise errors.Refused('"seconds" must be a number; 0 releases', status=400)
        id = request.match_info["instance"]
        return _answer(await self._commands.hold(id, seconds=seconds, who=_who(request)))

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


def _answer(document: dict[str, Any]) -> web.Response:
    # A provider's or forge's error text may quote what it was sent.
    return web.json_response(_masked(document))


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return redaction.redact(value)
    if isinstance(value, dict):
        return {key: _masked(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(item) for item in value]
    return value


def _problem(status: int, words: str) -> web.Response:
    return web.json_response({"error": redaction.redact(words)}, status=status)


# -- who calls -----------------------------------------------------------------------------------------------------


def _who(request: web.Request) -> str:
    return admitted(_peer(request))


def _peer(request: web.Request) -> tuple[int, int]:
    """Process and user id of the caller, as the kernel knows them from the moment of its connect."""
    sock = request.transport.get_extra_info("socket") if request.transport else None
    if sock is None or sock.family != socket.AF_UNIX:
        raise errors.Refused("the caller is unknown", status=403)
    pid, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, uid


def _selection(request: web.Request) -> dict[str, Any]:
    """Which rows of a list are asked for."""
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


def admitted(peer: tuple[int, int]) -> str:
    """Words for the audit trail on who calls.  Raises :class:`errors.Refused` (403) for other users."""
    pid, uid = peer
    if uid not in (0, os.geteuid()):
        raise errors.Refused(f"user id {uid} may not command this daemon; become root or user id {os.geteuid()}")
    return f"by user id {uid}, process {pid}"


# -- the socket ----------------------------------------------------------------------------------------------------


def bind(path: Path) -> tuple[socket.socket, tuple[int, int]]:
    """A listening socket at ``path`` with mode 0600, and which file it is.

    Raises OSError when the directory is not safe, something else is there, or somebody listens already.
    """
    folder = path.parent
    if not folder.is_dir():
        folder.mkdir(mode=0o700)
    status = folder.stat()
    if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        raise PermissionError(f"every user of this host may replace files in {folder}; choose another place")
    _clear(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.bind(str(path))
        # Before listen() nobody can connect, so there is no moment at which the mode matters and is wrong.
        path.chmod(0o600)
        found = path.lstat()
        sock.listen(64)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise OSError(f"the socket {path} cannot be made: {error.strerror or error}") from error
    return sock, (found.st_dev, found.st_ino)


def _clear(path: Path) -> None:
    """Remove a socket file that nobody listens on any more."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise FileExistsError(f"{path} is there and is not a socket; it is left alone")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            raise OSError(f"{path}: {error.strerror or error}") from error
    raise FileExistsError(f"another process listens on {path}; stop it first, or set listen.socket to another path")
