"""The jobs that are followed, and what changes when GitLab shows them again.

Memory only; what it decides is handed to the sink first and taken over here after that, so a lost write is decided
again.  What must survive a restart is the cursor: which jobs were running.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from runnerd import model
from runnerd.forges import base
from runnerd.forges.gitlab import jobs

#: So often must GitLab deny a followed job before it counts as deleted.
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
    #: How often it was asked for and not found.
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
        return self._jobs.get(id)

    def of(self, project: int) -> list[Followed]:
        """The followed jobs of a project, by id."""
        return [self._jobs[id_] for id_ in sorted(self._projects.get(project, ()))]

    def waiting(self, queue: model.Queue) -> Mapping[str, int]:
        """Waiting jobs by project path."""
        return {repo: count for repo, count in self._waiting[queue].items() if count > 0}

    def running(self, queue: model.Queue) -> int:
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
        """Follow it no more."""
        old = self._jobs.pop(id, None)
        if old is None:
            return
        self._projects[old.project].discard(id)
        if old.running:
            self._running[old.queue].discard(id)
        else:
            self._waiting[old.queue][old.repo] -= 1

    def commit(self, changes: Iterable[Change]) -> None:
        """Take over what was made durable."""
        for change in changes:
            if change.new is None:
                self.drop(change.id)
            else:
                self.put(change.new)

    def cursor(self, queue: model.Queue, changes: Sequence[Change] = ()) -> dict[str, Any]:
        """What the queue's cursor is once the changes hold: the running jobs with their projects."""
        running = {id_: self._jobs[id_].project for id_ in self._running[queue]}
        for change in changes:
            running.pop(change.id, None)
            if change.new is not None and change.new.running and change.new.queue == queue:
                running[change.id] = change.new.project
        return {"running": {str(id_): running[id_] for id_ in sorted(running)}}


def restore(cursor: Mapping[str, Any], queue: model.Queue) -> list[Followed]:
    """The running jobs that a cursor remembers; anything it holds that is not understood is left out."""
    running = cursor.get("running")
    found = []
    for id_, project in running.items() if isinstance(running, dict) else ():
        if str(id_).isdigit() and isinstance(project, int):
            found.append(Followed(int(id_), project, "", queue, running=True))
    return found


def step(old: Followed | None, view: jobs.JobView, queue: model.Queue | None, repo: str) -> Change | None:
    """What it changes that GitLab shows the job so; None for nothing.

    ``queue`` is where it belongs if it is not followed yet.  A followed job keeps its queue.  Under one id a job only
    goes forward, so an answer that says less than is known came late and is dropped.
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
    # Neither waiting nor running nor final (manual, resource group): no demand; should it wait again, it is new.
    return Change(view.id, owner, old, None, event, view)


def missed(old: Followed) -> Change:
    """GitLab denied the job: it counts as deleted on the second strike."""
    if old.misses + 1 < STRIKES:
        return Change(old.id, old.queue, old, replace(old, misses=old.misses + 1), None)
    return Change(old.id, old.queue, old, None, base.JobEvent.COMPLETED)
