"""Create the client of a configured GitLab, with its own connections."""

from __future__ import annotations

import random
from collections.abc import Callable

from runnerd import config
from runnerd.forges.gitlab import client
from runnerd.kit import clock as clocks
from runnerd.kit import http


def create(
    name: str,
    settings: config.GitLabForge,
    *,
    controller: str,
    clock: clocks.Clock,
    rng: random.Random,
    on_request: Callable[[str, int], None],
) -> client.GitLab:
    """Return a client that marks its permanent runner records with the controller's name."""
    transport = http.AiohttpTransport(ca_file=str(settings.ca) if settings.ca else None)
    return client.GitLab(
        name, settings, clock=clock, transport=transport, rng=rng, on_request=on_request, controller=controller
    )
