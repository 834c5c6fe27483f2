"""A simulator that lives on a virtual loop."""

from __future__ import annotations

import asyncio
import collections.abc
import dataclasses
import json
import urllib.parse
from collections.abc import Mapping
from typing import Any

import pytest

from runnerd.simulator import app, github, http, world
from runnerd.simulator.github import entities
from tests.support import virtual

START = 1_780_000_000.0
BASE = "https://github.sim.invalid"


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, collections.abc.Callable[[], asyncio.AbstractEventLoop]]:
    if item.path.name.startswith(("test_github", "test_core")) and "loopback" not in item.path.name:
        return {"virtual": virtual.Loop}
    return {"real": asyncio.new_event_loop}


@dataclasses.dataclass
class Sim:
    """The simulator with the short words that its tests use."""

    app: app.App
    sent: list[tuple[str, dict[str, str], bytes]]
    token: str = github.auth.PAT
    hook_status: int = 200

    @property
    def world(self) -> world.World:
        return self.app.world

    @property
    def github(self) -> github.Github:
        return self.app.github

    async def call(
        self,
        method: str,
        target: str,
        body: Any = None,
        *,
        auth: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> http.Response:
        """One request; REST paths may leave out /api/v3."""
        if target.startswith(
            ("/orgs", "/repos", "/app", "/user", "/enterprises", "/rate", "/meta", "/actions", "/ins")
        ):
            target = "/api/v3" + target
        if not target.startswith("http"):
            target = BASE + target
        sent = {"User-Agent": "tests", "Authorization": auth or f"Bearer {self.token}", **(headers or {})}
        return await self.app.handle(http.request(method, target, headers=sent, json_body=body))

    async def queue(self, labels: list[str] | None = None, **more: Any) -> list[entities.GithubJob]:
        """Queue jobs of acme/ml."""
        body = {"forge": "github", "repo": "acme/ml", "labels": labels or ["gpu-t4"], **more}
        answer = await self.call("POST", "/_sim/jobs", body)
        assert answer.status == 201, answer.text
        return [self.github.job(id) for id in answer.json()["ids"]]

    async def service(self, scope: str = "acme") -> Service:
        """Walk the token chain to the Actions service of a scope."""
        kind = "repos" if "/" in scope else "orgs"
        token = await self.call("POST", f"/{kind}/{scope}/actions/runners/registration-token")
        assert token.status == 201, token.text
        answer = await self.call(
            "POST",
            "/actions/runner-registration",
            {"url": f"{BASE}/{scope}", "runner_event": "register"},
            auth=f"RemoteAuth {token.json()['token']}",
        )
        assert answer.status == 200, answer.text
        return Service(self, answer.json()["url"], answer.json()["token"])


async def given(runner: github.ConnectedRunner) -> entities.GithubJob:
    """Return the job that waits for a runner."""
    job = await runner.next_job(0)
    assert job is not None
    return job


@dataclasses.dataclass
class Service:
    """The Actions service as a client that holds its admin token."""

    sim: Sim
    url: str
    token: str

    async def call(self, method: str, path: str, body: Any = None, *, version: bool = True) -> http.Response:
        mark = "&" if "?" in path else "?"
        target = f"{self.url}_apis/{path}" + (f"{mark}api-version=6.0-preview" if version else "")
        return await self.sim.call(method, target, body, auth=f"Bearer {self.token}")

    async def make_set(self, name: str = "gpu-t4", labels: list[str] | None = None, **more: Any) -> dict[str, Any]:
        given = [{"name": label, "type": "System"} for label in (labels or [name])]
        answer = await self.call("POST", "runtime/runnerscalesets", {"name": name, "labels": given, **more})
        assert answer.status == 200, answer.text
        made: dict[str, Any] = answer.json()
        return made

    async def open_session(self, set_id: int, owner: str = "tests") -> Session:
        answer = await self.call("POST", f"runtime/runnerscalesets/{set_id}/sessions", {"ownerName": owner})
        assert answer.status == 200, answer.text
        return Session(self.sim, answer.json())

    async def jit(self, set_id: int, name: str) -> dict[str, Any]:
        answer = await self.call(
            "POST", f"runtime/runnerscalesets/{set_id}/generatejitconfig", {"name": name, "workFolder": "_work"}
        )
        assert answer.status == 200, answer.text
        made: dict[str, Any] = answer.json()
        return made

    async def runner(self, set_id: int, name: str) -> github.ConnectedRunner:
        return self.sim.github.connect_runner((await self.jit(set_id, name))["encodedJITConfig"])


class Session:
    """A listener of a scale set."""

    def __init__(self, sim: Sim, data: dict[str, Any]) -> None:
        self.sim = sim
        self.data = data
        self.last = 0

    async def poll(self, capacity: int | None = 10) -> http.Response:
        url = self.data["messageQueueUrl"] + (f"&lastMessageId={self.last}" if self.last else "")
        headers = {"Accept": "application/json; api-version=6.0-preview"}
        if capacity is not None:
            headers["X-ScaleSetMaxCapacity"] = str(capacity)
        auth = f"Bearer {self.data['messageQueueAccessToken']}"
        return await self.sim.call("GET", url, auth=auth, headers=headers)

    async def ack(self, id: int) -> http.Response:
        parts = urllib.parse.urlsplit(self.data["messageQueueUrl"])
        url = urllib.parse.urlunsplit(parts._replace(path=f"{parts.path}/{id}"))
        return await self.sim.call("DELETE", url, auth=f"Bearer {self.data['messageQueueAccessToken']}")

    async def take(self, capacity: int | None = 10) -> list[dict[str, Any]]:
        """Poll once, acknowledge, and give the inner messages; [] after a 202."""
        answer = await self.poll(capacity)
        if answer.status == 202:
            return []
        assert answer.status == 200, answer.text
        message = answer.json()
        self.last = message["messageId"]
        assert (await self.ack(self.last)).status == 204
        inner: list[dict[str, Any]] = json.loads(message["body"])
        return inner


@pytest.fixture
def options() -> github.Options:
    return github.Options()


@pytest.fixture
async def sim(options: github.Options) -> collections.abc.AsyncIterator[Sim]:
    loop = asyncio.get_running_loop()
    sent: list[tuple[str, dict[str, str], bytes]] = []

    async def deliver(url: str, headers: Mapping[str, str], body: bytes) -> world.HookAnswer:
        sent.append((url, dict(headers), body))
        return world.HookAnswer(made.hook_status)

    shared = world.World(lambda: START + loop.time(), deliver=deliver)
    made = Sim(app.App(shared, github_half=github.Github(shared, options)), sent)
    shared.base_url = BASE
    yield made
    await shared.close()
