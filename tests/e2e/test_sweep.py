"""The daemon and its state are gone: whoever has the configuration finds what is left, and ends what is due."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.clouds import registry
from tests.e2e import processes, work
from tests.e2e import site as sites

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

CLOUDS = registry.NAMES
DEADLINE = "runnerd-deadline"


def _age(site: sites.Site, names: set[str]) -> None:
    """Let the deadlines of these instances be long past."""
    long_ago = str(int(time.time()) - 3600)
    for adapter in site.clouds.adapters.values():
        for one in adapter.vms():
            if one.name in names:
                assert one.tags[DEADLINE] > long_ago
                adapter.retag(one.id, DEADLINE, long_ago)


def test_a_sweep_from_elsewhere_ends_what_is_past_its_deadline_and_nothing_else(
    site: sites.Site, tmp_path_factory: pytest.TempPathFactory
) -> None:
    site.configure(pools={f"gpu-{name}": {"gpu": "t4", "from": [name]} for name in CLOUDS})
    site.plant.start_daemon()
    jobs = work.Work(site.plant)
    for name in CLOUDS:
        jobs.add(2, seconds=100, labels=[f"gpu-{name}"])
    running = processes.until(lambda: _running(site), "two instances in each cloud", seconds=60, pause=0.3)
    site.plant.running.kill()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    config = Path(shutil.copy(site.plant.config, elsewhere))
    config.write_text(config.read_text().replace(str(site.plant.state), str(elsewhere / "state")))
    shutil.rmtree(site.plant.state)
    old = {names[0] for names in running.values()}
    site.clouds.do(lambda: _age(site, old))

    dry = site.run("sweep", "--once", "--dry-run", "--json", "--config", str(config), directory=elsewhere)
    assert dry.status == 0, dry.err
    assert _found(dry.json) == {name: set(names) for name, names in running.items()}
    assert dry.json["ended"] == 0
    assert {cloud: len(names) for cloud, names in _alive(site).items()} == dict.fromkeys(CLOUDS, 2)

    swept = site.run("sweep", "--once", "--json", "--config", str(config), directory=elsewhere)
    assert swept.status == 0, swept.err
    assert swept.json["ended"] == len(CLOUDS), "\n".join(_words(swept.json))
    young = {cloud: {name for name in names if name not in old} for cloud, names in running.items()}
    processes.until(lambda: _alive(site) == young, f"only {young} are left", seconds=30)
    time.sleep(1.0)
    assert _alive(site) == young
    assert sorted(path.name for path in elsewhere.iterdir()) == [config.name], "a sweep leaves nothing behind"


def _running(site: sites.Site) -> dict[str, list[str]] | None:
    found = {cloud: sorted(names) for cloud, names in _alive(site).items()}
    busy = site.plant.rows("SELECT count(*) FROM instances WHERE state = 'busy'")[0][0]
    return found if busy == 6 and all(len(names) == 2 for names in found.values()) else None


def _alive(site: sites.Site) -> dict[str, set[str]]:
    """Cloud -> names of the instances that run there."""
    return site.clouds.do(
        lambda: {
            made.name: {one.name for one in made.vms() if one.running(time.time())}
            for made in site.clouds.adapters.values()
        }
    )


def _found(told: dict[str, Any]) -> dict[str, set[str]]:
    return {one["name"]: {each["instance"] for each in one["instances"]} for one in told["providers"]}


def _words(told: dict[str, Any]) -> list[str]:
    """Return what a sweep said of each instance."""
    return [
        f"{one['name']}: {each['instance']}: {each.get('done') or each.get('why')} (deadline {each['deadline']:.0f})"
        for one in told["providers"]
        for each in one["instances"]
    ]
