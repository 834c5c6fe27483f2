"""What the tests of the GitHub client share: a sink that remembers, transports without a network, short words."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
import json
import random
from collections.abc import Callable, Mapping, Sequence
from email.utils import formatdate
from pathlib import Path
from typing import Any

from runnerd import config, errors, model
from runnerd.forges import base
from runnerd.forges.github.client import GitHub
from runnerd.kit import http, secrets
from tests.support import virtual

TOKEN = "ghp_testtesttesttesttesttesttesttesttest"


def on_virtual_time(test: Callable[..., Any]) -> Callable[..., Any]:
    """Run a test on the virtual loop; the parameters stay visible as fixtures."""

    @functools.wraps(test)
    def wrapper(**arguments: Any) -> None:
        virtual.run(test(**arguments))

    wrapper.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]
    return wrapper


class Sink:
    """Remembers everything that a forge client reports."""

    def __init__(self) -> None:
        self.jobs: dict[model.JobKey, model.Job] = {}
        self.records: list[tuple[model.Queue, tuple[base.JobUpdate, ...]]] = []
        self.cursors: dict[model.Queue, dict[str, Any]] = {}
        self.alarms: dict[tuple[str, str, str], str] = {}
        self.raised: list[str] = []
        self.woken = 0
        self.room = 10
        self.broken = False
        #: Called at each record, before it is durable.
        self.on_record: Callable[[], None] | None = None

    def _commit(self) -> None:
        if self.broken:
            raise errors.StoreUnwritable("the disk is full")

    async def record(
        self, queue: model.Queue, updates: Sequence[base.JobUpdate], cursor: Mapping[str, Any] | None = None
    ) -> None:
        if self.on_record is not None:
            self.on_record()
        self._commit()
        self.records.append((queue, tuple(updates)))
        if cursor is not None:
            self.cursors[queue] = json.loads(json.dumps(cursor))
        for update in updates:
            self._take(update)
        self.woken += 1

    def _take(self, update: base.JobUpdate) -> None:
        job = self.jobs.get(update.key)
        if job is None:
            job = model.Job(update.key, update.queue, update.repo, update.run, update.name, queued_at=update.at)
        if update.alias and update.alias not in job.aliases:
            job = dataclasses.replace(job, aliases=(*job.aliases, update.alias))
        if update.event is base.JobEvent.STARTED and job.state is model.JobState.QUEUED:
            job = dataclasses.replace(job, state=model.JobState.RUNNING, runner_name=update.runner_name)
        elif update.event is base.JobEvent.COMPLETED:
            job = dataclasses.replace(
                job,
                state=model.JobState.COMPLETED,
                conclusion=update.conclusion,
                runner_name=update.runner_name or job.runner_name,
            )
        elif update.event is base.JobEvent.ASSIGNMENT_TIMEOUT:
            job = dataclasses.replace(job, lapses=job.lapses + 1)
        self.jobs[update.key] = job

    def cursor(self, queue: model.Queue) -> Mapping[str, Any]:
        return self.cursors.get(queue, {})

    async def save_cursor(self, queue: model.Queue, cursor: Mapping[str, Any]) -> None:
        self._commit()
        self.cursors[queue] = json.loads(json.dumps(cursor))

    def wake(self) -> None:
        self.woken += 1

    def capacity(self, queue: model.Queue) -> int:
        return self.room

    def waiting_jobs(self, queue: model.Queue) -> Sequence[model.Job]:
        return [job for job in self.jobs.values() if job.queue == queue and job.state is model.JobState.QUEUED]

    def alarm(self, subject: str, id: str, reason: str, detail: str) -> None:
        self.alarms[subject, id, reason] = detail
        self.raised.append(reason)

    def clear(self, subject: str, id: str, reason: str) -> None:
        self.alarms.pop((subject, id, reason), None)

    @property
    def reasons(self) -> set[str]:
        return {reason for _, _, reason in self.alarms}

    def events(self) -> list[base.JobEvent]:
        return [update.event for _, updates in self.records for update in updates]


def settings(directory: Path, **fields: Any) -> config.GitHubForge:
    """A forge's settings with a token in a file, unless an App is given."""
    values: dict[str, Any] = {"type": "github", "url": "https://ghe.test/acme", "name": "acme", **fields}
    if "app" not in values and "token" not in values:
        values["token"] = secret(directory, "token", TOKEN)
    values = {name: value for name, value in values.items() if name in config.GitHubForge.model_fields}
    return config.GitHubForge.model_validate(values)


def secret(directory: Path, name: str, value: str) -> secrets.Secret:
    path = directory / name
    path.write_text(value)
    return secrets.Secret(f"file:{path}")


def spec(pool: str = "gpu-t4", *, scope: str = "acme", labels: Sequence[str] = (), **fields: Any) -> base.QueueSpec:
    return base.QueueSpec(model.Queue("acme", scope, pool), tuple(labels) or (pool,), **fields)


def registration(queue: model.Queue, name: str, forge_id: str = "") -> model.Registration:
    return model.Registration(
        id=model.RegistrationId("r1"),
        instance=model.InstanceId("i1"),
        queue=queue,
        runner_name=name,
        state=model.RegistrationState.REMOVING,
        created_at=0.0,
        since=0.0,
        forge_id=forge_id,
    )


def job(queue: model.Queue, repo: str, run: str, name: str, **fields: Any) -> model.Job:
    return model.Job(model.job_key(queue.forge, repo, run, name), queue, repo, run, name, **fields)


@dataclasses.dataclass
class Reply:
    """A scripted answer."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    lost: bool = False
    unsent: bool = False


class Script:
    """A transport that answers from a function or a table of scripted replies, and keeps what was asked."""

    def __init__(self, clock: Any) -> None:
        self.clock = clock
        #: Seconds by which the server's clock is ahead of ours.
        self.skew = 0.0
        self.asked: list[http.Request] = []
        self.routes: list[tuple[str, str, list[Reply] | Callable[[http.Request], Any]]] = []

    def on(self, method: str, part: str, *replies: Reply | Callable[[http.Request], Any]) -> None:
        """Answer requests whose URL contains ``part``; the last reply stays.  Later rules come first."""
        first = replies[0]
        row = [reply for reply in replies if isinstance(reply, Reply)]
        self.routes.insert(0, (method, part, first if callable(first) else row))

    async def send(self, request: http.Request) -> http.Response:
        self.asked.append(request)
        await asyncio.sleep(0)
        for method, part, replies in self.routes:
            if method != request.method or part not in request.url:
                continue
            if callable(replies):
                reply = replies(request)
                if asyncio.iscoroutine(reply):
                    reply = await reply
            else:
                reply = replies.pop(0) if len(replies) > 1 else replies[0]
            if reply.unsent:
                raise errors.TransportError("cannot connect", maybe_applied=False)
            if reply.lost:
                raise errors.TransportError("the connection was cut")
            body = reply.body
            raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
            date = formatdate(self.clock.wall() + self.skew, usegmt=True)
            return http.Response(reply.status, {"date": date, **reply.headers}, raw)
        raise AssertionError(f"nothing answers {request.method} {request.url}")

    async def close(self) -> None:
        pass

    def count(self, method: str, part: str) -> int:
        return sum(1 for request in self.asked if request.method == method and part in request.url)


def forge(clock: Any, transport: http.Transport, chosen: config.GitHubForge, **fields: Any) -> GitHub:
    return GitHub("acme", chosen, clock=clock, transport=transport, rng=random.Random(7), **fields)


async def until(condition: Callable[[], Any], *, limit: float = 600.0, step: float = 0.25) -> None:
    """Let virtual time pass until something holds."""
    for _ in range(int(limit / step)):
        if condition():
            return
        await asyncio.sleep(step)
    raise AssertionError(f"did not happen within {limit} s")


class Watching:
    """``async with Watching(client, specs, sink):`` runs the watch beside the test."""

    def __init__(self, client: GitHub, specs: Sequence[base.QueueSpec], sink: Sink) -> None:
        self._client = client
        self._specs = specs
        self._sink = sink

    async def __aenter__(self) -> GitHub:
        self._task = asyncio.get_running_loop().create_task(self._client.watch(self._specs, self._sink))
        return self._client

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
