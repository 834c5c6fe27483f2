"""Modules that moved are called by their new names everywhere: in code, tests, configuration files and pages.

Only `provisioners.base`, `.options`, `.offload` and `.testing` are public paths; they stay where they are, so no module
is kept at an old place for the sake of others.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tree import ROOT

PUBLIC = ("base", "offload", "options", "testing")
#: Former names by the package that they were in.
FORMER = {
    "runnerd": (
        "admission agents blame bundle clock configchecks configdocs configforges configpools configproblems "
        "configproviders configtypes controller guard http inquiry intake launcher market notify observer order quotas "
        "reaper registrar retrier schedule secrets station tasks units yamlfile"
    ),
    "runnerd.forges.github": "acquiring audit lapses listener messages polling runs scaleset session sets tally",
    "runnerd.forges.gitlab": "ledger",
    "runnerd.views": "sweep",
    "runnerd.web": "orders",
    "provisioners": "machines notes pace",
    "provisioners.aws": "clients prices views",
    "provisioners.azure": "clients prices views",
    "provisioners.catalogue": "book",
    "provisioners.gcp": "clients place prices views",
    "provisioners.processes": "room",
    "tests.clouds": "arm ec2 gce",
    "tests.unit": "core_fakes small_daemon",
}
#: Histories and recordings, which call things by the names of their day.
EXEMPT = (".git-blame-ignore-revs", "CHANGELOG.md", "tests/contract/upgrade/3124ff6/")
NAMES = [f"{package}.{name}" for package, names in FORMER.items() for name in names.split()]


def texts() -> Iterator[tuple[str, str]]:
    """Yield path and text of every tracked file that may name a module."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a checkout")
    for name in listed.stdout.decode().split("\0"):
        path = ROOT / name
        if name.startswith(EXEMPT) or path == Path(__file__) or not path.is_file():
            continue
        try:
            yield name, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def pattern(name: str) -> re.Pattern[str]:
    """Return what refers to a module: its dotted name, its file, an import from its package."""
    package, _, module = name.rpartition(".")
    file = name.replace(".", "/")
    return re.compile(
        rf"(?<![\w./]){re.escape(name)}(?![\w.]*\()\b|(?<![\w/]){re.escape(file)}\.py\b"
        rf"|^\s*from {re.escape(package)} import (?:[\w ]+, )*{module}\b",
        re.MULTILINE,
    )


def hints(name: str) -> tuple[str, str, str]:
    """Return texts of which a file that matches the pattern has one: these are fast to look for."""
    return name, name.replace(".", "/"), f"from {name.rpartition('.')[0]} import"


@pytest.mark.parametrize("name", NAMES)
def test_there_is_no_module_at_a_former_name(name: str) -> None:
    path = ROOT / name.replace(".", "/")
    assert not path.with_suffix(".py").exists() and not (path / "__init__.py").exists()


def test_no_file_calls_a_module_by_its_former_name() -> None:
    patterns = {name: pattern(name) for name in NAMES}
    survivors = [
        f"{path}: {name}"
        for path, text in texts()
        for name, former in patterns.items()
        if any(hint in text for hint in hints(name)) and former.search(text)
    ]
    assert not survivors, "\n".join(survivors)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_path_stays_where_it_is(name: str) -> None:
    assert (ROOT / "provisioners" / f"{name}.py").exists()


@pytest.mark.parametrize(
    "text",
    [
        "from runnerd import config, station\n",
        "import runnerd.station\n",
        "see `runnerd/station.py`",
        "    runnerd.forges.gitlab.ledger",
        "patch('runnerd.station.Station')",
    ],
)
def test_the_search_finds_a_former_name(text: str) -> None:
    assert any(pattern(name).search(text) for name in NAMES)


@pytest.mark.parametrize(
    "text",
    [
        "from runnerd.runtime import ledger, tokens",
        "tests/unit/kit/clock.py",
        "from runnerd.kit import clock, tasks",
        "docs/runnerd.service",
        "runnerd_station",
    ],
)
def test_the_search_leaves_other_names_alone(text: str) -> None:
    assert not any(pattern(name).search(text) for name in NAMES)
