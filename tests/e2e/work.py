"""Jobs that write down each time they run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e import plant as plants
from tests.e2e import processes


@dataclass(slots=True)
class Work:
    """Jobs on both forges of a plant."""

    plant: plants.Plant
    #: Id at the simulator -> the file that the job writes a line to when it begins and when it ends.
    marks: dict[int, Path] = field(default_factory=dict)

    def add(
        self, count: int = 1, *, seconds: float = 0.5, labels: Sequence[str] = ("gpu-t4",), forge: str = ""
    ) -> None:
        """Queue jobs, on one forge or on both in turn."""
        directory = self.plant.directory / "marks"
        directory.mkdir(exist_ok=True)
        for _ in range(count):
            number = len(self.marks)
            where = forge or ("github", "gitlab")[number % 2]
            path = directory / f"{where}-{number}"
            script = [f"echo began >> {path}", f"sleep {seconds:.2f}", f"echo ended >> {path}"]
            [id] = self.plant.forges.queue(where, script=script, labels=list(labels))
            self.marks[id] = path

    def jobs(self) -> list[dict[str, Any]]:
        """Return the forges' view of them, in the order in which they were queued."""
        found = {job["id"]: job for job in self.plant.forges.jobs()}
        return [found[id] for id in self.marks]

    def waiting(self) -> int:
        return sum(job["status"] != "completed" for job in self.jobs())

    def await_done(self, seconds: float) -> None:
        """Returns when all of them are completed."""
        try:
            processes.until(lambda: not self.waiting(), "every job is completed", seconds=seconds, pause=0.2)
        except processes.TookTooLong as error:
            open_ = [(job["forge"], job["id"], job["status"]) for job in self.jobs() if job["status"] != "completed"]
            raise processes.TookTooLong(f"{error}; {len(open_)} are not: {open_[:10]}") from None

    def assert_each_ran_once(self) -> None:
        for job in self.jobs():
            assert (job["status"], job["conclusion"], job["starts"]) == ("completed", "success", 1), job
            assert self.marks[job["id"]].read_text().split() == ["began", "ended"], job
