"""docs/alarms.md lists every alarm that the code raises, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from runnerd.forges.gitlab import heartbeat
from tests.support.tree import ROOT

#: Method and number of arguments -> the place of the alarm's id among them.
RAISES = {("ring", 4): 2, ("alarm", 4): 2, ("alarm", 2): 0, ("failed", 3): 1}


def raised() -> Iterator[str]:
    """Yield the ids in the calls that raise alarms."""
    yield heartbeat.REASON
    for path in (ROOT / "runnerd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                place = RAISES.get((node.func.attr, len(node.args)))
                if place is not None:
                    id = node.args[place]
                    if isinstance(id, ast.Constant) and isinstance(id.value, str):
                        yield id.value


def test_every_alarm_is_explained_and_every_explained_alarm_is_raised() -> None:
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "alarms.md").read_text(), re.MULTILINE)
    explained = {id for row in rows for id in re.findall(r"`([a-z-]+)`", row)}
    assert explained == set(raised())
