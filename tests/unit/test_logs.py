"""The log: fields, one line per record, and no secret in it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from runnerd import logs
from runnerd.kit import redaction


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    found = io.StringIO()
    root, level = logging.getLogger(), logging.getLogger().level
    yield found
    for handler in [one for one in root.handlers if one.get_name() == "runnerd"]:
        root.removeHandler(handler)
    root.setLevel(level)
    for name in ("runnerd", "provisioners"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    logging.captureWarnings(False)


def test_extra_fields_are_fields_of_the_json_line(stream: io.StringIO) -> None:
    logs.set_up(level="info", format="json", stream=stream)
    logging.getLogger("runnerd.x").info("instance %s moved", "i-1", extra={"instance": "i-1", "job": ""})
    found = json.loads(stream.getvalue())
    assert (found["message"], found["instance"], found["level"]) == ("instance i-1 moved", "i-1", "info")
    assert "job" not in found and found["at"].endswith("Z")


def test_text_has_the_fields_at_its_end_and_a_foreign_line_break_starts_no_line(stream: io.StringIO) -> None:
    logs.set_up(level="info", format="text", stream=stream, stamped=False)
    logging.getLogger("runnerd.x").warning("said: %s", "a\ninfo    x: forged", extra={"pool": "gpu"})
    assert stream.getvalue() == "warning x: said: a\n    info    x: forged pool=gpu\n"


@pytest.mark.parametrize("format", ["text", "json"])
def test_secrets_are_masked_in_messages_fields_and_traces(stream: io.StringIO, format: str) -> None:
    redaction.learn("correct-horse-battery")
    logs.set_up(level="info", format=format, stream=stream)
    try:
        raise ValueError("it was correct-horse-battery")
    except ValueError:
        logging.getLogger("runnerd.x").exception(
            "correct-horse-battery and %s", "ghp_0123456789abcdef0123", extra={"detail": "correct-horse-battery"}
        )
    assert "horse" not in stream.getvalue() and "ghp_" not in stream.getvalue()
    assert "ValueError" in stream.getvalue()


def test_the_level_counts_for_ours_and_libraries_are_quiet(stream: io.StringIO) -> None:
    logs.set_up(level="debug", format="json", stream=stream)
    logs.set_up(level="debug", format="json", stream=stream)
    logging.getLogger("runnerd.x").debug("ours")
    logging.getLogger("sqlalchemy.engine").info("theirs")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["ours"]
