"""The daemon's side of the agent protocol: exchange, registration, heartbeats, job reports.

An instance proves itself with a boot token that is exchanged once per nonce.  The same nonce gets the same answer, so
an agent may repeat a lost exchange; another nonce is refused and alarmed, so a stolen token is worth nothing once the
agent was faster.  After a job has started, the credential never registers again: whoever reads it on the instance,
the job included, gets nothing for it.

What agents say is evidence for the planner; it moves a life cycle only where the agent is the one who knows: the
hardware gate, the start of a job, its end.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from runnerd import errors, model, planner
from runnerd.forges import base as forges
from runnerd.kit import clock, tasks
from runnerd.model import AttemptKey, InstanceId, InstanceState, Reason
from runnerd.runtime import alarms, ledger, tokens

#: The protocol versions that this daemon serves: its own and the one before.
PROTOCOLS = frozenset({1})
#: Seconds that a registration request is held open while no queue wants the instance.
HOLD = 25.0
#: Seconds between heartbeats, told to the agent.
HEARTBEAT = 15.0
_NONCE = re.compile(r"[A-Za-z0-9_-]{16,128}")


@dataclass(frozen=True, slots=True)
class Duty:
    """What an agent must know of its pool."""

    #: GPUs that must be there; -1 for no gate (instances without hardware of their own).
    gpus: int
    gpu: str
    max_job: float
    #: Seconds until an agent that never got a job asks the daemon and ends itself if it hears nothing.
    unclaimed: float
    #: Kind of runner -> command line.
    commands: Mapping[str, tuple[str, ...]]
    #: Environment of every runner.
    environment: Mapping[str, str]
    user: str = ""


@dataclass(slots=True)
class Grant:
    """A runner configuration on its way to the agent that asked; never stored."""

    registration: model.RegistrationId
    runner_name: str
    config: forges.RunnerConfig


@dataclass(slots=True)
class Stray:
    """An agent with a valid credential whose row is not known: the database was lost."""

    nonce: str
    at: float
    worker: bool
    phase: str
    runner: str
    job_started: bool


@dataclass(slots=True)
class Agents:
    """Everything that agents say and are told."""

    rows: ledger.Ledger
    evidence: MutableMapping[InstanceId, planner.Evidence]
    tokens: tokens.Tokens
    clock: clock.Clock
    alarms: alarms.Alarms
    wake: Callable[[], None]
    #: The duty of an instance, from its pool and provider.
    duty: Callable[[model.Instance], Duty]
    background: tasks.Group
    grants: dict[InstanceId, Grant] = field(default_factory=dict)
    strays: dict[AttemptKey, Stray] = field(default_factory=dict)
    #: Set to make an agent's open registration request look again.
    _asking: dict[InstanceId, asyncio.Event] = field(default_factory=dict)
    #: Called when the hardware gate or the runner fails on the instance's side: (instance, stage, detail).
    on_fault: Callable[[model.Instance, str, str], None] | None = None
    #: Called with (instance, runner job name, event) when an agent reports a job.
    on_job: Callable[[model.Instance, str], None] | None = None
    #: Where diagnostics go.
    on_log: Callable[[InstanceId, str], None] | None = None

    # -- who speaks --------------------------------------------------------------------------------------------

    def _instance_of(self, attempt: AttemptKey) -> model.Instance | None:
        known = self.rows.attempts.get(attempt)
        row = None if known is None else self.rows.instances.get(known.instance)
        return row if row is not None and row.attempt == attempt else None

    def _evidence(self, id: InstanceId) -> planner.Evidence:
        found = self.evidence.get(id)
        if found is None:
            found = self.evidence[id] = planner.Evidence()
        return found

    def _session(self, token: str) -> tuple[AttemptKey, str, model.Instance | None]:
        read = self.tokens.read_session(token)
        if read is None:
            raise errors.Refused("not a session of this controller", status=401)
        attempt, nonce = read
        row = self._instance_of(attempt)
        if row is None:
            return attempt, nonce, None
        if row.agent_nonce and row.agent_nonce != nonce:
            self.alarms.ring("instance", row.id, "token-replayed", "a session with another nonce was used")
            raise errors.Refused("this session is not the one that the instance was given", status=403)
        return attempt, nonce, row

    async def _claim(self, row: model.Instance, nonce: str) -> model.Instance | None:
        """Bind the instance to a nonce; None when another was faster."""
        return await self.rows.amend(
            row.id, expect=lambda current: current.agent_nonce in ("", nonce), agent_nonce=nonce
        )

    async def _recognise(self, row: model.Instance, nonce: str) -> model.Instance:
        """Give an adopted instance back the nonce that its session proves."""
        if row.adopted and not row.agent_nonce:
            claimed = await self._claim(row, nonce)
            if claimed is None:
                raise errors.Refused("this session is not the one that the instance was given", status=403)
            return claimed
        return row

    # -- hello -------------------------------------------------------------------------------------------------

    async def hello(self, token: str, *, nonce: str, protocol: int) -> dict[str, Any]:
        """Exchange the boot token for a session.

        Raises :class:`errors.Refused`: 401 not a token of ours, 403 used already or too late, 409 not the time yet,
        426 a protocol that is not served.
        """
        if protocol not in PROTOCOLS:
            served = ", ".join(map(str, sorted(PROTOCOLS)))
            raise errors.Refused(f"agent protocol {protocol} is not served, only {served}", status=426)
        if not _NONCE.fullmatch(nonce):
            raise errors.Refused("the nonce must be 16 to 128 characters of [A-Za-z0-9_-]", status=400)
        attempt = self.tokens.read_boot(token)
        if attempt is None:
            raise errors.Refused("not a boot token of this controller", status=401)
        row = self._instance_of(attempt)
        if row is None or row.state in model.CLOSED:
            raise errors.Refused("no instance is expected with this token", status=403)
        if row.agent_nonce and row.agent_nonce != nonce:
            self.alarms.ring("instance", row.id, "token-replayed", "its boot token came again with another nonce")
            raise errors.Refused("this token was exchanged already", status=403)
        if not row.agent_nonce:
            if row.state in (InstanceState.REQUESTING, InstanceState.UNKNOWN):
                # The instance was faster than the answer of its create call; that call decides its state.
                raise errors.Refused("the create call has not been confirmed yet; ask again", status=409)
            if row.state is not InstanceState.BOOTING:
                raise errors.Refused("this token has expired", status=403)
            stray = self.strays.get(attempt)
            other = stray is not None and stray.nonce != nonce
            if other or await self._claim(row, nonce) is None:
                self.alarms.ring("instance", row.id, "token-replayed", "its boot token came with two nonces")
                raise errors.Refused("this token was exchanged already", status=403)
        self._evidence(row.id).agent_at = self.clock.now()
        duty = self.duty(row)
        return {
            "session": self.tokens.session(attempt, nonce),
            "instance": row.id,
            "heartbeat": HEARTBEAT,
            "gate": {"gpus": duty.gpus, "gpu": duty.gpu},
            "limits": {"unclaimed": duty.unclaimed, "unreachable": 2 * duty.unclaimed, "max_job": duty.max_job},
            "user": duty.user,
        }

    # -- register ----------------------------------------------------------------------------------------------

    async def register(self, token: str, *, runner_started: bool) -> dict[str, Any]:
        """Wait for a runner configuration; answers within :data:`HOLD` seconds.

        ``{"action": "wait"}``, ``{"action": "run", ...}`` or ``{"action": "end", "reason": ...}``.
        """
        _, nonce, row = self._session(token)
        if row is None:
            return {"action": "wait", "after": HEARTBEAT}
        row = await self._recognise(row, nonce)
        if row.job_started or runner_started:
            raise errors.Refused("a runner has been started with this credential; it never registers again")
        evidence = self._evidence(row.id)
        evidence.agent_at = self.clock.now()
        evidence.worker = False
        if row.state is InstanceState.BOOTING:
            row = await self.rows.step(
                row.id, InstanceState.READY, expect={InstanceState.BOOTING}, ready_at=self.clock.now()
            ) or self.rows.instances.get(row.id)
        if row is None or row.state in model.CLOSED:
            return {"action": "end", "reason": "not expected any more"}
        event = self._asking.setdefault(row.id, asyncio.Event())
        evidence.asking = True
        self.wake()
        try:
            deadline = self.clock.now() + HOLD
            while True:
                answer = self._answer(row.id)
                left = deadline - self.clock.now()
                if answer is not None or left <= 0:
                    return answer or {"action": "wait", "after": 0.0}
                await clock.sleep_or_wake(self.clock, left, event)
        finally:
            if self._asking.get(row.id) is event:
                evidence.asking = False
            evidence.agent_at = self.clock.now()

    def _answer(self, id: InstanceId) -> dict[str, Any] | None:
        row = self.rows.instances.get(id)
        if row is None or row.state in (InstanceState.DRAINING, InstanceState.ENDING) or row.state in model.CLOSED:
            return {"action": "end", "reason": (row.reason.value if row else "") or "not wanted"}
        grant = self.grants.get(id)
        if grant is None or row.state is not InstanceState.REGISTERED:
            return None
        duty = self.duty(row)
        return {
            "action": "run",
            "name": grant.runner_name,
            "kind": grant.config.kind,
            "command": [*duty.commands.get(grant.config.kind, ()), *grant.config.arguments],
            "environment": {**duty.environment, **grant.config.environment},
        }

    def grant(self, id: InstanceId, grant: Grant) -> None:
        """Hand a registered runner's configuration to the agent that asks for it."""
        self.grants[id] = grant
        self.nudge(id)

    def nudge(self, id: InstanceId) -> None:
        """Something changed for an agent that waits."""
        event = self._asking.get(id)
        if event is not None:
            event.set()

    # -- heartbeat ---------------------------------------------------------------------------------------------

    async def heartbeat(
        self, token: str, *, phase: str, worker: bool, runner: str = "", job_started: bool = False
    ) -> dict[str, Any]:
        """Take note of a living agent; tell it whether to go on."""
        attempt, nonce, row = self._session(token)
        now = self.clock.now()
        if row is None:
            self.strays[attempt] = Stray(nonce, now, worker, phase, runner, job_started)
            return {"action": "continue", "heartbeat": HEARTBEAT}
        row = await self._recognise(row, nonce)
        if job_started and not row.job_started:
            row = await self.rows.amend(row.id, job_started=True) or row
        evidence = self._evidence(row.id)
        evidence.agent_at = now
        if evidence.worker != worker:
            evidence.worker = worker
            self.wake()
        if phase == "finished" and not worker and row.state in (InstanceState.REGISTERED, InstanceState.BUSY):
            # Its report of the end was lost, or came while no daemon ran.
            await self._ended(row, Reason.JOB_DONE if row.job_started else Reason.RUNNER_EXITED, "")
            self.wake()
        if worker and row.state in (InstanceState.REGISTERING, InstanceState.REGISTERED):
            await self._started(row)
        elif worker and row.adopted and row.state is InstanceState.BOOTING:
            await self.rows.step(row.id, InstanceState.BUSY, expect={InstanceState.BOOTING}, busy_at=now)
        return {"action": self._order(row, worker, now), "heartbeat": HEARTBEAT, "reason": row.reason.value}

    def _order(self, row: model.Instance, worker: bool, now: float) -> str:
        """What a living agent is to do.

        A draining instance goes on until its runner is removed at the forge: a runner that is stopped before may
        have been given a job in the same second, which would fail.
        """
        if row.state is InstanceState.DRAINING:
            if row.reason in (Reason.MAX_JOB, Reason.OPERATOR):
                return "end"
            deregistered = not self.rows.registrations_of(row.id)
            return "stop" if deregistered and not worker and row.hold_until <= now else "continue"
        if row.state in model.CLOSED:
            # Whoever said that it is gone was wrong; a job that runs all the same is let run.
            return "continue" if worker else "end"
        if row.state is InstanceState.ENDING:
            return "end"
        return "continue"

    # -- jobs --------------------------------------------------------------------------------------------------

    async def job(self, token: str, *, event: str, result: str = "") -> dict[str, Any]:
        """A job started or ended on the instance."""
        _, _, row = self._session(token)
        if row is None:
            return {}
        evidence = self._evidence(row.id)
        evidence.agent_at = self.clock.now()
        if event == "started":
            evidence.worker = True
            await self._started(row)
        elif event == "ended":
            evidence.worker = False
            await self._ended(row, Reason.JOB_DONE if row.job_started else Reason.RUNNER_EXITED, result)
        else:
            raise errors.Refused('"event" is "started" or "ended"', status=400)
        self.wake()
        return {}

    async def _started(self, row: model.Instance) -> None:
        now = self.clock.now()
        expect = {InstanceState.REGISTERING, InstanceState.REGISTERED}
        if row.reason not in (Reason.MAX_JOB, Reason.OPERATOR):
            expect.add(InstanceState.DRAINING)  # otherwise its end was ordered, job or not
        stepped = await self.rows.step(
            row.id,
            InstanceState.BUSY,
            expect=expect,
            busy_at=row.busy_at or now,
            job_started=True,
        )
        self.grants.pop(row.id, None)
        if stepped is None and not row.job_started:
            await self.rows.amend(row.id, job_started=True)
        if stepped is not None and self.on_job is not None:
            self.on_job(stepped, "started")

    async def _ended(self, row: model.Instance, reason: Reason, detail: str) -> None:
        self.grants.pop(row.id, None)
        await self.rows.step(
            row.id,
            InstanceState.DRAINING,
            expect={
                InstanceState.BOOTING,
                InstanceState.READY,
                InstanceState.REGISTERING,
                InstanceState.REGISTERED,
                InstanceState.BUSY,
            },
            reason=reason,
            detail=detail,
            job_ended_at=self.clock.now(),
        )

    # -- trouble -----------------------------------------------------------------------------------------------

    async def failed(self, token: str, *, stage: str, detail: str) -> dict[str, Any]:
        """The instance cannot do its work: wrong hardware, no runner binary."""
        _, _, row = self._session(token)
        if row is None:
            return {}
        self._evidence(row.id).agent_at = self.clock.now()
        reason = Reason.GATE_FAILED if stage == "gate" else Reason.RUNNER_EXITED
        await self._ended(row, reason, detail)
        if self.on_fault is not None:
            self.on_fault(row, stage, detail)
        self.wake()
        return {}

    async def diagnostics(self, token: str, *, text: str) -> dict[str, Any]:
        """Keep the instance's last words."""
        _, _, row = self._session(token)
        if row is not None and self.on_log is not None:
            self.on_log(row.id, text)
        return {}

    def forget(self, id: InstanceId) -> None:
        """Drop what is kept in memory for an instance that is gone."""
        self.grants.pop(id, None)
        event = self._asking.pop(id, None)
        if event is not None:
            event.set()
