"""A plant for each test; after a failure its story stands in the report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import plant as plants
from tests.e2e import site as sites

_PLANT: pytest.StashKey[plants.Plant] = pytest.StashKey()


@pytest.fixture
def plant(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[plants.Plant]:
    """A directory for a simulator and a daemon; everything that runs in it ends with the test."""
    with plants.plant(tmp_path) as made:
        request.node.stash[_PLANT] = made
        yield made


@pytest.fixture
def site(plant: plants.Plant) -> Iterator[sites.Site]:
    """The plant with simulated forges and clouds running; configuration and daemon are the test's own."""
    plant.start_simulator()
    with sites.site(plant) as made:
        yield made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Any:
    report = yield
    made = item.stash.get(_PLANT, None)
    if made is not None and report.when == "call" and report.failed:
        report.sections.append(("the plant", made.story()))
    return report
