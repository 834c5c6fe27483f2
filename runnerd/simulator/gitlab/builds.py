"""Jobs of the simulated GitLab: their life, the queue's index, and which runner may take which.

Jobs are indexed by project and status, pending ones also by (tags, protected), so that thousands of them cost a runner
one look per kind of job. This module knows no HTTP. It refuses nothing by itself: the
rules of the API are with the handlers.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from runnerd.simulator import world
from runnerd.simulator.gitlab import entities, reasons, settings


@dataclasses.dataclass(slots=True)
class _QueueValue:
    text: str
    set_at: float


class Builds:
    """All jobs, runners and pipelines, and every change of a job's state."""

    def __init__(self, state: world.World, config: settings.Settings) -> None:
        self.world = state
        self.settings = config
        self.runners: dict[int, entities.RunnerRecord] = {}
        self.runner_by_token: dict[str, entities.RunnerRecord] = {}
        self.pipelines: dict[int, entities.Pipeline] = {}
        #: called after each change of a job's state
        self.listeners: list[Callable[[entities.Build], None]] = []
        self._by_state: dict[tuple[int, str], list[int]] = {}
        self._by_project: dict[int, list[int]] = {}
        #: repo -> (tags, protected) -> ids that wait for a runner
        self._queue: dict[str, dict[tuple[frozenset[str], bool], list[int]]] = {}
        self._values: dict[entities.Profile, _QueueValue] = {}
        self._profiles: dict[entities.Profile, set[int]] = {}
        self._sweep: world.Timer | None = None

    # Jobs

    def get(self, id: int) -> entities.Build | None:
        found = self.world.jobs.get(id)
        return found if isinstance(found, entities.Build) else None

    def ids(self, project_id: int, states: Iterable[str] | None = None) -> list[int]:
        """Ids of a project's jobs in these states (None = all), ascending."""
        if states is None:
            return self._by_project.get(project_id, [])
        lists = [found for state in dict.fromkeys(states) if (found := self._by_state.get((project_id, state)))]
        return lists[0] if len(lists) == 1 else sorted(id for found in lists for id in found)

    def add(self, build: entities.Build) -> None:
        """Take a new job in, in state `created`."""
        self.world.jobs[build.id] = build
        self._by_project.setdefault(build.project_id, []).append(build.id)
        bisect.insort(self._by_state.setdefault((build.project_id, build.state), []), build.id)
        pipeline = self.pipelines[build.run_id]
        pipeline.jobs.append(build.id)

    def enter(self, build: entities.Build, state: str, *, reason: str | None = None) -> None:
        """Move a job to a state, with everything that follows: times, index, queue, waiting runners, hooks, retry."""
        now = self.world.now()
        old = build.state
        self._unlist(build)
        build.state = state
        build.updated_at = now
        build.status = entities.COMMON_STATUS.get(state, "queued")
        bisect.insort(self._by_state.setdefault((build.project_id, state), []), build.id)
        if state == "running":
            build.started_at = now
            build.starts += 1
            build.history.append({"at": now, "event": "started", "runner": build.runner})
        if state in entities.FINAL:
            build.finished_at = now
            build.conclusion = entities.CONCLUSION[state]
            build.failure_reason = (reason or "unknown_failure") if state == "failed" else None
            build.history.append({"at": now, "event": build.state, "runner": build.runner, "reason": reason})
        if state != "pending":
            self._stop_waiting(build)
        self._settle(build)
        if state == "pending":
            self._offer(build)
        pipeline = self.pipelines[build.run_id]
        pipeline.updated_at = now
        for listener in self.listeners:
            listener(build)
        if state == "failed" and old != "failed":
            self._auto_retry(build)
        self.plan_sweep()
        self.world.changed("jobs", ("job", build.id))

    def retry(self, build: entities.Build) -> entities.Build:
        """Return a new attempt of a finished job: same work, new id; the old one is no longer the latest."""
        build.retried = True
        clone = entities.Build(
            id=self.next_id(),
            forge=entities.FORGE,
            repo=build.repo,
            name=build.name,
            labels=list(build.labels),
            queued_at=self.world.now(),
            run_id=build.run_id,
            sha=build.sha,
            ref=build.ref,
            pull_number=build.pull_number,
            run_attempt=build.run_attempt + 1,
            script=list(build.script),
            duration=build.duration,
            project_id=build.project_id,
            protected=build.protected,
            variables=list(build.variables),
            retry=build.retry,
            retries=build.retries + 1,
            timeout=build.timeout,
            extra=dict(build.extra),
        )
        self.add(clone)
        self.enter(clone, "pending")
        return clone

    def cancel(self, build: entities.Build, *, force: bool = False) -> None:
        """Cancel as a person does; a running job whose runner can do it gracefully is `canceling` until that ends."""
        if build.state in entities.FINAL:
            return
        if build.state == "running" and "cancel_gracefully" in build.features and not force:
            self.enter(build, "canceling")
        elif build.state != "canceling" or force:
            self.enter(build, "canceled")

    def next_id(self) -> int:
        return self.world.next_id("gitlab-job", 7_000_000_001)

    # Assignment

    def pick(self, runner: entities.RunnerRecord) -> entities.Build | None:
        """Return the oldest job that waits and that this runner may take."""
        best: int | None = None
        profile = runner.profile
        for repo, kinds in self._queue.items():
            if not runner.serves(repo):
                continue
            for (tags, protected), ids in kinds.items():
                if ids and (best is None or ids[0] < best) and entities.fits(profile, tags, protected=protected):
                    best = ids[0]
        return self.get(best) if best is not None else None

    def assign(
        self, build: entities.Build, runner: entities.RunnerRecord, *, system_id: str, features: frozenset[str]
    ) -> None:
        """Give a pending job to a runner: running at once, or pending until acknowledged (two-phase commit)."""
        now = self.world.now()
        self._unqueue(build)
        build.runner, build.runner_id, build.system_id = runner.name, runner.id, system_id
        build.token = "glcbt-" + self.world.secret(26)
        build.features = features
        build.history.append({"at": now, "event": "assigned", "runner": runner.name, "system_id": system_id})
        if build.id not in runner.jobs:
            bisect.insort(runner.jobs, build.id)
        if self.settings.two_phase_commit and "two_phase_job_commit" in features:
            build.waiting = True
            self.keep_waiting(build)
            self._settle(build)
            self.world.changed("jobs", ("job", build.id))
        else:
            self.enter(build, "running")

    def keep_waiting(self, build: entities.Build) -> None:
        """Start the two minutes of the acknowledgement again."""
        if build.ack is not None:
            build.ack.cancel()
        build.ack = self.world.call_later(self.settings.acknowledge_within, lambda: self._lapse(build))

    def _lapse(self, build: entities.Build) -> None:
        """Nobody acknowledged: back to the queue, the assignment and its token void (RetryStuckWaitingJobWorker)."""
        if not build.waiting:
            return
        self._stop_waiting(build)
        build.history.append({"at": self.world.now(), "event": "lapsed", "runner": build.runner})
        former = self.runners.get(build.runner_id or 0)
        if former is not None and build.id in former.jobs:
            former.jobs.remove(build.id)
        build.runner = build.runner_id = build.system_id = None
        build.token = ""
        if former is not None:
            former.held.discard(build.id)
            self.refresh(former)
        self._offer(build)
        self.world.changed("jobs", ("job", build.id))

    def _stop_waiting(self, build: entities.Build) -> None:
        build.waiting = False
        if build.ack is not None:
            build.ack.cancel()
            build.ack = None

    def _settle(self, build: entities.Build) -> None:
        runner = self.runners.get(build.runner_id or 0)
        if runner is not None:
            (runner.held.add if _held(build) else runner.held.discard)(build.id)
            self.refresh(runner)

    # Runners

    def add_runner(self, runner: entities.RunnerRecord) -> None:
        self.runners[runner.id] = self.world.runners[entities.FORGE, runner.id] = runner
        self.runner_by_token[runner.token] = runner
        self._profiles.setdefault(runner.profile, set()).add(runner.id)
        self.world.changed("runners")

    def remove_runner(self, runner: entities.RunnerRecord) -> None:
        """Forget a runner and its managers. A job that it runs goes on by its own token; one it never took lapses."""
        self.runners.pop(runner.id, None)
        self.world.runners.pop((entities.FORGE, runner.id), None)
        self.runner_by_token.pop(runner.token, None)
        self._leave(runner, runner.profile)
        if runner.aging is not None:
            runner.aging.cancel()
        self.world.changed("runners", ("queue", runner.profile))

    def edit_runner(self, runner: entities.RunnerRecord, changes: Mapping[str, Any]) -> None:
        """Change attributes; its queue value changes, so that a runner in its long poll asks again."""
        before = runner.profile
        for name, value in changes.items():
            setattr(runner, name, value)
        self._leave(runner, before)
        self._profiles.setdefault(runner.profile, set()).add(runner.id)
        runner.edition += 1
        self.world.changed("runners", ("queue", before), ("queue", runner.profile))

    def rotate(self, runner: entities.RunnerRecord) -> str:
        """Give a runner a new token; the old one is void at once."""
        self.runner_by_token.pop(runner.token, None)
        runner.token = "glrt-t3_" + self.world.secret(20)
        self.runner_by_token[runner.token] = runner
        self.world.changed("runners", ("queue", runner.profile))
        return runner.token

    def contact(
        self, runner: entities.RunnerRecord, system_id: str | None, info: Mapping[str, Any] | None = None
    ) -> None:
        """Note that a machine used the token; a new system_id makes a new manager."""
        now = self.world.now()
        runner.contacted_at = now
        self.refresh(runner)
        if runner.aging is None:
            self._plan_aging(runner, self.settings.online_within)
        if not system_id:
            return
        manager = runner.managers.get(system_id)
        if manager is None:
            number = self.world.next_id("gitlab-runner-manager", 8001)
            manager = runner.managers[system_id] = entities.Manager(number, system_id, now, now)
            self.world.changed("runners")
        manager.contacted_at = now
        if info:
            manager.info = dict(info)

    def _plan_aging(self, runner: entities.RunnerRecord, delay: float) -> None:
        def look() -> None:
            runner.aging = None
            self.refresh(runner)
            if runner.status == "online" and runner.contacted_at is not None:
                age = self.world.now() - runner.contacted_at
                self._plan_aging(runner, max(1.0, self.settings.online_within - age))

        runner.aging = self.world.call_later(delay, look)

    def liveness(self, contacted_at: float | None, created_at: float) -> str:
        """online below 2 h, stale from 7 days on; a runner never seen is `never_contacted` and stale after 7 days."""
        age = self.world.now() - (created_at if contacted_at is None else contacted_at)
        if age >= self.settings.stale_after:
            return "stale"
        if contacted_at is None:
            return "never_contacted"
        return "online" if age < self.settings.online_within else "offline"

    def refresh(self, runner: entities.RunnerRecord) -> None:
        """Bring the common fields (status, busy, job) in line."""
        runner.status = self.liveness(runner.contacted_at, runner.created_at)
        runner.busy = bool(runner.held)
        runner.job_id = max(runner.held, default=None)

    def matching_online(self, build: entities.Build) -> bool:
        """Return True when an active runner contacted within 2 h could take the job: the rule of the one-hour drop."""
        tags, protected = build.kind
        return any(
            not runner.paused
            and self.liveness(runner.contacted_at, runner.created_at) == "online"
            and runner.serves(build.repo)
            and runner.takes(tags, protected=protected)
            for runner in self.runners.values()
        )

    def _leave(self, runner: entities.RunnerRecord, profile: entities.Profile) -> None:
        members = self._profiles.get(profile)
        if members is not None:
            members.discard(runner.id)
            if not members:
                del self._profiles[profile]
                self._values.pop(profile, None)

    # The queue value that long polls watch

    def queue_value(self, runner: entities.RunnerRecord) -> str:
        """Return the value of `X-GitLab-Last-Update`: the same until a job comes that the runner could take."""
        value = self._values.get(runner.profile)
        if value is None or self.world.now() - value.set_at > self.settings.queue_value_ttl:
            value = self._values[runner.profile] = _QueueValue(self.world.hex(32), self.world.now())
        return f"{value.text}{runner.id:x}{runner.edition:x}"

    def _offer(self, build: entities.Build) -> None:
        tags, protected = build.kind
        bisect.insort(self._queue.setdefault(build.repo, {}).setdefault((tags, protected), []), build.id)
        woken = [
            profile
            for profile in self._profiles
            if entities.reaches(profile[0], profile[1], build.repo)
            and entities.fits(profile, tags, protected=protected)
        ]
        fresh = _QueueValue(self.world.hex(32), self.world.now())
        for profile in woken:
            self._values[profile] = fresh
        self.world.changed(*(("queue", profile) for profile in woken))

    def _unqueue(self, build: entities.Build) -> None:
        kinds = self._queue.get(build.repo, {})
        waiting = kinds.get(build.kind, [])
        position = bisect.bisect_left(waiting, build.id)
        if position < len(waiting) and waiting[position] == build.id:
            del waiting[position]
            if not waiting:
                del kinds[build.kind]

    def _unlist(self, build: entities.Build) -> None:
        listed = self._by_state[(build.project_id, build.state)]
        position = bisect.bisect_left(listed, build.id)
        del listed[position]
        if build.state == "pending":
            self._unqueue(build)

    # Time

    def plan_sweep(self) -> None:
        """Keep the sweep's timer while there is something to sweep, at full periods of world time like a cron."""
        if self._sweep is not None or not self._active():
            return
        period = self.settings.sweep_every
        self._sweep = self.world.call_at((self.world.now() // period + 1) * period, self._swept)

    def _active(self) -> bool:
        return any(ids and state in entities.ACTIVE for (_, state), ids in self._by_state.items())

    def _swept(self) -> None:
        self._sweep = None
        self.sweep()
        self.plan_sweep()

    def sweep(self) -> None:
        """Drop stuck jobs, with the thresholds and reasons of GitLab 19 (Ci::StuckBuilds)."""
        now = self.world.now()
        modern = self.settings.version_numbers >= (19, 0)
        for (_, state), ids in list(self._by_state.items()):
            if state not in entities.ACTIVE:
                continue
            for id in list(ids):
                build = self.get(id)
                reason = self._stuck(build, now) if build is not None else None
                if build is not None and reason is not None:
                    old = "job_execution_timeout" if reason.startswith("server_timeout") else "stuck_or_timeout_failure"
                    self.enter(build, "failed", reason=reason if modern else old)

    def _stuck(self, build: entities.Build, now: float) -> str | None:
        if build.state == "pending":
            age = now - build.queued_at
            if build.waiting:
                return None
            if age >= self.settings.pending_with_runner:
                return "stuck_pending_with_matching_runners"
            if age >= self.settings.pending_without_runner and not self.matching_online(build):
                return "stuck_pending_no_matching_runners"
            return None
        if now - build.updated_at >= self.settings.running_without_update:
            return "no_updates_running" if build.state == "running" else "no_updates_canceling"
        if now - (build.started_at or now) >= build.timeout + self.settings.beyond_timeout:
            return "server_timeout_running" if build.state == "running" else "server_timeout_canceling"
        return None

    def _auto_retry(self, build: entities.Build) -> None:
        reason = build.failure_reason or "unknown_failure"
        if build.retries < reasons.retries_allowed(build.retry, reason, build.exit_code):
            self.retry(build)


def _held(build: entities.Build) -> bool:
    return build.waiting or build.state in ("running", "canceling")
