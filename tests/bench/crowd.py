"""All agents and runners of a fleet in one process: the real requests, without the processes that would send them.

Each instance that the no-op cloud hands over lives the life of an agent: fetches the bundle, says hello, asks for a
runner, takes one job from the simulator as the stand-in runner does, reports it, and leaves.  As with the real
agent each request is a connection of its own.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import threading
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp

#: Tries of a request to a daemon or simulator that does not answer well.
TRIES = 50
#: Connections at one time: a fleet boots over minutes, and a process may open some thousand files at most.
CONNECTIONS = 300


class Crowd:
    """The agents of one daemon.  Runs in a thread of its own between ``start`` and ``stop``."""

    def __init__(self, daemon: str, socket: Path, *, hold: bool = False) -> None:
        self._daemon = daemon
        self._socket = socket
        #: True for agents that stop after hello and keep asking for nothing: instances without jobs.
        self._hold = hold
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="crowd", daemon=True)
        #: What happened, by kind.
        self.counts: Counter[str] = Counter()
        #: The first few things that went wrong.
        self.problems: list[str] = []

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(20), "the crowd did not start"

    def stop(self) -> None:
        if self._loop is not None and self._stopping is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(20)

    def _run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        lives: set[asyncio.Task[None]] = set()
        connector = aiohttp.TCPConnector(limit=CONNECTIONS, force_close=True)
        timeout = aiohttp.ClientTimeout(total=90)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

            async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                # Cancelled when the crowd stops: nobody waits for this task.
                with contextlib.suppress(asyncio.CancelledError):
                    while line := await reader.readline():
                        name, token, bundle = json.loads(line)
                        self.counts["instances"] += 1
                        task = asyncio.ensure_future(self._live(session, name, token, bundle))
                        lives.add(task)
                        task.add_done_callback(lives.discard)
                writer.close()

            server = await asyncio.start_unix_server(hear, str(self._socket))
            self._ready.set()
            await self._stopping.wait()
            server.close()
            for task in lives:
                task.cancel()
            await asyncio.gather(*lives, return_exceptions=True)

    async def _live(self, session: aiohttp.ClientSession, name: str, token: str, bundle: str) -> None:
        try:
            await _Agent(session, self._daemon, self.counts).live(token, bundle, hold=self._hold)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self.counts["broken"] += 1
            if len(self.problems) < 5:
                self.problems.append(f"{name}: {type(error).__name__}: {error}")


class _Agent:
    def __init__(self, session: aiohttp.ClientSession, daemon: str, counts: Counter[str]) -> None:
        self._session = session
        self._daemon = f"{daemon}/agent/v1/"
        self._counts = counts
        self._bearer = ""

    async def live(self, token: str, bundle: str, *, hold: bool) -> None:
        async with self._session.get(f"{self._daemon}bundle/{bundle}.pyz") as answer:
            assert answer.status == 200, answer.status
            await answer.read()
        self._bearer = token
        told = await self._say("hello", {"protocol": 1, "nonce": uuid.uuid4().hex})
        self._bearer = told["session"]
        every = float(told["heartbeat"])
        self._counts["hello"] += 1
        if hold:
            while True:
                await self._say("heartbeat", {"phase": "waiting", "worker": False, "runner": ""})
                await asyncio.sleep(every)
        while True:
            orders = await self._say("register", {"runner_started": False})
            if orders["action"] == "run":
                break
            if orders["action"] == "end":
                self._counts["unwanted"] += 1
                return
            await asyncio.sleep(float(orders.get("after", 0.0)))
        assert orders["kind"] == "github", orders["kind"]
        runner = orders["name"]
        beats = asyncio.ensure_future(self._beat(every, runner))
        try:
            result = await self._work(orders["environment"]["ACTIONS_RUNNER_INPUT_JITCONFIG"])
        finally:
            beats.cancel()
        if result:
            await self._say("job", {"event": "ended", "result": result})
            self._counts["jobs"] += 1
        await self._say("diagnostics", b"simulated agent: one job\n")
        await self._say("heartbeat", {"phase": "finished", "worker": False, "runner": runner, "job_started": True})

    async def _beat(self, every: float, runner: str) -> None:
        await self._say("heartbeat", {"phase": "starting", "worker": False, "runner": runner})
        while True:
            await asyncio.sleep(every)
            await self._say("heartbeat", {"phase": "idle", "worker": False, "runner": runner})

    async def _work(self, encoded: str) -> str:
        """One job, as the stand-in runner does it; empty when the registration went away before."""
        files = {key: json.loads(base64.b64decode(text)) for key, text in json.loads(base64.b64decode(encoded)).items()}
        base = files[".runner"]["ServerUrlV2"].rstrip("/")
        headers = {"Authorization": "Bearer " + files[".credentials_rsaparams"]["d"]}
        client = files[".credentials"]["Data"]["ClientId"]
        body = {"version": "2.336.0", "client_id": client, "nonce": uuid.uuid4().hex}
        status, told = await self._ask("POST", f"{base}/sessions", headers, body)
        if status != 201:
            return ""
        at = f"{base}/sessions/{told['session']}"
        while True:
            status, job = await self._ask("GET", f"{at}/job?wait=20", headers)
            if status == 404:
                return ""
            if status != 200:
                continue
            status, _ = await self._ask("POST", f"{at}/jobs/{job['id']}/start", headers)
            if status == 200:
                break
        await self._say("job", {"event": "started", "result": ""})
        await self._ask("POST", f"{at}/jobs/{job['id']}/finish", headers, {"result": "Succeeded", "summary": ""})
        return "Succeeded"

    async def _ask(self, method: str, url: str, headers: dict[str, str], body: Any = None) -> tuple[int, Any]:
        for left in range(TRIES, -1, -1):
            try:
                async with self._session.request(method, url, json=body, headers=headers) as answer:
                    data = await answer.read()
                    if answer.status < 500 or left == 0:
                        return answer.status, json.loads(data) if data else None
            except (aiohttp.ClientError, TimeoutError):
                if left == 0:
                    raise
            await asyncio.sleep(0.2)
        raise AssertionError("unreachable")

    async def _say(self, what: str, body: Any) -> Any:
        """A request to the daemon; asked again where the protocol says so."""
        headers = {"Authorization": f"Bearer {self._bearer}"}
        given: dict[str, Any] = {"data": body} if isinstance(body, bytes) else {"json": body}
        if isinstance(body, bytes):
            headers["Content-Type"] = "text/plain"
        deadline = time.monotonic() + 60
        while True:
            try:
                async with self._session.post(self._daemon + what, headers=headers, **given) as answer:
                    if answer.status == 200:
                        return await answer.json()
                    text = await answer.text()
                    retry = answer.status in (409, 429, 503)
            except (aiohttp.ClientError, TimeoutError) as error:
                retry, text = True, f"{type(error).__name__}: {error}"
            if not retry or time.monotonic() > deadline:
                raise RuntimeError(f"{what}: {text[:200]}")
            self._counts[f"{what} again"] += 1
            await asyncio.sleep(0.2)
