"""Clouds, measured: the real daemon as a process, the real SDKs over sockets, simulated clouds behind them.

The clouds keep the documented rates and refuse what goes faster.  Nothing boots on their instances: what is measured
ends with the create call.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.clouds import machines, registry
from tests.clouds.adapter import CloudAdapter
from tests.e2e import clouds, processes
from tests.e2e import plant as plants
from tests.e2e import site as sites

NAMES = registry.NAMES


@dataclass(frozen=True, slots=True)
class Pace:
    """The rate at which instances of one cloud were created once its burst was spent."""

    per_second: float
    documented: float
    #: Creates that were counted, and how many create calls the cloud turned away.
    counted: int
    refused: int

    @property
    def share(self) -> float:
        return self.per_second / self.documented


class _Nobody:
    """Machines that never boot."""

    running: frozenset[str] = frozenset()

    def start(self, ref: str, user_data: bytes, *, name: str, gpus: tuple[str, int] = ("", 0)) -> None:
        return None

    def end(self, refs: frozenset[str]) -> None:
        return None

    def off(self) -> list[str]:
        return []

    def console(self, ref: str) -> str:
        return ""

    def close(self) -> None:
        return None


class Stages:
    """Makes stages: a plant with clouds, fresh for each measurement."""

    def __init__(self, *, keep: bool, say: Callable[[str], None]) -> None:
        self._keep = keep
        self._say = say

    @contextlib.contextmanager
    def stage(self, names: Sequence[str]) -> Iterator[sites.Site]:
        """Forges and these clouds, running; the daemon is the caller's."""
        directory = Path(tempfile.mkdtemp(prefix="runnerd-bench-"))
        try:
            with plants.plant(directory) as plant:
                plant.start_simulator()
                made = clouds.Clouds(directory, _Nobody(), names=tuple(names))
                made.start()
                try:
                    for adapter in made.adapters.values():
                        plant.variables.update(adapter.environment)
                    yield sites.Site(plant, made, machines.Machines(directory / "machines"))
                    assert made.problems == [], made.problems[0]
                finally:
                    # No daemon outlives its clouds.
                    plant.stop_children()
                    made.stop()
        finally:
            if self._keep:
                self._say(f"kept: {directory}")
            else:
                shutil.rmtree(directory, ignore_errors=True)

    # -- memory ----------------------------------------------------------------------------------------------------

    def resident(self, names: Sequence[str]) -> float:
        """MB of a daemon with those clouds and both forges, after its first offers and listings."""
        with self.stage(names or NAMES[:1]) as site:
            given = {name: _options(site, name) for name in names}
            pools = {"gpu-t4": {"gpu": "t4"}}
            forges = {"github": site.plant.github(), "gitlab": site.plant.gitlab(poll="15s", idle_poll="1m")}
            site.configure(
                forges=forges,
                providers=given or {"sim": {}},
                pools=pools,
                reconcile={"interval": "15s", "list_interval": "5s"},
            )
            # The first start makes the schema; what a daemon weighs is told by any later one.
            for _ in range(2):
                site.plant.start_daemon()
                site.await_offers("gpu-t4", set(names) or {"sim"})
                time.sleep(8.0)
                found = site.plant.running.rss() / 2**20
                site.plant.running.stop()
            return found

    # -- creates per second ----------------------------------------------------------------------------------------

    def pace(self, name: str, seconds: float) -> Pace:
        """Creates per second in one region of a cloud, for that long after the burst."""
        adapter = registry.ADAPTERS[name]
        burst, refill = adapter.documented.burst, adapter.documented.per_second
        count = burst + int(refill * (seconds + 8))
        with self.stage([name]) as site:
            site.configure(
                providers={name: _options(site, name, _one_zone(adapter))},
                pools={"small": {"types": {name: [adapter.small_type]}}},
                defaults={"market": "on-demand", "boot": "30m", "idle": "10m"},
                limits={"instances": 5000},
                forges={"github": site.plant.github()},
                reconcile={"interval": "15s", "list_interval": "30s"},
            )
            site.plant.start_daemon()
            site.await_offers("small", {name})
            site.plant.forges.queue("github", labels=["small"], count=count, separate_runs=True)
            processes.until(lambda: len(site.clouds.creates) > burst, "the burst", seconds=60, pause=0.05)
            began = time.time()
            while time.time() - began < seconds + 1 and len(site.clouds.creates) < count:
                time.sleep(0.2)
            times = sorted(one.began for one in site.clouds.creates)
            window = [at for at in times[burst:] if at < times[burst] + seconds]
            refused = sum(one.status >= 400 for one in site.clouds.creates)
        assert len(window) > 1, f"{len(times)} creates in {seconds:.0f} s"
        return Pace((len(window) - 1) / (window[-1] - window[0]), refill, len(window), refused)

    # -- failover --------------------------------------------------------------------------------------------------

    def failovers(self, jobs: int) -> dict[str, list[float]]:
        """``aws-aws``, ``aws-gcp`` and so on -> seconds from the answer that refused an offer to the next create call.

        One job after the other, each in a pool of its own, with fewer creates at one time than any bucket holds.
        """
        jobs = min(jobs, *(len(one.varied_types) for one in registry.ADAPTERS.values()))
        with self.stage(NAMES) as site:
            site.clouds.do(lambda: _refuse_all(site))
            pools = {
                f"pool-{number}": {
                    "types": {name: [one.varied_types[number]] for name, one in registry.ADAPTERS.items()}
                }
                for number in range(jobs)
            }
            site.configure(
                providers={name: _options(site, name) for name in NAMES},
                pools=pools,
                defaults={"market": "on-demand", "boot": "30m", "idle": "10m"},
                limits={"instances": 500},
                forges={"github": site.plant.github()},
                reconcile={"interval": "15s", "list_interval": "30s"},
            )
            site.plant.start_daemon()
            for pool in pools:
                site.await_offers(pool, set(NAMES))
            time.sleep(2.0)
            for number, pool in enumerate(pools):
                site.plant.forges.queue("github", labels=[pool])
                processes.until(
                    lambda count=number + 1: _last_resorts(site) >= count,  # type: ignore[misc]  # bound by a default
                    f"job {number + 1} found its offer",
                    seconds=60,
                    pause=0.05,
                )
                # The buckets are full again.
                time.sleep(2.0)
            return _gaps(site)


def _options(site: sites.Site, name: str, regions: Mapping[str, str] | None = None) -> dict[str, Any]:
    return site.cloud(name).served_options(site.plant.secret, regions)


def _one_zone(adapter: type[CloudAdapter]) -> dict[str, str]:
    region, letters = next(iter(adapter.regions.items()))
    return {region: letters[0]}


def _last_region() -> str:
    return list(registry.ADAPTERS[NAMES[-1]].regions)[-1]


def _refuse_all(site: sites.Site) -> None:
    """Leave nothing free anywhere but in the last region of the last cloud."""
    *others, last = (site.cloud(name) for name in NAMES)
    for one in others:
        one.refuse()
    for region in list(last.regions)[:-1]:
        last.refuse(region)


def _last_resorts(site: sites.Site) -> int:
    return sum(one.region == _last_region() and one.status in (200, 201) for one in site.clouds.creates)


def _gaps(site: sites.Site) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    names = {one.instance for one in site.clouds.creates}
    for name in names:
        creates = sorted((one for one in site.clouds.creates if one.instance == name), key=lambda one: one.began)
        for one, following in itertools.pairwise(creates):
            told = [
                failure.at
                for failure in site.clouds.failures.values()
                if failure.instance == name and one.began <= failure.at <= following.began
            ]
            assert told, f"{name} went from {one.cloud} to {following.cloud} and nothing was refused"
            found.setdefault(f"{one.cloud}-{following.cloud}", []).append(following.began - max(told))
    return found
