"""The kinds of forge that runnerd has a client for, by the ``type`` of their configuration."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from runnerd import config
from runnerd.forges import base
from runnerd.forges.github import factory as github
from runnerd.forges.gitlab import factory as gitlab
from runnerd.kit import clock as clocks


class Create(Protocol):
    """Create the client of one configured forge.  ``on_request`` gets the endpoint and status of every request."""

    def __call__(
        self,
        name: str,
        settings: Any,
        *,
        controller: str,
        clock: clocks.Clock,
        rng: random.Random,
        on_request: Callable[[str, int], None],
    ) -> base.Forge: ...


KINDS: Mapping[str, Create] = {
    "github": github.create,
    "gitlab": gitlab.create,
}


def factory(
    controller: str, *, clock: clocks.Clock, rng: random.Random, on_request: Callable[[str, str, int], None]
) -> Callable[[str, config.AnyForge], base.Forge]:
    """Return a function that creates clients of real forges.

    ``on_request`` gets the forge's name, the endpoint and the status of every request; status 0 means no answer.
    """

    def create(name: str, settings: config.AnyForge) -> base.Forge:
        def count(endpoint: str, status: int) -> None:
            on_request(name, endpoint, status)

        return KINDS[settings.type](name, settings, controller=controller, clock=clock, rng=rng, on_request=count)

    return create
