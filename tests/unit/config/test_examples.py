"""Every configuration that is shipped loads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runnerd import config

CONFIG = Path(__file__).parents[3] / "config"


@pytest.mark.parametrize("path", sorted(CONFIG.rglob("*.yaml")), ids=lambda path: path.name)
def test_a_shipped_configuration_is_valid(path: Path) -> None:
    names = set(re.findall(r"env:([A-Z][A-Z0-9_]*)", path.read_text()))
    settings = config.load(path, environ=dict.fromkeys(names, "a value of the tests"), reveal=False)
    assert settings.pools and settings.limits.instances
