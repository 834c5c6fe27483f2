"""What the demo claims at its end, counted from the forges and the clouds alone.  Pure.

The daemon is not asked: whether jobs ran once, and whether anything is left, is for others to say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runnerd.demo import calls, forge


@dataclass(frozen=True, slots=True)
class Proof:
    """The numbers at the end."""

    #: How many jobs the demo meant to queue.
    wanted: int
    queued: int
    succeeded: int
    failed: int
    #: Jobs that were begun more than once, or never.
    not_once: int
    created: int
    twice: int
    #: Instances that a cloud still lists, or processes of instances, whichever is more.
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
        """What is not as promised, in plain words; empty when all is well."""
        claims = [
            (self.queued == self.wanted, f"{self.queued} of {self.wanted} jobs were queued"),
            (self.succeeded == self.queued, f"{self.queued - self.succeeded} jobs did not succeed"),
            (self.not_once == 0, f"{self.not_once} jobs were not begun exactly once"),
            (self.created >= self.queued, f"{self.created} instances cannot have run {self.queued} jobs once each"),
            (self.twice == 0, f"{self.twice} instances were created twice"),
            (self.left == 0, f"{self.left} instances or processes are left"),
            (self.refused > 0, "the first cloud was never out of capacity"),
            (self.unreported == 0, f"{self.unreported} jobs have no report"),
            (not self.broken, f"reports without their image: {', '.join(self.broken)}"),
            (self.dollars <= self.budget, f"${self.dollars:.4f} is more than the budget of ${self.budget:.2f}"),
        ]
        return [words for holds, words in claims if not holds]

    def as_json(self) -> dict[str, Any]:
        """The last line of `--json`."""
        return {
            "jobs": {"queued": self.queued, "succeeded": self.succeeded, "failed": self.failed},
            "instances": {"created": self.created, "left": self.left},
            "reports": list(self.reports),
            "wait_seconds": {"p50": round(self.wait_p50, 3), "p95": round(self.wait_p95, 3)},
        }

    def rows(self) -> list[tuple[str, str]]:
        """The table for people."""
        once = "each of them once" if not self.not_once else f"{self.not_once} NOT ONCE"
        return [
            ("jobs", f"{self.succeeded} of {self.queued} succeeded, {once}"),
            ("reports", f"{len(self.reports)} posted, {self._images}"),
            ("instances", f"{self.created} made, {self.twice} created twice, {self.left} left"),
            ("trouble", f"out of capacity {self.refused} x, answer lost {self.unanswered} x, daemon killed 1 x"),
            ("waits", f"p50 {self.wait_p50:.1f} s, p95 {self.wait_p95:.1f} s, from queued to running"),
            ("cost", f"${self.dollars:.4f} simulated, of a budget of ${self.budget:.2f} a day"),
        ]

    @property
    def _images(self) -> str:
        return "all images can be seen" if not self.broken else f"{len(self.broken)} WITHOUT IMAGE"


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least that share of them does not exceed; 0 for none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def draw(
    view: forge.View,
    book: calls.Book,
    *,
    wanted: int,
    left: int,
    broken: Sequence[str],
    budget: float,
    now: float,
) -> Proof:
    """Count."""
    jobs = view.jobs
    waits = [job.started_at - job.queued_at for job in jobs if job.started_at]
    found = [view.report(job) for job in jobs]
    succeeded = sum(job.conclusion == "success" for job in jobs)
    return Proof(
        wanted=wanted,
        queued=len(jobs),
        succeeded=succeeded,
        failed=sum(job.status == "completed" for job in jobs) - succeeded,
        not_once=sum(job.starts != 1 for job in jobs),
        created=len(book.machines),
        twice=book.twice,
        left=left,
        refused=len(book.refusals),
        unanswered=len(book.unanswered),
        reports=tuple(one.url for one in found if one is not None),
        unreported=sum(one is None for one in found),
        broken=tuple(broken),
        wait_p50=percentile(waits, 0.5),
        wait_p95=percentile(waits, 0.95),
        dollars=book.dollars(now),
        budget=budget,
    )
