"""Every configuration that is shipped or shown as an example loads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runnerd import config
from tests.support.tree import ROOT

CONFIG = ROOT / "config"
#: The mark above a complete configuration in a page.
MARK = re.compile(r"<!-- example configuration: [^>]*-->\n```yaml\n(.*?)```", re.DOTALL)


def environment(text: str) -> dict[str, str]:
    """Return a value for each variable that a configuration refers to."""
    return dict.fromkeys(re.findall(r"env:([A-Z][A-Z0-9_]*)", text), "a value of the tests")


@pytest.mark.parametrize("path", sorted(CONFIG.rglob("*.yaml")), ids=lambda path: path.name)
def test_a_shipped_configuration_is_valid(path: Path) -> None:
    settings = config.load(path, environ=environment(path.read_text()), reveal=False)
    assert settings.pools and settings.limits.instances


def test_the_configuration_in_the_readme_is_valid(tmp_path: Path) -> None:
    [text] = MARK.findall((ROOT / "README.md").read_text())
    path = tmp_path / "runnerd.yaml"
    path.write_text(text)
    assert list(config.load(path, environ=environment(text)).pools) == ["gpu-t4"]
