"""Structured background work: every task has a name and an owner, and none fails in silence."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")


class Group:
    """Tasks that live and end together.

    A failing task is logged with its name and counted; it does not end the group, because one forge or cloud that
    fails must degrade itself alone.  ``close`` cancels what is left and waits for it.
    """

    def __init__(self, name: str, *, on_failure: Callable[[str, BaseException], None] | None = None) -> None:
        self._name = name
        self._tasks: set[asyncio.Task[Any]] = set()
        self._on_failure = on_failure

    def spawn(self, name: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start ``work`` under a name that appears in logs."""
        task = asyncio.get_running_loop().create_task(work, name=f"{self._name}/{name}")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            log.error("%s failed: %s", task.get_name(), error, exc_info=error)
            if self._on_failure:
                self._on_failure(task.get_name(), error)

    def __len__(self) -> int:
        return len(self._tasks)

    async def close(self, *, grace: float = 0.0) -> None:
        """Wait up to ``grace`` seconds for the tasks to end by themselves, then cancel and collect the rest."""
        if grace > 0 and self._tasks:
            await asyncio.wait(set(self._tasks), timeout=grace)
        rest = set(self._tasks)
        for task in rest:
            task.cancel()
        if rest:
            await asyncio.gather(*rest, return_exceptions=True)
