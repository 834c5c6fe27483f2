"""The package without its SDK, and the checker of schemas against another one."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import googleapiclient
import jsonschema
import pytest

from tests.clouds.gcp import schema
from tests.support.tree import ROOT

DOCUMENT = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents" / "compute.v1.json"


def test_without_the_sdk_the_import_says_what_to_install() -> None:
    script = "import sys; sys.modules['google.cloud.compute_v1'] = None; import provisioners.gcp"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, cwd=ROOT)
    assert ended.returncode == 1
    assert "ImportError: Google Cloud needs its SDK: install runnerd[gcp]" in ended.stderr


def _converted(node: Any) -> Any:
    """A discovery schema as JSON Schema."""
    if isinstance(node, list):
        return [_converted(one) for one in node]
    if not isinstance(node, dict):
        return node
    found: dict[str, Any] = {}
    for key in ("type", "enum", "pattern", "items", "additionalProperties"):
        if key in node:
            found[key] = _converted(node[key])
    if "$ref" in node:
        found["$ref"] = f"#/definitions/{node['$ref']}"
    if "pattern" in found:
        found["pattern"] = f"^(?:{found['pattern']})$"
    if isinstance(node.get("properties"), dict):
        found["properties"] = {key: _converted(one) for key, one in node["properties"].items()}
        found.setdefault("additionalProperties", False)
    if node.get("format") in ("int64", "uint64"):
        found["pattern"] = r"^-?\d{1,20}$"
    return found


@pytest.fixture(scope="module")
def official() -> jsonschema.Draft7Validator:
    """The schema of an instance, as a validator that is not ours sees it."""
    definitions = {key: _converted(one) for key, one in json.loads(DOCUMENT.read_text())["schemas"].items()}
    return jsonschema.Draft7Validator({"$ref": "#/definitions/Instance", "definitions": definitions})


GOOD = {
    "name": "ci-1",
    "machineType": "zones/us-central1-a/machineTypes/g2-standard-8",
    "labels": {"a": "b"},
    "scheduling": {"provisioningModel": "SPOT", "maxRunDuration": {"seconds": "7200"}, "automaticRestart": False},
    "disks": [{"boot": True, "initializeParams": {"diskSizeGb": "100"}}],
    "guestAccelerators": [{"acceleratorType": "x", "acceleratorCount": 1}],
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        pytest.param((), None, id="good"),
        pytest.param(("scheduling", "provisioningModel"), "spot", id="enum"),
        pytest.param(("scheduling", "automaticRestart"), 0, id="flag"),
        pytest.param(("scheduling", "maxRunDuration", "seconds"), 7200, id="int64-as-number"),
        pytest.param(("scheduling", "maxRunDuration", "seconds"), "2h", id="int64-as-words"),
        pytest.param(("shceduling",), {}, id="unknown"),
        pytest.param(("disks", 0, "autodelete"), True, id="unknown-below"),
        pytest.param(("disks",), {}, id="list"),
        pytest.param(("labels", "a"), 1, id="map-value"),
        pytest.param(("guestAccelerators", 0, "acceleratorCount"), "1", id="int32-as-text"),
        pytest.param(("name",), "Not-A-Name", id="pattern"),
    ],
)
def test_our_checker_judges_as_a_json_schema_validator_does(
    official: jsonschema.Draft7Validator, path: tuple[Any, ...], value: Any
) -> None:
    body: Any = copy.deepcopy(GOOD)
    if path:
        inner = body
        for part in path[:-1]:
            inner = inner[part]
        inner[path[-1]] = value
    call = schema.find("POST", "/compute/v1/projects/p/zones/us-central1-a/instances")
    assert call is not None
    ours = list(schema.request_problems(call, {}, body))
    assert bool(ours) is (not official.is_valid(body)) is bool(path)
