"""The providers and forges that the daemon is connected to, each with the background task that follows it.

Start and reload use the same steps, so that what a reload adds is connected exactly as at a start.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

from provisioners import base
from runnerd import config
from runnerd.forges import base as forges
from runnerd.kit import clock
from runnerd.lifecycle import inventory
from runnerd.runtime import providers, queues, shared

#: Seconds that the first listings may take before the pools of other providers start without them.
FIRST_LISTING_S = 15.0
#: Seconds after which a provider that could not be listed is listed again.
LISTING_RETRY_S = 2.0

ProvisionerFactory = Callable[[config.Provider, base.Context], base.Provisioner]
ForgeFactory = Callable[[str, config.AnyForge], forges.Forge]


class Connections:
    """Opens, follows and closes providers and forges."""

    def __init__(
        self,
        runtime: shared.Runtime,
        *,
        inventory: inventory.Inventory,
        sink: forges.Sink,
        make_provisioner: ProvisionerFactory,
        make_forge: ForgeFactory,
    ) -> None:
        self._runtime = runtime
        self._inventory = inventory
        self._sink = sink
        self._make_provisioner = make_provisioner
        self._make_forge = make_forge
        self._watches: dict[str, asyncio.Task[Any]] = {}
        self._listings: dict[str, asyncio.Task[Any]] = {}

    # -- providers ---------------------------------------------------------------------------------------------

    async def add_provider(self, settings: config.Provider, *, retired: bool = False) -> None:
        """Start a provider; one that cannot start is there with its problem, and an alarm is open."""
        context = providers.context(self._runtime.config, settings.name, clock=self._runtime.clock)
        provider = providers.Provider(
            name=settings.name,
            settings=settings,
            provisioner=self._make_provisioner(settings, context),
            clock=self._runtime.clock,
            retired=retired,
            problem="it has not been listed yet",
        )
        try:
            await provider.ensure_started()
        except base.ProvisionError as error:
            provider.problem = f"cannot start: {error}"
            self._runtime.alarms.ring("provider", settings.name, "start-failed", str(error))
        self._runtime.providers[settings.name] = provider

    async def add_retired_providers(self) -> None:
        """Start providers that left the configuration while the daemon was down and still have instances to end."""
        for row in list(self._runtime.rows.instances.values()):
            name = row.provider
            if not name or name in self._runtime.providers:
                continue
            raw = self._runtime.durable.provider(name)
            if raw is None:
                self._runtime.alarms.ring("provider", name, "unknown", "it has instances and is not configured")
                continue
            await self.add_provider(config.Provider.model_validate_json(raw), retired=True)
        for provider in self._runtime.providers.values():
            if not provider.retired:
                await self._runtime.durable.write_provider(provider.name, _remembered(provider.settings))

    async def first_listings(self) -> None:
        """List every provider before anything is bought; one that does not answer is closed, not waited for."""
        first = {name: self._list(name, provider) for name, provider in self._runtime.providers.items()}
        if first:
            await asyncio.wait(first.values(), timeout=FIRST_LISTING_S)
        for name, provider in self._runtime.providers.items():
            self._follow(name, provider, first[name])

    def list_provider(self, name: str) -> None:
        """List a provider that a reload added, now and from time to time."""
        provider = self._runtime.providers[name]
        self._follow(name, provider, self._list(name, provider))

    def _list(self, name: str, provider: providers.Provider) -> asyncio.Task[None]:
        return self._runtime.background.spawn(f"first listing of {name}", self._inventory.look(provider))

    def _follow(self, name: str, provider: providers.Provider, first: asyncio.Task[None]) -> None:
        async def follow() -> None:
            with contextlib.suppress(Exception):
                await first
            pause = LISTING_RETRY_S if provider.problem else self._runtime.config.reconcile.list_interval
            await clock.sleep_or_wake(self._runtime.clock, pause, provider.listing_wanted)
            await self._inventory.follow(provider)

        self._listings[name] = self._runtime.background.spawn(f"listing {name}", follow())

    async def drop_provider(self, name: str) -> None:
        """Close a provider, if there is one of that name."""
        await _cancel(self._listings.pop(name, None))
        provider = self._runtime.providers.pop(name, None)
        if provider is not None:
            await provider.provisioner.close()

    # -- forges ------------------------------------------------------------------------------------------------

    def add_forge(self, name: str, settings: config.AnyForge) -> None:
        """Make the client of a forge; it is watched from the next :meth:`watch` on."""
        self._runtime.forges[name] = self._make_forge(name, settings)

    async def drop_forge(self, name: str) -> None:
        """Stop watching a forge and close its client."""
        await self.stop_watch(name)
        await self._runtime.forges.pop(name).close()

    async def watch(self, *, anew: bool = False) -> None:
        """Watch the queues of the configuration; with ``anew``, also those that have not changed."""
        specs = queues.queue_specs(self._runtime.config, self._runtime.forges)
        if specs == self._runtime.specs and not anew:
            return
        await self.stop_watches()
        self._runtime.specs = specs
        for name, forge in self._runtime.forges.items():
            own = [spec for spec in specs if spec.queue.forge == name]
            if own:
                self._watches[name] = self._runtime.background.spawn(f"watch {name}", forge.watch(own, self._sink))

    async def stop_watch(self, name: str) -> None:
        """Stop watching a forge, if it is watched."""
        await _cancel(self._watches.pop(name, None))

    async def stop_watches(self) -> None:
        """Stop watching all forges."""
        for name in list(self._watches):
            await self.stop_watch(name)


async def _cancel(task: asyncio.Task[Any] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _remembered(settings: config.Provider) -> str:
    """Return the durable form of a provider's block: what ends its instances once it left the file."""
    # The name is the map's key and so no part of the block itself.
    block = settings.model_dump(mode="json") | {"name": settings.name}
    return json.dumps(block, ensure_ascii=False, separators=(",", ":"))
