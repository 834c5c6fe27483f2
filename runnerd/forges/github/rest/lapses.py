"""Asks the run what a lapse meant.

GitHub takes an assignment back that no runner picked up in time, and assigns the job anew; when a person cancels a
waiting job the queue says the very same.  So the job counts on, and its run is asked a few times whether it still
wants it: one request per run, however many of its jobs lapsed.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from runnerd import errors
from runnerd.forges import base
from runnerd.forges.github.rest.runs import Runs, update_of
from runnerd.forges.github.scalesets.listener import Listener
from runnerd.kit import clock as clocks

log = logging.getLogger(__name__)

#: Seconds after a lapse at which its run is asked; REST may lag behind the queue by some seconds.
DELAYS = (3.0, 15.0, 60.0, 180.0)


@dataclass(slots=True)
class _Doubt:
    """Lapsed jobs of one run."""

    listener: Listener
    repo: str
    run: str
    due: float
    tries: int = 0
    updates: dict[str, base.JobUpdate] = field(default_factory=dict)


class Lapses:
    """Lapses that are not understood yet."""

    def __init__(self, runs: Runs, *, clock: clocks.Clock) -> None:
        self._runs = runs
        self._clock = clock
        self._doubts: dict[tuple[str, str, str], _Doubt] = {}
        self._wake = asyncio.Event()

    def note(self, listener: Listener, update: base.JobUpdate) -> None:
        """A job of that run lapsed."""
        key = (str(listener.queue), update.repo, update.run)
        due = self._clock.now() + DELAYS[0]
        doubt = self._doubts.setdefault(key, _Doubt(listener, update.repo, update.run, due))
        doubt.updates[update.name] = update
        doubt.tries = 0
        doubt.due = min(doubt.due, due)
        self._wake.set()

    async def run(self) -> None:
        """Ask when it is time, until cancelled."""
        while True:
            if self._doubts:
                due = min(doubt.due for doubt in self._doubts.values())
                await clocks.sleep_or_wake(self._clock, due - self._clock.now(), self._wake)
            else:
                await self._wake.wait()
                self._wake.clear()
            now = self._clock.now()
            for key, doubt in list(self._doubts.items()):
                if doubt.due <= now:
                    await self._ask(key, doubt)

    async def _ask(self, key: tuple[str, str, str], doubt: _Doubt) -> None:
        counting = set(doubt.listener.tally.lapsed())
        doubt.updates = {name: update for name, update in doubt.updates.items() if update.key in counting}
        if doubt.updates:
            try:
                await self._resolve(doubt)
            except errors.RunnerdError as error:
                log.info("%s: cannot tell whether lapsed jobs still wait: %s", doubt.listener.queue, error)
        doubt.tries += 1
        if not doubt.updates or doubt.tries >= len(DELAYS):
            self._doubts.pop(key, None)
        else:
            doubt.due = self._clock.now() + DELAYS[doubt.tries]

    async def _resolve(self, doubt: _Doubt) -> None:
        try:
            entries = await self._runs.jobs(doubt.repo, doubt.run)
        except errors.ForgeNotFound:
            # The run was deleted, and its jobs with it.
            entries = []
        for name, update in list(doubt.updates.items()):
            named = [entry for entry in entries if entry.get("name") == name]
            if any(entry.get("status") not in ("completed", "in_progress") for entry in named):
                continue
            told = update_of(update.queue, update.repo, update.run, named[0], name=name) if named else None
            if told is None:
                told = base.JobUpdate(
                    event=base.JobEvent.COMPLETED,
                    queue=update.queue,
                    repo=update.repo,
                    run=update.run,
                    name=name,
                    conclusion="cancelled",
                    at=update.at,
                    url=update.url,
                )
            await doubt.listener.conclude(told)
            del doubt.updates[name]
