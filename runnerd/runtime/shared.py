"""The state that rooms share, so that each takes one argument and none owns another's."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from provisioners import base
from runnerd import config, model
from runnerd.forges.base import Forge, QueueSpec
from runnerd.kit import clock, tasks
from runnerd.model import Queue
from runnerd.runtime import alarms, durable_settings, ledger, observations, providers, tokens

#: Random characters of an instance's name.
NAME_LENGTH = 10


class History(Protocol):
    """The part of the store that answers questions about rows which are not in memory."""

    async def unexplained(self, since: float) -> list[model.Instance]: ...

    async def consoles(self, instance_id: str) -> list[model.Console]: ...

    async def registrations(self, instance_id: str) -> Sequence[model.Registration]: ...


@dataclass(slots=True)
class Runtime:
    """The shared state of one daemon."""

    config: config.Config
    clock: clock.Clock
    rng: random.Random
    #: For reading; only the ledger writes.
    history: History
    rows: ledger.Ledger
    durable: durable_settings.DurableSettings
    observations: observations.Observations
    tokens: tokens.Tokens
    alarms: alarms.Alarms
    background: tasks.Group
    providers: dict[str, providers.Provider] = field(default_factory=dict)
    forges: dict[str, Forge] = field(default_factory=dict)
    #: Every queue with what its forge must know of the pool.
    specs: tuple[QueueSpec, ...] = ()
    #: Set when a reconcile should come soon.
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    #: Wall and steady clock disagree: deadlines are held.
    hold: bool = False

    def wake(self) -> None:
        """Ask for a reconcile soon."""
        self.woken.set()

    def queues(self, pool: str) -> list[Queue]:
        """Return the queues of a pool, in the order of the configuration's forges."""
        return [spec.queue for spec in self.specs if spec.queue.pool == pool]

    def scopes(self, provider: str) -> frozenset[base.Scope]:
        """Return the listing scopes in which a provider has live instances of ours, configured or not."""
        return frozenset(
            key.scope
            for row in self.rows.instances.values()
            if row.provider == provider and row.live and (key := base.OfferKey.read(row.offer)) is not None
        )

    def name_prefix(self, pool: str) -> str:
        """Return how the names of a pool's instances, and so of their runners, begin."""
        return f"{self.config.controller[:16]}-{pool[:18]}-".replace("_", "-")

    def fresh_name(self, length: int = NAME_LENGTH) -> str:
        """Return a random word for a name that must not repeat."""
        return "".join(self.rng.choices("abcdefghijkmnpqrstuvwxyz23456789", k=length))
