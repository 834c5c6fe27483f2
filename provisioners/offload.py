"""The executor by which blocking code (the database, cloud SDKs) leaves the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Offload:
    """An executor of at most ``width`` threads; ``Offload(0)`` runs inline, which makes the simulation deterministic.

    A cancelled call is not stopped: its thread carries it to its end, and the outcome is dropped.
    """

    def __init__(self, width: int, *, name: str = "offload") -> None:
        self._pool = ThreadPoolExecutor(width, thread_name_prefix=name) if width else None

    async def __call__(self, work: Callable[[], T]) -> T:
        if self._pool is None:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def close(self, *, wait: bool = True) -> None:
        """Release the threads; with ``wait`` the calls under way end first."""
        if self._pool is not None:
            self._pool.shutdown(wait=wait, cancel_futures=not wait)
