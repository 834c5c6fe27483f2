"""Running an interrupted job again.

GitLab lets no client mark a job failed from outside: a job whose instance is dead is cancelled first, by force if it
hangs there, and retried once it is final.  This bypasses the ``retry:max`` of the job, so the caller keeps its own
limit.
"""

from __future__ import annotations

from runnerd import errors, model
from runnerd.forges import base, fields
from runnerd.forges.gitlab import jobs, rest, runners


class Retries:
    """The retries of one forge."""

    def __init__(self, client: rest.Rest) -> None:
        self._rest = client

    async def retry(self, job: model.Job, *, whole_run: bool) -> base.RetryOutcome:
        """Take one step towards a new run of the job.  Raises :class:`errors.ForgeError` when GitLab cannot be asked.

        Safe to repeat after a lost answer: a newer attempt of the job counts as done.
        """
        alias = jobs.latest_id(job)
        if not alias:
            return base.RetryOutcome.REFUSED
        path: dict[str, str | int] = {"id": job.repo, "job": alias, "pipeline": job.run}
        try:
            row = await self._rest.get("/projects/{id}/jobs/{job}", what=f"read job {alias}", path=path)
            view = jobs.read(row, 0)
        except errors.ForgeNotFound:
            return base.RetryOutcome.REFUSED
        except ValueError as error:
            raise errors.ForgeUnavailable(f"{self._rest.name}: job {alias}: {error}") from error
        if view.status in jobs.WAITING:
            return base.RetryOutcome.RETRIED
        if view.status in jobs.RUNNING:
            return await self._cancel(job, view, path)
        if view.status not in ("failed", "canceled"):
            return base.RetryOutcome.REFUSED
        if await self._newer(view, path):
            return base.RetryOutcome.RETRIED
        return await self._retry(view, path, whole_run=whole_run)

    async def _cancel(self, job: model.Job, view: jobs.JobView, path: dict[str, str | int]) -> base.RetryOutcome:
        names = {view.runner_name, view.system_id}
        if job.runner_name and not names & {job.runner_name, runners.system_id(job.runner_name)}:
            # It runs elsewhere, so it is not the attempt that was interrupted.
            return base.RetryOutcome.REFUSED
        force = view.status == "canceling"
        await self._rest.call(
            "POST",
            "/projects/{id}/jobs/{job}/cancel",
            what=f"cancel job {view.id}, whose instance is dead",
            path=path,
            query=(("force", "true"),) if force else (),
        )
        return base.RetryOutcome.LATER

    async def _newer(self, view: jobs.JobView, path: dict[str, str | int]) -> bool:
        rows = await self._rest.rows(
            "/projects/{id}/pipelines/{pipeline}/jobs",
            what=f"look for a newer attempt of job {view.id}",
            path={**path, "pipeline": view.pipeline or path["pipeline"]},
        )
        return any(row.get("name") == view.name and fields.positive_id(row.get("id")) > view.id for row in rows)

    async def _retry(self, view: jobs.JobView, path: dict[str, str | int], *, whole_run: bool) -> base.RetryOutcome:
        template = "/projects/{id}/pipelines/{pipeline}/retry" if whole_run else "/projects/{id}/jobs/{job}/retry"
        try:
            await self._rest.call(
                "POST",
                template,
                what=f"retry {'the jobs of pipeline ' + str(view.pipeline) if whole_run else f'job {view.id}'}",
                path={**path, "pipeline": view.pipeline or path["pipeline"]},
            )
        except errors.ForgeForbidden as error:
            if "not retryable" in str(error):
                return base.RetryOutcome.REFUSED
            raise
        except errors.ForgeError as error:
            if error.status in (400, 422):
                return base.RetryOutcome.REFUSED
            raise
        return base.RetryOutcome.RETRIED
