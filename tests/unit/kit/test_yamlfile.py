from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runnerd import errors
from runnerd.kit import yamlfile


def refusal(text: str) -> str:
    with pytest.raises(errors.ConfigInvalid) as caught:
        yamlfile.parse(text, file="runnerd.yaml")
    return str(caught.value)


def test_knows_line_and_column_of_keys_and_entries() -> None:
    document = yamlfile.parse("pools:\n  gpu:\n    labels: [a, b]\n    from:\n      - aws\n")
    assert document.position(("pools", "gpu", "labels")) == yamlfile.Position(3, 5)
    assert document.position(("pools", "gpu", "labels", 1)) == yamlfile.Position(3, 17)
    assert document.position(("pools", "gpu", "from", 0)) == yamlfile.Position(5, 9)


def test_points_to_the_block_above_for_a_key_that_is_absent() -> None:
    document = yamlfile.parse("a: 1\npools:\n  gpu: {}\n")
    assert document.position(("pools", "gpu", "labels", 3)).line == 3
    assert document.position(("limits",)) == yamlfile.Position(1, 1)


def test_words_stay_words() -> None:
    text = "a: [yes, no, on, off, 12:30, 2026-01-01, 010, 0x1f, 1_000, .inf, '1', \"true\"]"
    words = ["yes", "no", "on", "off", "12:30", "2026-01-01", "010", "0x1f", "1_000", ".inf", "1", "true"]
    assert yamlfile.parse(text).data == {"a": words}


def test_reads_numbers_flags_and_nothing() -> None:
    assert yamlfile.parse("a: [1, -2, 1.5, 1e3, true, False, null, ~]\nb:\n").data == {
        "a": [1, -2, 1.5, 1000.0, True, False, None, None],
        "b": None,
    }


def test_keys_are_always_texts() -> None:
    assert yamlfile.parse("1: a\ntrue: b\n").data == {"1": "a", "true": "b"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "a: 1\nb: 2\na: 3\n",
            "runnerd.yaml:3: a: duplicate key; the first is on line 1",
            id="duplicate",
        ),
        pytest.param(
            "pools:\n  x: {idle: 1m, idle: 2m}\n",
            "runnerd.yaml:2: pools.x.idle: duplicate key; the first is on line 2",
            id="duplicate-in-flow",
        ),
        pytest.param(
            "a: &x 1\nb: *x\n",
            "runnerd.yaml:1: anchors and aliases (& and *) are not supported; write the value out or use defaults",
            id="anchor",
        ),
        pytest.param(
            "a:\n  <<: {b: 1}\n",
            'runnerd.yaml:2: a."<<": merge keys (<<) are not supported; write the values out or use defaults',
            id="merge-key",
        ),
        pytest.param(
            "a: !!python/object/apply:os.system [echo]\n",
            "runnerd.yaml:1: the tag !!python/object/apply:os.system is not supported; write the plain value",
            id="object",
        ),
        pytest.param(
            "a: 1\n---\nb: 2\n",
            "runnerd.yaml:2: a second document begins here (---); one file holds one",
            id="two",
        ),
        pytest.param("a:\n\tb: 1\n", "runnerd.yaml:2: a tab character; indent with spaces", id="tab"),
        pytest.param("a: b: c\n", "runnerd.yaml:1: a colon too many, or wrong indentation", id="colon"),
        pytest.param("- 1\n", "runnerd.yaml:1: expected keys and values at the top", id="list"),
        pytest.param("", "runnerd.yaml: is empty", id="empty"),
        pytest.param("# only a comment\n", "runnerd.yaml: is empty", id="comment"),
        pytest.param("a: 1\nb: \x07\n", "runnerd.yaml:2: a control character; remove it", id="control"),
        pytest.param("? [a]\n: 1\n", "runnerd.yaml:1: a key must be a word", id="key"),
    ],
)
def test_refuses_with_the_place(text: str, message: str) -> None:
    assert refusal(text) == message


def test_tells_all_duplicates_at_once() -> None:
    assert refusal("a: 1\na: 2\nb: {c: 1, c: 2}\n").count("duplicate key") == 2


def test_a_flood_of_aliases_is_refused_before_it_unfolds() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60)]
    assert "anchors" in refusal("\n".join(lines))


@pytest.mark.parametrize("text", ["a: " + "[" * 3000 + "]" * 3000, "a: " + "{b: " * 60 + "1" + "}" * 60])
def test_refuses_endless_nesting(text: str) -> None:
    assert "is nested too deeply" in refusal(text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigInvalid, match=r"nowhere\.yaml: cannot be read: No such file or directory"):
        yamlfile.read(tmp_path / "nowhere.yaml")


def test_a_file_that_is_not_text_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "runnerd.yaml"
    path.write_bytes(b"a: 1\nb: caf\xe9\n")
    with pytest.raises(errors.ConfigInvalid) as caught:
        yamlfile.read(path)
    assert (caught.value.problems[0].line, caught.value.problems[0].column) == (2, 7)


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "runnerd.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert yamlfile.read(path).data == {"a": 1}


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "runnerd.yaml"
    path.write_bytes(b"#" * (yamlfile.LARGEST_BYTES + 1))
    with pytest.raises(errors.ConfigInvalid, match="is larger than"):
        yamlfile.read(path)


def test_paths_read_as_people_write_them() -> None:
    path = ("pools", "gpu-t4", "warm", "Mon 08:00-09:00", "labels", 0)
    assert yamlfile.dotted(path) == 'pools.gpu-t4.warm."Mon 08:00-09:00".labels[0]'


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_with_problems(text: str) -> None:
    try:
        document = yamlfile.parse(text)
    except errors.ConfigInvalid as error:
        assert error.problems
    else:
        assert isinstance(document.data, dict)
