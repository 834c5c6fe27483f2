from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from runnerd.demo import cloud_calls, forge, results

JOB = forge.Job(
    id=1,
    forge="github",
    repo="acme/digits",
    pull=1,
    status="completed",
    conclusion="success",
    runner="m1",
    queued_at=10.0,
    started_at=12.0,
    finished_at=15.0,
    starts=1,
)
REPORT = forge.Report("github", "acme/digits", "pull/1", "http://sim/r", ("http://sim/i.png",))
MACHINE = cloud_calls.Machine("i-1", "k1", "m1", "roomy", 0.5, created_at=0.0, ended_at=3600.0)
REFUSAL = cloud_calls.Refusal("m1", "thrifty", "InsufficientCapacity", 10.0)


def draw(job: forge.Job = JOB, *, reports: tuple[forge.Report, ...] = (REPORT,), **changes: Any) -> results.Results:
    book = cloud_calls.Record({("roomy", "i-1"): MACHINE}, changes.pop("refusals", (REFUSAL,)), ())
    facts = {"wanted": 1, "left": 0, "broken": (), "budget": 1.0, "now": 9000.0, **changes}
    return results.count(forge.View((job,), {}, reports), book, **facts)


def test_a_good_end_has_no_problems_and_says_so_in_the_promised_shape() -> None:
    found = draw()
    assert found.problems == []
    assert found.as_json() == {
        "jobs": {"queued": 1, "succeeded": 1, "failed": 0},
        "instances": {"created": 1, "left": 0},
        "reports": ["http://sim/r"],
        "wait_seconds": {"p50": 2.0, "p95": 2.0},
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"wanted": 2}, "1 of 2 jobs were queued", id="a job is missing"),
        pytest.param({"job": dataclasses.replace(JOB, starts=2)}, "not started exactly once", id="run twice"),
        pytest.param({"job": dataclasses.replace(JOB, conclusion="failure")}, "did not succeed", id="failed"),
        pytest.param({"reports": ()}, "have no report", id="unreported"),
        pytest.param({"left": 1}, "are left", id="left behind"),
        pytest.param({"broken": ("http://sim/r",)}, "without their image", id="no image"),
        pytest.param({"budget": 0.1}, "more than the budget", id="over the budget"),
        pytest.param({"refusals": ()}, "never out of capacity", id="nothing went wrong"),
    ],
)
def test_what_is_not_as_promised_is_named(changes: dict[str, Any], words: str) -> None:
    assert words in " ".join(draw(**changes).problems)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([], 0.5, 0.0), ([3.0], 0.95, 3.0), ([4.0, 1.0, 3.0, 2.0], 0.5, 2.0), ([1.0, 2.0, 3.0, 4.0], 0.95, 4.0)],
)
def test_a_percentile_is_one_of_the_values(values: list[float], share: float, expected: float) -> None:
    assert results.percentile(values, share) == expected
