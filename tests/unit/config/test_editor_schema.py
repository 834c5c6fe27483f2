"""The JSON Schema for editors against the examples and the daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from runnerd import config
from runnerd.kit import yamlfile
from tests.support.tree import ROOT
from tests.unit.config.sample import BASE, changed

EXAMPLES = sorted((ROOT / "config").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_shipped_examples_are_valid(path: Path) -> None:
    settings = config.load(path, environ={}, reveal=False)
    assert settings.pools
    jsonschema.validate(yamlfile.read(path).data, config.json_schema())


def test_the_minimal_example_has_at_most_twelve_lines() -> None:
    assert len((ROOT / "config" / "minimal.yaml").read_text().splitlines()) <= 12


@pytest.mark.parametrize(
    "paths",
    [
        {"pool": {}},
        {"defaults__idle": 10},
        {"pools__gpu_1t4__market": "cheap"},
        {"forges__gl__token": "glpat-x"},
        {"limits": ...},
        {"pools__gpu_1t4__name": "x"},
        {"providers__aws__type": 3},
    ],
)
def test_the_schema_refuses_what_the_daemon_refuses(paths: dict[str, Any]) -> None:
    schema = config.json_schema()
    jsonschema.validate(BASE, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(changed(**paths), schema)
