"""A loop whose time passes only when nothing can run, and a GitLab that is a function."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from runnerd import errors
from runnerd.kit import http

START = 1_790_000_000.0
URL = "https://gitlab.test"
TOKEN = "glpat-unit-tests-secret"


Answer = http.Response | Exception


class Server:
    """Answers requests by a list or a function, and remembers them."""

    def __init__(self) -> None:
        self.sent: list[http.Request] = []
        self.times: list[float] = []
        self.answers: list[Answer] = []
        self.handler: Callable[[http.Request], Answer] | None = None

    async def send(self, request: http.Request) -> http.Response:
        self.sent.append(request)
        self.times.append(asyncio.get_running_loop().time())
        answer = self.handler(request) if self.handler is not None else self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def close(self) -> None:
        return None


def ok(data: Any, status: int = 200, **headers: str) -> http.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return http.Response(status, {"content-type": "application/json", **names}, json.dumps(data).encode())


def lost(*, maybe_applied: bool = True) -> errors.TransportError:
    return errors.TransportError("no answer from gitlab.test: reset", maybe_applied=maybe_applied)
