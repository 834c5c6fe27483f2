"""Ends instances in batches: terminations of a few tens of milliseconds go out as one call for each region.

A batch is all or nothing at Amazon: one handle that it does not know, and none is ended.  Then each goes alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from provisioners import base
from provisioners.aws import calls, rates

#: Seconds for which the first of a batch waits for others, and how many go in one call.
_GATHER, MOST = 0.03, 50
#: Seconds that a stop waits for what is collected.
_LONGEST_S = 10.0
#: Refusals of a batch that may be meant for one of it.
_FOR_ONE = (base.Kind.NOT_FOUND, base.Kind.CONFIG)


class Terminator:
    """Collects and sends."""

    def __init__(self, calls: calls.Calls, *, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._calls = calls
        self._sleep = sleep
        self._waiting: dict[str, dict[str, asyncio.Future[None]]] = {}
        self._senders: set[asyncio.Task[None]] = set()

    async def end(self, region: str, id: str) -> None:
        """Terminate one instance; not found is success.  Raises :class:`base.ProvisionError`."""
        waiting = self._waiting.setdefault(region, {})
        outcome = waiting.get(id)
        if outcome is None:
            outcome = waiting[id] = asyncio.get_running_loop().create_future()
            # The caller may have been cancelled.
            outcome.add_done_callback(lambda done: done.cancelled() or done.exception())
            if len(waiting) == 1:
                sender = asyncio.ensure_future(self._send(region))
                self._senders.add(sender)
                sender.add_done_callback(self._senders.discard)
        # A caller that is cancelled cancels no other.
        await asyncio.shield(outcome)

    async def close(self) -> None:
        """Let what is collected go out."""
        if self._senders:
            await asyncio.wait(set(self._senders), timeout=_LONGEST_S)

    async def _send(self, region: str) -> None:
        batch: dict[str, asyncio.Future[None]] = {}
        try:
            await self._sleep(_GATHER)
            batch = self._waiting.pop(region, {})
            ids = list(batch)
            for start in range(0, len(ids), MOST):
                await self._together(region, {id: batch[id] for id in ids[start : start + MOST]})
        finally:
            if not batch:
                batch = self._waiting.pop(region, {})
            # Without effect on those that are done.
            _settle(batch, base.ProvisionError(base.Kind.TRANSIENT, "the termination was given up"))

    async def _together(self, region: str, part: dict[str, asyncio.Future[None]]) -> None:
        try:
            await self._terminate(region, list(part))
        except base.ProvisionError as error:
            if len(part) > 1 and error.kind in _FOR_ONE:
                await self._alone(region, part)
            else:
                _settle(part, None if error.kind is base.Kind.NOT_FOUND else error)
        else:
            _settle(part, None)

    async def _alone(self, region: str, batch: dict[str, asyncio.Future[None]]) -> None:
        for id, outcome in batch.items():
            try:
                await self._terminate(region, [id])
            except base.ProvisionError as error:
                _settle({id: outcome}, None if error.kind is base.Kind.NOT_FOUND else error)
            else:
                _settle({id: outcome}, None)

    async def _terminate(self, region: str, ids: list[str]) -> None:
        await self._calls.call("TerminateInstances", region, group=rates.Group.TERMINATE, InstanceIds=ids)


def _settle(batch: dict[str, asyncio.Future[None]], error: base.ProvisionError | None) -> None:
    for outcome in batch.values():
        if outcome.done():
            continue
        if error is None:
            outcome.set_result(None)
        else:
            outcome.set_exception(error)
