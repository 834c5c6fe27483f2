"""The table of followed jobs, and the change of it when GitLab shows a job again.

Memory only: a change goes to the sink first and into the table after that, so that a lost write is repeated.  The part
that must survive a restart is the cursor: which jobs were running.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from runnerd import model
from runnerd.forges import base
from runnerd.forges.gitlab import jobs

#: A followed job that GitLab did not find so often counts as deleted.
STRIKES = 2


@dataclass(frozen=True, slots=True)
class Followed:
    """A job that waits in a queue of ours, or runs."""

    id: int
    project: int
    repo: str
    queue: model.Queue
    running: bool = False
    run: str = ""
    name: str = ""
    #: How often GitLab was asked for it and did not find it.
    misses: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one followed job."""

    id: int
    queue: model.Queue
    #: None for a job that was not followed.
    old: Followed | None
    #: None for a job that is followed no more.
    new: Followed | None
    #: The fact for the sink; None where the change is none to others.
    event: base.JobEvent | None
    #: The job as GitLab showed it; None for one that GitLab no longer has.
    view: jobs.JobView | None = None


class JobTable:
    """The followed jobs of one forge."""

    def __init__(self) -> None:
        self._jobs: dict[int, Followed] = {}
        self._projects: dict[int, set[int]] = collections.defaultdict(set)
        self._waiting: dict[model.Queue, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self._running: dict[model.Queue, set[int]] = collections.defaultdict(set)

    def get(self, id: int) -> Followed | None:
        """Return a followed job by GitLab's id."""
        return self._jobs.get(id)

    def of(self, project: int) -> list[Followed]:
        """Return the followed jobs of a project, in the order of their ids."""
        return [self._jobs[id_] for id_ in sorted(self._projects.get(project, ()))]

    def waiting(self, queue: model.Queue) -> Mapping[str, int]:
        """Return the number of waiting jobs by project path."""
        return {repo: count for repo, count in self._waiting[queue].items() if count > 0}

    def running(self, queue: model.Queue) -> int:
        """Return the number of running jobs."""
        return len(self._running[queue])

    def put(self, job: Followed) -> None:
        """Follow a job, or take its new state."""
        self.drop(job.id)
        self._jobs[job.id] = job
        self._projects[job.project].add(job.id)
        if job.running:
            self._running[job.queue].add(job.id)
        else:
            self._waiting[job.queue][job.repo] += 1

    def drop(self, id: int) -> None:
        """Stop following a job."""
        old = self._jobs.pop(id, None)
        if old is None:
            return
        self._projects[old.project].discard(id)
        if old.running:
            self._running[old.queue].discard(id)
        else:
            self._waiting[old.queue][old.repo] -= 1

    def commit(self, changes: Iterable[Change]) -> None:
        """Take over changes that were made durable."""
        for change in changes:
            if change.new is None:
                self.drop(change.id)
            else:
                self.put(change.new)

    def cursor(self, queue: model.Queue, changes: Sequence[Change] = ()) -> dict[str, Any]:
        """Return the queue's cursor as it is with the changes: ``{"running": {job id: project id}}``."""
        running = {id_: self._jobs[id_].project for id_ in self._running[queue]}
        for change in changes:
            running.pop(change.id, None)
            if change.new is not None and change.new.running and change.new.queue == queue:
                running[change.id] = change.new.project
        return {"running": {str(id_): running[id_] for id_ in sorted(running)}}


def restore(cursor: Mapping[str, Any], queue: model.Queue) -> list[Followed]:
    """Return the running jobs of a cursor; entries that are not understood are left out."""
    running = cursor.get("running")
    followed = []
    for id_, project in running.items() if isinstance(running, dict) else ():
        if str(id_).isdigit() and isinstance(project, int):
            followed.append(Followed(int(id_), project, "", queue, running=True))
    return followed


def step(old: Followed | None, view: jobs.JobView, queue: model.Queue | None, repo: str) -> Change | None:
    """Return the change now that GitLab shows the job so; None for no change.

    ``queue`` is the queue of a job that is not followed yet; a followed job keeps its own.  Under one id a job only
    goes forward, so an answer that is behind what is known came late and is dropped.
    """
    owner = old.queue if old is not None else queue
    if owner is None:
        return None
    now = Followed(view.id, view.project, repo, owner, run=str(view.pipeline), name=view.name)
    if view.status in jobs.WAITING:
        if old is None:
            return Change(view.id, owner, None, now, base.JobEvent.QUEUED, view)
        if not old.running and (old.misses or not old.run):
            return Change(view.id, owner, old, now, None, view)
        return None
    if view.status in jobs.RUNNING:
        now = replace(now, running=True)
        if old is None or not old.running:
            return Change(view.id, owner, old, now, base.JobEvent.STARTED, view)
        return Change(view.id, owner, old, now, None, view) if old.misses or not old.run else None
    if old is None:
        return None
    event = base.JobEvent.COMPLETED if view.status in jobs.FINAL else None
    # Neither waiting nor running nor final (manual, resource group): no demand; if it waits again, it is new.
    return Change(view.id, owner, old, None, event, view)


def missed(old: Followed) -> Change:
    """Return the change for a job that GitLab did not find: it counts as deleted on the second strike."""
    if old.misses + 1 < STRIKES:
        return Change(old.id, old.queue, old, replace(old, misses=old.misses + 1), None)
    return Change(old.id, old.queue, old, None, base.JobEvent.COMPLETED)
