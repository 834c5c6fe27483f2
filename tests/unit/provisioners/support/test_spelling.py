from __future__ import annotations

import pytest

from provisioners.support import spelling

GPUS = ("a10g", "a100-40", "a100-80", "t4")


@pytest.mark.parametrize(
    ("word", "known", "close"),
    [
        pytest.param("A10G", GPUS, ["a10g"], id="case does not count"),
        pytest.param("max-job", ["max_job", "idle"], ["max_job"], id="nor does the dash"),
        pytest.param("a100", GPUS, ["a100-40", "a100-80"], id="the beginning of several"),
        pytest.param("nvidia-tesla-t4", GPUS, ["t4"], id="a part of it"),
        pytest.param("us-est-1", ["us-east-1", "us-west-1"], ["us-east-1", "us-west-1"], id="just as near"),
        pytest.param("spot-than-x", ["spot", "spot-then-x"], ["spot-then-x"], id="a slip, although a part is known"),
        pytest.param("githup", ["github", "gitlab"], ["github"], id="spelt like it"),
        pytest.param("xyz", GPUS, [], id="nothing near"),
        pytest.param("x", [], [], id="nothing known"),
    ],
)
def test_the_names_that_were_probably_meant(word: str, known: list[str], close: list[str]) -> None:
    assert sorted(spelling.close(word, known)) == close
    found = spelling.closest(word, known)
    assert found in close if close else found is None


def test_a_hint_has_what_is_near_else_all_there_is_when_that_is_little() -> None:
    assert spelling.nearest("a100", GPUS) == '; did you mean "a100-40" or "a100-80"?'
    assert spelling.nearest("xyz", ["b", "a"]) == "; known: a, b"
    assert spelling.nearest("xyz", [f"name-{number}" for number in range(17)]) == ""
