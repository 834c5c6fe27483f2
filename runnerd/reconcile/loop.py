"""The control loop: observe, plan, act.

Any event may wake it (a message, a webhook, an agent, a listing), and an event does no more than that.  Each pass takes
a snapshot, asks the pure planner, and starts the actions in the background.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from runnerd import errors, planner
from runnerd.jobs import rerun, stuck, updates
from runnerd.kit import tasks
from runnerd.lifecycle import (
    adoption,
    agent_assignment,
    agent_sessions,
    consoles,
    end_reasons,
    inventory,
    orphan_runners,
    provisioning,
    registration,
    termination,
    unknown_creates,
)
from runnerd.model import Instance
from runnerd.offers import admission, blocklist, refresh, selection
from runnerd.reconcile import clock_guard, execute, snapshot
from runnerd.runtime import shared

log = logging.getLogger(__name__)

#: Least seconds between two passes, and least multiple of a pass's own duration.
REST_S, REST_FACTOR = 0.005, 3.0


class Controller:
    """The control loop with its rooms."""

    def __init__(
        self,
        runtime: shared.Runtime,
        *,
        bundle: Callable[[], str],
        assign: Callable[[Instance], agent_assignment.Assignment],
        reanchor: Callable[[], None] = lambda: None,
    ) -> None:
        self.runtime = runtime
        self._woken = runtime.woken
        # In this order they hear of a step: room is freed before an offer is blocked, and both before the rest.
        self.admission = admission.Admission(runtime)
        self.blocklist = blocklist.Blocklist(runtime)
        self.reruns = rerun.Reruns(runtime)
        self.selection = selection.Selection(runtime, self.admission, rerun_outstanding=self.reruns.outstanding)
        self.job_updates = updates.JobUpdates(runtime)
        self.stuck_jobs = stuck.StuckJobs(runtime, self.job_updates)
        self.agents = agent_sessions.AgentSessions(runtime, assign=assign)
        self.registrar = registration.Registrar(runtime, self.agents)
        self.orphan_runners = orphan_runners.OrphanRunners(runtime)
        self.launcher = provisioning.Launcher(runtime, self.admission, self.selection, bundle=bundle)
        self.unknown_creates = unknown_creates.UnknownCreates(runtime, self.launcher)
        adopter = adoption.Adoption(runtime)
        self.consoles = consoles.Consoles(runtime)
        self.agents.on_diagnostics.append(self.consoles.keep_diagnostics)
        self.end_reasons = end_reasons.EndReasons(runtime)
        self.reaper = termination.Reaper(
            runtime,
            self.registrar,
            self.agents,
            adoption=adopter,
            consoles=self.consoles,
            end_reasons=self.end_reasons,
        )
        self.inventory = inventory.Inventory(runtime, adopter)
        self._actions = tasks.Group("act", on_failure=self._action_failed)
        self.refresher = refresh.Refresher(runtime, self._actions)
        self._snapshots = snapshot.Snapshots(
            runtime,
            admission=self.admission,
            blocklist=self.blocklist,
            selection=self.selection,
            registrar=self.registrar,
            job_updates=self.job_updates,
            due=self._due,
        )
        self._executor = execute.Executor(
            runtime,
            self._actions,
            selection=self.selection,
            launcher=self.launcher,
            unknown_creates=self.unknown_creates,
            registrar=self.registrar,
            reaper=self.reaper,
            due=self._due,
        )
        self.deadlines = clock_guard.Deadlines(runtime, reanchor=reanchor, on_shift=self._shift)
        #: Pool -> what held it back in the last plan.
        self.notes: Mapping[str, tuple[str, ...]] = {}
        #: Passes made, seconds of the last one, failures so far; for metrics and health.
        self.passes = 0
        self.pass_seconds = 0.0
        self.failures = 0
        self.last_pass_at = 0.0
        #: Called after each pass with the seconds that it took.
        self.on_pass: list[Callable[[float], None]] = []
        self._next_due: float | None = None

    # -- the loop ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Reconcile until cancelled."""
        while True:
            started = self.runtime.clock.now()
            try:
                await self.reconcile()
            except errors.StoreError as error:
                self.failures += 1
                self.runtime.alarms.ring("daemon", "store", "state-unwritable", str(error))
            except Exception as error:
                self.failures += 1
                log.exception("reconcile failed")
                self.runtime.alarms.ring("daemon", "reconcile", "reconcile-failed", f"{type(error).__name__}: {error}")
            else:
                await self._probe_store()
                self.runtime.alarms.clear("daemon", "reconcile", "reconcile-failed")
            self.pass_seconds = self.runtime.clock.now() - started
            self.last_pass_at = self.runtime.clock.now()
            for listener in self.on_pass:
                listener(self.pass_seconds)
            await self.runtime.clock.sleep(max(REST_S, REST_FACTOR * self.pass_seconds))
            await self._until_woken()

    async def _probe_store(self) -> None:
        """Write to a state that could not be written: a pass may write nothing, so only this ends the alarm."""
        if ("daemon", "store", "state-unwritable") in self.runtime.alarms.open:
            try:
                await self.runtime.rows.probe()
            except errors.StoreError:
                return
            self.runtime.alarms.clear("daemon", "store", "state-unwritable")

    async def _until_woken(self) -> None:
        wait = self.runtime.config.reconcile.interval
        if self._next_due is not None:
            wait = max(0.0, min(wait, self._next_due - self.runtime.clock.now()))
        if self._woken.is_set():
            self._woken.clear()
            return
        try:
            async with asyncio.timeout(None) as limit:
                limit.reschedule(asyncio.get_running_loop().time() + wait)
                await self._woken.wait()
        except TimeoutError:
            pass
        self._woken.clear()

    async def reconcile(self) -> None:
        """Make one pass."""
        self.passes += 1
        self._next_due = None
        self.deadlines.check()
        self.admission.count()
        self.refresher.refresh()
        now_known = self._snapshots.take()
        plan = planner.plan(now_known, self.runtime.clock.now())
        self.notes = plan.notes
        self.job_updates.announce(snapshot.capacity(now_known))
        await self._executor.act(plan)

    def snapshot(self) -> planner.Snapshot:
        """Return everything that a plan depends on, as it is known now."""
        return self._snapshots.take()

    async def close(self, *, grace: float) -> None:
        """Stop acting; wait up to ``grace`` seconds for calls under way, whose outcome is worth having."""
        await self._actions.close(grace=grace)

    def _due(self, at: float) -> None:
        """Make a pass at that time; what is due already was seen by this one."""
        if at > self.runtime.clock.now() and (self._next_due is None or at < self._next_due):
            self._next_due = at

    def _shift(self, seconds: float) -> None:
        self._snapshots.started_at += seconds

    def _action_failed(self, name: str, error: BaseException) -> None:
        """Count and alarm an action that raised; what it did is on record, and the next pass derives it again."""
        self.failures += 1
        if isinstance(error, errors.StoreError):
            self.runtime.alarms.ring("daemon", "store", "state-unwritable", str(error))
        else:
            self.runtime.alarms.ring("daemon", name, "action-failed", f"{type(error).__name__}: {error}")
