"""Workflow runs over REST: the state of their jobs, and running jobs again.

The queue of a scale set has job ids of its own, so the jobs of a run are matched by runner name once one has started,
else by name; where that is ambiguous nothing is concluded.
"""

from __future__ import annotations

import collections
import logging
from collections.abc import Iterable, Sequence
from typing import TypedDict, cast

from runnerd import errors, model
from runnerd.forges import base, fields
from runnerd.forges.github.rest.rest import Rest

log = logging.getLogger(__name__)

#: Conclusions after which GitHub can run a job again.
RERUNNABLE = frozenset({"failure", "cancelled", "timed_out"})
#: Advice for a refusal.
READ = 'it needs the permission "Actions: read" on the repository'
WRITE = 'it needs the permission "Actions: read and write" on the repository'
#: Seconds between reads of a run after the answer to a re-run was lost.
RERUN_CHECKS_S = (1.0, 3.0, 6.0)

_EVENTS = {
    "queued": base.JobEvent.QUEUED,
    "in_progress": base.JobEvent.STARTED,
    "completed": base.JobEvent.COMPLETED,
}
_TIMES = {
    base.JobEvent.QUEUED: "created_at",
    base.JobEvent.STARTED: "started_at",
    base.JobEvent.COMPLETED: "completed_at",
}


class WorkflowJob(TypedDict, total=False):
    """A job in the listing of a run; no field is validated."""

    id: object
    name: object
    #: ``queued``, ``in_progress``, ``completed``, ``waiting``, ``pending`` or ``requested``.
    status: object
    conclusion: object
    #: The labels of ``runs-on``.
    labels: object
    runner_name: object
    #: ISO 8601.
    created_at: object
    started_at: object
    completed_at: object
    html_url: object


class WorkflowRun(TypedDict, total=False):
    """A workflow run; no field is validated."""

    id: object
    status: object
    run_attempt: object


def labels_of(entry: WorkflowJob) -> tuple[str, ...]:
    """Return the labels of a job's ``runs-on``."""
    labels = entry.get("labels")
    return tuple(str(label) for label in labels) if isinstance(labels, list) else ()


def fits(job_labels: Iterable[str], runner_labels: Iterable[str]) -> bool:
    """Return True when a runner with these labels may take the job; a job without labels fits no runner."""
    wanted = {label.lower() for label in job_labels}
    return bool(wanted) and wanted <= {label.lower() for label in runner_labels}


def update_of(
    queue: model.Queue, repo: str, run: str, entry: WorkflowJob, *, name: str = "", alias: str = ""
) -> base.JobUpdate | None:
    """Return the fact that a job of a run's listing reports; None for one that waits for a person, or nonsense.

    ``name`` replaces the listing's name, ``alias`` is the id to record.
    """
    event = _EVENTS.get(str(entry.get("status")))
    if event is None:
        return None
    return base.JobUpdate(
        event=event,
        queue=queue,
        repo=repo,
        run=run,
        name=name or str(entry.get("name") or ""),
        alias=alias,
        labels=labels_of(entry),
        runner_name=str(entry.get("runner_name") or "") if event is not base.JobEvent.QUEUED else "",
        conclusion=str(entry.get("conclusion") or "") if event is base.JobEvent.COMPLETED else "",
        at=fields.timestamp(entry.get(_TIMES[event])),
        url=str(entry.get("html_url") or ""),
    )


def match(job: model.Job, entries: Sequence[WorkflowJob]) -> WorkflowJob | None:
    """Return the entry of a run's listing that is this job; None when there is none, or no certain one."""
    if job.runner_name:
        for entry in entries:
            if entry.get("runner_name") == job.runner_name:
                return entry
    named = [entry for entry in entries if entry.get("name") == job.name]
    if len(named) > 1 and len({(entry.get("status"), entry.get("conclusion")) for entry in named}) > 1:
        return None
    return named[0] if named else None


class Runs:
    """The runs of a scope's repositories."""

    def __init__(self, rest: Rest) -> None:
        self._rest = rest

    async def jobs(self, repo: str, run: str, *, conditional: bool = False, spare: bool = False) -> list[WorkflowJob]:
        """Return the jobs of a run's latest attempt.  Raises :class:`errors.ForgeError`."""
        entries, _ = await self._rest.pages(
            "/repos/{repo}/actions/runs/{run}/jobs",
            "jobs",
            f"list the jobs of run {run} of {repo}",
            path={"repo": repo, "run": run},
            query={"filter": "latest"},
            conditional=conditional,
            spare=spare,
            remedy=READ,
        )
        return cast("list[WorkflowJob]", entries)

    async def active(self, repo: str, status: str, *, spare: bool = False) -> list[WorkflowRun]:
        """Return the runs of a repository in one status, newest first.  Raises :class:`errors.ForgeError`."""
        entries, _ = await self._rest.pages(
            "/repos/{repo}/actions/runs",
            "workflow_runs",
            f"list the {status} runs of {repo}",
            path={"repo": repo},
            query={"status": status},
            conditional=True,
            spare=spare,
            remedy=READ,
        )
        return cast("list[WorkflowRun]", entries)

    async def states(self, jobs: Sequence[model.Job]) -> list[base.JobUpdate]:
        """Return the present state of these jobs, with one request per run; a job without an answer is left out."""
        runs: dict[tuple[str, str], list[model.Job]] = collections.defaultdict(list)
        for job in jobs:
            runs[job.repo, job.run].append(job)
        updates: list[base.JobUpdate] = []
        for (repo, run), members in runs.items():
            try:
                entries = await self.jobs(repo, run)
            except errors.ForgeError as error:
                log.info("%s", error)
                continue
            for job in members:
                entry = match(job, entries)
                if entry is None:
                    continue
                alias = job.aliases[-1] if job.aliases else ""
                update = update_of(job.queue, repo, run, entry, name=job.name, alias=alias)
                if update is not None:
                    updates.append(update)
        return updates

    # -- running again ---------------------------------------------------------------------------------------------

    async def retry(self, job: model.Job, *, whole_run: bool) -> base.RetryOutcome:
        """Run a job again, or all failed jobs of its run.

        GitHub takes neither before the whole run has ended.  Raises :class:`errors.ForgeError` when the outcome is
        unknown or the permission is missing.
        """
        try:
            run = await self._run(job)
        except errors.ForgeNotFound:
            return base.RetryOutcome.REFUSED
        attempt = run.get("run_attempt")
        if run.get("status") != "completed":
            return base.RetryOutcome.LATER
        entries = await self.jobs(job.repo, job.run)
        entry = match(job, entries)
        if job.runner_name and (entry is None or entry.get("runner_name") != job.runner_name):
            if entry is not None and isinstance(attempt, int) and attempt > 1:
                # The job that was interrupted belongs to an earlier attempt: it has been run again.
                return base.RetryOutcome.RETRIED
            return base.RetryOutcome.REFUSED
        if entry is None or entry.get("conclusion") not in RERUNNABLE:
            return base.RetryOutcome.REFUSED
        if whole_run:
            template, path = "/repos/{repo}/actions/runs/{run}/rerun-failed-jobs", {"run": job.run}
            what = f"re-run the failed jobs of run {job.run} of {job.repo}"
        else:
            template, path = "/repos/{repo}/actions/jobs/{job}/rerun", {"job": str(entry.get("id"))}
            what = f're-run the job "{job.name}" of run {job.run} of {job.repo}'
        try:
            await self._rest.call(
                "POST", template, what, path={"repo": job.repo, **path}, accept=(201, 202), remedy=WRITE
            )
        except errors.ForgeForbidden as error:
            return self._refused(error)
        except errors.ForgeUnavailable as error:
            if not error.maybe_created:
                raise
            if await self._attempt_after(job, attempt):
                return base.RetryOutcome.RETRIED
            raise
        except errors.ForgeNotFound:
            return base.RetryOutcome.REFUSED
        return base.RetryOutcome.RETRIED

    async def _run(self, job: model.Job) -> WorkflowRun:
        run = await self._rest.get(
            "/repos/{repo}/actions/runs/{run}",
            f"read run {job.run} of {job.repo}",
            path={"repo": job.repo, "run": job.run},
            remedy=READ,
        )
        return cast("WorkflowRun", run)

    async def _attempt_after(self, job: model.Job, attempt: object) -> bool:
        """Return True when the run began another attempt although the answer was lost."""
        for delay in RERUN_CHECKS_S:
            await self._rest.wire.clock.sleep(delay)
            run = await self._run(job)
            if run.get("run_attempt") != attempt or run.get("status") != "completed":
                return True
        return False

    @staticmethod
    def _refused(error: errors.ForgeForbidden) -> base.RetryOutcome:
        """Return the outcome of a 403, by its text: GitHub has no codes (cli/cli #9221, metabase PR #70916).

        Raises the error again for a missing permission.
        """
        text = str(error).lower()
        if "already running" in text:
            return base.RetryOutcome.LATER
        if "not accessible" in text or "must have" in text:
            raise error
        return base.RetryOutcome.REFUSED
