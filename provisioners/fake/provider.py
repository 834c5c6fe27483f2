"""A provisioner over a simulated cloud: for the demo, the benchmarks and the tests.

It answers as clouds do, late, partly, or not at all, as its options script it.  Between reading the cloud's state and
writing it no other task runs, so a crash finds each call either carried out or not.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from provisioners import base, local
from provisioners.catalogue import listed_types
from provisioners.fake import backing, faults, journal, purchase, settings
from provisioners.fake import cloud as clouds

_T = TypeVar("_T")

#: Seconds between tries to be alone with the cloud, and how many before giving up.
_PAUSE_S, _TRIES = 0.005, 2000
#: Seconds after which an instance without processes has lost them in a crash.
_LOST_S = 60.0
#: Seconds that a launch by a predecessor, or by another process, may still be under way at the start.
_LAUNCHING_S = 5.0
#: Seconds for which a poll of the processes is recent enough for the free capacity.
_FRESH_S = 1.0


class Fake(base.Basics):
    """A simulated cloud as a source of instances."""

    def __init__(
        self, context: base.Context, options: Mapping[str, Any], cloud: clouds.FakeCloud | None = None
    ) -> None:
        self._context = context
        self._settings, problems = settings.read(options)
        if self._settings.backing is settings.Backing.LOCAL and not context.directory:
            problems.append("backing: real processes need a directory")
        if problems:
            raise ValueError("; ".join(problems))
        self._processes: backing.Processes | None = None
        if self._settings.backing is settings.Backing.LOCAL:
            self._processes = backing.Processes(
                Path(context.directory) / "processes",
                grace=self._settings.grace,
                remember=self._settings.remember,
            )
        if cloud is None:
            store = journal.Journal(Path(context.directory) / "cloud.jsonl") if context.directory else None
            cloud = clouds.FakeCloud(store)
        #: The state; hand it to another ``Fake`` to let that one go on where this one was dropped.
        self.cloud = cloud
        self.cloud.configure(remember=self._settings.remember, replay_window=self._settings.replay_window)
        self._seller = purchase.Seller(context.name, self._settings, self.cloud, self._chance)
        self._log = -1
        self._calls = 0
        self._followed = -math.inf

    @classmethod
    def validate(cls, options: Mapping[str, Any]) -> list[str]:
        return settings.read(options)[1]

    @property
    def traits(self) -> base.Traits:
        chosen = self._settings
        stale = max((one.stale for one in chosen.faults), default=0.0)
        return base.Traits(
            replay_window=chosen.replay_window,
            visibility_grace=max(chosen.visibility_delay.high, stale),
            self_end=chosen.self_end,
            idempotent_create=chosen.idempotent,
            create_rate=chosen.create_rate,
            create_burst=chosen.create_burst,
            power_off=(),
            beside_daemon=True,
            residue=(
                "nothing: simulated instances end at their deadline"
                if chosen.self_end
                else "simulated instances live until they are deleted"
            ),
        )

    def scopes(self) -> frozenset[base.Scope]:
        return frozenset(
            settings.scope(self._context.name, self._settings, region, zone)
            for region in self._settings.regions.values()
            for zone in region.zones
        )

    async def start(self) -> None:
        """Read the journal; give up instances whose processes a crash prevented."""
        for _ in range(_TRIES):
            if self.cloud.open(self._context.now()):
                break
            await self._context.sleep(_PAUSE_S)
        else:
            raise _locked()
        if self._processes is not None:
            await self._processes.open(self._context.now())
            await self._follow(lost_after=_LAUNCHING_S)

    async def close(self) -> None:
        if self._processes is not None:
            await self._processes.close()
        self.cloud.close()
        if self._log >= 0:
            os.close(self._log)
            self._log = -1

    def why_none(self, shape: base.Shape, options: Mapping[str, Any] = base.NO_OPTIONS) -> str:
        return listed_types.why_none(self._settings.machine_types.values(), shape)

    async def offers(self, shape: base.Shape, options: Mapping[str, Any] = base.NO_OPTIONS) -> list[base.Offer]:
        return settings.offers(self._context.name, self._settings, shape)

    # -- the calls ------------------------------------------------------------------------------------------------

    async def create(self, request: base.CreateRequest) -> base.InstanceView:
        latency = self._settings.create_latency.at(self._chance("create", request.key)) / 2
        await self._wait(latency)
        fired = await self._fired(faults.Call.CREATE, request.offer.key)
        await self._wait(sum(one.delay for one in fired))
        if self._context.now() - self._followed >= _FRESH_S:
            self._followed = self._context.now()
            await self._follow()
        machine, outcome = await self._alone(lambda: self._buy(request, fired))
        if machine is not None and self._processes is not None:
            if outcome == "existing":
                await self._follow(machine.ref)
            # A repeated request also starts what a crash prevented; what was started once is not started again.
            if self._context.now() < machine.ending_at:
                await self._launch(machine, request.user_data)
        await self._wait(latency)
        if machine is None:
            raise _failure(fired, faults.Call.CREATE, self._scope_of)
        for one in fired:
            if one.kind:
                raise _failure([one], faults.Call.CREATE, self._scope_of)
        return machine.view(self._context.now())

    def _buy(self, request: base.CreateRequest, fired: list[faults.Fault]) -> tuple[clouds.Machine | None, str]:
        """Carry the call out, or not; None for a failure that ``fired`` describes."""
        now = self._context.now()
        facts = {"key": request.key, "name": request.name, "offer": request.offer.key}
        failing = next((one for one in fired if one.kind), None)
        if failing is not None and not failing.applied:
            self._note("create", failing.error_code, **facts)
            return None, failing.kind
        try:
            machine, outcome = self._seller.sell(request, fired, now)
        except base.ProvisionError as error:
            self._note("create", error.code, **facts)
            raise
        self._note("create", outcome, ref=machine.ref, lost=failing is not None, **facts)
        return machine, outcome

    async def describe(self, ref: str) -> base.InstanceView | None:
        await self._enter(faults.Call.DESCRIBE, ref)
        await self._follow(ref)
        now = self._context.now()
        machine = await self._alone(lambda: self.cloud.known(ref, now))
        self._note("describe", "ok" if machine else "not-found", ref=ref)
        return None if machine is None else self._view(machine, now)

    async def delete(self, ref: str) -> None:
        lost = await self._enter(faults.Call.DELETE, ref)
        now = self._context.now()

        def end() -> clouds.Machine | None:
            machine = self.cloud.known(ref, now)
            if machine is not None:
                after = self._settings.delete_latency.at(self._chance("delete", machine.key))
                self.cloud.end(
                    ref, at=now, gone_at=now + after, kind=base.EndKind.ENDED_BY_US, detail="deleted by a call"
                )
            self._note("delete", "ok" if machine else "not-found", ref=ref, lost=lost is not None)
            return machine

        machine = await self._alone(end)
        if machine is not None and self._processes is not None:
            await self._processes.ask_to_end(machine, now)
        if lost is not None:
            raise _failure([lost], faults.Call.DELETE, self._scope_of)

    async def delete_residue(self, residue: base.Residue) -> None:
        """This cloud leaves nothing behind."""

    async def list_owned(self, also: frozenset[base.Scope] = frozenset()) -> base.Listing:
        fired = await self._fired(faults.Call.LIST, *sorted(self.scopes()))
        await self._pause("list", fired)
        everywhere = [one for one in fired if one.kind and one.match == "*"]
        if everywhere:
            self._note("list", everywhere[0].error_code)
            raise _failure(everywhere, faults.Call.LIST, self._scope_of)
        await self._follow()
        now = self._context.now() - max((one.stale for one in fired), default=0.0)
        failures: dict[str, str] = {}

        def look() -> list[clouds.Machine]:
            return [one for one in self.cloud.visible(now) if one.created_at <= now]

        found = await self._alone(look)
        scopes = self.scopes() | {one.scope for one in found}
        for one in fired:
            patterns = (one.match,) if one.kind else one.partial_list
            for scope in scopes:
                if any(faults.matches(pattern, scope) for pattern in patterns):
                    failures[scope] = f"scripted: {one.error_code if one.kind else 'this part of the list is missing'}"
        controller = self._context.controller
        views = [
            self._view(one, now)
            for one in found
            if one.scope not in failures and one.tags.get(base.TAG_CONTROLLER) == controller
        ]
        self._note("list", "partial" if failures else "ok", views=len(views))
        return base.Listing(views=tuple(views), complete_scopes=frozenset(scopes - failures.keys()), failures=failures)

    async def end_reason(self, ref: str) -> base.EndReason:
        await self._follow(ref)
        now = self._context.now()
        machine = await self._alone(lambda: self.cloud.known(ref, now))
        if machine is None or now < machine.ending_at:
            return base.EndReason(base.EndKind.UNKNOWN)
        return base.EndReason(machine.kind, machine.detail)

    async def console_log(self, ref: str) -> str | None:
        machine = await self._alone(lambda: self.cloud.known(ref, self._context.now()))
        if machine is None:
            return None
        if self._processes is not None:
            return await self._processes.console(machine)
        return f"simulated instance {machine.name}\n" if self._context.now() >= machine.boots_at else None

    async def check(self, samples: Sequence[base.CreateRequest] = ()) -> list[base.Finding]:
        place = f"providers.{self._context.name}"
        message = "a simulated cloud: nothing is bought and nothing is billed"
        findings = [base.Finding(base.Level.WARNING, place, message, "use it for the demo and for tests only")]
        if self._processes is not None:
            findings += await local.Local(self._context, {}).check()
        return findings

    # -- faults, time and the log -----------------------------------------------------------------------------------

    def _chance(self, what: str, key: str) -> float:
        return faults.chance(self._settings.seed, self._context.name, what, key)

    async def _pause(self, what: str, fired: list[faults.Fault]) -> None:
        """The time that a call other than a create takes."""
        self._calls += 1
        latency = self._settings.call_latency.at(self._chance(what, str(self._calls)))
        await self._wait(latency + sum(one.delay for one in fired))

    async def _wait(self, seconds: float) -> None:
        if seconds > 0:
            await self._context.sleep(seconds)

    async def _alone(self, work: Callable[[], _T]) -> _T:
        """Do something to the cloud while no other process does; nothing else runs meanwhile."""
        for _ in range(_TRIES):
            if self.cloud.acquire(self._context.now()):
                try:
                    return work()
                finally:
                    self.cloud.release()
            await self._context.sleep(_PAUSE_S)
        raise _locked()

    async def _fired(self, call: faults.Call, *subjects: str) -> list[faults.Fault]:
        """The faults that happen to this call, in the order of the script; the first that fails it is the last."""
        candidates = [
            one
            for one in self._settings.faults
            if one.call is call and any(one.match == "*" or faults.matches(one.match, subject) for subject in subjects)
        ]
        if not candidates:
            return []

        def count() -> list[faults.Fault]:
            fired: list[faults.Fault] = []
            for one in candidates:
                happens, pair = faults.fires(one, self.cloud.counts, self._settings.seed)
                self.cloud.count(one.ident, pair)
                if happens:
                    fired.append(one)
                    if one.kind:
                        break
            return fired

        return await self._alone(count)

    async def _enter(self, call: faults.Call, ref: str) -> faults.Fault | None:
        """Latency and faults of a call about one instance; the fault that hides a call that is carried out."""
        machine = self.cloud.machines.get(ref)
        fired = await self._fired(call, machine.offer if machine else "")
        await self._pause(f"{call.value}/{ref}", fired)
        failing = next((one for one in fired if one.kind), None)
        if failing is not None and not (failing.applied and call is faults.Call.DELETE):
            self._note(call.value, failing.error_code, ref=ref)
            raise _failure([failing], call, self._scope_of)
        return failing

    def _scope_of(self, kind: str) -> base.OfferPattern | None:
        """Return the offers that a failure of that kind applies to, as clouds have it."""
        if kind in (base.Kind.AUTH.value, base.Kind.THROTTLED.value):
            return base.OfferPattern.of(self._context.name, self._settings.account)
        return None

    def _note(self, call: str, outcome: str, **facts: object) -> None:
        """Append the call to the log, in one write, before its answer is on its way."""
        if self.cloud.observe is None and not self._settings.log:
            return
        line = {"at": self._context.now(), "provider": self._context.name, "call": call, "outcome": outcome, **facts}
        if self.cloud.observe is not None:
            self.cloud.observe(line)
        if self._settings.log:
            if self._log < 0:
                path = Path(self._context.directory or ".") / self._settings.log
                path.parent.mkdir(parents=True, exist_ok=True)
                self._log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            os.write(self._log, (json.dumps(line) + "\n").encode())

    # -- instances that are processes -------------------------------------------------------------------------------

    async def _launch(self, machine: clouds.Machine, script: str) -> None:
        if self._processes is None or machine.breaks:
            return
        try:
            await self._processes.launch(machine, script)
        except backing.LaunchFailed as error:
            reason = base.EndReason(base.EndKind.FAILED, f"its processes could not be started: {error}")
            await self._alone(lambda: self._ended([(machine.ref, reason)]))

    def _ended(self, ends: list[tuple[str, base.EndReason]]) -> None:
        now = self._context.now()
        for ref, reason in ends:
            self.cloud.end(ref, at=now, gone_at=now, kind=reason.kind, detail=reason.detail)

    async def _follow(self, ref: str = "", *, lost_after: float = _LOST_S) -> None:
        """Let the cloud know which processes (of one machine, or of all) ended, and end those that should be gone."""
        if self._processes is None:
            return
        now, cloud = self._context.now(), self.cloud
        watched = await self._alone(lambda: [one for one in cloud.listed.values() if ref in ("", one.ref)])
        ends = await self._processes.follow(watched, now=now, lost_after=lost_after)
        if ends:
            await self._alone(lambda: self._ended(ends))

    def _view(self, machine: clouds.Machine, now: float) -> base.InstanceView:
        """Return its view; while it has processes it is not gone, even if the simulated cloud planned it so."""
        status = machine.status(now)
        if status is base.InstanceStatus.GONE and self._processes is not None and self._processes.present(machine):
            status = base.InstanceStatus.ENDING
        return machine.view(now, status)


def _locked() -> base.ProvisionError:
    return base.ProvisionError(base.Kind.TRANSIENT, "another process keeps the simulated cloud", code="Locked")


def _failure(
    fired: list[faults.Fault], call: faults.Call, scope_of: Callable[[str], base.OfferPattern | None]
) -> base.ProvisionError:
    """The error that the first failing fault stands for."""
    one = next(one for one in fired if one.kind)
    unclear = one.kind in faults.UNCLEAR
    return base.ProvisionError(
        base.Kind.TRANSIENT if one.kind == faults.TIMEOUT else base.Kind(one.kind),
        f"scripted: {one.error_code}",
        scope=one.scope or scope_of(one.kind),
        code=one.error_code,
        maybe_created=unclear and call is faults.Call.CREATE,
        retry_after=one.retry_after,
    )
