"""The schedule of polls: projects with work often, quiet ones seldom, failing ones less and less.

It only decides and sends nothing.  When the requests of a minute do not suffice, every project is polled more seldom in
proportion, so that a busy one is still polled more often than a quiet one and none is forgotten.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from runnerd.forges.gitlab import discovery, rate_limits

#: Seconds for which a project counts as active after work was seen in it.
ACTIVE_FOR_S = 600.0
#: Seconds until a project that failed is polled again, by failures in a row.
DELAYS_S = (2.0, 5.0, 10.0, 20.0, 40.0, 60.0)
#: A project that never answered counts as asked after so many failures in a row.
HOPELESS_AFTER = 3
#: With more hinted jobs in one project it is cheaper to ask for its list.
MOST_HINTS = 2
#: Seconds added to a project's interval for each page of its list beyond the first.
PER_PAGE_S = 2.0
#: A project that is late by more than so many of its intervals goes before hints elsewhere.
LATE = 3.0


@dataclass(slots=True)
class Slot:
    """One project in the round."""

    project: discovery.Project
    #: When it last answered in full; 0 for never.
    polled_at: float = 0.0
    due: float = 0.0
    active_until: float = 0.0
    failures: int = 0
    #: Requests for it are under way.
    held: bool = False
    #: Ids of jobs that a webhook named.
    hints: set[int] = field(default_factory=set)
    pages: int = 1

    @property
    def asked(self) -> bool:
        """True when it answered, or has failed so often that the others do not wait for it."""
        return self.polled_at > 0 or self.failures >= HOPELESS_AFTER


class Schedule:
    """The round of projects."""

    def __init__(self, *, poll: float, idle_poll: float, rng: random.Random) -> None:
        self._poll = poll
        self._idle = max(poll, idle_poll)
        self._rng = rng
        self._slots: dict[int, Slot] = {}

    def slots(self) -> Sequence[Slot]:
        """Return all projects."""
        return tuple(self._slots.values())

    def slot(self, project: int) -> Slot | None:
        """Return one project by its id."""
        return self._slots.get(project)

    def set_projects(self, projects: Iterable[discovery.Project], now: float) -> list[int]:
        """Take the present projects; new ones are due at once.  Return the ids of those that are gone."""
        present = {project.id: project for project in projects}
        gone = [id_ for id_ in self._slots if id_ not in present]
        for id_ in gone:
            del self._slots[id_]
        for id_, project in present.items():
            slot = self._slots.get(id_)
            if slot is None:
                self._slots[id_] = Slot(project, due=now, active_until=project.active_at + ACTIVE_FOR_S)
            else:
                slot.project = project
        return gone

    def interval(self, slot: Slot, now: float) -> float:
        """Return the seconds between polls of a project."""
        base = self._poll if slot.active_until > now else self._idle
        return base + (slot.pages - 1) * PER_PAGE_S

    def wait(self, now: float) -> float:
        """Return the seconds until a project is due; 0 when one is."""
        soonest = self._idle
        for slot in self._slots.values():
            if not slot.held:
                if slot.hints or slot.due <= now:
                    return 0.0
                soonest = min(soonest, slot.due - now)
        return soonest

    def take(self, now: float) -> Slot | None:
        """Return the project that is most overdue by its own interval, and hold it; None when none is due."""
        best: Slot | None = None
        best_rank = (0, 0.0)
        for slot in self._slots.values():
            if slot.held or (not slot.hints and slot.due > now):
                continue
            late = (now - slot.due) / self.interval(slot, now)
            # Hints first, because a job waits for that answer; but a flood of them must not end the round.
            rank = (1 if slot.hints or late > LATE else 0, late)
            if best is None or rank > best_rank:
                best, best_rank = slot, rank
        if best is not None:
            best.held = True
        return best

    def hint(self, project: int, job: int, now: float) -> bool:
        """Note a job of the project that may have changed; return False when the project is not in the round."""
        slot = self._slots.get(project)
        if slot is None:
            return False
        slot.active_until = now + ACTIVE_FOR_S
        slot.hints.add(job)
        return True

    def answered(self, slot: Slot, now: float, *, busy: bool, pages: int) -> None:
        """Note that the project's list came in full, requested at ``now``."""
        slot.held = False
        slot.failures = 0
        slot.polled_at = now
        slot.pages = max(1, pages)
        if busy:
            slot.active_until = now + ACTIVE_FOR_S
        # Spread by a tenth, so that a thousand projects do not come in step for ever; only ever earlier.
        slot.due = now + self.interval(slot, now) * self._rng.uniform(0.9, 1.0)

    def failed(self, slot: Slot, now: float) -> None:
        """Note that the project did not answer."""
        slot.held = False
        slot.failures += 1
        slot.due = now + rate_limits.backoff(DELAYS_S, slot.failures, self._rng)

    def answered_hints(self, slot: Slot) -> None:
        """Note that only its hinted jobs were polled; its turn in the round stays."""
        slot.held = False
