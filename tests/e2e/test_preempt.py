"""A spot instance taken back in each cloud: proven by the cloud, its last words kept, its place given a rest."""

from __future__ import annotations

import functools
import time
from typing import Any

import pytest

from tests.clouds import registry
from tests.e2e import processes, work
from tests.e2e import site as sites

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(300)]

CLOUDS = registry.NAMES
#: Seconds until absence from listings proves that a young machine of Azure has gone, and a look at its activity log.
PATIENCE = 180.0


def _running(site: sites.Site) -> dict[str, str]:
    """Cloud -> the name of its instance that runs a job now."""
    rows = site.plant.rows("SELECT provider, id FROM instances WHERE state = 'busy'")
    return {str(provider): str(name) for provider, name in rows}


def _preempt(site: sites.Site, name: str) -> str:
    """Take an instance back; the region that it was in, as its cloud calls it."""
    for adapter in site.clouds.adapters.values():
        for one in adapter.vms():
            if one.name == name and one.running(time.time()):
                assert one.market == "spot"
                one.preempt()
                return adapter.name
    raise AssertionError(f"no cloud runs {name}")


def test_a_preemption_is_proven_in_each_cloud_and_its_place_rests(site: sites.Site) -> None:
    site.configure(pools={f"gpu-{name}": {"gpu": "t4", "from": [name], "market": "spot"} for name in CLOUDS})
    site.plant.start_daemon()
    jobs = work.Work(site.plant)
    for name in CLOUDS:
        jobs.add(seconds=60, labels=[f"gpu-{name}"], forge="github")
    running = processes.until(lambda: _all(_running(site)), "one instance of each cloud is busy", seconds=60)
    for cloud, name in running.items():
        processes.until(functools.partial(_talks, site, name), f"{name} tells of its job", seconds=10)
        assert site.clouds.do(functools.partial(_preempt, site, name)) == cloud

    ended = processes.until(lambda: _all(_ended(site, running)), "each end is known", seconds=PATIENCE, pause=0.5)
    for cloud, (reason, end, detail) in ended.items():
        assert (reason, end) == ("preempted", "preempted"), (cloud, detail)
        told = site.ask("logs", running[cloud])
        assert told["end"] == "preempted"
        # A console that is gone with its machine is told in words.
        kept = site.cloud(cloud).keeps_consoles
        assert "agent: GPUs: Tesla T4" in (told["console"] or "") or (not kept and told["console_problem"]), told
        resting = [one["refusal"] for one in site.offers(f"gpu-{cloud}") if "preempted" in one["refusal"]]
        assert resting, f"the place at {cloud} does not rest"
    preempted = {
        dict(labels)["provider"]: value
        for labels, value in site.plant.metric("runnerd_preemptions_total").items()
        if value
    }
    assert preempted == dict.fromkeys(CLOUDS, 1.0)


def _all(found: dict[str, Any]) -> dict[str, Any] | None:
    return found if found.keys() == set(CLOUDS) else None


def _ended(site: sites.Site, running: dict[str, str]) -> dict[str, tuple[str, str, str]]:
    rows = site.plant.rows("SELECT provider, reason, [end], end_detail, id FROM instances WHERE state = 'gone'")
    return {row[0]: row[1:4] for row in rows if row[4] in running.values()}


def _talks(site: sites.Site, name: str) -> bool:
    return "took job" in _console(site, name)


def _console(site: sites.Site, name: str) -> str:
    """Return what the machine of an instance printed so far."""
    [ref] = [ref for ref, known in site.clouds.boots.items() if known == name]
    return site.machines.console(ref)
