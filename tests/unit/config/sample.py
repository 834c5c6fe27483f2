"""A configuration for the tests, with changes, and the ways to read it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from runnerd import config, errors

BASE: dict[str, Any] = {
    "controller": "acme-ci",
    "public_url": "https://runnerd.acme.example",
    "forges": {
        "acme": {"type": "github", "url": "https://github.com/acme", "app": {"id": 1, "key": "env:APP_KEY"}},
        "gl": {
            "type": "gitlab",
            "url": "https://gitlab.acme.example",
            "groups": ["ml"],
            "token": "env:GITLAB",
        },
    },
    "providers": {"boxes": {"type": "cloudy"}, "aws": {"type": "cloudy", "regions": {"us-east-1": {}}}},
    "limits": {"instances": 8, "dollars_per_day": 200},
    "defaults": {"market": "spot-then-on-demand", "idle": "5m"},
    "pools": {
        "gpu-t4": {"gpu": "t4", "from": ["aws"]},
        "gpu-a100": {"gpu": "a100-40 x 4", "from": ["boxes", "aws"]},
    },
}


class Cloudy:
    """A provider type that knows `regions` and `hosts`."""

    @classmethod
    def validate(cls, options: Mapping[str, Any]) -> list[str]:
        return [f"{key}: unknown key" for key in options if key not in ("regions", "hosts")]


#: The contract's other methods are of no matter to the configuration.
PROVISIONERS: Any = {"cloudy": Cloudy}


def changed(**paths: Any) -> dict[str, Any]:
    """BASE with values at `a__b__c` replaced; `...` removes a key; `-` in names is written `_1`."""
    data = copy.deepcopy(BASE)
    for path, value in paths.items():
        *blocks, last = path.replace("_1", "-").split("__")
        block = data
        for name in blocks:
            block = block.setdefault(name, {})
        if value is ...:
            block.pop(last, None)
        else:
            block[last] = value
    return data


def read(data: Mapping[str, Any], **options: Any) -> config.Config:
    return config.from_mapping(data, environ={}, provisioners=PROVISIONERS, **options)


def problems(data: Mapping[str, Any]) -> list[str]:
    with pytest.raises(errors.ConfigInvalid) as caught:
        read(data)
    return [str(problem).removeprefix("configuration: ") for problem in caught.value.problems]


def load(folder: Path, text: str, **options: Any) -> config.Config:
    path = folder / "runnerd.yaml"
    path.write_text(text)
    return config.load(path, **{"environ": {}, "provisioners": PROVISIONERS, "reveal": False} | options)


def loading_problems(folder: Path, text: str, **options: Any) -> list[str]:
    with pytest.raises(errors.ConfigInvalid) as caught:
        load(folder, text, **options)
    return [str(problem).removeprefix(f"{folder}/") for problem in caught.value.problems]


def warned(settings: config.Config) -> dict[str, str]:
    return {finding.place: finding.message for finding in config.warnings_of(settings)}
