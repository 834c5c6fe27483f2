"""The assignment of jobs to scale sets and runners, and the messages about it: the heart of the Actions service.

A job is matched to a scale set whose labels are a superset of its own, assigned while the set holds less than the
total that was announced, and handed to an online idle runner of the set, oldest first; it is never bound to the runner
that was made because of it. Every step is one synchronous function, so an answer that is lost leaves no half step.
Sources: the public scale set client and its README, and the measurements noted there (see docs/simulator.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from runnerd.simulator import world
from runnerd.simulator.github import entities, state

#: REST conclusion by the result that the messages carry
RESULTS = {"success": "succeeded", "failure": "failed", "cancelled": "canceled", "skipped": "skipped"}
ZERO_TIME = "0001-01-01T00:00:00Z"


class Dispatch:
    """Moves jobs through their stages. `announce(action, job)` tells the webhooks."""

    def __init__(self, tables: state.State, announce: Callable[[str, entities.GithubJob], None]) -> None:
        self._state = tables
        self._world = tables.world
        self._options = tables.options
        self._announce = announce
        #: queued jobs not assigned to a set, by repository and labels, for classic runners
        self._pool: dict[str, dict[frozenset[str], dict[int, None]]] = {}
        #: idle classic runners, oldest first
        self._idle: dict[int, None] = {}

    # Jobs

    def enqueue(self, job: entities.GithubJob) -> None:
        """Put a new job into the queue."""
        self._world.jobs[job.id] = job
        job.queue_timer = self._world.call_later(self._options.queue_limit, lambda: self._expire(job))
        self._announce("queued", job)
        self._place(job)
        self._world.changed("jobs", ("job", job.id))

    def cancel(self, job: entities.GithubJob, *, force: bool = False) -> None:
        """Cancel a job as a person would; its runner gets a grace period unless forced."""
        if job.status == "completed" or (job.cancelling and not force):
            return
        if job.stage != "running" or force:
            self.complete(job, "cancelled")
            return
        job.cancelling = True
        self._set_timer(job, self._options.cancel_grace, lambda: self.complete(job, "cancelled"))
        self._world.changed(("github-runner", job.runner_id), ("job", job.id))

    def complete(self, job: entities.GithubJob, conclusion: str) -> None:
        """End a job with a conclusion of REST."""
        if job.status == "completed":
            return
        held = job.stage in ("assigned", "handed", "running")
        scale_set = self._leave(job)
        began = job.stage == "running"
        job.stage = "done"
        job.status, job.conclusion, job.finished_at = "completed", conclusion, self._world.now()
        self._set_timer(job, None, None)
        if job.queue_timer is not None:
            job.queue_timer.cancel()
        if job.token:
            self._world.tokens.pop(job.token, None)
        runner = self._state.runners.get(job.runner_id) if job.runner_id is not None else None
        if runner is not None and runner.job_id == job.id:
            self._release(runner, used=began)
        if scale_set is not None and held:
            self.tell(scale_set, "JobCompleted", job, result=RESULTS.get(conclusion, conclusion))
        run = self._state.runs[job.run_id]
        run.open -= 1
        run.updated_at = self._world.now()
        if run.open == 0:
            run.conclusion = self._conclusion(run)
            self._state.set_run_status(run, "completed")
        else:
            self._state.set_run_status(run, "in_progress")
        self._announce("completed", job)
        if scale_set is not None:
            self.fill(scale_set)
        self._world.changed("jobs", ("job", job.id))

    def start(self, job: entities.GithubJob, runner: entities.GithubRunner) -> bool:
        """Let the runner begin the job; return False when it is not (or no longer) its job."""
        if job.stage != "handed" or job.runner_id != runner.id:
            return False
        now = self._world.now()
        job.stage, job.status, job.started_at = "running", "in_progress", now
        job.runner = runner.name
        job.starts += 1
        job.history.append({"at": now, "event": "started", "runner": runner.name})
        if job.queue_timer is not None:
            job.queue_timer.cancel()
        run = self._state.runs[job.run_id]
        run.begun += 1
        run.updated_at = now
        self._state.set_run_status(run, "in_progress")
        self._set_timer(job, None, None)
        if not runner.attached:
            self.renew(runner)
        scale_set = self._state.sets.get(job.set_id or 0)
        if scale_set is not None:
            self.tell(scale_set, "JobStarted", job)
        self._announce("in_progress", job)
        self._world.changed("jobs", ("job", job.id))
        return True

    # Scale sets

    def tell(self, scale_set: entities.ScaleSet, kind: str, job: entities.GithubJob, **more: Any) -> None:
        """Put an inner message into the set's queue."""
        runner = self._state.runners.get(job.runner_id) if job.runner_id is not None else None
        message = {
            "messageType": kind,
            "runnerRequestId": job.request_id,
            "repositoryName": job.repo.split("/")[1],
            "ownerName": job.repo.split("/")[0],
            "jobId": job.guid,
            "jobWorkflowRef": f"{job.repo}/.github/workflows/train.yml@{job.ref}",
            "jobDisplayName": job.name,
            "workflowRunId": job.run_id,
            "eventName": job.extra.get("event", "push"),
            "requestLabels": list(job.labels),
            "queueTime": world.iso(job.queued_at) or ZERO_TIME,
            "scaleSetAssignTime": world.iso(job.assigned_at) or ZERO_TIME,
            "runnerAssignTime": world.iso(job.handed_at) or ZERO_TIME,
            "finishTime": world.iso(job.finished_at) or ZERO_TIME,
            **more,
        }
        if kind in ("JobStarted", "JobCompleted"):
            message["runnerId"] = runner.id if runner else (job.runner_id or 0)
            message["runnerName"] = runner.name if runner else (job.runner or "")
        scale_set.pending.append(message)
        self._world.changed(scale_set.queue_key)

    def statistics(self, scale_set: entities.ScaleSet) -> dict[str, int]:
        return {
            "totalAvailableJobs": len(scale_set.waiting) + len(scale_set.offered),
            "totalAcquiredJobs": 0,
            "totalAssignedJobs": len(scale_set.assigned) + len(scale_set.running),
            "totalRunningJobs": len(scale_set.running),
            "totalRegisteredRunners": len(scale_set.runners),
            "totalBusyRunners": scale_set.busy,
            "totalIdleRunners": len(scale_set.idle),
        }

    def announce_capacity(self, scale_set: entities.ScaleSet, capacity: int | None) -> None:
        """Take the capacity that a poll announces: the total that the listener may hold; None without the header."""
        scale_set.capacity = capacity
        scale_set.uncounted = capacity is None
        if self._acquires(scale_set):
            for id in list(scale_set.waiting):
                self._offer(self._state.job(id), scale_set)
        self.fill(scale_set)

    def acquire(self, scale_set: entities.ScaleSet, requests: Iterable[int]) -> list[int]:
        """Commit offered jobs to the set; the ids granted."""
        by_request = {self._state.job(id).request_id: id for id in scale_set.offered}
        granted = []
        for request_id in requests:
            id = by_request.pop(request_id, None)
            if id is not None:
                self._assign(self._state.job(id), scale_set)
                granted.append(request_id)
        self._hand(scale_set)
        return granted

    def fill(self, scale_set: entities.ScaleSet) -> None:
        """Assign what waits while the announced total is not reached, then hand out."""
        while scale_set.waiting and len(scale_set.assigned) + len(scale_set.running) < (scale_set.capacity or 0):
            self._assign(self._state.job(next(iter(scale_set.waiting))), scale_set)
        self._hand(scale_set)

    def adopt_jobs(self, scale_set: entities.ScaleSet) -> None:
        """Match queued jobs that matched nothing again, after a set was created or got new labels."""
        for groups in list(self._pool.values()):
            for ids in list(groups.values()):
                for id in list(ids):
                    job = self._state.job(id)
                    if job.stage == "unmatched" and self._matches(scale_set, job):
                        self._leave(job)
                        self._place(job)

    def drop_set(self, scale_set: entities.ScaleSet) -> None:
        """Delete a set: its queued jobs are matched again, its runners are orphaned."""
        del self._state.sets[scale_set.id]
        self._state.deleted_sets.add(scale_set.id)
        for id in [*scale_set.assigned, *scale_set.offered, *scale_set.stranded, *scale_set.waiting]:
            job = self._state.job(id)
            self._leave(job)
            self._place(job)
        for id in list(scale_set.runners):
            runner = self._state.runners[id]
            runner.orphaned = True
            if runner.job_id is None:
                self.forget(runner)
        self._world.changed(scale_set.queue_key)

    # Runners

    def online(self, runner: entities.GithubRunner) -> None:
        """Hand a job to a runner that connected or is free again, if there is one."""
        runner.status = "online"
        runner.last_seen = self._world.now()
        if runner.job_id is None:
            scale_set = self._state.sets.get(runner.set_id or 0)
            if scale_set is not None:
                scale_set.idle[runner.id] = None
                self._hand(scale_set)
            elif runner.set_id is None:
                self._idle[runner.id] = None
                self._serve_classic(runner)
        if not runner.attached:
            self._world.call_later(self._options.offline_after, lambda: self._check_contact(runner))
        self._world.changed("runners")

    def offline(self, runner: entities.GithubRunner) -> None:
        """Take a runner offline; a job that it holds stays with it until its lease expires."""
        runner.status, runner.session = "offline", None
        self._idle.pop(runner.id, None)
        scale_set = self._state.sets.get(runner.set_id or 0)
        if scale_set is not None:
            scale_set.idle.pop(runner.id, None)
        if runner.job_id is not None and math.isinf(runner.lease_until):
            self.renew(runner)
        self._world.changed("runners", ("github-runner", runner.id))

    def renew(self, runner: entities.GithubRunner) -> None:
        """Renew the runner's lease on its job."""
        first = runner.lease_until <= self._world.now() or math.isinf(runner.lease_until)
        runner.lease_until = self._world.now() + self._options.lease
        if first and runner.job_id is not None:
            job_id = runner.job_id
            self._world.call_at(runner.lease_until, lambda: self._check_lease(runner, job_id))

    def forget(self, runner: entities.GithubRunner) -> None:
        """Remove a registration; a connected runner finds it gone."""
        self._state.runners.pop(runner.id, None)
        self._state.runner_names.pop((runner.scope, runner.name.lower()), None)
        self._state.runner_secrets.pop(runner.secret, None)
        self._world.runners.pop(("github", runner.id), None)
        self._idle.pop(runner.id, None)
        scale_set = self._state.sets.get(runner.set_id or 0)
        if scale_set is not None:
            scale_set.idle.pop(runner.id, None)
            scale_set.runners.discard(runner.id)
        runner.status, runner.session = "offline", None
        if runner.removal is not None:
            runner.removal.cancel()
        self._world.changed("runners", ("github-runner", runner.id))

    # Steps

    def _place(self, job: entities.GithubJob) -> None:
        sets = [item for item in self._state.sets.values() if self._matches(item, job)]
        if not sets:
            job.stage, job.set_id = "unmatched", None
            self._to_pool(job)
            return
        scale_set = sets[0] if len(sets) == 1 else self._world.random.choice(sets)
        job.set_id = scale_set.id
        if self._acquires(scale_set):
            self._offer(job, scale_set)
        elif scale_set.capacity == 0:
            job.stage = "stranded"
            scale_set.stranded[job.id] = None
            self._to_pool(job)
        else:
            job.stage = "waiting"
            scale_set.waiting[job.id] = None
            self._to_pool(job)
        self.fill(scale_set)

    def _offer(self, job: entities.GithubJob, scale_set: entities.ScaleSet) -> None:
        scale_set.waiting.pop(job.id, None)
        job.stage = "offered"
        job.guid = job.guid or self._world.uuid()
        job.request_id = job.request_id or self._world.next_id("github-request", 101)
        scale_set.offered[job.id] = None
        self._to_pool(job)
        if job.stage == "offered":
            self.tell(scale_set, "JobAvailable", job, acquireJobUrl=job.extra.get("acquire_url", ""))

    def _assign(self, job: entities.GithubJob, scale_set: entities.ScaleSet) -> None:
        self._leave(job)
        job.set_id, job.stage = scale_set.id, "assigned"
        job.guid = job.guid or self._world.uuid()
        job.assigned_at = self._world.now()
        job.history.append({"at": job.assigned_at, "event": "assigned", "set": scale_set.name, "jobId": job.guid})
        scale_set.assigned[job.id] = None
        self._set_timer(job, self._options.lapse, lambda: self._lapse(job, scale_set))
        self.tell(scale_set, "JobAssigned", job)

    def _lapse(self, job: entities.GithubJob, scale_set: entities.ScaleSet) -> None:
        if job.stage != "assigned" or scale_set.id not in self._state.sets:
            return
        self.tell(scale_set, "JobCompleted", job, result="canceled")
        self._leave(job)
        job.lapsed += 1
        job.guid = self._world.uuid()
        job.history.append({"at": self._world.now(), "event": "lapsed", "set": scale_set.name})
        if self._options.lapses is not None and job.lapsed > self._options.lapses:
            job.stage = "stranded"
            scale_set.stranded[job.id] = None
            self._to_pool(job)
            return
        if self._acquires(scale_set):
            job.request_id = 0
            self._offer(job, scale_set)
        else:
            self._assign(job, scale_set)

    def _hand(self, scale_set: entities.ScaleSet) -> None:
        while scale_set.idle:
            if scale_set.assigned:
                id = next(iter(scale_set.assigned))
            else:
                heads = [next(iter(queue)) for queue in (scale_set.stranded, scale_set.waiting) if queue]
                if not heads:
                    return
                id = min(heads)
                self._assign(self._state.job(id), scale_set)
            self._give(self._state.job(id), self._state.runners[next(iter(scale_set.idle))])

    def _give(self, job: entities.GithubJob, runner: entities.GithubRunner) -> None:
        scale_set = self._state.sets.get(job.set_id or 0) if job.stage == "assigned" else None
        self._leave(job)
        self._idle.pop(runner.id, None)
        if scale_set is not None and runner.set_id == scale_set.id:
            scale_set.running[job.id] = None
            scale_set.idle.pop(runner.id, None)
            scale_set.busy += 1
        else:
            job.set_id = None
        job.stage, job.runner_id, job.runner = "handed", runner.id, runner.name
        job.handed_at = self._world.now()
        group = self._state.group(runner.scope, runner.group_id)
        job.extra["runner_group_id"] = runner.group_id
        job.extra["runner_group_name"] = group.name if group else None
        job.history.append({"at": job.handed_at, "event": "handed", "runner": runner.name})
        runner.busy, runner.job_id = True, job.id
        runner.lease_until = math.inf if runner.attached else 0.0
        self._set_timer(job, self._options.pickup, lambda: self._not_picked_up(job, runner))
        self._world.changed(("github-runner", runner.id), "runners")

    def _not_picked_up(self, job: entities.GithubJob, runner: entities.GithubRunner) -> None:
        if job.stage != "handed" or job.runner_id != runner.id:
            return
        scale_set = self._leave(job)
        job.runner = job.runner_id = job.handed_at = None
        self._release(runner, used=False, answering=False)
        if scale_set is not None:
            self._assign(job, scale_set)
            self._hand(scale_set)
        else:
            self._place(job)

    def _release(self, runner: entities.GithubRunner, *, used: bool, answering: bool = True) -> None:
        """Free a runner of its job. A used ephemeral registration ends; an unused one listens on."""
        runner.busy, runner.job_id = False, None
        scale_set = self._state.sets.get(runner.set_id or 0)
        if scale_set is not None and runner.id in scale_set.runners:
            scale_set.busy -= 1
        if (used and runner.ephemeral) or runner.orphaned:
            self.forget(runner)
        elif not answering:
            self.offline(runner)
        elif runner.session is not None:
            self.online(runner)
        self._world.changed("runners", ("github-runner", runner.id))

    def _leave(self, job: entities.GithubJob) -> entities.ScaleSet | None:
        """Take the job out of every queue; its set, if that still exists."""
        groups = self._pool.get(job.repo)
        if groups is not None:
            key = _labels(job)
            ids = groups.get(key)
            if ids is not None:
                ids.pop(job.id, None)
                if not ids:
                    del groups[key]
        scale_set = self._state.sets.get(job.set_id or 0)
        if scale_set is not None:
            for queue in (
                scale_set.waiting,
                scale_set.stranded,
                scale_set.offered,
                scale_set.assigned,
                scale_set.running,
            ):
                queue.pop(job.id, None)
        return scale_set

    def _to_pool(self, job: entities.GithubJob) -> None:
        self._pool.setdefault(job.repo, {}).setdefault(_labels(job), {})[job.id] = None
        for id in self._idle:
            runner = self._state.runners[id]
            if self._may_take(runner, job.repo) and _labels(job) <= _names(runner.labels):
                self._give(job, runner)
                return

    def _serve_classic(self, runner: entities.GithubRunner) -> None:
        offered = _names(runner.labels)
        heads = [
            next(iter(ids))
            for repo, groups in self._pool.items()
            if self._may_take(runner, repo)
            for wanted, ids in groups.items()
            if wanted <= offered
        ]
        if heads:
            self._give(self._state.job(min(heads)), runner)

    def _may_take(self, runner: entities.GithubRunner, repo: str) -> bool:
        return self._state.serves(runner.scope, repo) and self._state.group_admits(runner.scope, runner.group_id, repo)

    def _matches(self, scale_set: entities.ScaleSet, job: entities.GithubJob) -> bool:
        return (
            _labels(job) <= _names(scale_set.labels)
            and self._state.serves(scale_set.scope, job.repo)
            and self._state.group_admits(scale_set.scope, scale_set.group_id, job.repo)
        )

    def _acquires(self, scale_set: entities.ScaleSet) -> bool:
        return self._options.ghes_acquire or scale_set.uncounted

    def _expire(self, job: entities.GithubJob) -> None:
        if job.status == "queued":
            self.complete(job, "cancelled" if job.stage == "handed" else "failure")

    def _check_contact(self, runner: entities.GithubRunner) -> None:
        if runner.id not in self._state.runners or runner.session is None:
            return
        due = runner.last_seen + self._options.offline_after
        if self._world.now() >= due:
            self.offline(runner)
        else:
            self._world.call_at(due, lambda: self._check_contact(runner))

    def _check_lease(self, runner: entities.GithubRunner, job_id: int) -> None:
        if runner.job_id != job_id or math.isinf(runner.lease_until):
            return
        if self._world.now() < runner.lease_until:
            self._world.call_at(runner.lease_until, lambda: self._check_lease(runner, job_id))
            return
        job = self._state.job(job_id)
        job.append_log(b"##[error]The self-hosted runner lost communication with the server.\n")
        self.complete(job, "failure")

    def _conclusion(self, run: entities.Run) -> str:
        conclusions = {self._world.jobs[id].conclusion for id in run.attempts[-1]}
        for verdict in ("failure", "cancelled"):
            if verdict in conclusions:
                return verdict
        return "success"

    def _set_timer(self, job: entities.GithubJob, delay: float | None, callback: Callable[[], None] | None) -> None:
        if job.timer is not None:
            job.timer.cancel()
        job.timer = None
        if delay is not None and callback is not None:
            job.timer = self._world.call_later(delay, callback)


def _names(labels: Iterable[str]) -> frozenset[str]:
    return frozenset(label.lower() for label in labels)


def _labels(job: entities.GithubJob) -> frozenset[str]:
    return _names(job.labels)
