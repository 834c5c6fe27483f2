"""Ends instances: drain, ask both witnesses, delete, and look until it is gone.

An instance that may have a job is never ended on one witness.  The forge's removal is the busy test; the agent's
heartbeat is the second witness, because a removal that succeeds also means "never heard of it".  Overrides are few
and named: the provider says stopped or gone, the agent is silent and the provider's probe says dead, the job's time
is over, a person said so.
"""

from __future__ import annotations

import logging

from provisioners import base
from runnerd import agents, model, planner, registrar, retrier, station
from runnerd.forges import base as forges
from runnerd.model import InstanceId, InstanceState, Reason

log = logging.getLogger(__name__)

#: Seconds after the end of a job in which a witness may still see it.
AFTERGLOW = 15.0
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


class Reaper:
    """Takes instances out of the world."""

    def __init__(self, station: station.Station, registrar: registrar.Registrar, agents: agents.Agents) -> None:
        self._station = station
        self._registrar = registrar
        self._agents = agents

    async def drain(self, id: InstanceId, reason: Reason, detail: str = "") -> bool:
        """Let an instance take no further job; True when it is draining now."""
        row = self._station.rows.instances.get(id)
        if row is None or row.state not in DRAINABLE:
            return False
        expect = {row.state}
        stepped = await self._station.rows.step(id, InstanceState.DRAINING, expect=expect, reason=reason, detail=detail)
        if stepped is None:
            return False
        self._agents.nudge(id)
        self._station.wake()
        return True

    async def release(self, id: InstanceId, *, forced: bool) -> None:
        """The gate: end a draining instance when the forge and the agent both deny a job."""
        row = self._station.rows.instances.get(id)
        if row is None or row.state is not InstanceState.DRAINING:
            return
        busy = False
        # An adopted instance may have a runner that no row knows of: the forge is asked before it is ended.
        pending = row.adopted and not await self._registrar.discover(row)
        for registration in self._station.rows.registrations_of(id):
            outcome = await self._registrar.try_remove(registration)
            busy = busy or outcome is forges.Removal.BUSY
            pending = pending or outcome is forges.Removal.PENDING
        if forced:
            await self._end(id)
            return
        witness = self._station.witness(id)
        now = self._station.clock.now()
        if busy or (witness.worker and witness.fresh(now)):
            await self._job_slipped_in(row, busy)
            return
        if pending:
            return
        if witness.fresh(now) or self._never_had_a_runner(row, witness):
            await self._end(id)
        # Otherwise the second witness is missing: wait for its word, the provider's verdict or the deadline.

    def _never_had_a_runner(self, row: model.Instance, witness: planner.Evidence) -> bool:
        """No runner configuration can have reached the instance, so no job can."""
        if row.adopted:
            # Its past is not known; that no agent ever spoke, and that no forge has a runner of it, is all there is.
            return not row.agent_nonce and not row.registered_at and witness.agent_at == 0
        return not row.registered_at

    async def _job_slipped_in(self, row: model.Instance, by_forge: bool) -> None:
        witness = self._station.witness(row.id)
        young = self._station.clock.now() - row.since < AFTERGLOW
        if row.reason in (Reason.JOB_DONE, Reason.RUNNER_EXITED) and (young or not witness.worker):
            # The runner's record and its processes outlive the job for a moment; ask again.
            return
        who = "the forge" if by_forge else "its agent"
        await self._station.rows.step(
            row.id,
            InstanceState.BUSY,
            expect={InstanceState.DRAINING},
            reason=Reason.NONE,
            detail=f"{who} says that it has a job",
            busy_at=row.busy_at or self._station.clock.now(),
        )

    async def _end(self, id: InstanceId) -> None:
        stepped = await self._station.rows.step(id, InstanceState.ENDING, expect={InstanceState.DRAINING})
        if stepped is not None:
            await self.delete(id)

    async def delete(self, id: InstanceId) -> None:
        """Ask the provider to delete an ending instance, and look whether it is gone."""
        row = self._station.rows.instances.get(id)
        if row is None or row.state is not InstanceState.ENDING:
            return
        provider = self._station.providers.get(row.provider)
        if provider is None:
            self._station.alarms.ring(
                "instance", id, "no-provider", f"provider {row.provider} is not configured; delete {row.ref} by hand"
            )
            return
        try:
            await provider.provisioner.delete(row.ref)
            view = await provider.provisioner.describe(row.ref)
        except base.ProvisionError as error:
            self._station.alarms.ring("instance", id, "delete-failed", f"{provider.name}: {error}")
            return
        self._station.alarms.clear("instance", id, "delete-failed")
        now = self._station.clock.now()
        witness = self._station.witness(id)
        young = now - row.created_at < provider.provisioner.traits.visibility_grace
        if view is None and not young:
            witness.absences += 1
        elif view is not None:
            witness.cloud, witness.cloud_at, witness.absences = view.status, now, 0
        if witness.cloud is base.InstanceStatus.GONE or witness.absences >= planner.ABSENCES:
            await self.close(id, row.reason)

    async def close(self, id: InstanceId, reason: Reason) -> None:
        """The instance is confirmed absent: its row is history, its registrations still have to go."""
        row = self._station.rows.instances.get(id)
        if row is None or row.state in model.CLOSED:
            return
        unexplained = row.state not in (InstanceState.ENDING, InstanceState.DRAINING)
        if (unexplained and reason in (Reason.NONE, Reason.VANISHED)) or retrier.interrupted(row):
            proven = await self._why_gone(row)
            reason = proven if unexplained or proven is Reason.PREEMPTED else reason
        await self._station.rows.step(id, InstanceState.GONE, reason=reason)
        self._agents.forget(id)
        if id not in self._station.rows.instances:
            self._station.evidence.pop(id, None)
        self._station.wake()

    async def _why_gone(self, row: model.Instance) -> Reason:
        provider = self._station.providers.get(row.provider)
        if provider is None:
            return Reason.VANISHED
        try:
            why = await provider.provisioner.end_reason(row.ref)
        except base.ProvisionError:
            return Reason.VANISHED
        return Reason.PREEMPTED if why.kind is base.EndKind.PREEMPTED else Reason.VANISHED
