"""Asks the run what became of a job whose assignment GitHub took back.

GitHub cancels an assignment that no runner picks up in time and assigns the job anew (an assignment timeout).  When a
person cancels a waiting job, the queue says the very same.  So the job counts on, and its run is asked a few times if
the job still waits: one request per run, however many of its assignments timed out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from runnerd import errors, model
from runnerd.forges import base
from runnerd.forges.github.rest.runs import Runs, update_of
from runnerd.kit import clock as clocks

log = logging.getLogger(__name__)

#: Seconds after a timeout at which its run is asked; REST may lag behind the queue by some seconds.
DELAYS_S = (3.0, 15.0, 60.0, 180.0)


class Listener(Protocol):
    """The listener of one queue, as far as assignment timeouts concern it."""

    queue: model.Queue

    def timed_out(self) -> Iterable[model.JobKey]:
        """Return the jobs with a timed-out assignment that still count as demand."""
        ...

    async def conclude(self, update: base.JobUpdate) -> None:
        """Record what the run says has become of a job.  Raises :class:`errors.StoreError`."""
        ...


@dataclass(slots=True)
class _Question:
    """The timed-out jobs of one run, by name, and when the run is asked next."""

    listener: Listener
    repo: str
    run: str
    due: float
    tries: int = 0
    updates: dict[str, base.JobUpdate] = field(default_factory=dict)


class AssignmentTimeouts:
    """Assignment timeouts whose meaning is open."""

    def __init__(self, runs: Runs, *, clock: clocks.Clock) -> None:
        self._runs = runs
        self._clock = clock
        self._questions: dict[tuple[str, str, str], _Question] = {}
        self._wake = asyncio.Event()

    def note(self, listener: Listener, update: base.JobUpdate) -> None:
        """Ask about a job whose assignment timed out."""
        key = (str(listener.queue), update.repo, update.run)
        due = self._clock.now() + DELAYS_S[0]
        question = self._questions.setdefault(key, _Question(listener, update.repo, update.run, due))
        question.updates[update.name] = update
        question.tries = 0
        question.due = min(question.due, due)
        self._wake.set()

    async def run(self) -> None:
        """Ask when it is time, until cancelled."""
        while True:
            if self._questions:
                due = min(question.due for question in self._questions.values())
                await clocks.sleep_or_wake(self._clock, due - self._clock.now(), self._wake)
            else:
                await self._wake.wait()
                self._wake.clear()
            now = self._clock.now()
            for key, question in list(self._questions.items()):
                if question.due <= now:
                    await self._ask(key, question)

    async def _ask(self, key: tuple[str, str, str], question: _Question) -> None:
        counting = set(question.listener.timed_out())
        question.updates = {name: update for name, update in question.updates.items() if update.key in counting}
        if question.updates:
            try:
                await self._settle(question)
            except errors.RunnerdError as error:
                log.info(
                    "%s: unknown if jobs with a timed-out assignment still wait: %s", question.listener.queue, error
                )
        question.tries += 1
        if not question.updates or question.tries >= len(DELAYS_S):
            self._questions.pop(key, None)
        else:
            question.due = self._clock.now() + DELAYS_S[question.tries]

    async def _settle(self, question: _Question) -> None:
        try:
            entries = await self._runs.jobs(question.repo, question.run)
        except errors.ForgeNotFound:
            # The run was deleted, and its jobs with it.
            entries = []
        for name, update in list(question.updates.items()):
            named = [entry for entry in entries if entry.get("name") == name]
            if any(entry.get("status") not in ("completed", "in_progress") for entry in named):
                continue
            outcome = update_of(update.queue, update.repo, update.run, named[0], name=name) if named else None
            if outcome is None:
                outcome = base.JobUpdate(
                    event=base.JobEvent.COMPLETED,
                    queue=update.queue,
                    repo=update.repo,
                    run=update.run,
                    name=name,
                    conclusion="cancelled",
                    at=update.at,
                    url=update.url,
                )
            await question.listener.conclude(outcome)
            del question.updates[name]
