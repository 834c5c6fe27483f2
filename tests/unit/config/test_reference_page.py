"""docs/configuration.md and the models."""

from __future__ import annotations

from runnerd import config
from tests.support.tree import ROOT


def test_the_reference_in_the_documentation_is_up_to_date() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == config.reference()


def test_every_key_is_described() -> None:
    assert "|  |\n" not in config.reference().replace("| Default | Meaning |", "")
