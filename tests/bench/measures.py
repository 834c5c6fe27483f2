"""The measurements: each starts a fresh daemon and simulator, and ends both.

The daemon's configuration is the default one but for limits and addresses: intervals, SQLite on disk, logging to a
file as in production.  The no-op cloud answers a create call at once.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench import cloud, clouds, crowd, planning
from tests.e2e import plant as plants
from tests.e2e import processes

NAMES = ("plan", "idle", "signal", "latency", "memory", "sdks", "creates", "failover", "cpu")
#: Instances that work at one time while jobs are counted; the same for every length of the queue.
WORKERS = 100
#: Seconds that each queue of jobs is worked on at most.
BUDGETS = {100: 60.0, 1000: 90.0, 10_000: 270.0}
#: Repositories and organisations that the jobs belong to where many are worked off.
REPOS = 20
OWNERS = tuple(f"acme-{number}" if number else "acme" for number in range(10))


@dataclass(slots=True)
class Found:
    """The results; None or absent for what was not measured."""

    #: Burst size -> seconds from signal to create call, one for each job.
    signals: dict[int, list[float]] = field(default_factory=dict)
    slow_forge: dict[int, list[float]] = field(default_factory=dict)
    #: Jobs queued -> (daemon CPU seconds per job, jobs done).
    cpu: dict[int, tuple[float, int]] = field(default_factory=dict)
    #: Jobs queued -> instances that were bought and got no job; those that wait for one are given back after `idle`.
    spare: dict[int, int] = field(default_factory=dict)
    #: Jobs queued -> jobs per second of wall time.
    rates: dict[int, float] = field(default_factory=dict)
    plan_seconds: float | None = None
    plan_actions: int = 0
    rss_mb: float | None = None
    rss_kb_per_machine: float | None = None
    machines: int = 0
    #: REST requests for a job, and requests to the Actions service other than the message queue.
    forge_calls: float | None = None
    service_calls: float | None = None
    idle_cpu: float | None = None
    idle_calls: int | None = None
    #: Clouds of a daemon, joined by ``+`` (``none`` for none) -> its resident MB.
    sdk_mb: dict[str, float] = field(default_factory=dict)
    #: Cloud -> how fast instances were created there.
    paces: dict[str, clouds.Pace] = field(default_factory=dict)
    #: ``aws-gcp`` and so on -> seconds from a refusal to the next create call.
    failovers: dict[str, list[float]] = field(default_factory=dict)
    #: Load of the host while measuring: (cores, highest load average seen).
    cores: int = os.cpu_count() or 1
    load: float = 0.0


class Bench:
    """The measurements."""

    def __init__(self, found: Found, *, quick: bool, keep: bool, say: Callable[[str], None]) -> None:
        self._found = found
        self._quick = quick
        self._keep = keep
        self._say = say
        self._sockets = 0
        self._stages = clouds.Stages(keep=keep, say=say)

    def run(self, names: Sequence[str]) -> list[str]:
        """Measure; what failed, in words."""
        problems: list[str] = []
        for name in NAMES:
            if name not in names:
                continue
            began = time.monotonic()
            try:
                getattr(self, f"_{name}")()
            except (AssertionError, OSError) as error:
                problems.append(f"{name}: {error}")
            self._found.load = max(self._found.load, os.getloadavg()[0])
            self._say(f"{name}: {time.monotonic() - began:.0f} s")
        return problems

    # -- the stage -----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _plant(
        self, *, limit: int = 5000, hand_to: str = "", gitlab: bool = False, owners: Sequence[str] = ("acme",)
    ) -> Iterator[plants.Plant]:
        """A daemon that serves these GitHub organisations, and with ``gitlab`` a GitLab beside them."""
        directory = Path(tempfile.mkdtemp(prefix="runnerd-bench-"))
        before = os.environ.get("PYTHONPATH")
        try:
            with plants.plant(directory) as plant:
                if hand_to:
                    home = str(cloud.install(directory))
                    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [home, before or ""]))
                further = [word for owner in owners for word in ("--owner", owner)]
                plant.start_simulator(*further, repos=[f"acme/ml-{number}" for number in range(REPOS)])
                plant.configure(
                    forges=self._forges(plant, gitlab, owners),
                    providers={"sim": self._provider(hand_to, directory)},
                    limits={"instances": limit},
                    defaults={"idle": "10m", "max_job": "12h", "boot": "10m"},
                    reconcile={"interval": "15s", "list_interval": "30s", "drain": "5s"},
                )
                plant.start_daemon()
                yield plant
        finally:
            if before is None:
                os.environ.pop("PYTHONPATH", None)
            else:
                os.environ["PYTHONPATH"] = before
            if self._keep:
                self._say(f"kept: {directory}")
            else:
                shutil.rmtree(directory, ignore_errors=True)

    def _forges(self, plant: plants.Plant, gitlab: bool, owners: Sequence[str]) -> dict[str, dict[str, Any]]:
        found = {owner: plant.github(url=f"{plant.forges.url}/{owner}") for owner in owners}
        if gitlab:
            # The defaults of the product, not the haste of the tests.
            found["gitlab"] = plant.gitlab(poll="15s", idle_poll="1m", requests_per_minute=300)
        return found

    def _provider(self, hand_to: str, directory: Path) -> dict[str, Any]:
        options = {
            "machine_types": {"g4": {"gpu": "t4", "price": 0.5}},
            "boot": "0s",
            "log": str(directory / "sim.jsonl"),
            # What has ended is forgotten after a minute: clouds list it for between nothing and an hour.
            "remember": "1m",
            "create_rate": 100_000,
            "create_burst": 100_000,
        }
        return {"type": cloud.TYPE, "hand_to": hand_to, **options} if hand_to else {"type": "fake", **options}

    def _queue(self, plant: plants.Plant, count: int) -> None:
        """Queue jobs of many repositories in all organisations."""
        repos = [f"{owner}/ml-{number}" for owner in OWNERS for number in range(REPOS // len(OWNERS))]
        share, rest = divmod(count, len(repos))
        for number, repo in enumerate(repos):
            size = share + (number < rest)
            if size:
                plant.forges.queue("github", repo=repo, count=size, separate_runs=True)

    # -- signal to create --------------------------------------------------------------------------------------

    def _signal(self) -> None:
        self._found.signals[1] = self._single(5 if self._quick else 30)
        for size, times in ((200, 1 if self._quick else 3), (1000, 1 if self._quick else 2)):
            self._found.signals[size] = [one for _ in range(times) for one in self._burst(size)]

    def _latency(self) -> None:
        times = 1 if self._quick else 3
        self._found.slow_forge[200] = [one for _ in range(times) for one in self._burst(200, latency=0.3)]

    def _single(self, repeats: int) -> list[float]:
        with self._plant() as plant:
            self._warm_up(plant)
            found = []
            for number in range(repeats):
                plant.forges.queue("github", repo=f"acme/ml-{number % REPOS}")
                created = self._created(plant, 2 + number, 30)
                queued = max(job["queued_at"] for job in plant.forges.jobs())
                found.append(created[-1] - queued)
                # Off the beat of anything periodic.
                time.sleep(0.11 + 0.07 * (number % 5))
            return found

    def _burst(self, size: int, *, latency: float = 0.0) -> list[float]:
        with self._plant() as plant:
            self._warm_up(plant)
            if latency:
                plant.forges.faults({"forge": "github", "latency": latency})
                time.sleep(1.0)
            plant.forges.queue("github", repo="acme/ml-0", count=size, separate_runs=True)
            created = self._created(plant, 1 + size, 60)[1:]
            # One signal: the jobs of one request are queued at one moment.
            queued = sorted(job["queued_at"] for job in plant.forges.jobs())[1:]
            return [at - since for at, since in zip(created, queued, strict=True)]

    def _warm_up(self, plant: plants.Plant) -> None:
        """One job through, so that what is loaded once is loaded, and a moment of rest."""
        plant.forges.queue("github", repo="acme/ml-0")
        self._created(plant, 1, 30)
        time.sleep(1.5)

    def _created(self, plant: plants.Plant, count: int, seconds: float) -> list[float]:
        """The times of create calls, once there are so many."""

        def look() -> list[float]:
            times = [float(one["at"]) for one in plant.calls() if one["call"] == "create"]
            return times if len(times) >= count else []

        times = processes.until(look, f"{count} create calls", seconds=seconds, pause=0.02)
        assert len(times) == count, f"{len(times)} create calls for {count} jobs"
        return times

    # -- cpu ---------------------------------------------------------------------------------------------------

    def _cpu(self) -> None:
        for size in (100, 1000) if self._quick else (100, 1000, 10_000):
            self._work_off(size)

    def _work_off(self, size: int) -> None:
        """Jobs from queue to confirmed end of their instances, with a fleet that is the same for every size.

        GitHub takes 1,500 registrations of an organisation in five minutes, and runnerd buys no more for it than
        that: ten of them keep the daemon busy throughout.
        """
        path = Path(tempfile.mkdtemp(prefix="crowd-", dir="/tmp")) / "socket"
        try:
            with self._plant(limit=WORKERS, hand_to=str(path), owners=OWNERS) as plant:
                crew = crowd.Crowd(f"http://{plant.public}", path)
                crew.start()
                try:
                    self._count_work(plant, crew, size)
                finally:
                    crew.stop()
        finally:
            shutil.rmtree(path.parent, ignore_errors=True)

    def _count_work(self, plant: plants.Plant, crew: crowd.Crowd, size: int) -> None:
        time.sleep(2.0)
        requests, cpu, began = plant.forges.requests(), plant.running.cpu_seconds(), time.monotonic()
        self._queue(plant, size)
        deadline = began + BUDGETS[size]
        while crew.counts["jobs"] < size and time.monotonic() < deadline:
            time.sleep(0.25)
            assert plant.running.status is None, plant.running.tail()
        done = crew.counts["jobs"]
        if done == size:
            # The whole life of an instance counts, to its confirmed end.
            try:
                processes.until(lambda: plant.live_rows() == 0, "every instance is gone", seconds=20, pause=0.25)
            except processes.TookTooLong:
                self._found.spare[size] = plant.live_rows()
                self._say(f"  instances that no job needed: {_spare(plant)}")
        used, seconds = plant.running.cpu_seconds() - cpu, time.monotonic() - began
        told = f"{dict(crew.counts)} {crew.problems}"
        assert done > 0, f"no job was done in {seconds:.0f} s: {told}\n{plant.running.tail()}"
        self._say(f"  {done} of {size} jobs in {seconds:.0f} s, {used:.1f} s CPU: {told}")
        self._found.cpu[size] = (used / done, done)
        self._found.rates[size] = done / seconds
        if size == 1000 or self._found.forge_calls is None:
            made = plant.forges.requests() - requests
            self._found.forge_calls = sum(n for key, n in made.items() if " /api/v3" in key) / done
            self._found.service_calls = (
                sum(n for key, n in made.items() if "/_apis/" in key and "message" not in key.lower()) / done
            )

    # -- memory and idleness -----------------------------------------------------------------------------------

    def _idle(self) -> None:
        with self._plant(gitlab=True) as plant:
            # The first start makes the schema; what a daemon weighs is told by any later one.
            plant.running.stop()
            plant.start_daemon()
            time.sleep(5.0)
            self._found.rss_mb = plant.running.rss() / 2**20
            requests, cpu, began = plant.forges.requests(), plant.running.cpu_seconds(), time.monotonic()
            time.sleep(10.0 if self._quick else 30.0)
            self._found.idle_cpu = (plant.running.cpu_seconds() - cpu) / (time.monotonic() - began)
            made = plant.forges.requests() - requests
            self._found.idle_calls = sum(count for key, count in made.items() if " /api/v3" in key)

    def _memory(self) -> None:
        """Two organisations, for the same reason as in ``_work_off``."""
        half = 250 if self._quick else 1000
        path = Path(tempfile.mkdtemp(prefix="crowd-", dir="/tmp")) / "socket"
        try:
            with self._plant(hand_to=str(path), owners=("acme", "acme-1")) as plant:
                crew = crowd.Crowd(f"http://{plant.public}", path, hold=True)
                crew.start()
                try:
                    self._warm_up(plant)
                    before = plant.running.rss()
                    for owner in ("acme", "acme-1"):
                        plant.forges.queue("github", repo=f"{owner}/ml-0", count=half, separate_runs=True)
                    count = 1 + 2 * half
                    processes.until(lambda: crew.counts["hello"] >= count, f"{count} agents", seconds=60, pause=0.5)
                    time.sleep(5.0)
                    self._found.rss_kb_per_machine = (plant.running.rss() - before) / 1024 / (2 * half)
                    self._found.machines = 2 * half
                except processes.TookTooLong as error:
                    raise processes.TookTooLong(f"{error}: {dict(crew.counts)} {crew.problems}") from None
                finally:
                    crew.stop()
        finally:
            shutil.rmtree(path.parent, ignore_errors=True)

    # -- clouds ------------------------------------------------------------------------------------------------

    def _sdks(self) -> None:
        """Each daemon is a fresh process."""
        for names in ((), *((name,) for name in clouds.NAMES), clouds.NAMES):
            self._found.sdk_mb["+".join(names) or "none"] = self._stages.resident(names)

    def _creates(self) -> None:
        for name in clouds.NAMES:
            self._found.paces[name] = self._stages.pace(name, 15.0 if self._quick else 30.0)

    def _failover(self) -> None:
        self._found.failovers = self._stages.failovers(4 if self._quick else 12)

    # -- planning ----------------------------------------------------------------------------------------------

    def _plan(self) -> None:
        self._found.plan_seconds, self._found.plan_actions = planning.measure()


def _spare(plant: plants.Plant) -> list[tuple[Any, ...]]:
    """Return the rows of live instances, with their events."""
    closed = ", ".join(f"'{state}'" for state in plants.CLOSED)
    return plant.rows(
        "SELECT i.id, i.state, i.reason, i.queue_forge, i.detail, e.at, e.what, e.reason, e.detail "
        f"FROM instances i JOIN events e ON e.id = i.id WHERE i.state NOT IN ({closed}) ORDER BY e.rowid"
    )[:40]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile (nearest rank) and maximum."""
    ordered = sorted(values)
    rank = max(0, -(-95 * len(ordered) // 100) - 1)
    return {"p50": statistics.median(ordered), "p95": ordered[rank], "max": ordered[-1]}
