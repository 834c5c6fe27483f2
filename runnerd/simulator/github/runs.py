"""Workflow runs: made when jobs are queued, cancelled, and run again as a new attempt."""

from __future__ import annotations

from runnerd.simulator import world
from runnerd.simulator.github import dispatch, entities, state, webhooks

#: jobs of one matrix, hence of one run made here
MATRIX = 256
#: what a job's specification may say beyond the common fields
EXTRA_FIELDS = ("env", "public", "ref", "separate_runs", "sha", "workflow")


class Runs:
    """Makes runs and their attempts."""

    def __init__(self, tables: state.State, jobs: dispatch.Dispatch, hooks: webhooks.Webhooks) -> None:
        self._state = tables
        self._world = tables.world
        self._dispatch = jobs
        self._hooks = hooks

    def queue(self, spec: world.JobSpec) -> list[entities.GithubJob]:
        """Queue the jobs of a spec: one run per matrix of at most 256; `separate_runs` makes one run each.

        Raises ValueError for unknown fields.
        """
        unknown = sorted(set(spec.extra) - set(EXTRA_FIELDS))
        if unknown:
            raise ValueError(f"unknown field {unknown[0]!r}; GitHub jobs also know: {', '.join(EXTRA_FIELDS)}")
        if not isinstance(spec.extra.get("env", {}), dict):
            raise ValueError("env must be an object of names and values")
        repo = self._state.repository(spec.repo, private=not spec.extra.get("public", False))
        per_run = 1 if spec.extra.get("separate_runs") else MATRIX
        made: list[entities.GithubJob] = []
        while len(made) < spec.count:
            size = min(per_run, spec.count - len(made))
            run = self._new_run(repo, spec)
            name = spec.name or "train"
            jobs = [
                self._new_job(run, spec, name if spec.count == 1 else f"{name} ({len(made) + n})")
                for n in range(1, size + 1)
            ]
            run.attempts.append([job.id for job in jobs])
            run.open = size
            made += jobs
            for job in jobs:
                self._dispatch.enqueue(job)
        return made

    def cancel(self, run: entities.Run, *, force: bool = False) -> None:
        for id in run.attempts[-1]:
            self._dispatch.cancel(self._state.job(id), force=force)

    def rerun(self, run: entities.Run, chosen: list[int]) -> list[entities.GithubJob]:
        """Begin a new attempt with the chosen jobs anew; the others are carried over under their ids."""
        run.attempt += 1
        run.started_at = run.updated_at = self._world.now()
        run.conclusion, run.begun = None, 0
        wanted = set(chosen)
        again: list[entities.GithubJob] = []
        attempt: list[int] = []
        carried: list[entities.GithubJob] = []
        for id in run.attempts[-1]:
            old = self._state.job(id)
            if id in wanted:
                job = self._copy(run, old)
                again.append(job)
                attempt.append(job.id)
            else:
                carried.append(old)
                attempt.append(id)
        run.attempts.append(attempt)
        run.open = len(again)
        self._state.set_run_status(run, "queued")
        for job in again:
            self._dispatch.enqueue(job)
        # Measured: a re-run sends "completed" once more for the jobs that it leaves alone (ARC issue 4315).
        for old in carried:
            self._hooks.workflow_job("completed", old)
        return again

    def _new_run(self, repo: world.Repository, spec: world.JobSpec) -> entities.Run:
        now = self._world.now()
        number = len(self._state.runs_of.get(repo.name, {})) + 1
        if spec.event == "pull_request":
            pull = self._world.pull_request("github", repo.name, spec.pull_number)
            branch, sha, pull_number = pull.head_ref, pull.sha, pull.number
        else:
            branch = str(spec.extra.get("ref") or repo.default_branch).removeprefix("refs/heads/")
            sha, pull_number = str(spec.extra.get("sha") or self._world.hex(40)), None
        run = entities.Run(
            id=self._world.next_id("github-run", 9_000_000_001),
            repo=repo.name,
            number=number,
            name=str(spec.extra.get("workflow") or "train"),
            event=spec.event,
            branch=branch,
            sha=sha,
            pull_number=pull_number,
            created_at=now,
            updated_at=now,
            started_at=now,
        )
        self._state.add_run(run)
        return run

    def _new_job(self, run: entities.Run, spec: world.JobSpec, name: str) -> entities.GithubJob:
        merge = f"refs/pull/{run.pull_number}/merge" if run.pull_number else f"refs/heads/{run.branch}"
        return entities.GithubJob(
            id=self._world.next_id("github-job", 40_000_000_001),
            forge="github",
            repo=run.repo,
            name=name,
            labels=list(spec.labels),
            queued_at=self._world.now(),
            run_id=run.id,
            sha=run.sha,
            ref=merge,
            pull_number=run.pull_number,
            script=list(spec.script),
            duration=spec.duration,
            extra={
                "event": run.event,
                "env": {str(name): str(value) for name, value in spec.extra.get("env", {}).items()},
            },
        )

    def _copy(self, run: entities.Run, old: entities.GithubJob) -> entities.GithubJob:
        return entities.GithubJob(
            id=self._world.next_id("github-job", 40_000_000_001),
            forge="github",
            repo=old.repo,
            name=old.name,
            labels=list(old.labels),
            queued_at=self._world.now(),
            run_id=run.id,
            sha=old.sha,
            ref=old.ref,
            pull_number=old.pull_number,
            run_attempt=run.attempt,
            script=list(old.script),
            duration=old.duration,
            extra={"event": run.event, "env": dict(old.extra.get("env") or {})},
        )
