"""Changes of followed jobs: made durable in the sink first, taken over into the job table after that."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence

from runnerd import model
from runnerd.forges import base
from runnerd.forges.gitlab import jobs, jobtable

#: Ended jobs kept in memory, so that their end is not recorded twice.
ENDED_KEPT = 10_000


class Recorder:
    """Records the changes of one forge's jobs.

    ``server_now`` gives GitLab's clock, ``runner_name`` the name by which runnerd knows the runner of a job.
    """

    def __init__(
        self,
        table: jobtable.JobTable,
        sink: base.Sink,
        *,
        server_now: Callable[[], float],
        runner_name: Callable[[jobs.JobView], str],
    ) -> None:
        self._table = table
        self._sink = sink
        self._server_now = server_now
        self._runner_name = runner_name
        self._ended: collections.OrderedDict[int, None] = collections.OrderedDict()

    async def record(self, changes: Sequence[jobtable.Change], repo: str) -> None:
        """Record changes of jobs of one project, queue by queue.  Raises :class:`errors.StoreError`."""
        for queue in sorted({change.queue for change in changes}):
            part = [change for change in changes if change.queue == queue]
            updates = [update for change in part if (update := self._update(change, repo)) is not None]
            cursor = self._table.cursor(queue, part)
            if updates or cursor != self._table.cursor(queue):
                await self._sink.record(queue, updates, cursor)
            self._table.commit(part)
            for change in part:
                if change.event is base.JobEvent.COMPLETED:
                    self._ended[change.id] = None
                    if len(self._ended) > ENDED_KEPT:
                        self._ended.popitem(last=False)

    async def record_history(self, queue: model.Queue, views: Sequence[jobs.JobView]) -> None:
        """Record the ended jobs that a removed runner had, unless a poll has seen their end.

        Raises :class:`errors.StoreError`.
        """
        for view in views:
            if view.status not in jobs.FINAL or not view.repo or view.id in self._ended:
                continue
            change = jobtable.step(self._table.get(view.id), view, queue, view.repo)
            if change is None:
                began = jobtable.step(None, dataclasses.replace(view, status="running"), queue, view.repo)
                assert began is not None
                await self.record([began], view.repo)
                change = jobtable.step(self._table.get(view.id), view, queue, view.repo)
            if change is not None:
                await self.record([change], view.repo)

    def _update(self, change: jobtable.Change, repo: str) -> base.JobUpdate | None:
        if change.event is None:
            return None
        if change.view is not None:
            update = jobs.update(change.event, change.view, change.queue, repo, server_now=self._server_now())
            if not update.runner_name:
                return update
            return dataclasses.replace(update, runner_name=self._runner_name(change.view))
        old = change.old
        if old is None or not old.run:
            return None
        return base.JobUpdate(
            event=change.event,
            queue=change.queue,
            repo=old.repo,
            run=old.run,
            name=old.name,
            alias=str(old.id),
            # It was deleted with its project or its pipeline, so no runner will take it.
            conclusion="cancelled",
        )
