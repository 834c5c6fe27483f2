from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from runnerd.simulator.gitlab import connect
from tests.unit.simulator import gitlab_lab


@pytest.fixture
def lab() -> Iterator[gitlab_lab.Lab]:
    with gitlab_lab.Lab() as made:
        yield made


def test_a_runner_in_process_takes_runs_and_ends_a_job(lab: gitlab_lab.Lab) -> None:
    runner = lab.gitlab.connect_runner(lab.runner("gpu")["token"])

    async def story() -> float:
        waiting = asyncio.ensure_future(runner.next_job(60))
        await asyncio.sleep(20)
        await lab.asend("POST", "/_sim/jobs", {"forge": "gitlab", "repo": "acme/ml", "labels": ["gpu"]})
        job = await waiting
        assert job is not None and job.status == "queued" and job.waiting
        began = lab.loop.time()
        runner.start(job)
        assert job.status == "in_progress" and job.runner is not None
        runner.log(job, "hello\n")
        runner.finish(job, "succeeded")
        assert (job.status, job.conclusion, job.starts, bytes(job.log)) == ("completed", "success", 1, b"hello\n")
        return began

    assert lab.run(story()) == pytest.approx(20)
    assert lab.run(runner.next_job(5)) is None


def test_a_late_start_is_refused(lab: gitlab_lab.Lab) -> None:
    lab.queue("gpu")
    runner = lab.gitlab.connect_runner(lab.runner("gpu")["token"])
    job = lab.run(runner.next_job(1))
    assert job is not None
    lab.wait(121)
    with pytest.raises(connect.Refused):
        runner.start(job)
    assert job.status == "queued" and job.starts == 0


def test_a_dead_runner_leaves_its_job_running_until_the_server_notices(lab: gitlab_lab.Lab) -> None:
    [id] = lab.queue("gpu", timeout=10**6)
    runner = lab.gitlab.connect_runner(lab.runner("gpu")["token"])
    job = lab.run(runner.next_job(1))
    assert job is not None
    runner.start(job)
    lab.wait(5 * 3600)
    assert lab.job(id)["status"] == "running"
    runner.die()
    lab.wait(1200)
    assert lab.job(id)["status"] == "running"
    lab.wait(2 * 3600)
    assert lab.job(id)["failure_reason"] == "no_updates_running"


def test_a_stopped_runner_reports_its_job_as_interrupted(lab: gitlab_lab.Lab) -> None:
    [id] = lab.queue("gpu")
    made = lab.runner("gpu")
    runner = lab.gitlab.connect_runner(made["token"])
    job = lab.run(runner.next_job(1))
    assert job is not None
    runner.start(job)
    assert lab.world.runners["gitlab", made["id"]].busy
    runner.disconnect()
    assert lab.job(id)["failure_reason"] == "runner_interrupted"
    assert not lab.world.runners["gitlab", made["id"]].busy


def test_an_unknown_token_is_refused(lab: gitlab_lab.Lab) -> None:
    with pytest.raises(connect.Refused):
        lab.gitlab.connect_runner("glrt-nobody")
    made = lab.runner("gpu")
    runner = lab.gitlab.connect_runner(made["token"])
    lab.send("DELETE", f"/runners/{made['id']}")
    with pytest.raises(connect.Refused):
        lab.run(runner.next_job(1))
