"""Workflow runs over REST: the truth about jobs, and running them again.

The queue of a scale set knows jobs by ids of its own, so a run's jobs are matched by runner name once one started,
else by name; where that is ambiguous nothing is concluded.
"""

from __future__ import annotations

import collections
import logging
from collections.abc import Iterable, Sequence
from typing import Any

from runnerd import errors, model
from runnerd.forges import base
from runnerd.forges.github.auth import timestamp
from runnerd.forges.github.rest.rest import Rest

log = logging.getLogger(__name__)

#: Conclusions after which GitHub can run a job again.
RERUNNABLE = frozenset({"failure", "cancelled", "timed_out"})
READ = 'it needs the permission "Actions: read" on the repository'
WRITE = 'it needs the permission "Actions: read and write" on the repository'
#: Seconds between looks at a run after the answer to a re-run was lost.
LOOKS = (1.0, 3.0, 6.0)

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


def labels_of(entry: dict[str, Any]) -> tuple[str, ...]:
    """The ``runs-on`` of a job."""
    labels = entry.get("labels")
    return tuple(str(label) for label in labels) if isinstance(labels, list) else ()


def fits(asked: Iterable[str], held: Iterable[str]) -> bool:
    """True when a runner with the labels ``held`` may take a job that asks for ``asked``.  No label fits nothing."""
    wanted = {label.lower() for label in asked}
    return bool(wanted) and wanted <= {label.lower() for label in held}


def update_of(
    queue: model.Queue, repo: str, run: str, entry: dict[str, Any], *, name: str = "", alias: str = ""
) -> base.JobUpdate | None:
    """The fact that a job of a run's listing tells; None for a job that waits for a person, or nonsense."""
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
        at=timestamp(entry.get(_TIMES[event])),
        url=str(entry.get("html_url") or ""),
    )


def match(job: model.Job, entries: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The entry of a run's listing that is this job."""
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

    async def jobs(
        self, repo: str, run: str, *, conditional: bool = False, spare: bool = False
    ) -> list[dict[str, Any]]:
        """The jobs of a run's latest attempt.  Raises :class:`errors.ForgeError`."""
        found, _ = await self._rest.pages(
            "/repos/{repo}/actions/runs/{run}/jobs",
            "jobs",
            f"list the jobs of run {run} of {repo}",
            path={"repo": repo, "run": run},
            query={"filter": "latest"},
            conditional=conditional,
            spare=spare,
            remedy=READ,
        )
        return found

    async def active(self, repo: str, status: str, *, spare: bool = False) -> list[dict[str, Any]]:
        """The runs of a repository in one status, newest first.  Raises :class:`errors.ForgeError`."""
        found, _ = await self._rest.pages(
            "/repos/{repo}/actions/runs",
            "workflow_runs",
            f"list the {status} runs of {repo}",
            path={"repo": repo},
            query={"status": status},
            conditional=True,
            spare=spare,
            remedy=READ,
        )
        return found

    async def states(self, jobs: Sequence[model.Job]) -> list[base.JobUpdate]:
        """What became of these jobs; one request per run, and nothing about those that cannot be told."""
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

        GitHub takes neither before the whole run has ended.  Raises :class:`errors.ForgeError` when it cannot be
        told what became of the wish, or the permission is missing.
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

    async def _run(self, job: model.Job) -> dict[str, Any]:
        return await self._rest.get(
            "/repos/{repo}/actions/runs/{run}",
            f"read run {job.run} of {job.repo}",
            path={"repo": job.repo, "run": job.run},
            remedy=READ,
        )

    async def _attempt_after(self, job: model.Job, attempt: Any) -> bool:
        """Whether the run began another attempt although the answer was lost."""
        for delay in LOOKS:
            await self._rest.wire.clock.sleep(delay)
            run = await self._run(job)
            if run.get("run_attempt") != attempt or run.get("status") != "completed":
                return True
        return False

    @staticmethod
    def _refused(error: errors.ForgeForbidden) -> base.RetryOutcome:
        """Tell the meanings of 403 apart by their words; they have no codes (cli/cli #9221, metabase PR #70916)."""
        said = str(error).lower()
        if "already running" in said:
            return base.RetryOutcome.LATER
        if "not accessible" in said or "must have" in said:
            raise error
        return base.RetryOutcome.REFUSED
