"""Rows change in the ledger alone: no other room of the daemon can write, and none holds what could."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from runnerd import store
from runnerd.runtime import shared
from tests.support.tree import ROOT

PACKAGE = ROOT / "runnerd"
#: The ledger and the store itself; the agent and the simulator are other programs.
WRITERS = ("runtime/ledger.py", "store/", "agent/", "simulator/")
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if not path.relative_to(PACKAGE).as_posix().startswith(WRITERS))
#: The verbs of the store that change something.
VERBS = frozenset({"write", "prune"})
#: Rows that no room but the ledger has a use for.
CHANGES = frozenset({"Setting", "Cursor", "Unblock"})
#: The ledger's tables.
TABLES = frozenset({"instances", "attempts", "registrations", "jobs", "blocks", "settings", "cursors"})


def offences(tree: ast.AST) -> Iterator[str]:
    """Yield the places at which a module writes rows past the ledger."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            target = ast.unparse(node.func.value)
            if node.func.attr in VERBS and target.split(".")[-1].lstrip("_") in ("store", "history"):
                yield f"line {node.lineno}: {ast.unparse(node.func)}"
            if node.func.attr in CHANGES and target == "store":
                yield f"line {node.lineno}: {ast.unparse(node.func)}"
        targets = node.targets if isinstance(node, ast.Assign | ast.Delete) else []
        for target_node in targets:
            if not isinstance(target_node, ast.Subscript) or not isinstance(target_node.value, ast.Attribute):
                continue
            owner = ast.unparse(target_node.value.value).split(".")[-1].lstrip("_")
            if owner in ("rows", "ledger") and target_node.value.attr.lstrip("_") in TABLES:
                yield f"line {target_node.lineno}: {ast.unparse(target_node)}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_nothing_but_the_ledger_writes_rows(path: Path) -> None:
    assert list(offences(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize(
    "text",
    [
        "await self._runtime.store.write(row)",
        "store.Setting('a', 'b')",
        "del self.runtime.rows.jobs[key]",
        "rows.instances[row.id] = row",
    ],
)
def test_a_write_past_the_ledger_would_be_noticed(text: str) -> None:
    (node,) = ast.parse(f"async def work():\n    {text}").body
    assert list(offences(node))


def test_what_the_rooms_hold_of_the_store_can_only_read() -> None:
    offered = {name for name in vars(shared.History) if not name.startswith("_")}
    assert offered and offered <= set(vars(store.Store))
    assert not offered & {"write", "prune", "probe", "close", "abandon"}
