"""The mark by which a report is found again."""

from __future__ import annotations

import pytest

from runnerd.agent.cml import watermark


@pytest.mark.parametrize(
    ("label", "title"),
    [
        ("", "CML watermark"),
        ("a", "CML watermark a"),
        ("{workflow}/{run}", "CML watermark train/900"),
        ("{run}{run}", "CML watermark 900{run}"),
        ("a_b*c[d]<e>", r"CML watermark a\_b\*c\[d]\<e>"),
    ],
)
def test_the_mark_reads_as_upstream_writes_it(label: str, title: str) -> None:
    mark = watermark.Watermark(label=label, workflow="train", run="900", sha="abc")
    assert str(mark) == f'![](https://cml.dev/watermark.png#abc "{title}")'


def test_it_is_found_for_any_commit() -> None:
    earlier = watermark.Watermark(label="x", sha="0123abcd")
    assert watermark.Watermark(label="x", sha="ffff").is_in(f"text\n\n{earlier}\nmore")


def test_it_is_found_whether_or_not_the_forge_gave_the_escapes_back() -> None:
    mark = watermark.Watermark(label="my_model*[v1]", sha="ab")
    assert mark.is_in(str(mark))
    assert mark.is_in(str(mark).replace("\\", ""))


@pytest.mark.parametrize("label", ["", "x", "xy z", "x.z"])
def test_another_title_is_not_found(label: str) -> None:
    assert not watermark.Watermark(label=label).is_in(str(watermark.Watermark(label="xyz", sha="ab")))
