"""Where each job stands, told from what forges and clouds show.  Pure.

Instances are counted, not paired: while a job waits, the next instance on its way stands beside it; which one really
took it is known when its forge names the runner.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from runnerd.demo import calls, forge


class Step(enum.IntEnum):
    """How far a job is; later steps are greater."""

    #: Its forge has it, and no instance is on its way.
    QUEUED = 0
    #: An instance boots.
    BOOTING = 1
    #: An instance's runner is registered.
    READY = 2
    #: A runner has it.
    RUNNING = 3
    #: It ended.
    ENDED = 4
    #: It ended and its report is on the request.
    REPORTED = 5
    #: Its instance is gone.
    GONE = 6


@dataclass(frozen=True, slots=True)
class Line:
    """What is told of one job."""

    job: forge.Job
    step: Step
    #: The instance, empty when there is none.
    machine: str = ""
    cloud: str = ""
    report: str = ""

    @property
    def waited(self) -> float:
        return self.job.started_at - self.job.queued_at

    @property
    def ran(self) -> float:
        return self.job.finished_at - self.job.started_at

    @property
    def text(self) -> str:
        """The state in words, at most some sixty characters."""
        job = self.job
        if self.step is Step.QUEUED:
            return "queued"
        if self.step is Step.BOOTING:
            return f"an instance boots at {self.cloud}"
        if self.step is Step.READY:
            return f"a runner is ready at {self.cloud}"
        if self.step is Step.RUNNING:
            return f"runs on {self.machine}" + (f" at {self.cloud}" if self.cloud else "")
        word = "done" if job.conclusion == "success" else job.conclusion
        times = f"{word}: waited {self.waited:.1f} s, ran {self.ran:.1f} s"
        if self.step is Step.ENDED:
            return times
        if self.step is Step.REPORTED:
            return f"{times}, reported"
        return f"{times}, {'reported' if self.report else 'NO REPORT'}, instance gone"


@dataclass(slots=True)
class Progress:
    """Follows the jobs from look to look."""

    #: Job -> the name of the instance that stands beside it while it waits.
    _beside: dict[int, str]

    def __init__(self) -> None:
        self._beside = {}

    def follow(self, view: forge.View, book: calls.Book, gone: Collection[str]) -> list[Line]:
        """One line per job; `gone` are the names of instances that ended and have no processes."""
        machines = {machine.name: machine for machine in book.machines.values()}
        self._set_beside(view, machines, gone)
        return [self._line(job, view, machines, gone) for job in view.jobs]

    def _set_beside(self, view: forge.View, machines: Mapping[str, calls.Machine], gone: Collection[str]) -> None:
        taken = {job.runner for job in view.jobs if job.runner}
        rising = [
            name
            for name, machine in machines.items()
            if name not in taken and name not in gone and not machine.ended_at
        ]
        waiting = [job for job in view.jobs if job.status == "queued"]
        fits = {(job.id, name) for job in waiting for name in rising if view.runners.get(name, job.forge) == job.forge}
        self._beside = {
            job.id: self._beside[job.id] for job in waiting if (job.id, self._beside.get(job.id, "")) in fits
        }
        for job in waiting:
            free = (name for name in rising if name not in self._beside.values() and (job.id, name) in fits)
            if job.id not in self._beside and (name := next(free, "")):
                self._beside[job.id] = name

    def _line(
        self, job: forge.Job, view: forge.View, machines: Mapping[str, calls.Machine], gone: Collection[str]
    ) -> Line:
        name = job.runner or self._beside.get(job.id, "")
        machine = machines.get(name)
        cloud = machine.cloud if machine else ""
        if job.status == "queued":
            step = Step.QUEUED
            if machine is not None:
                step = Step.READY if name in view.runners else Step.BOOTING
            return Line(job, step, name, cloud)
        if job.status != "completed":
            return Line(job, Step.RUNNING, name, cloud)
        report = view.report(job)
        step = Step.REPORTED if report else Step.ENDED
        if name in gone or not name:
            step = Step.GONE
        return Line(job, step, name, cloud, report.url if report else "")
