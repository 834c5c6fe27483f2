"""Real processes behind the machines of a simulated cloud.

The cloud decides what a machine's future is; its processes wait out the boot, and end at the time and for the reason
that the cloud foresaw, without the daemon.  The other way round the cloud learns here which processes ended early.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

from provisioners import base, local
from provisioners.fake import cloud as clouds
from provisioners.processes import instance_directory, records

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: Seconds beyond the grace after which processes are killed from here.
_SLACK_S = 5.0
#: Seconds for which processes may outlive the deadline in a cloud that ends nothing by itself.
_LATEST_S = 86400.0
_CAUSES = {
    base.EndKind.PREEMPTED: records.Cause.PREEMPTED,
    base.EndKind.SELF_ENDED: records.Cause.DEADLINE,
}
_REFUSED = (instance_directory.NameTaken, instance_directory.LaunchUnclear)


class LaunchFailed(Exception):
    """The processes of an accepted machine could not be started."""


class Processes:
    """The processes of one simulated cloud."""

    def __init__(self, directory: Path, *, grace: float, remember: float) -> None:
        self._instances = instance_directory.InstanceDirectory(directory)
        self._grace = grace
        self._remember = remember
        self._launching: dict[str, asyncio.Task[None]] = {}
        self._found: dict[str, instance_directory.Snapshot] = {}

    async def _offload(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return await asyncio.to_thread(call, *args, **kwargs)
        except (OSError, ValueError, records.Busy) as error:
            raise base.ProvisionError(base.Kind.TRANSIENT, str(error), code=type(error).__name__) from error

    async def open(self, now: float) -> None:
        """Make the directory, finish what was left half-way."""
        await self._offload(self._instances.open, now=now)

    async def close(self) -> None:
        """Wait for launches under way."""
        if self._launching:
            await asyncio.wait(self._launching.values())

    async def launch(self, machine: clouds.Machine, script: str) -> None:
        """Start them; goes on when the caller is cancelled.  Raises :class:`LaunchFailed`."""
        task = asyncio.create_task(self._start(machine, script), name=f"launch {machine.ref}")
        self._launching[machine.ref] = task
        task.add_done_callback(lambda _: self._launching.pop(machine.ref, None))
        await asyncio.shield(task)

    async def _start(self, machine: clouds.Machine, script: str) -> None:
        stops = machine.stops_at < math.inf
        ends_at = min(machine.stops_at if stops else machine.ending_at, machine.created_at + 10 * _LATEST_S)
        spec = instance_directory.Spec(
            key=machine.key,
            name=machine.name,
            tags=machine.tags,
            offer=machine.offer,
            created_at=machine.created_at,
            starts_after=machine.boots_at - machine.created_at,
            ends_after=ends_at - machine.created_at,
            ends_cause=records.Cause.STOPPED if stops else _CAUSES.get(machine.kind, records.Cause.DEADLINE),
            grace=self._grace,
        )
        try:
            await asyncio.to_thread(self._instances.create, spec, script)
        except (
            OSError,
            ValueError,
            records.Busy,
            instance_directory.NameTaken,
            instance_directory.LaunchUnclear,
        ) as error:
            await self._offload(
                self._instances.ask_to_end, machine.name, records.Cause.UNSTARTED, now=machine.created_at
            )
            raise LaunchFailed(str(error)) from error

    async def ask_to_end(self, machine: clouds.Machine, now: float) -> None:
        """Let them end; returns at once."""
        await self._offload(self._instances.ask_to_end, machine.name, records.Cause.DELETED, now=now)

    async def console(self, machine: clouds.Machine) -> str | None:
        """The end of their output."""
        return await self._offload(self._instances.console, machine.name)

    def present(self, machine: clouds.Machine) -> bool:
        """True when some of them were there at the last look."""
        found = self._found.get(machine.name)
        return found is not None and found.key == machine.key and not found.gone

    async def follow(
        self, watched: Sequence[clouds.Machine], *, now: float, lost_after: float
    ) -> list[tuple[str, base.EndReason]]:
        """End what should be gone; tell which machines ended by themselves.

        A machine without a trace of processes ``lost_after`` seconds after its create lost them in a crash.
        """
        names = [one.name for one in watched]
        found = await self._offload(self._look, names, now)
        for name in names:
            self._found.pop(name, None)
        self._found.update(found)
        return [
            (machine.ref, reason)
            for machine in watched
            if (reason := await self._compare(machine, now, lost_after)) is not None
        ]

    def _look(self, names: Iterable[str], now: float) -> dict[str, instance_directory.Snapshot]:
        self._instances.purge(now=now, keep=self._remember)
        found = {name: self._instances.find(name, now=now) for name in names}
        return {name: one for name, one in found.items() if one is not None}

    async def _compare(self, machine: clouds.Machine, now: float, lost_after: float) -> base.EndReason | None:
        found = self._found.get(machine.name)
        if found is not None and found.key != machine.key:
            found = None
        if found is not None and not found.gone:
            if now >= machine.ending_at:
                if found.cause is None:
                    await self.ask_to_end(machine, now)
                if not found.supervised or now >= machine.gone_at + self._grace + _SLACK_S:
                    await self._offload(self._instances.kill, machine.name)
            return None
        if now >= machine.ending_at or now >= machine.stops_at or machine.breaks:
            return None
        if found is not None:
            return None if found.cause is None else local.reason(found.cause, found.detail)
        if machine.ref in self._launching or now - machine.created_at < lost_after:
            return None
        return base.EndReason(base.EndKind.FAILED, "its processes were lost in a crash")
