"""The demand of a queue, from its scale set's statistics.

The statistics say how many jobs there are; the job messages only which.  Two corrections are made, each for a known
fault of the source: an all-zero reading while assignments are open must be read twice (ARC #3420), and a job whose
assignment timed out counts on until its run says otherwise.  Pure.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from provisioners.support import numbers
from runnerd import model
from runnerd.forges import base
from runnerd.forges.github.scalesets.messages import Statistics
from runnerd.kit import clock as clocks

#: Age in seconds at which the last answer is too old to act on; a long poll is answered every 50 s.
STALE_S = 300.0
#: Seconds for which a job with a timed-out assignment counts when its run cannot be asked.
GRACE_S = 600.0
#: Seconds for which an all-zero reading is doubted when there is no second one.
DOUBT_S = 600.0
#: Open assignments kept; far more than a set holds.
OPEN_KEPT = 20_000
#: Aliases of resolved assignments kept, to drop late and repeated messages.
RESOLVED_KEPT = 4_000
_NO_REPOS: Mapping[str, int] = MappingProxyType({})


class Tally:
    """The counts of one queue."""

    def __init__(self, clock: clocks.Clock) -> None:
        self._clock = clock
        self._waiting = 0
        self._running = 0
        #: When the counts were read, and when GitHub last had nothing to add.
        self._as_of = 0.0
        self._confirmed = 0.0
        self.statistics = Statistics()
        #: Assignments that no runner has taken yet: alias to (job key, repository).
        self._open: dict[str, tuple[model.JobKey, str]] = {}
        self._keys: collections.Counter[model.JobKey] = collections.Counter()
        self._repos: collections.Counter[str] = collections.Counter()
        #: Aliases of resolved assignments, newest last: a late or repeated message must not open them again.
        self._resolved: dict[str, None] = {}
        #: Jobs with a timed-out assignment: key to (repository, end of grace).
        self._timed_out: dict[model.JobKey, tuple[str, float]] = {}
        self._zero_since = 0.0
        #: Assignments since the last reading.
        self._fresh = 0

    # -- what survives a restart -----------------------------------------------------------------------------------

    def restore(self, cursor: Mapping[str, Any], jobs: Iterable[model.Job]) -> None:
        """Take over the counts of a cursor, and the recorded jobs that wait."""
        for job in jobs:
            if job.aliases:
                self._assign(job.aliases[-1], job.key, job.repo)
        self._fresh = 0
        waiting, running, as_of = (numbers.real(cursor.get(name)) or 0.0 for name in ("waiting", "running", "as_of"))
        self._waiting, self._running = int(waiting), int(running)
        # A clock that went back must not make an old reading look fresh.
        self._as_of = self._confirmed = min(float(as_of), self._clock.now())

    def remember(self) -> dict[str, Any]:
        """Return the counts for :meth:`restore`, as a JSON object."""
        return {"waiting": self._waiting, "running": self._running, "as_of": self._confirmed}

    # -- what is learned -------------------------------------------------------------------------------------------

    def note(self, update: base.JobUpdate) -> None:
        """Take one fact; a repeated one changes nothing."""
        key = update.key
        if update.event is base.JobEvent.QUEUED:
            self._timed_out.pop(key, None)
            self._assign(update.alias or str(key), key, update.repo)
            return
        self._resolve(update.alias or str(key))
        if update.event is base.JobEvent.ASSIGNMENT_TIMEOUT:
            # When the new assignment came first, the job is counted there.
            if key not in self._keys:
                self._timed_out[key] = (update.repo, self._clock.now() + GRACE_S)
        else:
            self._timed_out.pop(key, None)

    def settle(self, key: model.JobKey) -> None:
        """Stop counting a job that needs no runner any more, as its run says."""
        self._timed_out.pop(key, None)
        if key in self._keys:
            for alias in [alias for alias, (other, _) in self._open.items() if other == key]:
                self._resolve(alias)

    def holds(self, key: model.JobKey) -> bool:
        """Return True while an assignment of that job is open."""
        return key in self._keys

    def timed_out(self) -> list[model.JobKey]:
        """Return the jobs with a timed-out assignment that still count."""
        now = self._clock.now()
        self._timed_out = {key: entry for key, entry in self._timed_out.items() if entry[1] > now}
        return list(self._timed_out)

    def read(self, statistics: Statistics) -> None:
        """Take a new reading of the counts, after the facts that came with it."""
        now = self._clock.now()
        self.statistics = statistics
        self._as_of = self._confirmed = now
        fresh, self._fresh = self._fresh, 0
        if statistics.assigned == 0 and self._open and self._waiting + fresh > 0 and not self._zero_since:
            self._zero_since = now
            self._waiting = min(self._waiting + fresh, len(self._open))
            self._running = 0
            return
        if statistics.assigned == 0:
            # Believed now: the open ones have ended without a message, or the audit will find them.
            self._forget_open()
        self._zero_since = 0.0
        self._waiting = max(0, statistics.assigned - statistics.running)
        self._running = statistics.running

    def confirm(self) -> None:
        """Note that the queue had no message: the last reading still holds, but it is no newer for that."""
        now = self._clock.now()
        self._confirmed = now
        if self._zero_since and now - self._zero_since >= DOUBT_S:
            self.read(Statistics())

    @property
    def doubted(self) -> bool:
        """True while a second reading is wanted."""
        return self._zero_since > 0

    def forget_assignments(self) -> None:
        """Drop every assignment: the scale set was deleted, and they with it."""
        self._forget_open()
        self._zero_since = 0.0

    # -- the demand ------------------------------------------------------------------------------------------------

    @property
    def known(self) -> bool:
        """True while the last answer is fresh enough to act on."""
        return self._confirmed > 0 and self._clock.now() - self._confirmed < STALE_S

    def demand(self, *, extra: Mapping[str, int] = _NO_REPOS) -> model.Demand:
        """Return the demand; ``extra`` are stranded jobs by repository that the statistics do not cover."""
        repos = collections.Counter(self._repos)
        waiting = self._waiting
        if self._timed_out and (timed_out := self.timed_out()):
            # Often the counts still hold the timed-out job; then it must not count twice.
            covered = max(0, self._waiting - len(self._open))
            counted = timed_out[covered:]
            waiting += len(counted)
            repos.update(self._timed_out[key][0] for key in counted)
        for repo, count in extra.items():
            waiting += count
            repos[repo] += count
        over = repos.total() - waiting
        while over > 0:
            repo, count = repos.most_common(1)[0]
            cut = min(over, max(1, count // 2))
            repos[repo] -= cut
            over -= cut
        return model.Demand(
            waiting=waiting,
            running=self._running,
            as_of=self._as_of,
            known=self.known,
            repos=MappingProxyType({repo: count for repo, count in repos.items() if count > 0}),
        )

    def _assign(self, alias: str, key: model.JobKey, repo: str) -> None:
        if alias in self._open or alias in self._resolved:
            return
        self._open[alias] = (key, repo)
        self._fresh += 1
        self._keys[key] += 1
        self._repos[repo] += 1
        if len(self._open) > OPEN_KEPT:
            self._resolve(next(iter(self._open)))

    def _resolve(self, alias: str) -> None:
        self._resolved[alias] = None
        if len(self._resolved) > RESOLVED_KEPT:
            del self._resolved[next(iter(self._resolved))]
        entry = self._open.pop(alias, None)
        if entry is not None:
            key, repo = entry
            self._keys[key] -= 1
            if self._keys[key] <= 0:
                del self._keys[key]
            self._repos[repo] -= 1
            if self._repos[repo] <= 0:
                del self._repos[repo]

    def _forget_open(self) -> None:
        self._open.clear()
        self._keys.clear()
        self._repos.clear()
