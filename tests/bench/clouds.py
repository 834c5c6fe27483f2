"""The three clouds, measured: the real daemon as a process, the real SDKs over sockets, simulated clouds behind them.

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

from tests.clouds import aws, azure, gcp, machines
from tests.e2e import clouds, estates
from tests.e2e import plant as plants
from tests.e2e import site as sites

NAMES = ("aws", "gcp", "azure")
#: Creates at once and per second in the long run, as documented: "Throttle limits" of EC2 (for each region), "Rate
#: quotas" of Compute Engine (1,500 a minute and project), "Compute throttling" of Azure (500 a minute and region).
DOCUMENTED: Mapping[str, tuple[int, float]] = {"aws": (5, 2.0), "gcp": (25, 25.0), "azure": (200, 500 / 60)}
#: A small machine type of each cloud, without a GPU so that no quota is near, and where it is bought.
SMALL = {"aws": "c6i.large", "gcp": "n2-standard-2", "azure": "Standard_D2s_v5"}
PLACES = {"aws": {"us-east-1": "a"}, "gcp": {"us-central1": "a"}, "azure": {"eastus": "1"}}
#: Machine types by cloud; the pools of the failover take the first of each, the second of each and so on, so that no
#: pool knows what another one was refused.
TYPES: Mapping[str, Sequence[str]] = {
    "aws": (
        *(f"g4dn.{size}" for size in ("xlarge", "2xlarge", "4xlarge", "8xlarge", "16xlarge")),
        *(f"c6i.{size}" for size in ("large", "xlarge", "2xlarge", "4xlarge", "8xlarge", "12xlarge", "16xlarge")),
    ),
    "gcp": (
        *(f"g2-standard-{size}" for size in (4, 8, 12, 16, 32)),
        *(f"n2-standard-{size}" for size in (2, 4, 8, 16, 32, 48, 64)),
    ),
    "azure": (
        *(f"Standard_NC{size}as_T4_v3" for size in (4, 8, 16)),
        *("Standard_NV36ads_A10_v5", "Standard_NC6s_v3", "Standard_NC24ads_A100_v4", "Standard_NC40ads_H100_v5"),
        *("Standard_D2s_v5", "Standard_D4s_v5", "Standard_D8s_v5", "Standard_F2s_v2", "Standard_F8s_v2"),
    ),
}


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast instances of one cloud were created once its burst was spent."""

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
                    plant.variables.update(estates.Aws.environment)
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
        with self.stage(names or ("aws",)) as site:
            given = {name: _options(site, name, _ALL[name]) for name in names}
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
        burst, refill = DOCUMENTED[name]
        count = burst + int(refill * (seconds + 8))
        with self.stage([name]) as site:
            site.configure(
                providers={name: _options(site, name, PLACES[name])},
                pools={"small": {"types": {name: [SMALL[name]]}}},
                defaults={"market": "on-demand", "boot": "30m", "idle": "10m"},
                limits={"instances": 5000},
                forges={"github": site.plant.github()},
                reconcile={"interval": "15s", "list_interval": "30s"},
            )
            site.plant.start_daemon()
            site.await_offers("small", {name})
            site.plant.forges.queue("github", labels=["small"], count=count, separate_runs=True)
            plants.until(lambda: len(site.clouds.creates) > burst, "the burst", seconds=60, pause=0.05)
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
        jobs = min(jobs, *(len(one) for one in TYPES.values()))
        with self.stage(NAMES) as site:
            site.clouds.do(lambda: _refuse_all(site))
            pools = {
                f"pool-{number}": {"types": {name: [TYPES[name][number]] for name in NAMES}} for number in range(jobs)
            }
            site.configure(
                providers={name: _options(site, name, _ALL[name]) for name in NAMES},
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
                plants.until(
                    lambda count=number + 1: _last_resorts(site) >= count,  # type: ignore[misc]  # bound by a default
                    f"job {number + 1} found its offer",
                    seconds=60,
                    pause=0.05,
                )
                # The buckets are full again.
                time.sleep(2.0)
            return _gaps(site)


_ALL = {
    "aws": {"us-east-1": "ab", "us-west-2": "a"},
    "gcp": {"us-central1": "ab", "europe-west4": "a"},
    "azure": {"eastus": "12", "westeurope": "1"},
}


def _options(site: sites.Site, name: str, regions: Mapping[str, str]) -> dict[str, Any]:
    if name == "aws":
        return site.aws.options(regions)
    if name == "gcp":
        key = site.plant.secret("gcp.json", site.gcp.key_file())
        return site.gcp.options(regions, credentials=key)
    return site.azure.options(regions, secret=site.plant.secret("azure.secret", azure.SECRET))


def _refuse_all(site: sites.Site) -> None:
    """Nothing is free anywhere but in the last region of the last cloud."""
    site.aws.cloud.faults.append(aws.Fault(code="InsufficientInstanceCapacity", times=None))
    site.gcp.cloud.faults.append(gcp.Fault(fails_with="ZONE_RESOURCE_POOL_EXHAUSTED", fails_after=0.2, times=None))
    site.azure.cloud.faults.append(azure.Fault(region="eastus", code="SkuNotAvailable", status=409, times=None))


def _last_resorts(site: sites.Site) -> int:
    return sum(one.region == "westeurope" and one.status in (200, 201) for one in site.clouds.creates)


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
