"""Rules about labels."""

from __future__ import annotations

import pytest

from tests.unit.config.sample import changed, problems, read


@pytest.mark.parametrize(
    ("label", "why"),
    [
        ("a,b", "a comma separates labels"),
        ("gpu t4", "it contains whitespace or a control character"),
        ("gpu\u200b", "it contains whitespace or a control character"),
        ("x" * 257, "it is longer than 256 characters"),
    ],
)
def test_refuses_labels_that_no_job_can_match(label: str, why: str) -> None:
    found = problems(changed(pools__gpu_1t4__labels=["ok", label]))
    assert found == [f"pools.gpu-t4.labels[1]: no job can match this label: {why}"]


def test_refuses_an_empty_set_of_labels_and_an_empty_label() -> None:
    assert problems(changed(pools__gpu_1t4__labels=[])) == [
        "pools.gpu-t4.labels: is empty, so no job can match; name a label, or leave the key out for the pool's name"
    ]
    assert problems(changed(pools__gpu_1t4__labels=[" "])) == ["pools.gpu-t4.labels: an entry of the list is empty"]


def test_github_labels_differ_by_more_than_case() -> None:
    found = problems(changed(pools__gpu_1t4__labels=["gpu", "GPU"]))
    assert found == ['pools.gpu-t4.labels[1]: "GPU" is listed twice (GitHub ignores case)']
    read(changed(pools__gpu_1t4__labels=["gpu", "GPU"], pools__gpu_1t4__forges=["gl"]))


def test_gitlab_takes_fifty_tags() -> None:
    found = problems(changed(pools__gpu_1t4__labels=[f"l{n}" for n in range(51)]))
    assert found == ["pools.gpu-t4.labels: has 51 labels; gitlab takes at most 50"]
