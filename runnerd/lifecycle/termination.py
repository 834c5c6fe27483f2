"""Termination: drain, ask both observers, delete, and look until the instance is gone.

An instance that may have a job is never ended on one observation.  The forge's removal is the busy test; the agent's
heartbeat is the second observation, because a removal that succeeds also means "never heard of it".  Overrides are few
and named: the provider says stopped or gone, the agent is silent and the provider's probe says dead, the job's time
is over, an operator ordered it.

Before the first deletion the provider is asked once for what the instance printed, and at its end for why it ended.
Both are for people, and neither holds an end up for long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from provisioners import base
from runnerd import model
from runnerd.forges import base as forges
from runnerd.jobs import rerun
from runnerd.kit import display
from runnerd.lifecycle import adoption, agent_sessions, consoles, end_reasons
from runnerd.lifecycle import registration as lifecycle_registration
from runnerd.model import InstanceId, InstanceState, Reason
from runnerd.planner.observation import Observation
from runnerd.runtime import shared, step_facts

#: Seconds after which a deletion that does not end is alarmed: it costs money and a place.
STUCK_S = 600.0
#: Seconds after which a deletion that was accepted is asked for again; clouds count changes to one machine.
DELETE_AGAIN_S = 15.0
#: Seconds after the end of a job in which an observer may still see it.
AFTERGLOW_S = 15.0
#: Seconds between looks at busy instances whose job the forge calls completed.
RECHECK_S = 60.0
#: States from which an instance may be drained.
DRAINABLE = frozenset(
    {
        InstanceState.BOOTING,
        InstanceState.READY,
        InstanceState.REGISTERING,
        InstanceState.REGISTERED,
        InstanceState.BUSY,
    }
)
#: Reasons that say no more than that an instance is not there, or never was of use.
_NEVER_CAME_UP = frozenset({Reason.NONE, Reason.VANISHED, Reason.DEAD, Reason.BOOT_TIMEOUT})


class Reaper:
    """Ends instances."""

    def __init__(
        self,
        runtime: shared.Runtime,
        registrar: lifecycle_registration.Registrar,
        agents: agent_sessions.AgentSessions,
        *,
        adoption: adoption.Adoption,
        consoles: consoles.Consoles,
        end_reasons: end_reasons.EndReasons,
    ) -> None:
        self._runtime = runtime
        self._registrar = registrar
        self._agents = agents
        self._adoption = adoption
        self._consoles = consoles
        self._end_reasons = end_reasons
        self._rechecked_at = 0.0
        runtime.rows.on_forget.append(runtime.observations.forget)

    # -- draining ----------------------------------------------------------------------------------------------

    async def drain(self, id: InstanceId, reason: Reason, detail: str = "") -> bool:
        """Let an instance take no further job; True when it is draining now.

        A launch or a boot that failed counts against the offer that the instance came from.
        """
        row = self._runtime.rows.instances.get(id)
        if row is None or row.state not in DRAINABLE:
            return False
        stepped = await self._runtime.rows.step(
            id,
            InstanceState.DRAINING,
            expect={row.state},
            reason=reason,
            detail=detail,
            fault=self._fault(id, reason, detail),
        )
        if stepped is None:
            return False
        self._agents.nudge(id)
        self._runtime.wake()
        return True

    def _fault(self, id: InstanceId, reason: Reason, detail: str) -> step_facts.Fault | None:
        if reason is Reason.BOOT_TIMEOUT:
            return step_facts.Fault(base.Kind.BOOT, base.Failure(base.Kind.BOOT, detail))
        if reason is Reason.LAUNCH_FAILED:
            failure = self._runtime.observations.of(id).failure or base.Failure(base.Kind.CAPACITY, detail)
            return step_facts.Fault(failure.kind.value, failure)
        return None

    def completed_but_busy(self) -> Iterator[tuple[InstanceId, str]]:
        """Yield busy instances whose job the forge completed a while ago, from time to time, with its conclusion.

        The forge said completed and the termination check said busy: the check is worth asking again.
        """
        now = self._runtime.clock.now()
        if now - self._rechecked_at < RECHECK_S:
            return
        self._rechecked_at = now
        for row in self._runtime.rows.instances.values():
            if row.state is not InstanceState.BUSY or row.job is None:
                continue
            job = self._runtime.rows.jobs.get(row.job)
            if job is not None and job.state is model.JobState.COMPLETED and now - job.finished_at > RECHECK_S:
                yield row.id, job.conclusion

    # -- the termination check ---------------------------------------------------------------------------------

    async def release(self, id: InstanceId, *, forced: bool) -> None:
        """End a draining instance when the forge and the agent both deny a job, or when that is forced."""
        row = self._runtime.rows.instances.get(id)
        if row is None or row.state is not InstanceState.DRAINING:
            return
        busy = False
        # An adopted instance may have a runner that no row knows of: the forge is asked before it is ended.
        pending = row.adopted and not await self._adoption.discover(row)
        for registration in self._runtime.rows.registrations_of(id):
            outcome = await self._registrar.try_remove(registration)
            busy = busy or outcome is forges.Removal.BUSY
            pending = pending or outcome is forges.Removal.PENDING
        if forced:
            await self._end(id)
            return
        seen = self._runtime.observations.of(id)
        now = self._runtime.clock.now()
        if busy or (seen.worker and seen.fresh(now)):
            await self._job_slipped_in(row, busy)
            return
        if pending:
            return
        if seen.fresh(now) or self._never_had_a_runner(row, seen):
            await self._end(id)
        # Otherwise the second observation is missing: wait for the agent, the provider's verdict or the deadline.

    def _never_had_a_runner(self, row: model.Instance, seen: Observation) -> bool:
        """Return True when no runner configuration can have reached the instance, so that no job can have either."""
        if row.adopted:
            # Its past is not known; that no agent ever spoke, and that no forge has a runner of it, is all there is.
            return not row.agent_nonce and not row.registered_at and seen.agent_at == 0
        return not row.registered_at

    async def _job_slipped_in(self, row: model.Instance, by_forge: bool) -> None:
        worker = self._runtime.observations.of(row.id).worker
        young = self._runtime.clock.now() - row.since < AFTERGLOW_S
        if row.reason in (Reason.JOB_DONE, Reason.RUNNER_EXITED) and (young or not worker):
            # The runner's record and its processes outlive the job for a moment; ask again.
            return
        observer = "the forge" if by_forge else "its agent"
        await self._runtime.rows.step(
            row.id,
            InstanceState.BUSY,
            expect={InstanceState.DRAINING},
            reason=Reason.NONE,
            detail=f"{observer} reports a job on it",
            busy_at=row.busy_at or self._runtime.clock.now(),
        )

    async def _end(self, id: InstanceId) -> None:
        stepped = await self._runtime.rows.step(id, InstanceState.ENDING, expect={InstanceState.DRAINING})
        if stepped is not None:
            await self.delete(id)

    # -- the end -----------------------------------------------------------------------------------------------

    async def delete(self, id: InstanceId) -> None:
        """Ask the provider to delete an ending instance, and look whether it is gone."""
        row = self._runtime.rows.instances.get(id)
        if row is None or row.state is not InstanceState.ENDING:
            return
        provider = self._runtime.providers.get(row.provider)
        if provider is None:
            self._runtime.alarms.ring(
                "instance", id, "no-provider", f"provider {row.provider} is not configured; delete {row.ref} by hand"
            )
            return
        await self._consoles.keep(row)
        observations = self._runtime.observations
        try:
            if self._runtime.clock.now() - observations.of(id).deleted_at >= DELETE_AGAIN_S:
                await provider.provisioner.delete(row.ref)
                observations.deleted(id)
            view = await provider.provisioner.describe(row.ref)
        except base.ProvisionError as error:
            self._runtime.alarms.ring("instance", id, "delete-failed", f"{provider.name}: {error}")
            return
        self._runtime.alarms.clear("instance", id, "delete-failed")
        now = self._runtime.clock.now()
        # What was never seen may still be on its way into view; what was, is gone.
        age = now - max(row.created_at, row.running_at)
        if view is not None:
            observations.seen(id, view)
        elif observations.of(id).seen or age >= provider.provisioner.traits.visibility_grace:
            observations.missed(id)
        if observations.of(id).absent:
            await self.close(id, row.reason)
        elif now - row.since > STUCK_S:
            detail = (
                f"{provider.name} accepted the deletion of {row.ref} "
                f"but still has it after {display.span(now - row.since)}"
            )
            self._runtime.alarms.ring("instance", id, "delete-stuck", detail)

    async def close(self, id: InstanceId, reason: Reason) -> None:
        """Close the row of an instance that is confirmed absent; its registrations still have to go."""
        row = self._open_row(id)
        if row is None:
            return
        why, _ = await asyncio.gather(self._end_reasons.ask(row), self._consoles.keep(row))
        row = self._open_row(id)
        if row is None:
            return
        reason, unexplained = _judge(row, reason, why)
        message = why.detail or (why.failure.message if why.failure else "")
        fault = None
        if why.failure is not None and row.reason is not Reason.LAUNCH_FAILED:
            fault = step_facts.Fault(why.failure.kind.value, why.failure)
        stepped = await self._runtime.rows.step(
            id,
            InstanceState.GONE,
            expect=model.MAY_COST,
            reason=reason,
            detail=message if unexplained or reason is Reason.LAUNCH_FAILED else "",
            fault=fault,
            end=why.kind.value,
            end_detail=message,
        )
        self._runtime.alarms.clear("instance", id, "delete-stuck")
        self._agents.forget(id)
        self._consoles.forget(id)
        if stepped is not None and why.kind is base.EndKind.UNKNOWN:
            self._end_reasons.await_proof(stepped)
        self._runtime.wake()

    def _open_row(self, id: InstanceId) -> model.Instance | None:
        row = self._runtime.rows.instances.get(id)
        return row if row is not None and row.state not in model.CLOSED else None


def _judge(row: model.Instance, reason: Reason, why: base.EndReason) -> tuple[Reason, bool]:
    """Return the reason for an end by what its provider says, and whether runnerd itself had none."""
    unexplained = row.state not in (InstanceState.ENDING, InstanceState.DRAINING)
    if (unexplained and reason in (Reason.NONE, Reason.VANISHED)) or rerun.interrupted(row):
        proven = Reason.PREEMPTED if why.kind is base.EndKind.PREEMPTED else Reason.VANISHED
        reason = proven if unexplained or proven is Reason.PREEMPTED else reason
    if why.failure is not None and not row.ready_at and reason in _NEVER_CAME_UP:
        reason = Reason.LAUNCH_FAILED
    return reason, unexplained
