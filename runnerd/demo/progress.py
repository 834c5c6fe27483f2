"""The progress of each job, computed from the state of forges and clouds.  Pure.

Instances are not assigned to jobs in advance: a waiting job is shown with the next instance that starts; the one that
really took it is known when the forge names the runner.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from runnerd.demo import cloud_calls, forge


class Step(enum.IntEnum):
    """The steps of a job; later ones are greater."""

    #: Queued at its forge; no instance is being started for it.
    QUEUED = 0
    #: An instance boots.
    BOOTING = 1
    #: An instance's runner is registered.
    READY = 2
    #: A runner took it.
    RUNNING = 3
    #: It ended.
    ENDED = 4
    #: It ended, and its report was posted.
    REPORTED = 5
    #: Its instance is gone.
    GONE = 6


@dataclass(frozen=True, slots=True)
class Line:
    """The displayed state of one job."""

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
        """The state as text, about sixty characters at most."""
        job = self.job
        if self.step is Step.QUEUED:
            return "queued"
        if self.step is Step.BOOTING:
            return f"instance booting at {self.cloud}"
        if self.step is Step.READY:
            return f"runner ready at {self.cloud}"
        if self.step is Step.RUNNING:
            return f"running on {self.machine}" + (f" at {self.cloud}" if self.cloud else "")
        outcome = "done" if job.conclusion == "success" else job.conclusion
        times = f"{outcome}: waited {self.waited:.1f} s, ran {self.ran:.1f} s"
        if self.step is Step.ENDED:
            return times
        if self.step is Step.REPORTED:
            return f"{times}, reported"
        return f"{times}, {'reported' if self.report else 'NO REPORT'}, instance gone"


@dataclass(slots=True)
class Progress:
    """Follows the jobs from poll to poll."""

    #: Job -> the name of the instance shown with it while it waits.
    _shown_with: dict[int, str]

    def __init__(self) -> None:
        self._shown_with = {}

    def follow(self, view: forge.View, record: cloud_calls.Record, gone: Collection[str]) -> list[Line]:
        """Return one line per job; `gone` are the names of instances that ended and have no processes."""
        machines = {machine.name: machine for machine in record.machines.values()}
        self._set_shown_with(view, machines, gone)
        return [self._line(job, view, machines, gone) for job in view.jobs]

    def _set_shown_with(
        self, view: forge.View, machines: Mapping[str, cloud_calls.Machine], gone: Collection[str]
    ) -> None:
        taken = {job.runner for job in view.jobs if job.runner}
        starting = [
            name
            for name, machine in machines.items()
            if name not in taken and name not in gone and not machine.ended_at
        ]
        waiting = [job for job in view.jobs if job.status == "queued"]
        fits = {
            (job.id, name) for job in waiting for name in starting if view.runners.get(name, job.forge) == job.forge
        }
        self._shown_with = {
            job.id: self._shown_with[job.id] for job in waiting if (job.id, self._shown_with.get(job.id, "")) in fits
        }
        for job in waiting:
            free = (name for name in starting if name not in self._shown_with.values() and (job.id, name) in fits)
            if job.id not in self._shown_with and (name := next(free, "")):
                self._shown_with[job.id] = name

    def _line(
        self, job: forge.Job, view: forge.View, machines: Mapping[str, cloud_calls.Machine], gone: Collection[str]
    ) -> Line:
        name = job.runner or self._shown_with.get(job.id, "")
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
