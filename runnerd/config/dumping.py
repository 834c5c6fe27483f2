"""A configuration as plain data or YAML in the shape of the file, with defaults filled in and secrets as references."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pydantic
import yaml

from runnerd.config.pools import Defaults
from runnerd.config.schema import Config


def dump(settings: Config, pool: str | None = None) -> dict[str, Any]:
    """Return the configuration as plain data in the shape of the file, defaults resolved, secrets as references.

    With `pool`, that pool alone. Raises KeyError for an unknown pool.
    """
    if pool is not None:
        return _plain(settings.pools[pool])
    data = _plain(settings)
    data["providers"] = {name: _flat(entry) for name, entry in data["providers"].items()}
    return data


def show(settings: Config, pool: str | None = None) -> str:
    """Return `dump` as YAML for people; each key of a pool says if its value is from `defaults` or built in."""
    data = dump(settings, pool)
    text: str = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=110)
    if pool is None:
        return text
    lines = []
    for line in text.splitlines():
        key = line.partition(":")[0]
        origin = _origin(settings, pool, key) if key and not key.startswith((" ", "-")) else ""
        lines.append(f"{line}  # {origin}" if origin else line)
    return "\n".join(lines) + "\n"


def _plain(model: pydantic.BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


def _flat(provider: Mapping[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in provider.items() if key != "options"}
    return {**own, **provider.get("options", {})}


def _origin(settings: Config, pool: str, key: str) -> str:
    name = "from_" if key == "from" else key
    if name not in settings.pools[pool].model_fields_set:
        return "built in"
    if name in Defaults.model_fields and name in settings.defaults.model_fields_set:
        same = getattr(settings.defaults, name) == getattr(settings.pools[pool], name)
        return "as in defaults" if same else ""
    return ""
