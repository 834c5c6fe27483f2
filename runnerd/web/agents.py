"""The agent protocol over HTTP (docs/agent-protocol.md): requests are read strictly and passed to the agent sessions.

A credential is checked before a byte of the body is read, and an error names the field that is wrong.  Free text from
an instance is untrusted: it is truncated, stripped of control characters and shown to people only.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from provisioners.support import numbers
from runnerd import errors, read_model
from runnerd.lifecycle import agent_sessions
from runnerd.runtime import tokens
from runnerd.web import peers, wire

#: Bytes of a JSON body and of diagnostics.
MAX_JSON = 64 * 1024
MAX_DIAGNOSTICS = 256 * 1024
#: Seconds for a body to arrive.
BODY_TIMEOUT_S = 20.0
#: Characters of a runner's name, and of free text that is kept.
MAX_NAME = 200
MAX_TEXT = 4000
#: Seconds after which an agent asks again when the daemon stops while it waits.
ASK_AGAIN_S = 2.0
#: The words of the protocol.
PHASES = frozenset({"gate", "waiting", "starting", "idle", "job", "finished", "ending"})
EVENTS = frozenset({"started", "ended"})
STAGES = frozenset({"gate", "runner"})

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_BUNDLE = re.compile(r"[0-9a-f]{64}\Z")
_WRONG = {str: "a text", bool: "true or false", int: "a whole number"}


class Agents:
    """The routes under ``/agent/v1``."""

    def __init__(self, served: read_model.Served, peers: peers.Peers, *, on_hello: Callable[[str], None]) -> None:
        self._served = served
        self._peers = peers
        #: Called with the instance of each answered hello.
        self._on_hello = on_hello
        self._closing = asyncio.Event()
        self._held: set[asyncio.Task[Any]] = set()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/agent/v1/bundle/{sha256}.pyz", self._bundle),
            web.post("/agent/v1/hello", self._hello),
            web.post("/agent/v1/register", self._register),
            web.post("/agent/v1/heartbeat", self._heartbeat),
            web.post("/agent/v1/job", self._job),
            web.post("/agent/v1/failed", self._failed),
            web.post("/agent/v1/diagnostics", self._diagnostics),
        ]

    def release(self) -> None:
        """Answer every agent that waits, so that it asks the next daemon."""
        self._closing.set()

    async def close(self) -> None:
        """Cancel the requests of agents that still wait."""
        self.release()
        for task in self._held:
            task.cancel()
        await asyncio.gather(*self._held, return_exceptions=True)

    # -- the agent itself --------------------------------------------------------------------------------------

    async def _bundle(self, request: web.Request) -> web.Response:
        served = self._served.bundle
        asked = request.match_info["sha256"]
        if not _BUNDLE.match(asked) or asked != served.sha256:
            raise errors.Refused("this daemon does not serve an agent of that hash", status=404)
        headers = {"Cache-Control": "public, max-age=31536000, immutable", "ETag": f'"{served.sha256}"'}
        if f'"{served.sha256}"' in request.headers.get("If-None-Match", ""):
            return web.Response(status=304, headers=headers)
        return web.Response(body=served.data, content_type="application/zip", headers=headers)

    # -- the protocol ------------------------------------------------------------------------------------------

    async def _hello(self, request: web.Request) -> web.Response:
        token = self._credential(request, boot=True)
        fields = await _fields(request)
        told = await self._ask().hello(token, nonce=fields.text("nonce", most=128), protocol=fields.whole("protocol"))
        self._on_hello(str(told["instance"]))
        return wire.answer(told)

    async def _register(self, request: web.Request) -> web.Response:
        token = self._credential(request)
        fields = await _fields(request)
        work = self._ask().register(token, runner_started=fields.flag("runner_started"))
        return wire.answer(await self._hold(work))

    async def _heartbeat(self, request: web.Request) -> web.Response:
        token = self._credential(request)
        fields = await _fields(request)
        told = await self._ask().heartbeat(
            token,
            phase=fields.word("phase", PHASES),
            worker=fields.flag("worker"),
            runner=fields.text("runner", most=MAX_NAME, default=""),
            job_started=fields.flag("job_started", default=False),
        )
        return wire.answer(told)

    async def _job(self, request: web.Request) -> web.Response:
        token = self._credential(request)
        fields = await _fields(request)
        told = await self._ask().job(
            token, event=fields.word("event", EVENTS), result=fields.prose("result", default="")
        )
        return wire.answer(told)

    async def _failed(self, request: web.Request) -> web.Response:
        token = self._credential(request)
        fields = await _fields(request)
        told = await self._ask().failed(
            token, stage=fields.word("stage", STAGES), detail=fields.prose("detail", default="")
        )
        return wire.answer(told)

    async def _diagnostics(self, request: web.Request) -> web.Response:
        token = self._credential(request)
        data = await wire.body(request, most=MAX_DIAGNOSTICS, seconds=BODY_TIMEOUT_S)
        text = clean(data.decode("utf-8", "replace"))
        return wire.answer(await self._ask().diagnostics(token, text=text))

    # -- credentials --------------------------------------------------------------------------------------------

    def _credential(self, request: web.Request, *, boot: bool = False) -> str:
        """Return the bearer token, proven to be ours.

        Raises :class:`errors.Refused`: 401, or 429 when that address has failed too often.
        """
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        token = token.strip()
        known = self._tokens()
        proven = (
            kind.lower() == "bearer" and (known.read_boot(token) if boot else known.read_session(token)) is not None
        )
        if proven:
            return token
        peer = peers.address(request)
        wait = self._peers.wait(peer)
        if wait > 0:
            raise wire.Busy("too many requests without a valid credential", status=429, retry_after=wait)
        self._peers.fail(peer)
        if not token:
            raise errors.Refused("a bearer token is required in the Authorization header", status=401)
        raise errors.Refused(f"not a {'boot token' if boot else 'session'} of this controller", status=401)

    def _tokens(self) -> tokens.Tokens:
        if self._served.tokens is None:
            raise wire.Busy("the daemon is starting; retry later")
        return self._served.tokens

    def _ask(self) -> agent_sessions.AgentSessions:
        if self._served.agents is None:
            raise wire.Busy("the daemon is starting; retry later")
        return self._served.agents

    async def _hold(self, work: Awaitable[agent_sessions.RunnerAnswer]) -> agent_sessions.RunnerAnswer:
        """Wait for an answer, or until the listener closes."""
        task = asyncio.ensure_future(work)
        closing = asyncio.ensure_future(self._closing.wait())
        self._held.add(task)
        task.add_done_callback(self._held.discard)
        try:
            await asyncio.wait({task, closing}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            with contextlib.suppress(Exception, asyncio.CancelledError):
                await task
            raise
        finally:
            closing.cancel()
        if task.done():
            return task.result()
        return {"action": "wait", "after": ASK_AGAIN_S}


def clean(text: str) -> str:
    """Return free text fit to be shown: no control characters but line breaks and tabs, no lone surrogates."""
    return _CONTROL.sub("\ufffd", text.replace("\r\n", "\n").encode("utf-8", "replace").decode())


class _Fields:
    """Members of a JSON object, read by type.  Raises :class:`errors.Refused` that names the field."""

    def __init__(self, members: dict[str, Any]) -> None:
        self._members = members

    def _get(self, name: str, kind: type, default: Any) -> Any:
        if name not in self._members:
            if default is None:
                raise errors.Refused(f'"{name}" is missing; it is {_WRONG[kind]}', status=400)
            return default
        value = self._members[name]
        # bool is a kind of int in Python, not in JSON.
        if type(value) is not kind or (kind is int and numbers.whole(value) is None):
            raise errors.Refused(f'"{name}" must be {_WRONG[kind]}', status=400)
        return value

    def whole(self, name: str) -> int:
        found: int = self._get(name, int, None)
        return found

    def flag(self, name: str, *, default: bool | None = None) -> bool:
        found: bool = self._get(name, bool, default)
        return found

    def text(self, name: str, *, most: int, default: str | None = None) -> str:
        """Return a short text that the daemon interprets."""
        found: str = self._get(name, str, default)
        if len(found) > most:
            raise errors.Refused(f'"{name}" has {len(found)} characters, at most {most} are taken', status=400)
        if clean(found) != found:
            raise errors.Refused(f'"{name}" holds control characters', status=400)
        return found

    def word(self, name: str, words: frozenset[str]) -> str:
        """Return one of the words of the protocol."""
        found: str = self._get(name, str, None)
        if found not in words:
            raise errors.Refused(f'"{name}" must be one of {", ".join(sorted(words))}', status=400)
        return found

    def prose(self, name: str, *, default: str) -> str:
        """Return free text for people, truncated to the stored length."""
        found: str = self._get(name, str, default)
        return clean(found[:MAX_TEXT])


async def _fields(request: web.Request) -> _Fields:
    data = await wire.body(request, most=MAX_JSON, seconds=BODY_TIMEOUT_S)
    try:
        members = numbers.loads(data)
    except (ValueError, RecursionError):
        raise errors.Refused("the body is not JSON", status=400) from None
    if not isinstance(members, dict):
        raise errors.Refused("the body must be a JSON object", status=400)
    return _Fields(members)
