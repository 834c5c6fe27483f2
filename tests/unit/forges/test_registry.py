"""The kinds of forge."""

from __future__ import annotations

import typing

from runnerd import config
from runnerd.forges import registry


def test_every_kind_of_forge_that_can_be_configured_has_a_client() -> None:
    union = typing.get_args(config.AnyForge)[0]
    kinds = {typing.get_args(kind.model_fields["type"].annotation)[0] for kind in typing.get_args(union)}
    assert kinds == set(registry.KINDS)
