"""The JSON Schema of the configuration, with which editors check and complete the file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runnerd.config.pools import Provider
from runnerd.config.schema import Config


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the file, without names (keys are names) and open for options of provisioners."""
    data = Config.model_json_schema(by_alias=True, mode="validation")
    blocks: Mapping[str, dict[str, Any]] = data.get("$defs", {})
    for block in blocks.values():
        properties = block.get("properties", {})
        if properties.get("name", {}).get("description", "").startswith("The key of this entry"):
            del properties["name"]
    provider = blocks[Provider.__name__]
    provider["properties"].pop("options", None)
    provider["additionalProperties"] = True
    pools = data["properties"]["pools"]
    # A pool may be empty: any machine, under its own name.
    pools["additionalProperties"] = {"anyOf": [pools["additionalProperties"], {"type": "null"}]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **data, "title": "runnerd configuration"}
