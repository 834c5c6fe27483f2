"""Waiting for operations, each by itself while they are few, a zone's together when they are many.

An insert is looked at half a dozen times until it ends.  At the documented rate of inserts that would be several times
the documented rate of looks; so where many wait in one zone, one list serves all who would have looked meanwhile.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from google.cloud import compute_v1

from provisioners import base
from provisioners.gcp import names, rates
from provisioners.gcp.calls import Calls
from provisioners.gcp.client import TIMEOUT_S
from provisioners.gcp.error_scopes import Target

#: Seconds between looks, the last for as long as it takes; and how long in all: stockouts show within 30 seconds.
_LOOKS_S = (0.5, 1.0, 1.0, 2.0, 2.0, 3.0)
_PATIENCE_S = 60.0
#: From so many on the operations of a zone are listed.
_MANY = 5
#: Seconds for which a list is news.
_NEWS_S = 0.5
#: Pages of 500 of a list at most.
_PAGES = 20

_Zone = tuple[str, str]


@dataclass(slots=True)
class _News:
    """The inserts of a zone as they were last listed."""

    at: float = float("-inf")
    operations: Mapping[str, compute_v1.Operation] = field(default_factory=dict)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Operations:
    """The operations of a project's zones."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._waiting: Counter[_Zone] = Counter()
        self._news: dict[_Zone, _News] = {}

    async def settled(self, operation: compute_v1.Operation, ref: names.Ref, target: Target) -> compute_v1.Operation:
        """The operation when it has ended, or as it is when patience has."""
        now, zone = self._calls.context.now, (ref.project, ref.zone)
        until = now() + _PATIENCE_S
        self._waiting[zone] += 1
        try:
            for delay in itertools.chain(_LOOKS_S, itertools.repeat(_LOOKS_S[-1])):
                if operation.status == compute_v1.Operation.Status.DONE or now() >= until:
                    break
                await self._calls.context.sleep(delay)
                try:
                    found = await self._look(operation.name, zone, target)
                except base.ProvisionError:
                    # Nothing is learned from a look that failed.
                    continue
                if found is None:
                    break
                operation = found
        finally:
            self._waiting[zone] -= 1
            if not self._waiting[zone]:
                self._waiting.pop(zone)
                self._news.pop(zone, None)
        return operation

    async def get(self, project: str, zone: str, name: str, target: Target) -> compute_v1.Operation | None:
        """An operation; None where it was forgotten."""
        clients = self._calls.clients
        return await self._calls.found(
            rates.Group.OPERATIONS,
            lambda: clients.operations.get(project=project, zone=zone, operation=name, retry=None, timeout=TIMEOUT_S),
            target,
        )

    async def of(self, ref: names.Ref) -> list[compute_v1.Operation]:
        """Every operation on what has, or had, that name."""
        call = compute_v1.ListZoneOperationsRequest(
            project=ref.project, zone=ref.zone, filter=f"targetLink eq .*/instances/{ref.name}", max_results=500
        )

        def ask() -> list[compute_v1.Operation]:
            pager = self._calls.clients.operations.list(request=call, retry=None, timeout=TIMEOUT_S)
            return [one for page in itertools.islice(pager.pages, _PAGES) for one in page.items]

        return await self._calls(rates.Group.OPERATIONS, ask, self._calls.target(project=ref.project))

    async def _look(self, name: str, zone: _Zone, target: Target) -> compute_v1.Operation | None:
        if self._waiting[zone] >= _MANY:
            due = self._calls.context.now()
            news = self._news.setdefault(zone, _News())
            async with news.turn:
                if news.at < due - _NEWS_S:
                    news.at, news.operations = due, await self._inserts(zone)
            found = news.operations.get(name)
            if found is not None:
                return found
        return await self.get(*zone, name, target)

    async def _inserts(self, zone: _Zone) -> Mapping[str, compute_v1.Operation]:
        """The latest inserts of a zone, newest first, as many as a page holds."""
        call = compute_v1.ListZoneOperationsRequest(
            project=zone[0],
            zone=zone[1],
            filter='operationType = "insert"',
            order_by="creationTimestamp desc",
            max_results=500,
        )

        def ask() -> Mapping[str, compute_v1.Operation]:
            pager = self._calls.clients.operations.list(request=call, retry=None, timeout=TIMEOUT_S)
            return {one.name: one for one in next(iter(pager.pages)).items}

        return await self._calls(rates.Group.OPERATIONS, ask, self._calls.target(project=zone[0]))
