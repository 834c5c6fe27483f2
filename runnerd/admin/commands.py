"""Operators' commands, each written to the audit trail before it takes effect.

A command that would break a promise is refused with the reason; ``force`` is the one way to end an instance with a
job.  Nothing is ended from here: a command moves a row, and the planner does the rest through the usual checks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from runnerd import errors, model
from runnerd.admin import documents, prices
from runnerd.kit import display
from runnerd.lifecycle import sweep_documents, sweep_policy
from runnerd.lifecycle.termination import DRAINABLE
from runnerd.model import Event, Instance, InstanceId, InstanceState, Reason
from runnerd.runtime import lookup, shared

#: The longest that an instance can be held with one command, in seconds; forgotten holds cost money.
LONGEST_HOLD_S = 7 * 86400.0
#: Why an instance in such a state cannot be ended yet.
_UNDECIDED: Mapping[InstanceState, str] = {
    InstanceState.REQUESTING: "is being requested",
    InstanceState.UNKNOWN: "may or may not exist: its create call had no clear answer, which is being resolved",
}

#: Drains an instance for a reason, with a detail; says whether it was moved.
Drain = Callable[[InstanceId, Reason, str], Awaitable[bool]]


class Commands:
    """The commands on one daemon."""

    def __init__(self, runtime: shared.Runtime, *, history: lookup.Instances, drain: Drain) -> None:
        self._runtime = runtime
        self._history = history
        self._drain = drain

    async def drain(self, pool: str, *, on: bool, who: str) -> documents.Drained:
        """Buy nothing new for a pool and register nothing more in it, or end that.  Survives restarts."""
        if on or not self._runtime.durable.ever_drained(pool):
            lookup.known_pool(self._runtime.config, pool)
        before = self._runtime.durable.drained(pool)
        if before != on:
            now = self._runtime.clock.now()
            event = Event(now, "pool", pool, "drained" if on else "undrained", Reason.OPERATOR.value, who)
            await self._runtime.durable.write_drained(pool, on, event)
            self._runtime.wake()
        rows = [row for row in self._runtime.rows.instances.values() if row.pool == pool and row.live]
        busy = sum(row.state is InstanceState.BUSY for row in rows)
        if not on:
            message = f"pool {pool} is no longer drained" if before else f"pool {pool} was not drained"
        else:
            message = f"pool {pool} is drained: nothing is bought for it"
            if rows:
                message += f"; {display.count(len(rows), 'instance')} left, {busy} with a job"
        return {
            "pool": pool,
            "drained": on,
            "changed": before != on,
            "live": len(rows),
            "busy": busy,
            "message": message,
        }

    async def reap(self, id: str, *, force: bool, who: str) -> documents.Reaped:
        """End an instance.  Without ``force`` the termination check comes first, which lets a late job go on.

        Raises :class:`errors.Refused`: 404 unknown, 409 with why it cannot be ended so.
        """
        row = await self._live(id)
        runtime = self._runtime
        now = runtime.clock.now()
        if row.state is InstanceState.ENDING:
            return {"instance": row.id, "state": row.state.value, "message": f"{row.id} is already being deleted"}
        if row.state in (InstanceState.REQUESTING, InstanceState.UNKNOWN):
            raise errors.Refused(f"{row.id} {_UNDECIDED[row.state]}; it can be ended once that is resolved", status=409)
        seen = runtime.observations.of(row.id)
        works = row.state is InstanceState.BUSY or (seen.worker and seen.fresh(now))
        if works and not force:
            job = f"job {row.job}" if row.job else "a job"
            span = display.span(now - (row.busy_at or row.since))
            raise errors.Refused(f"{row.id} has been running {job} for {span}; --force ends it anyway", status=409)
        if row.hold_until > now and not force:
            raise errors.Refused(
                f"{row.id} is held for another {display.span(row.hold_until - now)}; release it first, or use --force",
                status=409,
            )
        how = (
            "ended by an operator, with any job on it" if force else "ended by an operator, unless a job is found on it"
        )
        await runtime.rows.note(Event(now, "instance", row.id, "reap", "force" if force else "", who))
        done = await self._end(row, force=force, detail=f"{how} ({who})")
        if not done:
            raise errors.Refused(f"the state of {row.id} has just changed; check it and repeat the command", status=409)
        runtime.wake()
        moved = runtime.rows.instances.get(row.id)
        return {
            "instance": row.id,
            "state": moved.state.value if moved else InstanceState.FAILED.value,
            "message": f"{row.id} is {how}",
        }

    async def _end(self, row: Instance, *, force: bool, detail: str) -> bool:
        rows = self._runtime.rows
        # OPERATOR is what the planner forces; any other reason leaves the last word to both witnesses.
        reason = Reason.OPERATOR if force else Reason.SURPLUS
        if row.state is InstanceState.PLANNED:
            stepped = await rows.step(
                row.id, InstanceState.FAILED, expect={InstanceState.PLANNED}, reason=Reason.OPERATOR, detail=detail
            )
            return stepped is not None
        if row.state is InstanceState.DRAINING:
            if force:
                await rows.step(
                    row.id, InstanceState.DRAINING, expect={InstanceState.DRAINING}, reason=reason, detail=detail
                )
            return True
        if row.state not in DRAINABLE:
            return False
        return await self._drain(row.id, reason, detail)

    async def hold(self, id: str, *, seconds: float, who: str) -> documents.Held:
        """Keep an instance from being ended for idleness, age or ``max_job`` for a time; 0 releases it.

        Raises :class:`errors.Refused`.
        """
        if not 0 <= seconds <= LONGEST_HOLD_S:
            raise errors.Refused(f"an instance can be held for at most {display.span(LONGEST_HOLD_S)}", status=400)
        row = await self._live(id)
        runtime = self._runtime
        now = runtime.clock.now()
        if seconds and row.state in (InstanceState.DRAINING, InstanceState.ENDING):
            raise errors.Refused(f"{row.id} is {row.state.value} and can no longer be held", status=409)
        until = now + seconds if seconds else 0.0
        await runtime.rows.note(Event(now, "instance", row.id, "hold" if seconds else "release", "", who))
        if await runtime.rows.amend(row.id, hold_until=until) is None:
            raise errors.Refused(f"{row.id} is gone", status=409)
        runtime.wake()
        message = f"{row.id} is held for {display.span(seconds)}" if seconds else f"{row.id} is no longer held"
        if seconds and 0 < row.deadline < until:
            left = display.span(row.deadline - now)
            message += f"; its deadline at the provider is in {left} and still ends it"
        return {"instance": row.id, "hold_until": until, "deadline": row.deadline, "message": message}

    async def _live(self, id: str) -> Instance:
        row = await lookup.find_instance(self._runtime.rows.instances, self._history, id)
        if row is None:
            raise errors.Refused(f'there is no instance "{id}"', status=404)
        if row.state in model.CLOSED:
            since = display.span(self._runtime.clock.now() - row.since)
            raise errors.Refused(f"{row.id} has been {row.state.value} for {since} ({row.reason.value})", status=409)
        return row

    async def sweep(self, *, dry_run: bool) -> sweep_documents.Sweep:
        """List what carries our tags at every provider; unless ``dry_run``, have the daemon adopt what has no row.

        What is adopted has a row like any other and ends through the termination check.
        """
        rows = self._runtime.rows.instances

        def known(name: str, attempt: str) -> model.Instance | None:
            row = rows.get(InstanceId(name))
            if row is not None and row.live and row.attempt == attempt:
                return row
            return next((one for one in rows.values() if one.live and attempt and one.attempt == attempt), None)

        providers: Mapping[str, Any] = {name: one.provisioner for name, one in self._runtime.providers.items()}
        also = {name: self._runtime.scopes(name) for name in providers}
        found = await sweep_policy.look(providers, known, also=also)
        found["dry_run"] = dry_run
        if not dry_run:
            for provider in self._runtime.providers.values():
                provider.listing_wanted.set()
            self._runtime.wake()
        return found

    async def refresh_prices(self, *, provider: str = "") -> documents.Renewal:
        """Have the running provisioners ask their price lists anew, and the pools' offers after them.

        Raises :class:`errors.Refused` (404) for an unknown provider.
        """
        return await prices.refresh(self._runtime, provider=provider)
