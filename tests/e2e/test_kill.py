"""The daemon killed with -9 at twenty random moments of a burst, and started again each time."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections import Counter

import pytest

from tests.e2e import plant as plants
from tests.e2e import processes

pytestmark = pytest.mark.e2e

KILLS = 20
#: Jobs in the queue before the first kill; one more comes with each life of the daemon.
FIRST = 6
INSTANCES = 6
#: Seconds for what is left after the last kill.  A kill between the intent to register at GitLab and its answer costs
#: the two minutes in which a lost create call may still be applied there.
PATIENCE = 165.0


@pytest.mark.timeout(420)
def test_a_burst_survives_twenty_kills_at_random_moments(plant: plants.Plant) -> None:
    seed = int(os.environ.get("RUNNERD_KILL_SEED") or random.SystemRandom().randrange(1_000_000))
    print(f"seed {seed}; the same moments again: RUNNERD_KILL_SEED={seed} pytest {__file__}")
    rng = random.Random(seed)
    burst = _start(plant, rng)
    hits = _kill_again_and_again(plant, burst, rng)
    print(f"what the kills hit: {dict(hits)}; {len(burst.ids)} jobs")

    plant.start_daemon()
    processes.until(burst.all_done, "every job is completed", seconds=PATIENCE, pause=0.3)
    try:
        processes.until(lambda: not burst.left(), "nothing is left", seconds=PATIENCE, pause=0.3)
    except processes.TookTooLong as error:
        raise processes.TookTooLong(f"{error}: {burst.left()}") from None

    _assert_each_job_ran_once(burst)
    _assert_nothing_is_left(plant)
    _assert_no_attempt_twice(plant)
    assert hits["work under way"] >= KILLS // 2, f"the kills missed the burst: {hits}"
    assert plant.running.stop(30) == 0


class Burst:
    """Jobs on both forges that write down each time they run."""

    def __init__(self, plant: plants.Plant, rng: random.Random) -> None:
        self._plant = plant
        self._rng = rng
        #: Id at the simulator -> the file that the job writes a line to.
        self.ids: dict[int, str] = {}
        self.marks = plant.directory / "marks"
        self.marks.mkdir()

    def add(self) -> None:
        number = len(self.ids)
        forge = ("github", "gitlab")[number % 2]
        path = str(self.marks / f"{forge}-{number}")
        script = [f"echo began >> {path}", f"sleep {self._rng.uniform(0.5, 2.0):.2f}", f"echo ended >> {path}"]
        [id] = self._plant.forges.queue(forge, script=script)
        self.ids[id] = path

    def all_done(self) -> bool:
        jobs = {job["id"]: job for job in self._plant.forges.jobs()}
        return all(jobs[id]["status"] == "completed" for id in self.ids)

    def left(self) -> str:
        """Return what still has to go, in words."""
        runners = self._plant.runners()
        return "; ".join(
            filter(
                None,
                [
                    f"runners {runners}" if runners else "",
                    f"rows {dict(self._plant.instances())}" if self._plant.live_rows() else "",
                    f"processes {self._plant.processes()}" if self._plant.processes() else "",
                ],
            )
        )


def _start(plant: plants.Plant, rng: random.Random) -> Burst:
    plant.start_simulator()
    # A session that a killed daemon left is free soon, as it is on GitHub after a minute.
    plant.forges.options(poll_block=5.0, session_idle=8.0)
    plant.configure(
        forges={"github": plant.github(), "gitlab": plant.gitlab(poll="1s", idle_poll="1s")},
        providers={"sim": {"backing": "local", "boot": "0s", "create_latency": [0, 0.1], "grace": 2}},
        limits={"instances": INSTANCES},
        defaults={"idle": "5s"},
        reconcile={"interval": "1s", "list_interval": "1s", "drain": "5s"},
    )
    burst = Burst(plant, rng)
    plant.start_daemon()
    for _ in range(FIRST):
        burst.add()
    return burst


def _kill_again_and_again(plant: plants.Plant, burst: Burst, rng: random.Random) -> Counter[str]:
    """Twenty lives of random length, some of which end before the daemon is ready."""
    hits: Counter[str] = Counter()
    for life in range(KILLS):
        if life > 0:
            plant.start_daemon(wait=False)
            burst.add()
        time.sleep(rng.uniform(0.1, 1.5) if rng.random() < 0.3 else rng.uniform(1.0, 4.0))
        assert plant.running.status is None, "the daemon ended by itself"
        hits["ready" if plant.ready() else "starting"] += 1
        plant.running.kill()
        states = plant.instances()
        hits["work under way" if plant.live_rows() or not burst.all_done() else "idle"] += 1
        hits.update(f"with {state}" for state in states if state not in plants.CLOSED)
        time.sleep(rng.uniform(0.0, 0.5))
    return hits


def _assert_each_job_ran_once(burst: Burst) -> None:
    jobs = {job["id"]: job for job in burst._plant.forges.jobs()}
    assert set(jobs) == set(burst.ids)
    for id, path in burst.ids.items():
        job = jobs[id]
        assert (job["status"], job["conclusion"], job["starts"]) == ("completed", "success", 1), job
        with open(path, encoding="utf-8") as file:
            assert file.read().split() == ["began", "ended"], path


def _assert_nothing_is_left(plant: plants.Plant) -> None:
    assert plant.runners() == []
    assert len(plant.heartbeats()) == 1
    assert plant.processes() == {}
    assert plant.present("sim") == []
    assert plant.live_rows() == 0
    assert plant.rows("SELECT id, state FROM registrations WHERE state != 'gone'") == []
    assert plant.rows("SELECT key, state FROM attempts WHERE state NOT IN ('created', 'failed')") == []


def _assert_no_attempt_twice(plant: plants.Plant) -> None:
    made = [line for line in plant.calls() if line["call"] == "create" and line["outcome"] == "created"]
    assert made, "the burst was served by instances"
    per_key = Counter(line["key"] for line in made)
    assert {key: count for key, count in per_key.items() if count > 1} == {}
    lives = plant.lives("sim")
    assert len(lives) == len(made)
    by_name: dict[str, list[tuple[float, float]]] = {}
    for name, began, ended in lives:
        by_name.setdefault(name, []).append((began, ended))
    for name, spans in by_name.items():
        spans.sort()
        for (_, ended), (began, _) in itertools.pairwise(spans):
            assert ended <= began, f"{name} lived twice at one time: {spans}"
    # The limit held at every moment of the burst, daemon or not.
    moments = sorted([(began, 1) for _, began, _ in lives] + [(ended, -1) for _, _, ended in lives])
    present = most = 0
    for _, step in moments:
        present += step
        most = max(most, present)
    assert most <= INSTANCES, f"{most} instances at one time"
