"""Asks GitLab for the jobs of one project, and derives what changes in the job table.

A job's state changes only by what GitLab says about that job, never by its absence from a list: a followed job that
neither waits nor runs any more is asked for by itself.
"""

from __future__ import annotations

import collections
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

from runnerd import errors, model
from runnerd.forges import base
from runnerd.forges.gitlab import discovery, jobs, jobtable, matching, rate_limits, rest

log = logging.getLogger(__name__)

#: From so many missing jobs of one pipeline on, its list is asked for instead of each job.
LIST_FROM = 3


class ProjectJobs:
    """Reads the jobs of a forge's projects.  ``ours`` says if a runner, by id, was created by this process."""

    def __init__(
        self,
        client: rest.Rest,
        directory: discovery.Directory,
        table: jobtable.JobTable,
        *,
        specs: Sequence[base.QueueSpec],
        sink: base.Sink,
        ours: Callable[[int], bool],
    ) -> None:
        self._rest = client
        self._directory = directory
        self._table = table
        self._specs = specs
        self._sink = sink
        self._ours = ours

    async def listed(self, project: discovery.Project) -> AsyncIterator[list[jobs.JobView]]:
        """Yield the waiting and running jobs of a project, page by page.  Its first request is paid for already.

        Raises :class:`errors.ForgeError` when a page is missing.
        """
        async for page in self._rest.pages(
            "/projects/{id}/jobs",
            what=f"list the waiting jobs of {project.path}",
            path={"id": project.id},
            query=(("scope[]", "pending"), ("scope[]", "running"), *rest.KEYSET),
            urgency=rate_limits.Urgency.BACKGROUND,
            prepaid=True,
        ):
            yield self._read(page, project)

    async def single(self, project: discovery.Project, ids: Iterable[int]) -> list[jobtable.Change]:
        """Ask for single jobs; return what changes.  The first request is paid for already.

        Raises :class:`errors.ForgeError`.
        """
        changes = []
        for index, id_ in enumerate(ids):
            changes += await self._ask(project, id_, prepaid=index == 0)
        return changes

    async def missing(self, project: discovery.Project, listed: set[int]) -> list[jobtable.Change]:
        """Ask for the followed jobs that are not among ``listed``, those of one pipeline together.

        Returns what changes.  Raises :class:`errors.ForgeError`.
        """
        pipelines: dict[str, list[jobtable.Followed]] = collections.defaultdict(list)
        for job in self._table.of(project.id):
            if job.id not in listed:
                pipelines[job.run].append(job)
        changes: list[jobtable.Change] = []
        for pipeline, group in pipelines.items():
            left = {job.id for job in group}
            if pipeline and len(group) >= LIST_FROM:
                rows = await self._rest.rows(
                    "/projects/{id}/pipelines/{pipeline}/jobs",
                    what=f"list the jobs of pipeline {pipeline} of {project.path}",
                    path={"id": project.id, "pipeline": pipeline},
                    query=(("include_retried", "true"), ("per_page", "100")),
                    urgency=rate_limits.Urgency.BACKGROUND,
                )
                views = [view for view in self._read(rows, project) if view.id in left]
                changes += await self.changes(project, views)
                left -= {view.id for view in views}
            for id_ in sorted(left):
                changes += await self._ask(project, id_)
        return changes

    async def changes(self, project: discovery.Project, views: Iterable[jobs.JobView]) -> list[jobtable.Change]:
        """Return what changes in the job table now that GitLab shows these jobs so."""
        changes: list[jobtable.Change] = []
        for view in views:
            old = self._table.get(view.id)
            queue = None if old is not None else await self._queue_for(project, view)
            change = jobtable.step(old, view, queue, project.path)
            if change is not None:
                changes.append(change)
        return changes

    async def _ask(self, project: discovery.Project, id: int, *, prepaid: bool = False) -> list[jobtable.Change]:
        try:
            row = await self._rest.get(
                "/projects/{id}/jobs/{job}",
                what=f"read job {id} of {project.path}",
                path={"id": project.id, "job": id},
                urgency=rate_limits.Urgency.BACKGROUND,
                prepaid=prepaid,
            )
        except errors.ForgeNotFound:
            followed = self._table.get(id)
            return [] if followed is None else [jobtable.missed(followed)]
        return await self.changes(project, self._read([row], project))

    def _read(self, rows: Iterable[Mapping[str, object]], project: discovery.Project) -> list[jobs.JobView]:
        views = []
        for row in rows:
            try:
                views.append(jobs.read(row, project.id))
            except ValueError as error:
                log.warning("%s: %s: skipped: %s", self._rest.name, project.path, error)
        return views

    async def _queue_for(self, project: discovery.Project, view: jobs.JobView) -> model.Queue | None:
        """Return the queue that a job belongs to which was not seen before."""
        if view.status in jobs.RUNNING:
            # Taken between two polls.  Without tags any runner may have been meant, so only ours counts.
            if not view.tags and not self._ours(view.runner):
                return None
        elif view.status not in jobs.WAITING:
            return None
        specs = [spec for spec in self._specs if spec.queue.scope == project.scope]
        fitting = matching.candidates(specs, view, project.path, public=project.public)
        protection = None
        if any(spec.protected_only for spec in fitting):
            protection = await self._protection(project)
        spec = matching.choose(fitting, view, protection)
        return spec.queue if spec is not None else None

    async def _protection(self, project: discovery.Project) -> matching.Protection:
        subject = f"{self._rest.name}/{project.path}"
        try:
            protection = await self._directory.protection(project)
        except (errors.ForgeForbidden, errors.ForgeNotFound) as error:
            # The other pools go on; jobs for protected refs wait, and an alarm says why.
            self._sink.alarm("forge", subject, "protection", f"the protected refs cannot be read: {error}")
            return matching.Protection()
        self._sink.clear("forge", subject, "protection")
        return protection
