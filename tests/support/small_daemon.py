"""A whole small daemon: the real one, on a simulated cloud without machines, with a forge that says what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from provisioners.base import Finding
from provisioners.offload import Offload
from runnerd import config, daemon, model
from runnerd.forges import base as forges
from runnerd.forges.base import JobEvent
from runnerd.web import admin

#: One offer without capacity before one that has some.
REGIONS = {"east": {"capacity": 0}, "west": {}}


class Clock:
    """The host's clock, with time that a test can add."""

    def __init__(self) -> None:
        self.added = 0.0

    def now(self) -> float:
        return time.time() + self.added

    wall = now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Forge:
    """A forge that has what a test gives it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sink: forges.Sink | None = None
        self.demands: dict[str, model.Demand] = {}
        self.state = forges.Health()
        self.room: int | None = None

    def scopes(self) -> Sequence[str]:
        return ("acme",)

    async def watch(self, specs: Sequence[forges.QueueSpec], sink: forges.Sink) -> None:
        self.sink = sink
        await asyncio.Event().wait()

    async def close(self) -> None:
        return None

    def demand(self, queue: model.Queue) -> model.Demand:
        return self.demands.get(queue.pool, model.Demand(as_of=time.time(), known=True))

    def headroom(self, queue: model.Queue) -> int | None:
        return self.room

    def health(self, queue: model.Queue) -> forges.Health:
        return self.state

    def server_date(self) -> tuple[float, float] | None:
        return None

    async def register(self, name: str, queue: model.Queue, *, note: str = "") -> forges.RunnerConfig:
        return forges.RunnerConfig("github", f"id-{name}", {})

    async def find(self, name: str, queue: model.Queue) -> forges.RunnerView | None:
        return None

    async def deregister(self, registration: model.Registration) -> forges.Removal:
        return forges.Removal.REMOVED

    async def list_runners(self, queue: model.Queue) -> forges.RunnerListing:
        return forges.RunnerListing((), True)

    async def job_states(self, jobs: Sequence[model.Job]) -> Sequence[forges.JobUpdate]:
        return ()

    async def retry(self, job: model.Job, *, whole_run: bool = False) -> forges.RetryOutcome:
        return forges.RetryOutcome.REFUSED

    async def webhook(self, headers: Mapping[str, str], body: bytes) -> forges.WebhookAnswer:
        return forges.WebhookAnswer(202, "")

    async def check(self) -> list[Finding]:
        return []


class Small:
    """The daemon with what is around it."""

    def __init__(self, made: daemon.Daemon, clock: Clock) -> None:
        self.daemon = made
        self.clock = clock

    @property
    def forge(self) -> Forge:
        found = self.daemon.runtime.forges["hub"]
        assert isinstance(found, Forge)
        return found

    @property
    def rows(self) -> Mapping[model.InstanceId, model.Instance]:
        return self.daemon.runtime.rows.instances

    def admin(self, path: Path) -> admin.Admin:
        """The admin socket of the daemon, not open yet."""
        return admin.Admin(self.daemon.reading, self.daemon.commands, path, reload=self.daemon.reload)

    async def tell(self, event: JobEvent, name: str, *, pool: str = "gpu", run: str = "1", **more: Any) -> model.JobKey:
        """The forge tells of a job."""
        queue = model.Queue("hub", "acme", pool)
        more.setdefault("at", self.clock.now())
        update = forges.JobUpdate(event, queue, "acme/ml", run, name, alias=more.pop("alias", f"{run}-{name}"), **more)
        assert self.forge.sink is not None
        await self.forge.sink.record(queue, [update])
        return update.key

    async def queue(self, name: str = "train", *, pool: str = "gpu", waiting: int = 1, **more: Any) -> model.JobKey:
        """A job is queued, and the forge counts it."""
        key = await self.tell(JobEvent.QUEUED, name, pool=pool, **more)
        self.forge.demands[pool] = model.Demand(waiting, 0, self.clock.now(), True, {"acme/ml": waiting})
        self.daemon.runtime.wake()
        return key

    async def until(self, done: Callable[[], bool], *, within: float = 5.0) -> None:
        """Wait for something that the daemon does by itself."""
        async with asyncio.timeout(within):
            while not done():
                await asyncio.sleep(0.005)

    async def booting(self) -> model.Instance:
        """The one instance, once the provider has it."""
        await self.until(lambda: any(row.state is model.InstanceState.BOOTING for row in self.rows.values()))
        return next(row for row in self.rows.values() if row.state is model.InstanceState.BOOTING)

    async def busy(self, key: model.JobKey) -> model.Instance:
        """An instance that has the job, as if the whole way there had been walked."""
        row = await self.booting()
        now, rows = self.clock.now(), self.daemon.runtime.rows
        queue = model.Queue("hub", "acme", row.pool)
        for state in ("ready", "registering", "registered"):
            await rows.step(row.id, model.InstanceState(state), queue=queue)
        await rows.step(row.id, model.InstanceState.BUSY, job=key, busy_at=now, job_started=True)
        job = rows.jobs[key]
        await self.tell(JobEvent.STARTED, job.name, pool=row.pool, run=job.run, runner_name=row.id)
        self.forge.demands[row.pool] = model.Demand(0, 1, self.clock.now(), True)
        return rows.instances[row.id]


def settings(folder: Path, **more: Any) -> config.Config:
    """A configuration with two pools."""
    folder.mkdir(exist_ok=True)
    (folder / "pat").write_text("a-token-for-tests\n")
    document: dict[str, Any] = {
        "controller": "small",
        "state": str(folder),
        "public_url": "https://runnerd.example",
        "forges": {"hub": {"type": "github", "url": "https://github.com/acme", "token": f"file:{folder / 'pat'}"}},
        "providers": {"sky": {"type": "fake", "regions": REGIONS, "boot": "1h"}},
        "limits": {"instances": 4, "dollars_per_day": 500},
        "pools": {"gpu": {"gpu": "t4"}, "big": {"gpu": "a100-40", "labels": ["big"]}},
        **more,
    }
    return config.from_mapping(document, folder=folder)


@contextlib.asynccontextmanager
async def running(folder: Path, **more: Any) -> AsyncIterator[Small]:
    """The daemon, started and stopped."""
    clock = Clock()
    offload = Offload(1)
    made = daemon.Daemon(
        settings(folder, **more),
        clock=clock,
        rng=random.Random(7),
        offload=offload,
        make_provisioner=daemon.provisioner,
        make_forge=lambda name, _: Forge(name),
    )
    await made.start()
    small = Small(made, clock)
    try:
        await small.until(lambda: small.forge.sink is not None and made.controller.passes > 0)
        yield small
    finally:
        await made.stop()
        offload.close()
