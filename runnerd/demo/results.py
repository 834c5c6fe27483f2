"""The result of the demo, counted from the records of the forges and the clouds.  Pure.

The daemon is not asked: its work is verified against independent records.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runnerd.demo import cloud_calls, forge


@dataclass(frozen=True, slots=True)
class Results:
    """The numbers at the end."""

    #: The number of jobs that the demo was to queue.
    wanted: int
    queued: int
    succeeded: int
    failed: int
    #: Jobs that were started more than once, or never.
    not_once: int
    created: int
    twice: int
    #: Instances that a cloud still lists, or processes of instances, whichever are more.
    left: int
    refused: int
    unanswered: int
    #: Addresses of the reports.
    reports: tuple[str, ...]
    #: Jobs without a report.
    unreported: int
    #: Addresses of images that cannot be fetched, and of reports without an image.
    broken: tuple[str, ...]
    wait_p50: float
    wait_p95: float
    dollars: float
    budget: float

    @property
    def problems(self) -> list[str]:
        """The failed checks; empty when all passed."""
        checks = [
            (self.queued == self.wanted, f"{self.queued} of {self.wanted} jobs were queued"),
            (self.succeeded == self.queued, f"{self.queued - self.succeeded} jobs did not succeed"),
            (self.not_once == 0, f"{self.not_once} jobs were not started exactly once"),
            (self.created >= self.queued, f"{self.created} instances cannot have run {self.queued} jobs once each"),
            (self.twice == 0, f"{self.twice} instances were created twice"),
            (self.left == 0, f"{self.left} instances or processes are left"),
            (self.refused > 0, "the first cloud was never out of capacity"),
            (self.unreported == 0, f"{self.unreported} jobs have no report"),
            (not self.broken, f"reports without their image: {', '.join(self.broken)}"),
            (self.dollars <= self.budget, f"${self.dollars:.4f} is more than the budget of ${self.budget:.2f}"),
        ]
        return [message for passed, message in checks if not passed]

    def as_json(self) -> dict[str, Any]:
        """Return the document of `--json`."""
        return {
            "jobs": {"queued": self.queued, "succeeded": self.succeeded, "failed": self.failed},
            "instances": {"created": self.created, "left": self.left},
            "reports": list(self.reports),
            "wait_seconds": {"p50": round(self.wait_p50, 3), "p95": round(self.wait_p95, 3)},
        }

    def rows(self) -> list[tuple[str, str]]:
        """Return the rows of the printed table."""
        once = "each started once" if not self.not_once else f"{self.not_once} NOT EXACTLY ONCE"
        return [
            ("jobs", f"{self.succeeded} of {self.queued} succeeded, {once}"),
            ("reports", f"{len(self.reports)} posted, {self._images}"),
            ("instances", f"{self.created} created, {self.twice} created twice, {self.left} left"),
            ("faults", f"out of capacity {self.refused} x, answer lost {self.unanswered} x, daemon killed 1 x"),
            ("waits", f"p50 {self.wait_p50:.1f} s, p95 {self.wait_p95:.1f} s, from queued to running"),
            ("cost", f"${self.dollars:.4f} simulated, of a budget of ${self.budget:.2f} a day"),
        ]

    @property
    def _images(self) -> str:
        return "all with images" if not self.broken else f"{len(self.broken)} WITHOUT IMAGE"


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least that share of the values does not exceed; 0 for none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def count(
    view: forge.View,
    record: cloud_calls.Record,
    *,
    wanted: int,
    left: int,
    broken: Sequence[str],
    budget: float,
    now: float,
) -> Results:
    """Count the results."""
    jobs = view.jobs
    waits = [job.started_at - job.queued_at for job in jobs if job.started_at]
    reports = [view.report(job) for job in jobs]
    succeeded = sum(job.conclusion == "success" for job in jobs)
    return Results(
        wanted=wanted,
        queued=len(jobs),
        succeeded=succeeded,
        failed=sum(job.status == "completed" for job in jobs) - succeeded,
        not_once=sum(job.starts != 1 for job in jobs),
        created=len(record.machines),
        twice=record.twice,
        left=left,
        refused=len(record.refusals),
        unanswered=len(record.unanswered),
        reports=tuple(report.url for report in reports if report is not None),
        unreported=sum(report is None for report in reports),
        broken=tuple(broken),
        wait_p50=percentile(waits, 0.5),
        wait_p95=percentile(waits, 0.95),
        dollars=record.dollars(now),
        budget=budget,
    )
