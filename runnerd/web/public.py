"""The public listener: webhooks, agents and report images, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from runnerd import assets, read_model
from runnerd.web import agents, peers, reports, webhooks, wire


class Public:
    """The application of the public listener."""

    def __init__(
        self,
        served: read_model.Served,
        *,
        now: Callable[[], float],
        assets: assets.Assets | None = None,
        on_hello: Callable[[str], None] = lambda instance: None,
    ) -> None:
        self.gate = wire.Gate("public")
        failures = peers.Peers(now)
        self.agents = agents.Agents(served, failures, on_hello=on_hello)
        # A body's limit belongs to its route: aiohttp's own would answer before it.
        self.app = web.Application(middlewares=[self.gate.middleware], client_max_size=0)
        self.app.add_routes(self.agents.routes())
        self.app.add_routes(webhooks.Webhooks(served, failures).routes())
        if assets is not None:
            self.app.add_routes(reports.Reports(assets, failures).routes())

    def release(self) -> None:
        """Answer agents that wait."""
        self.agents.release()

    async def close(self) -> None:
        """Cancel requests of clients that have left."""
        await self.agents.close()
