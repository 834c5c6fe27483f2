"""Pools and forges that see the same jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.config.sample import BASE, changed, loading_problems, problems, read, warned


def overlapping(first: list[str], second: list[str], **more: Any) -> dict[str, Any]:
    return changed(pools={"a": {"labels": first} | more.get("a", {}), "b": {"labels": second} | more.get("b", {})})


@pytest.mark.parametrize(
    ("first", "second"),
    [(["x"], ["x"]), (["x"], ["x", "y"]), (["x", "y"], ["y"]), (["x", "y"], ["y", "x"]), (["X"], ["x"])],
)
def test_pools_that_match_the_same_job_are_refused(first: list[str], second: list[str]) -> None:
    found = problems(overlapping(first, second))
    asked = ", ".join(sorted(first if len(first) <= len(second) else second))
    assert found == [
        f'pools.b.labels: overlaps with pool "a" on forge "acme": a job for [{asked.lower()}] matches both; '
        "change the labels, or set overlap: allowed on both"
    ]


def test_an_overlap_is_named_with_its_line(tmp_path: Path) -> None:
    text = yaml.safe_dump({key: value for key, value in BASE.items() if key != "pools"}, sort_keys=False)
    line = text.count("\n") + 1
    text += "pools:\n  a: {labels: [x]}\n  b:\n    gpu: t4\n    labels: [x, y]\n"
    assert loading_problems(tmp_path, text)[0].startswith(f"runnerd.yaml:{line + 4}: pools.b.labels: overlaps")


def test_an_overlap_needs_the_consent_of_both_pools() -> None:
    allowed = {"overlap": "allowed"}
    assert problems(overlapping(["x"], ["x"], a=allowed))
    read(overlapping(["x"], ["x"], a=allowed, b=allowed))


def test_pools_on_different_forges_do_not_overlap() -> None:
    read(overlapping(["x"], ["x"], a={"forges": ["acme"]}, b={"forges": ["gl"]}))


def test_an_organisation_and_its_repository_see_the_same_jobs() -> None:
    data = overlapping(["x"], ["x"], a={"forges": ["acme"]}, b={"forges": ["repo"]})
    data["forges"]["repo"] = {"type": "github", "url": "https://github.com/ACME/ml", "token": "env:T"}
    assert 'overlaps with pool "a"' in problems(data)[0]
    data["forges"]["repo"]["url"] = "https://github.com/acme-labs/ml"
    read(data)


def test_gitlab_tells_upper_from_lower_case() -> None:
    read(overlapping(["x"], ["X"], a={"forges": ["gl"]}, b={"forges": ["gl"]}))


def test_two_pools_for_untagged_jobs_overlap() -> None:
    untagged = {"untagged": True, "forges": ["gl"]}
    assert "both take jobs without tags" in problems(overlapping(["x"], ["y"], a=untagged, b=untagged))[0]


def test_labels_that_are_shared_in_part_are_a_warning() -> None:
    found = warned(read(overlapping(["x", "a"], ["x", "b"])))
    assert found["pools.b.labels"] == "a job that asks only for [x] matches pool a too"
