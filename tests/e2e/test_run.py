"""The daemon as a process: starting, stopping, being started again, and what it tells."""

from __future__ import annotations

import re
import time
from collections import Counter
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from tests.e2e import plant as plants
from tests.e2e import processes
from tests.unit.store.conftest import postgres, postgres_server  # noqa: F401  # fixtures

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

REAL = {"sim": {"backing": "local", "grace": 2}}


def _queue(plant: plants.Plant, forge: str, seconds: float, **more: Any) -> int:
    [id] = plant.forges.queue(forge, script=[f"sleep {seconds}"], **more)
    return id


def _status(plant: plants.Plant, *ids: int) -> list[str]:
    jobs = {job["id"]: job for job in plant.forges.jobs()}
    return [jobs[id]["status"] for id in ids]


def _await(plant: plants.Plant, status: str, *ids: int, seconds: float = 40.0) -> None:
    processes.until(lambda: set(_status(plant, *ids)) == {status}, f"{len(ids)} jobs are {status}", seconds=seconds)


def _await_nothing_left(plant: plants.Plant) -> None:
    processes.until(
        lambda: plant.live_rows() == 0 and not plant.runners() and not plant.processes(),
        "every instance and runner is gone",
        seconds=40,
    )


def _ran_once(plant: plants.Plant) -> list[tuple[str, int]]:
    return [(job["conclusion"], job["starts"]) for job in plant.forges.jobs()]


def _created(plant: plants.Plant) -> list[str]:
    return [line["name"] for line in plant.calls() if line["call"] == "create" and line["outcome"] == "created"]


def test_a_second_daemon_on_the_same_state_is_refused_and_the_first_goes_on(plant: plants.Plant) -> None:
    plant.start_simulator()
    plant.configure()
    first = plant.start_daemon()
    settings = yaml.safe_load(plant.config.read_text())
    ops, public = processes.free_ports(2)
    settings["listen"] = {
        "ops": f"127.0.0.1:{ops}",
        "public": f"127.0.0.1:{public}",
        "socket": f"{settings['listen']['socket']}2",
    }
    other = plant.directory / "second.yaml"
    other.write_text(yaml.safe_dump(settings))
    second = plant.start("second", processes.command("run", "--config", str(other)))
    assert second.wait(30) not in (0, -9)
    assert re.search(rf"in use by runnerd, process {first.pid}\b", second.tail()), second.tail()
    assert "Traceback" not in second.tail()
    assert first.status is None
    assert plant.ready()


def test_stopping_leaves_busy_instances_alone_and_the_next_daemon_takes_them_up(plant: plants.Plant) -> None:
    plant.start_simulator()
    plant.configure(providers=REAL)
    plant.start_daemon()
    ids = [_queue(plant, "github", 8), _queue(plant, "gitlab", 8)]
    _await(plant, "in_progress", *ids)
    before = set(plant.processes().values())
    assert plant.running.stop(30) == 0
    assert _status(plant, *ids) == ["in_progress", "in_progress"]
    assert set(plant.processes().values()) == before
    plant.start_daemon()
    _await(plant, "completed", *ids)
    _await_nothing_left(plant)
    assert _ran_once(plant) == [("success", 1), ("success", 1)]
    assert len(_created(plant)) == 2
    assert plant.present("sim") == []


def test_a_lost_database_is_rebuilt_from_tags_and_no_job_is_ended(plant: plants.Plant) -> None:
    plant.start_simulator()
    plant.configure(providers=REAL)
    plant.start_daemon()
    ids = [_queue(plant, "github", 15), _queue(plant, "gitlab", 15)]
    _await(plant, "in_progress", *ids)
    plant.running.kill()
    for path in plant.state.glob("runnerd.db*"):
        path.unlink()
    plant.start_daemon()
    processes.until(lambda: plant.live_rows() == 2, "both instances are adopted", seconds=20)
    assert plant.rows("SELECT count(*) FROM instances WHERE adopted") == [(2,)]
    _await(plant, "completed", *ids)
    _await_nothing_left(plant)
    assert _ran_once(plant) == [("success", 1), ("success", 1)]
    assert len(_created(plant)) == 2
    assert plant.present("sim") == []


def test_a_job_runs_with_its_state_in_postgresql(plant: plants.Plant, postgres: str) -> None:  # noqa: F811
    plant.start_simulator()
    plant.configure(providers=REAL, database=postgres)
    plant.start_daemon()
    id = _queue(plant, "github", 0.5)
    _await(plant, "completed", id)
    engine = sa.create_engine(postgres)

    def states() -> list[str]:
        with engine.connect() as connection:
            return list(connection.execute(sa.text("SELECT state FROM instances")).scalars())

    processes.until(lambda: states() == ["gone"], "the instance is gone", seconds=30)
    with engine.connect() as connection:
        jobs = connection.execute(sa.text("SELECT repo, state, conclusion FROM jobs")).all()
    engine.dispose()
    assert [tuple(row) for row in jobs] == [("acme/ml", "completed", "success")]
    assert _ran_once(plant) == [("success", 1)]
    assert not plant.database.exists()
    assert plant.running.stop(30) == 0


@pytest.mark.parametrize("forge", ["github", "gitlab"])
def test_a_webhook_wakes_a_daemon_that_would_sleep_for_hours(plant: plants.Plant, forge: str) -> None:
    plant.start_simulator()
    secret = plant.secret("hook.secret", "a-long-and-random-secret")
    if forge == "github":
        settings = plant.github(mode="rest", repos=["acme/ml"], poll="2h", webhook_secret=secret)
        settings["audit"] = {"interval": "2h"}
    else:
        settings = plant.gitlab(poll="2h", idle_poll="2h", webhook_token=secret)
    plant.configure(forges={forge: settings}, providers=REAL, log={"level": "debug"})
    plant.start_daemon()
    hook = {"forge": forge, "url": f"http://{plant.public}/webhooks/{forge}"}
    # A stranger's deliveries are refused, and wake nobody.
    plant.forges.ask("POST", "/_sim/hooks", {**hook, "secret": "another", "scope": ""})
    time.sleep(3.0)  # the rounds that a start makes are over
    deaf = _queue(plant, forge, 0.1)
    processes.until(lambda: _deliveries(plant), "the refused delivery", seconds=10)
    time.sleep(3.0)
    assert _status(plant, deaf) == ["queued"]
    assert set(_deliveries(plant)) == {401}
    plant.forges.ask("POST", "/_sim/hooks", {**hook, "secret": "a-long-and-random-secret"})
    heard = _queue(plant, forge, 0.1)
    _await(plant, "completed", deaf, heard)
    assert any(200 <= status < 300 for status in _deliveries(plant))
    assert _ran_once(plant) == [("success", 1), ("success", 1)]


def _deliveries(plant: plants.Plant) -> list[int]:
    """Return the daemon's answer to each delivery so far, by its own access log."""
    found = re.findall(r"POST /webhooks/\{forge\} -> (\d+)", plant.running.log.read_text())
    return [int(status) for status in found]


def _instances(plant: plants.Plant) -> dict[str, int]:
    """State -> instances, as the metrics tell."""
    found: Counter[str] = Counter()
    for labels, value in plant.metric("runnerd_instances").items():
        found[dict(labels)["state"]] += int(value)
    return dict(+found)


def test_metrics_tell_what_clouds_and_forges_say(plant: plants.Plant) -> None:
    plant.start_simulator()
    plant.configure(providers=REAL)
    plant.start_daemon()
    ids = [_queue(plant, "github", 6), _queue(plant, "github", 6), _queue(plant, "gitlab", 6)]
    _await(plant, "in_progress", *ids)
    # The agents report what the forges know already.
    processes.until(lambda: _instances(plant) == {"busy": 3}, "three busy instances", seconds=5)
    assert plant.live_rows() == 3
    failed = plant.forges.queue("github", script=["exit 3"])
    _await(plant, "completed", *ids, *failed)
    _await_nothing_left(plant)
    truth = Counter((job["forge"], job["conclusion"]) for job in plant.forges.jobs())
    assert truth == {("github", "success"): 2, ("gitlab", "success"): 1, ("github", "failure"): 1}

    def told() -> Counter[tuple[str, str]]:
        found: Counter[tuple[str, str]] = Counter()
        for labels, value in plant.metric("runnerd_jobs_total").items():
            facts = dict(labels)
            found[facts["forge"], facts["outcome"]] += int(value)
        return +found

    processes.until(lambda: told() == truth, "the outcomes of all jobs are counted", seconds=10)
    created = sum(
        value
        for labels, value in plant.metric("runnerd_provision_attempts_total").items()
        if ("outcome", "created") in labels
    )
    assert created == len(_created(plant)) == 4
    assert _instances(plant) == {}
    assert sum(plant.metric("runnerd_jobs_queued").values()) == 0
    assert plant.metric("runnerd_config_reload_success") == {frozenset(): 1.0}
    text = processes.call("GET", f"http://{plant.ops}/metrics")[1].decode()
    assert [name for name in _created(plant) if name in text] == [], "an instance's name is in a metric"
