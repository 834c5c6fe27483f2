"""Create the client of a configured GitHub, with its own connections."""

from __future__ import annotations

import random

from runnerd import config
from runnerd.forges.github import client
from runnerd.forges.github.wire import OnRequest
from runnerd.kit import clock as clocks
from runnerd.kit import http


def create(
    name: str,
    settings: config.GitHubForge,
    *,
    controller: str,
    clock: clocks.Clock,
    rng: random.Random,
    on_request: OnRequest,
) -> client.GitHub:
    """Return a client that opens its sessions under the controller's name."""
    transport = http.AiohttpTransport(ca_file=str(settings.ca) if settings.ca else None)
    return client.GitHub(
        name, settings, clock=clock, transport=transport, rng=rng, on_request=on_request, owner=controller
    )
