"""The daemon killed with -9 at twenty moments while jobs run in three clouds, some in the middle of a create call."""

from __future__ import annotations

import os
import random
import string
import threading
import time
from collections import Counter
from typing import Any

import pytest

from tests.clouds import registry, wire
from tests.e2e import clouds, work
from tests.e2e import plant as plants
from tests.e2e import site as sites

pytestmark = pytest.mark.e2e

KILLS = 20
#: Jobs in the queue before the first kill; more come with each life of the daemon.
FIRST = 6
INSTANCES = 8
#: Seconds that a life lasts at most when no create call comes by.
LIFE = 6.0
#: Seconds for what is left after the last kill.  A lost registration at GitLab costs two minutes; a create call that
#: was never carried out costs as long as its cloud may hide an instance.
PATIENCE = 200.0
#: Each cloud comes first for some jobs.
POOLS = {
    f"gpu-{letter}": [*registry.NAMES[number:], *registry.NAMES[:number]]
    for number, letter in enumerate(string.ascii_lowercase[: len(registry.NAMES)])
}


class Trap:
    """Kills the daemon in the middle of a create call, when it is set."""

    def __init__(self, site: sites.Site, rng: random.Random) -> None:
        self._site = site
        self._rng = rng
        self._set: str = ""
        self.sprung = threading.Event()
        #: What it caught: cloud and moment.
        self.caught: Counter[str] = Counter()
        site.clouds.on_create = self._on_create

    def set(self) -> None:
        """The next create call is the daemon's last: carried out, or not even that."""
        self.sprung.clear()
        self._set = self._rng.choice(("carried out", "not carried out"))

    def clear(self) -> None:
        self._set = ""

    def _on_create(self, create: clouds.Create, done: bool) -> None:
        if not self._set or done != (self._set == "carried out"):
            return
        what, self._set = self._set, ""
        self._site.plant.running.kill()
        self.caught[f"{create.cloud}, {what}"] += 1
        self.sprung.set()
        if what == "not carried out":
            raise wire.Lost("the daemon was killed while it sent this", sent=True)


@pytest.mark.timeout(900)
def test_three_clouds_survive_twenty_kills(site: sites.Site) -> None:
    seed = int(os.environ.get("RUNNERD_KILL_SEED") or random.SystemRandom().randrange(1_000_000))
    print(f"seed {seed}; the same moments again: RUNNERD_KILL_SEED={seed} pytest {__file__}")
    rng = random.Random(seed)
    pools: dict[str, dict[str, Any]] = {
        name: {
            "gpu": "t4",
            "from": list(order),
            "types": {cloud: [registry.ADAPTERS[cloud].machine_type] for cloud in order},
        }
        for name, order in POOLS.items()
    }
    site.configure(pools=pools, limits={"instances": INSTANCES})
    jobs = work.Work(site.plant)
    for number in range(FIRST):
        _add(jobs, number, rng)
    trap = Trap(site, rng)
    hits = _kill_again_and_again(site, jobs, trap, rng)
    print(f"what the kills hit: {dict(hits)}; create calls: {dict(trap.caught)}; {len(jobs.marks)} jobs")

    site.plant.start_daemon(seconds=90)
    jobs.await_done(PATIENCE)
    jobs.assert_each_ran_once()
    site.await_nothing_left(PATIENCE)
    assert site.plant.rows("SELECT id, state FROM registrations WHERE state != 'gone'") == []
    assert site.plant.rows("SELECT key, state FROM attempts WHERE state NOT IN ('created', 'failed')") == []
    for cloud, keys in site.clouds.keys().items():
        assert keys, f"nothing was ever made at {cloud}"
        assert [key for key, count in Counter(keys).items() if count > 1] == [], cloud
    boots = Counter(site.clouds.boots.values())
    assert [name for name, count in boots.items() if count > 1] == [], "two machines of one name"
    assert _most_at_a_time(site) <= INSTANCES
    assert hits["work under way"] >= KILLS // 2, f"the kills missed the work: {hits}"
    assert sum(trap.caught.values()) >= 3, f"hardly any kill hit a create call: {trap.caught}"
    assert site.plant.running.stop(30) == 0


def _add(jobs: work.Work, number: int, rng: random.Random) -> None:
    jobs.add(labels=[list(POOLS)[number % len(POOLS)]], seconds=rng.uniform(0.5, 2.0))


def _kill_again_and_again(site: sites.Site, jobs: work.Work, trap: Trap, rng: random.Random) -> Counter[str]:
    hits: Counter[str] = Counter()
    for life in range(KILLS):
        site.plant.start_daemon(wait=False)
        kind = "starting" if life % 5 == 4 else rng.choice(("create", "create", "ready"))
        if kind == "starting":
            time.sleep(rng.uniform(0.5, 4.0))
        else:
            site.plant.await_daemon(90)
            _add(jobs, len(jobs.marks), rng)
            if kind == "create":
                trap.set()
                if not trap.sprung.wait(LIFE):
                    kind = "no create call"
                trap.clear()
            else:
                time.sleep(rng.uniform(0.1, LIFE / 2))
        hits[kind] += 1
        if site.plant.running.status is None:
            site.plant.running.kill()
        states = site.plant.instances()
        hits["work under way" if site.plant.live_rows() or jobs.waiting() else "idle"] += 1
        hits.update(f"with {state}" for state in states if state not in plants.CLOSED)
    return hits


def _most_at_a_time(site: sites.Site) -> int:
    """The most instances that the clouds had at one moment, failed launches included."""
    made = site.clouds.do(lambda: [one for each in site.clouds.adapters.values() for one in each.vms()])
    moments = sorted(
        [(one.created_at, 1) for one in made] + [(one.gone_at, -1) for one in made if one.gone_at is not None]
    )
    present = most = 0
    for _, step in moments:
        present += step
        most = max(most, present)
    return most
