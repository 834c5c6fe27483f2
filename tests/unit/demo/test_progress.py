from __future__ import annotations

import dataclasses

from runnerd.demo import cloud_calls, forge, progress
from runnerd.demo.progress import Step

JOB = forge.Job(
    id=1,
    forge="github",
    repo="acme/digits",
    pull=1,
    status="queued",
    conclusion="",
    runner="",
    queued_at=10.0,
    started_at=0.0,
    finished_at=0.0,
    starts=0,
)
OTHER = dataclasses.replace(JOB, id=2, pull=2)
ON_GITLAB = dataclasses.replace(JOB, id=3, forge="gitlab", repo="acme/meters")


def machine(name: str, cloud: str = "roomy") -> cloud_calls.Machine:
    return cloud_calls.Machine(ref=name, key=name, name=name, cloud=cloud, price=0.5, created_at=11.0)


def book(*machines: cloud_calls.Machine) -> cloud_calls.Record:
    return cloud_calls.Record({(one.cloud, one.ref): one for one in machines}, (), ())


def view(*jobs: forge.Job, runners: dict[str, str] | None = None, reports: tuple[forge.Report, ...] = ()) -> forge.View:
    return forge.View(jobs, runners or {}, reports)


def test_a_job_without_an_instance_is_queued() -> None:
    assert [one.step for one in progress.Progress().follow(view(JOB), book(), ())] == [Step.QUEUED]


def test_each_instance_on_its_way_stands_beside_one_waiting_job() -> None:
    lines = progress.Progress().follow(view(JOB, OTHER), book(machine("m1")), ())
    assert [one.step for one in lines] == [Step.BOOTING, Step.QUEUED]


def test_a_runner_of_one_forge_stands_beside_no_job_of_the_other() -> None:
    lines = progress.Progress().follow(view(JOB, ON_GITLAB, runners={"m1": "gitlab"}), book(machine("m1")), ())
    assert [one.step for one in lines] == [Step.QUEUED, Step.READY]


def test_an_instance_that_another_job_took_is_not_shown_twice() -> None:
    followed = progress.Progress()
    followed.follow(view(JOB, OTHER), book(machine("m1")), ())
    taken = dataclasses.replace(OTHER, status="in_progress", runner="m1", started_at=12.0, starts=1)
    lines = followed.follow(view(JOB, taken), book(machine("m1")), ())
    assert [(one.step, one.machine) for one in lines] == [(Step.QUEUED, ""), (Step.RUNNING, "m1")]


def test_a_job_is_gone_only_with_its_instance() -> None:
    done = dataclasses.replace(
        JOB, status="completed", conclusion="success", runner="m1", started_at=12.0, finished_at=15.5, starts=1
    )
    report = forge.Report("github", "acme/digits", "pull/1", "http://sim/r", ())
    followed = progress.Progress()
    seen = [
        followed.follow(view(done), book(machine("m1")), ())[0],
        followed.follow(view(done, reports=(report,)), book(machine("m1")), ())[0],
        followed.follow(view(done, reports=(report,)), book(machine("m1")), {"m1"})[0],
    ]
    assert [one.step for one in seen] == [Step.ENDED, Step.REPORTED, Step.GONE]
    assert seen[-1].text == "done: waited 2.0 s, ran 3.5 s, reported, instance gone"
