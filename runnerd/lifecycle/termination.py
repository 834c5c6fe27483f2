"""Ends instances: drain, ask both witnesses, delete, and look until it is gone.

An instance that may have a job is never ended on one witness.  The forge's removal is the busy test; the agent's
heartbeat is the second witness, because a removal that succeeds also means "never heard of it".  Overrides are few
and named: the provider says stopped or gone, the agent is silent and the provider's probe says dead, the job's time
is over, a person said so.

Before the first deletion the provider is asked once for what the instance printed, and at its end for who ended it.
Both are for people: neither holds an end up for longer than :data:`ASK`, and an answer that does not come is noted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from provisioners import base
from runnerd import errors, model, planner
from runnerd.forges import base as forges
from runnerd.jobs import rerun
from runnerd.lifecycle import agent_sessions, consoles
from runnerd.lifecycle import registration as lifecycle_registration
from runnerd.model import InstanceId, InstanceState, Reason
from runnerd.runtime import shared

log = logging.getLogger(__name__)

#: Seconds after which a deletion that does not end is a person's business: it costs money and a place.
STUCK = 600.0
#: Seconds until a provider that learns late is asked again who ended an instance; doubled each time.
FIRST_PROOF = 30.0
#: Seconds for which a restarted daemon looks back for ends that no provider has explained.
PROOF_MEMORY = 24 * 3600.0
#: Seconds after which a deletion that was accepted is asked for again; clouds count changes to one machine.
DELETE_AGAIN = 15.0
#: Seconds after the end of a job in which a witness may still see it.
AFTERGLOW = 15.0
#: Seconds that a provider may take to tell what an instance printed, and as many for why it ended.
ASK = 20.0
#: Seconds between two last words of one agent that are written.
WORDS = 10.0
#: Characters of a provider's words for an end that are kept.
LONGEST = 2000
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
    """Takes instances out of the world."""

    def __init__(
        self, runtime: shared.Runtime, registrar: lifecycle_registration.Registrar, agents: agent_sessions.Agents
    ) -> None:
        self._runtime = runtime
        self._registrar = registrar
        self._agents = agents
        #: Called with an instance whose launch the provider says has failed, and why.
        self.on_launch_failure: Callable[[model.Instance, base.Failure], None] = lambda row, failure: None
        #: Instances whose console this process has asked for.
        self._asked: set[InstanceId] = set()
        #: Last words of agents that wait to be written; None while their writer rests.
        self._words: dict[InstanceId, str | None] = {}

    async def drain(self, id: InstanceId, reason: Reason, detail: str = "") -> bool:
        """Let an instance take no further job; True when it is draining now."""
        row = self._runtime.rows.instances.get(id)
        if row is None or row.state not in DRAINABLE:
            return False
        expect = {row.state}
        stepped = await self._runtime.rows.step(id, InstanceState.DRAINING, expect=expect, reason=reason, detail=detail)
        if stepped is None:
            return False
        self._agents.nudge(id)
        self._runtime.wake()
        return True

    async def release(self, id: InstanceId, *, forced: bool) -> None:
        """The gate: end a draining instance when the forge and the agent both deny a job."""
        row = self._runtime.rows.instances.get(id)
        if row is None or row.state is not InstanceState.DRAINING:
            return
        busy = False
        # An adopted instance may have a runner that no row knows of: the forge is asked before it is ended.
        pending = row.adopted and not await self._registrar.discover(row)
        for registration in self._runtime.rows.registrations_of(id):
            outcome = await self._registrar.try_remove(registration)
            busy = busy or outcome is forges.Removal.BUSY
            pending = pending or outcome is forges.Removal.PENDING
        if forced:
            await self._end(id)
            return
        witness = self._runtime.witness(id)
        now = self._runtime.clock.now()
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
        witness = self._runtime.witness(row.id)
        young = self._runtime.clock.now() - row.since < AFTERGLOW
        if row.reason in (Reason.JOB_DONE, Reason.RUNNER_EXITED) and (young or not witness.worker):
            # The runner's record and its processes outlive the job for a moment; ask again.
            return
        who = "the forge" if by_forge else "its agent"
        await self._runtime.rows.step(
            row.id,
            InstanceState.BUSY,
            expect={InstanceState.DRAINING},
            reason=Reason.NONE,
            detail=f"{who} says that it has a job",
            busy_at=row.busy_at or self._runtime.clock.now(),
        )

    async def _end(self, id: InstanceId) -> None:
        stepped = await self._runtime.rows.step(id, InstanceState.ENDING, expect={InstanceState.DRAINING})
        if stepped is not None:
            await self.delete(id)

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
        await self._keep_console(row)
        witness = self._runtime.witness(id)
        try:
            if self._runtime.clock.now() - witness.deleted_at >= DELETE_AGAIN:
                await provider.provisioner.delete(row.ref)
                witness.deleted_at = self._runtime.clock.now()
            view = await provider.provisioner.describe(row.ref)
        except base.ProvisionError as error:
            self._runtime.alarms.ring("instance", id, "delete-failed", f"{provider.name}: {error}")
            return
        self._runtime.alarms.clear("instance", id, "delete-failed")
        now = self._runtime.clock.now()
        # What was never seen may still be on its way into view; what was, is gone.
        age = now - max(row.created_at, row.running_at)
        young = not witness.seen and age < provider.provisioner.traits.visibility_grace
        if view is None and not young:
            witness.absences += 1
        elif view is not None:
            witness.cloud, witness.cloud_at, witness.absences, witness.seen = view.status, now, 0, True
        if witness.cloud is base.InstanceStatus.GONE or witness.absences >= planner.ABSENCES:
            await self.close(id, row.reason)
        elif now - row.since > STUCK:
            words = f"{provider.name} took the deletion of {row.ref} and still has it after {now - row.since:.0f} s"
            self._runtime.alarms.ring("instance", id, "delete-stuck", words)

    # -- the end -----------------------------------------------------------------------------------------------

    async def close(self, id: InstanceId, reason: Reason) -> None:
        """The instance is confirmed absent: its row is history, its registrations still have to go."""
        row = self._runtime.rows.instances.get(id)
        if row is None or row.state in model.CLOSED:
            return
        why, _ = await asyncio.gather(self._why_gone(row), self._keep_console(row))
        row = self._runtime.rows.instances.get(id)
        if row is None or row.state in model.CLOSED:
            return
        unexplained = row.state not in (InstanceState.ENDING, InstanceState.DRAINING)
        if (unexplained and reason in (Reason.NONE, Reason.VANISHED)) or rerun.interrupted(row):
            proven = Reason.PREEMPTED if why.kind is base.EndKind.PREEMPTED else Reason.VANISHED
            reason = proven if unexplained or proven is Reason.PREEMPTED else reason
        if why.failure is not None and not row.ready_at and reason in _NEVER_CAME_UP:
            reason = Reason.LAUNCH_FAILED
        words = why.detail or (why.failure.message if why.failure else "")
        stepped = await self._runtime.rows.step(
            id,
            InstanceState.GONE,
            expect=model.MAY_COST,
            reason=reason,
            detail=words if unexplained or reason is Reason.LAUNCH_FAILED else "",
            end=why.kind.value,
            end_detail=words,
        )
        self._runtime.alarms.clear("instance", id, "delete-stuck")
        self._agents.forget(id)
        self._asked.discard(id)
        if id not in self._runtime.rows.instances:
            self._runtime.evidence.pop(id, None)
        if stepped is not None and why.failure is not None and row.reason is not Reason.LAUNCH_FAILED:
            self.on_launch_failure(row, why.failure)
        if stepped is not None and why.kind is base.EndKind.UNKNOWN and rerun.interrupted(row):
            self._runtime.background.spawn(f"proof {id}", self._wait_for_proof(stepped))
        self._runtime.wake()

    async def resume_proofs(self) -> None:
        """Go on asking who ended the instances whose end an earlier process left unexplained."""
        since = self._runtime.clock.now() - PROOF_MEMORY
        for row in await self._runtime.history.unexplained(since):
            if rerun.interrupted(row):
                self._runtime.background.spawn(f"proof {row.id}", self._wait_for_proof(row))

    async def _wait_for_proof(self, row: model.Instance) -> None:
        """Some providers learn late who ended an instance; a job that was interrupted is worth asking again."""
        provider = self._runtime.providers.get(row.provider)
        lag = provider.provisioner.traits.proof_lag if provider is not None else 0.0
        if lag > 0:
            # After a restart part of the time is over; the provider is asked once at least.
            lag = min(lag, max(FIRST_PROOF, row.gone_at + lag - self._runtime.clock.now()))
        pause = FIRST_PROOF
        while lag > 0:
            await self._runtime.clock.sleep(min(pause, lag))
            lag, pause = lag - pause, 2 * pause
            why = await self._why_gone(row)
            if why.kind is base.EndKind.UNKNOWN:
                continue
            try:
                await self._runtime.rows.prove(row.id, why.kind, why.detail)
            except errors.StoreError as error:
                log.warning("%s: why it ended is not written yet: %s", row.id, error)
                continue
            return

    async def _why_gone(self, row: model.Instance) -> base.EndReason:
        """Who ended it in the provider's words; unknown, with why, where it does not tell in time."""
        provider = self._runtime.providers.get(row.provider)
        if provider is None or not row.ref:
            return base.EndReason(base.EndKind.UNKNOWN, "there is no provider to ask")
        try:
            async with asyncio.timeout(ASK):
                why = await provider.provisioner.end_reason(row.ref)
        except TimeoutError:
            return base.EndReason(base.EndKind.UNKNOWN, f"{provider.name} did not say within {ASK:.0f} s")
        except base.ProvisionError as error:
            return base.EndReason(base.EndKind.UNKNOWN, consoles.line(f"{provider.name}: {error}", most=LONGEST))
        except Exception as error:
            # A fault of a plugin must not keep a row open, and what it costs counting, for ever.
            log.exception("%s: asking why %s ended failed in an unexpected way", provider.name, row.id)
            return base.EndReason(base.EndKind.UNKNOWN, f"{provider.name}: {type(error).__name__}")
        return base.EndReason(why.kind, consoles.line(why.detail, most=LONGEST), why.failure)

    # -- what it printed ---------------------------------------------------------------------------------------

    async def console(self, row: model.Instance) -> tuple[str, str]:
        """Ask the provider now for what an instance printed; the text, or why there is none."""
        provider = self._runtime.providers.get(row.provider)
        if provider is None or not row.ref:
            return "", "no provider has it"
        try:
            async with asyncio.timeout(ASK):
                text = await provider.provisioner.console_log(row.ref)
        except TimeoutError:
            return "", f"{provider.name} did not give it within {ASK:.0f} s"
        except base.ProvisionError as error:
            return "", consoles.line(f"{provider.name}: {error}", most=LONGEST)
        except Exception as error:
            log.exception("%s: asking for the console of %s failed in an unexpected way", provider.name, row.id)
            return "", f"{provider.name}: {type(error).__name__}"
        if not text:
            return "", f"{provider.name} keeps no console output of it"
        return await consoles.kept(text), ""

    async def _keep_console(self, row: model.Instance) -> None:
        """Keep what an instance printed; asked for once in its life, whatever came of it."""
        if row.id in self._asked or not row.ref:
            return
        self._asked.add(row.id)
        kind = model.ConsoleKind.CONSOLE
        try:
            # Another process of this daemon may have asked before it ended.
            if any(one.kind is kind for one in await self._runtime.history.consoles(row.id)):
                return
            text, problem = await self.console(row)
            await self._runtime.rows.write_console(
                model.Console(row.id, kind, self._runtime.clock.now(), text, problem)
            )
        except errors.StoreError as error:
            log.warning("%s: what it printed is not kept: %s", row.id, error)

    def keep_words(self, id: InstanceId, text: str) -> None:
        """Keep the last words of an agent.  It may send more than once: the last ones win."""
        if id not in self._words:
            self._runtime.background.spawn(f"words of {id}", self._write_words(id))
        self._words[id] = text

    async def _write_words(self, id: InstanceId) -> None:
        try:
            while (text := self._words.get(id)) is not None:
                self._words[id] = None
                kept = model.Console(id, model.ConsoleKind.AGENT, self._runtime.clock.now(), await consoles.kept(text))
                try:
                    await self._runtime.rows.write_console(kept)
                except errors.StoreError as error:
                    log.warning("%s: its agent's last words are not kept: %s", id, error)
                # Whoever is root on an instance may send as often as he likes.
                await self._runtime.clock.sleep(WORDS)
        finally:
            self._words.pop(id, None)
