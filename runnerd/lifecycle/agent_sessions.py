"""The daemon's side of the agent protocol: exchange, registration, heartbeats, job reports.

An instance proves itself with a boot token that is exchanged once per nonce.  The same nonce gets the same answer, so
an agent may repeat a lost exchange; another nonce is refused and alarmed, so a stolen token is worth nothing once the
agent was faster.  After a job has started, the credential never registers again: a job that reads it on the instance
gets nothing for it.

What agents report is an observation for the planner; it moves a life cycle only where the agent is the one to know:
the GPU preflight, the start of a job, its end.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from provisioners import base
from runnerd import errors, model
from runnerd.forges import base as forges
from runnerd.kit import clock
from runnerd.lifecycle import agent_answers, agent_assignment
from runnerd.model import AttemptKey, InstanceId, InstanceState, Reason
from runnerd.runtime import shared, step_facts

#: The protocol versions that this daemon serves: its own and the one before.
PROTOCOLS = frozenset({1})
#: Seconds that a registration request is held open while no queue wants the instance.
HOLD_S = 25.0
#: Seconds between heartbeats, as agents are asked to send them.
HEARTBEAT_S = 15.0
#: An answer to a request for a runner.
RunnerAnswer: TypeAlias = agent_answers.Wait | agent_answers.Run | agent_answers.End
_NONCE = re.compile(r"[A-Za-z0-9_-]{16,128}")
#: The stage that an agent reports as failed -> the reason under which it counts against the offer.
_FAULTS = {"gate": "gate", "runner": "register"}
#: States in which the report of a job's end, or of a failure, drains an instance.
_ENDED_FROM = frozenset(
    {
        InstanceState.BOOTING,
        InstanceState.READY,
        InstanceState.REGISTERING,
        InstanceState.REGISTERED,
        InstanceState.BUSY,
    }
)


@dataclass(frozen=True, slots=True)
class Grant:
    """A runner configuration on its way to the agent that asked; never stored."""

    registration: model.RegistrationId
    runner_name: str
    config: forges.RunnerConfig


class AgentSessions:
    """The sessions of all agents."""

    def __init__(
        self, runtime: shared.Runtime, *, assign: Callable[[model.Instance], agent_assignment.Assignment]
    ) -> None:
        self._runtime = runtime
        self._assign = assign
        #: Runner configurations that their agents have not been seen to use.
        self.grants: dict[InstanceId, Grant] = {}
        #: Attempt -> nonce of the agent that holds its session, where the database was lost and no row is known yet.
        self._without_row: dict[AttemptKey, str] = {}
        #: Set to make an agent's open registration request look again.
        self._asking: dict[InstanceId, asyncio.Event] = {}
        #: Called with an instance and the diagnostics that its agent sent.
        self.on_diagnostics: list[Callable[[InstanceId, str], None]] = []

    # -- sessions ----------------------------------------------------------------------------------------------

    def _instance_of(self, attempt: AttemptKey) -> model.Instance | None:
        rows = self._runtime.rows
        known = rows.attempts.get(attempt)
        row = None if known is None else rows.instances.get(known.instance)
        return row if row is not None and row.attempt == attempt else None

    def _session(self, token: str) -> tuple[AttemptKey, str, model.Instance | None]:
        read = self._runtime.tokens.read_session(token)
        if read is None:
            raise errors.Refused("not a session of this controller", status=401)
        attempt, nonce = read
        row = self._instance_of(attempt)
        if row is None:
            return attempt, nonce, None
        if row.agent_nonce and row.agent_nonce != nonce:
            self._replayed(row, "a session with another nonce was used")
            raise errors.Refused("this session is not the one that the instance was given", status=403)
        return attempt, nonce, row

    def _replayed(self, row: model.Instance, detail: str) -> None:
        self._runtime.alarms.ring("instance", row.id, "token-replayed", detail)

    async def _claim(self, row: model.Instance, nonce: str) -> model.Instance | None:
        """Bind the instance to a nonce; None when another was faster."""
        return await self._runtime.rows.amend(
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

    async def hello(self, token: str, *, nonce: str, protocol: int) -> agent_answers.Hello:
        """Exchange the boot token for a session.

        Raises :class:`errors.Refused`: 401 not a token of ours, 403 used already or too late, 409 not the time yet,
        426 a protocol that is not served.
        """
        if protocol not in PROTOCOLS:
            served = ", ".join(map(str, sorted(PROTOCOLS)))
            raise errors.Refused(f"agent protocol {protocol} is not served, only {served}", status=426)
        if not _NONCE.fullmatch(nonce):
            raise errors.Refused("the nonce must be 16 to 128 characters of [A-Za-z0-9_-]", status=400)
        attempt = self._runtime.tokens.read_boot(token)
        if attempt is None:
            raise errors.Refused("not a boot token of this controller", status=401)
        row = self._instance_of(attempt)
        if row is None or row.state in model.CLOSED:
            raise errors.Refused("no instance is expected with this token", status=403)
        if row.agent_nonce and row.agent_nonce != nonce:
            self._replayed(row, "its boot token was presented again with another nonce")
            raise errors.Refused("this token was exchanged already", status=403)
        if not row.agent_nonce:
            await self._exchange(row, attempt, nonce)
        self._runtime.observations.heard(row.id)
        assignment = self._assign(row)
        return {
            "session": self._runtime.tokens.session(attempt, nonce),
            "instance": row.id,
            "heartbeat": HEARTBEAT_S,
            "gate": {"gpus": assignment.gpus, "gpu": assignment.gpu},
            "limits": {
                "unclaimed": assignment.unclaimed,
                "unreachable": 2 * assignment.unclaimed,
                "max_job": assignment.max_job,
            },
            "user": assignment.user,
        }

    async def _exchange(self, row: model.Instance, attempt: AttemptKey, nonce: str) -> None:
        """Bind the instance to the first nonce that comes with its boot token, or refuse."""
        if row.state in (InstanceState.REQUESTING, InstanceState.UNKNOWN):
            # The instance was faster than the answer of its create call; that call decides its state.
            raise errors.Refused("the create call has not been confirmed yet; ask again", status=409)
        if row.state is not InstanceState.BOOTING:
            raise errors.Refused("this token has expired", status=403)
        other = self._without_row.get(attempt, nonce) != nonce
        if other or await self._claim(row, nonce) is None:
            self._replayed(row, "its boot token was presented with two nonces")
            raise errors.Refused("this token was exchanged already", status=403)

    # -- register ----------------------------------------------------------------------------------------------

    async def register(self, token: str, *, runner_started: bool) -> RunnerAnswer:
        """Wait for a runner configuration; answers within :data:`HOLD_S` seconds.

        ``{"action": "wait"}``, ``{"action": "run", ...}`` or ``{"action": "end", "reason": ...}``.
        """
        rows, now = self._runtime.rows, self._runtime.clock.now
        _, nonce, row = self._session(token)
        if row is None:
            return {"action": "wait", "after": HEARTBEAT_S}
        row = await self._recognise(row, nonce)
        if row.job_started or runner_started:
            raise errors.Refused("a runner has been started with this credential; it never registers again")
        self._runtime.observations.heard(row.id, worker=False)
        if row.state is InstanceState.BOOTING:
            row = await rows.step(
                row.id, InstanceState.READY, expect={InstanceState.BOOTING}, ready_at=now()
            ) or rows.instances.get(row.id)
        if row is None or row.state in model.CLOSED:
            return {"action": "end", "reason": "no longer expected"}
        event = self._asking.setdefault(row.id, asyncio.Event())
        self._runtime.observations.heard(row.id, asking=True)
        self._runtime.wake()
        try:
            deadline = now() + HOLD_S
            while True:
                answer = self._answer(row.id)
                left = deadline - now()
                if answer is not None or left <= 0:
                    return answer or {"action": "wait", "after": 0.0}
                await clock.sleep_or_wake(self._runtime.clock, left, event)
        finally:
            if self._asking.get(row.id) is event:
                self._runtime.observations.heard(row.id, asking=False)

    def _answer(self, id: InstanceId) -> agent_answers.Run | agent_answers.End | None:
        row = self._runtime.rows.instances.get(id)
        if row is None or row.state in (InstanceState.DRAINING, InstanceState.ENDING) or row.state in model.CLOSED:
            return {"action": "end", "reason": (row.reason.value if row else "") or "not wanted"}
        grant = self.grants.get(id)
        if grant is None or row.state is not InstanceState.REGISTERED:
            return None
        assignment = self._assign(row)
        return {
            "action": "run",
            "name": grant.runner_name,
            "kind": grant.config.kind,
            "command": [*assignment.commands.get(grant.config.kind, ()), *grant.config.arguments],
            "environment": {**assignment.environment, **grant.config.environment},
        }

    def grant(self, id: InstanceId, grant: Grant) -> None:
        """Hand a registered runner's configuration to the agent that asks for it."""
        self.grants[id] = grant
        self.nudge(id)

    def nudge(self, id: InstanceId) -> None:
        """Make an open registration request of an instance look again, because something has changed for it."""
        event = self._asking.get(id)
        if event is not None:
            event.set()

    # -- heartbeat ---------------------------------------------------------------------------------------------

    async def heartbeat(
        self, token: str, *, phase: str, worker: bool, runner: str = "", job_started: bool = False
    ) -> agent_answers.Heartbeat:
        """Take note of a living agent, and answer with what it is to do."""
        rows = self._runtime.rows
        attempt, nonce, row = self._session(token)
        if row is None:
            self._without_row[attempt] = nonce
            return {"action": "continue", "heartbeat": HEARTBEAT_S}
        row = await self._recognise(row, nonce)
        if job_started and not row.job_started:
            row = await rows.amend(row.id, job_started=True) or row
        worked = self._runtime.observations.of(row.id).worker
        self._runtime.observations.heard(row.id, worker=worker)
        if worked != worker:
            self._runtime.wake()
        now = self._runtime.clock.now()
        if phase == "finished" and not worker and row.state in (InstanceState.REGISTERED, InstanceState.BUSY):
            # Its report of the end was lost, or came while no daemon ran.
            await self._ended(row, Reason.JOB_DONE if row.job_started else Reason.RUNNER_EXITED, "")
            self._runtime.wake()
        if worker and row.state in (InstanceState.REGISTERING, InstanceState.REGISTERED):
            await self._started(row)
        elif worker and row.adopted and row.state is InstanceState.BOOTING:
            await rows.step(row.id, InstanceState.BUSY, expect={InstanceState.BOOTING}, busy_at=now)
        return {"action": self._next(row, worker, now), "heartbeat": HEARTBEAT_S, "reason": row.reason.value}

    def _next(self, row: model.Instance, worker: bool, now: float) -> Literal["continue", "stop", "end"]:
        """Return what a living agent is to do.

        A draining instance goes on until its runner is removed at the forge: a runner that is stopped before may
        have been given a job in the same second, which would fail.
        """
        if row.state is InstanceState.DRAINING:
            if row.reason in (Reason.MAX_JOB, Reason.OPERATOR):
                return "end"
            deregistered = not self._runtime.rows.registrations_of(row.id)
            return "stop" if deregistered and not worker and row.hold_until <= now else "continue"
        if row.state in model.CLOSED:
            # The row was closed by mistake; a job that runs all the same is let run.
            return "continue" if worker else "end"
        if row.state is InstanceState.ENDING:
            return "end"
        return "continue"

    # -- jobs --------------------------------------------------------------------------------------------------

    async def job(self, token: str, *, event: str, result: str = "") -> agent_answers.Noted:
        """Take note that a job started or ended on the instance."""
        _, _, row = self._session(token)
        if row is None:
            return {}
        if event == "started":
            self._runtime.observations.heard(row.id, worker=True)
            await self._started(row)
        elif event == "ended":
            self._runtime.observations.heard(row.id, worker=False)
            await self._ended(row, Reason.JOB_DONE if row.job_started else Reason.RUNNER_EXITED, result)
        else:
            self._runtime.observations.heard(row.id)
            raise errors.Refused('"event" is "started" or "ended"', status=400)
        self._runtime.wake()
        return {}

    async def _started(self, row: model.Instance) -> None:
        expect = {InstanceState.REGISTERING, InstanceState.REGISTERED}
        if row.reason not in (Reason.MAX_JOB, Reason.OPERATOR):
            expect.add(InstanceState.DRAINING)  # otherwise its end was ordered, job or not
        stepped = await self._runtime.rows.step(
            row.id,
            InstanceState.BUSY,
            expect=expect,
            busy_at=row.busy_at or self._runtime.clock.now(),
            job_started=True,
        )
        self.grants.pop(row.id, None)
        if stepped is None and not row.job_started:
            await self._runtime.rows.amend(row.id, job_started=True)

    async def _ended(
        self, row: model.Instance, reason: Reason, detail: str, *, fault: step_facts.Fault | None = None
    ) -> None:
        self.grants.pop(row.id, None)
        await self._runtime.rows.step(
            row.id,
            InstanceState.DRAINING,
            expect=_ENDED_FROM,
            reason=reason,
            detail=detail,
            fault=fault,
            job_ended_at=self._runtime.clock.now(),
        )

    # -- trouble -----------------------------------------------------------------------------------------------

    async def failed(self, token: str, *, stage: str, detail: str) -> agent_answers.Noted:
        """Take note that the instance cannot do its work: wrong hardware, no runner binary."""
        _, _, row = self._session(token)
        if row is None:
            return {}
        self._runtime.observations.heard(row.id)
        reason = Reason.GATE_FAILED if stage == "gate" else Reason.RUNNER_EXITED
        blamed = _FAULTS.get(stage)
        fault = step_facts.Fault(blamed, base.Failure(base.Kind.BOOT, detail)) if blamed else None
        await self._ended(row, reason, detail, fault=fault)
        self._runtime.wake()
        return {}

    async def diagnostics(self, token: str, *, text: str) -> agent_answers.Noted:
        """Keep the diagnostics that an agent sends before its instance ends."""
        _, _, row = self._session(token)
        if row is not None:
            for listener in self.on_diagnostics:
                listener(row.id, text)
        return {}

    def forget(self, id: InstanceId) -> None:
        """Drop what is kept in memory for an instance that is gone."""
        self.grants.pop(id, None)
        event = self._asking.pop(id, None)
        if event is not None:
            event.set()
