from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from runnerd import model
from runnerd.forges import base
from runnerd.forges.gitlab import jobs, matching

SPEC = base.QueueSpec(model.Queue("gl", "acme", "gpu-t4"), ("gpu-t4", "big"))


def view(*tags: str, **fields: Any) -> jobs.JobView:
    row = {"id": 5, "status": "pending", "name": "train", "ref": "main", "tag_list": list(tags), "pipeline": {"id": 3}}
    return jobs.read({**row, **fields}, 1)


@pytest.mark.parametrize(
    ("tags", "untagged", "fits"),
    [
        (["gpu-t4"], False, True),
        (["gpu-t4", "big"], False, True),
        (["big"], False, True),
        (["gpu-t4", "other"], False, False),
        (["GPU-T4"], False, False),
        ([], False, False),
        ([], True, True),
        (["other"], True, False),
    ],
)
def test_a_job_fits_when_all_its_tags_are_the_runners(tags: list[str], untagged: bool, fits: bool) -> None:
    assert matching.tags_fit(dataclasses.replace(SPEC, untagged=untagged), tags) is fits


@pytest.mark.parametrize(
    ("repos", "repo", "fits"),
    [
        ((), "acme/ml", True),
        (("acme/nlp-*",), "acme/nlp-one", True),
        (("acme/nlp-*",), "acme/ml", False),
        (("acme/ml", "acme/x"), "acme/x", True),
        (("acme/*",), "acme/sub/deep", True),
    ],
)
def test_the_operators_globs_decide(repos: tuple[str, ...], repo: str, fits: bool) -> None:
    assert matching.allowed(dataclasses.replace(SPEC, repos=repos), repo, public=False) is fits


def test_public_projects_need_the_operators_word() -> None:
    assert not matching.allowed(SPEC, "acme/ml", public=True)
    assert matching.allowed(dataclasses.replace(SPEC, public=True), "acme/ml", public=True)


@pytest.mark.parametrize(
    ("ref", "is_tag", "covered"),
    [
        ("main", False, True),
        ("release/1", False, True),
        ("feature", False, False),
        ("main", True, False),
        ("v1.0", True, True),
        ("v1.0", False, False),
        ("refs/merge-requests/1/head", False, False),
        ("what", False, False),
    ],
)
def test_protected_refs_are_known_by_pattern(ref: str, is_tag: bool, covered: bool) -> None:
    protection = matching.Protection(branches=("main", "release/*", "wh?t", "[ab]"), tags=("v*",))
    assert protection.covers(ref, is_tag=is_tag) is covered


def test_the_first_pool_that_may_gets_the_job() -> None:
    safe = dataclasses.replace(SPEC, protected_only=True)
    other = dataclasses.replace(SPEC, queue=model.Queue("gl", "acme", "other"))
    protection = matching.Protection(branches=("main",))
    assert matching.choose([safe, other], view("big"), protection) is safe
    assert matching.choose([safe, other], view("big", ref="feature"), protection) is other
    assert matching.choose([safe], view("big", ref="feature"), protection) is None
    assert matching.choose([safe], view("big"), None) is None
