"""A scripted Actions service: the fair day, to be bent by a test."""

from __future__ import annotations

import asyncio
import json
import urllib.parse
from pathlib import Path
from typing import Any

import jwt

from runnerd.forges.github.client import GitHub
from runnerd.kit import http
from tests.support import virtual
from tests.unit.forges.github import gh_lab
from tests.unit.forges.github.gh_lab import Reply

SERVICE = "https://pipelines.test/tenant/123/?route=x"
QUEUE = "https://broker.test/scalesets/message?sessionId=s&route=q"


class Service:
    """Answers the token chain, one scale set with id 9, and messages put into ``queue``."""

    def __init__(self, directory: Path, **fields: Any) -> None:
        self.loop = asyncio.get_running_loop()
        self.clock = virtual.Clock(self.loop)
        self.script = gh_lab.Script(self.clock)
        self.sink = gh_lab.Sink()
        self.directory = directory
        self.settings = gh_lab.settings(directory, **fields)
        self.seen: list[tuple[str, int]] = []
        self.client = self.another()
        self.spec = gh_lab.spec()
        self.set: dict[str, Any] | None = None
        self.created: list[dict[str, Any]] = []
        self.queue: list[dict[str, Any]] = []
        self.acked: list[int] = []
        self.sessions = 0
        self.token_life = 3600.0
        self.statistics: dict[str, Any] = {"totalAssignedJobs": 0, "totalRunningJobs": 0}
        on = self.script.on
        on("GET", "/runnergroups", Reply(200, {"count": 1, "value": [{"id": 3, "name": "Default"}]}))
        on("POST", "/actions/runners/registration-token", Reply(201, {"token": "REG", "expires_at": "x"}))
        on("POST", "/actions/runner-registration", lambda _: Reply(200, {"url": SERVICE, "token": self.token()}))
        on("POST", "/runnerscalesets?", self._create)
        on("GET", "/runnerscalesets?", self._find)
        on("GET", "/runnerscalesets/9?", lambda _: Reply(200, self.set) if self.set else self.gone())
        on("POST", "/sessions?", lambda _: Reply(200, self.session()))
        on("PATCH", "/sessions/", lambda _: Reply(200, self.session(new=False)))
        on("DELETE", "/sessions/", Reply(204))
        on("GET", "/acquirablejobs", Reply(204))
        on("GET", "/scalesets/message?", self._poll)
        on("DELETE", "/scalesets/message/", self._ack)

    def another(self) -> GitHub:
        return gh_lab.forge(
            self.clock,
            self.script,
            self.settings,
            on_request=lambda endpoint, status: self.seen.append((endpoint, status)),
        )

    def token(self) -> str:
        end = int(self.clock.wall() + self.script.skew + self.token_life)
        return jwt.encode({"exp": end}, "k" * 32, algorithm="HS256")

    def session(self, *, new: bool = True) -> dict[str, Any]:
        self.sessions += new
        return {
            "sessionId": f"s{self.sessions}",
            "messageQueueUrl": QUEUE,
            "messageQueueAccessToken": self.token(),
            "statistics": self.statistics,
        }

    @staticmethod
    def gone(name: str = "RunnerScaleSetNotFoundException") -> Reply:
        return Reply(404, {"typeName": f"GitHub.Actions.{name}, GitHub.Actions", "message": "gone"})

    def _create(self, request: http.Request) -> Reply:
        body = json.loads(request.body or b"")
        self.created.append(body)
        self.set = {"id": 9, **body}
        return Reply(200, self.set)

    def _find(self, _: http.Request) -> Reply:
        found = [self.set] if self.set else []
        return Reply(200, {"count": len(found), "value": found})

    async def _poll(self, request: http.Request) -> Reply:
        last = int(dict(urllib.parse.parse_qsl(request.url.split("?", 1)[1])).get("lastMessageId", 0))
        for _ in range(50):
            for message in self.queue:
                if message["messageId"] > last:
                    return Reply(200, message)
            await asyncio.sleep(1)
        return Reply(202)

    def _ack(self, request: http.Request) -> Reply:
        id = int(request.url.split("?")[0].rsplit("/", 1)[1])
        self.acked.append(id)
        self.queue = [message for message in self.queue if message["messageId"] != id]
        return Reply(204)

    def say(self, id: int, *entries: dict[str, Any], assigned: int = 0, running: int = 0, **fields: Any) -> None:
        """Put a message into the queue."""
        message = {
            "messageId": id,
            "messageType": "RunnerScaleSetJobMessages",
            "body": json.dumps(entries),
            "statistics": {"totalAssignedJobs": assigned, "totalRunningJobs": running},
        }
        self.queue.append({**message, **fields})

    @staticmethod
    def told(kind: str, job: str = "j1", **fields: Any) -> dict[str, Any]:
        return {
            "messageType": kind,
            "ownerName": "acme",
            "repositoryName": "ml",
            "workflowRunId": 7,
            "jobId": job,
            "jobDisplayName": f"train {job}",
            "requestLabels": ["gpu-t4"],
            **fields,
        }

    @property
    def waiting(self) -> int:
        return self.client.demand(self.spec.queue).waiting

    def polls(self) -> list[http.Request]:
        return [
            request
            for request in self.script.asked
            if request.method == "GET" and request.url.startswith("https://broker.test")
        ]

    def watching(self, *specs: Any) -> gh_lab.Watching:
        return gh_lab.Watching(self.client, specs or (self.spec,), self.sink)

    async def ready(self) -> None:
        await gh_lab.until(lambda: self.polls() and self.client.demand(self.spec.queue).known)
