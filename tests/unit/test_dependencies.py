"""docs/dependencies.md names the modules that import each package."""

from __future__ import annotations

import ast
import functools
import re

import pytest

from tests.support.tree import ROOT

#: Package -> the module to import, where the names differ.
MODULES = {
    "alembic": "alembic",
    "azure-identity": "azure.identity",
    "azure-mgmt-compute": "azure.mgmt.compute",
    "google-cloud-compute": "google.cloud",
    "markdown-it-py": "markdown_it",
    "prometheus-client": "prometheus_client",
    "pyjwt": "jwt",
    "pyyaml": "yaml",
    "tzdata": "zoneinfo",
}
#: Modules that use a package without importing it: pyjwt signs with cryptography.
INDIRECT = {"cryptography": {"runnerd/forges/github/auth.py"}}


@functools.cache
def imports() -> dict[str, frozenset[str]]:
    """Return the modules that each file of the packages imports."""
    found = {}
    for tree in ("runnerd", "provisioners"):
        for path in (ROOT / tree).rglob("*.py"):
            names: set[str] = set()
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    names |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            found[str(path.relative_to(ROOT))] = frozenset(names)
    return found


def importers(package: str) -> set[str]:
    module = MODULES.get(package, package)
    return {
        path
        for path, names in imports().items()
        if any(name == module or name.startswith(f"{module}.") for name in names)
    }


def rows() -> list[tuple[str, list[str]]]:
    """Return each package for use at runtime with the files and folders that its row names."""
    text = (ROOT / "docs" / "dependencies.md").read_text().split("## Development")[0]
    lines = re.findall(r"^\| `([\w.-]+)` \|.*\| ([^|]+) \|$", text, re.MULTILINE)
    return [(package, re.findall(r"`([^`]+)`", places)) for package, places in lines]


@pytest.mark.parametrize(("package", "places"), rows(), ids=[package for package, _ in rows()])
def test_a_package_is_imported_where_its_row_says_and_nowhere_else(package: str, places: list[str]) -> None:
    users = importers(package) | INDIRECT.get(package, set())

    def inside(path: str, place: str) -> bool:
        return path == place or (place.endswith("/") and path.startswith(place))

    assert [path for path in sorted(users) if not any(inside(path, place) for place in places)] == []
    assert [place for place in places if not any(inside(path, place) for path in users)] == []
