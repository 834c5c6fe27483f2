"""Instances that are processes beside the daemon, for the demo and for trusted jobs only.

Nothing isolates a job from the daemon or from another job: they run as the same user and see the same files.  It does
guarantee what every provisioner guarantees: at most one instance per key, found again after any crash, ended at
its deadline without the daemon, and ended with everything that it started.  Linux only.
"""

from __future__ import annotations

import asyncio
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from provisioners import base, options
from provisioners.catalogue import listed_types
from provisioners.processes import instance_directory, records

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: The one place that this provider has, as account, region and zone.
PLACE = "local"
#: Seconds between polls of an instance that is on its way out, and seconds beyond the grace to wait for it.
_POLL_S, _SLACK_S = 0.05, 5.0
_ENDS = {
    records.Cause.DELETED: base.EndKind.ENDED_BY_US,
    records.Cause.EXIT: base.EndKind.SELF_ENDED,
    records.Cause.CRASH: base.EndKind.FAILED,
    records.Cause.DEADLINE: base.EndKind.SELF_ENDED,
    records.Cause.PREEMPTED: base.EndKind.PREEMPTED,
    records.Cause.STOPPED: base.EndKind.UNKNOWN,
    records.Cause.SIGNAL: base.EndKind.UNKNOWN,
    records.Cause.VANISHED: base.EndKind.FAILED,
    records.Cause.REBOOT: base.EndKind.FAILED,
    records.Cause.UNSTARTED: base.EndKind.FAILED,
}
_WORDS = {
    records.Cause.DELETED: "deleted by runnerd",
    records.Cause.EXIT: "its boot script ended",
    records.Cause.CRASH: "its boot script failed",
    records.Cause.DEADLINE: "its deadline passed",
    records.Cause.PREEMPTED: "preempted",
    records.Cause.STOPPED: "switched off",
    records.Cause.SIGNAL: "its supervisor received a signal to end",
    records.Cause.VANISHED: "its processes disappeared without a trace",
    records.Cause.REBOOT: "the host was started anew",
    records.Cause.UNSTARTED: "it could not be started",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of a ``local`` provider."""

    #: The most instances at a time.
    slots: int
    machine_types: Mapping[str, listed_types.MachineType]
    #: Seconds between SIGTERM and SIGKILL.
    grace: float
    #: Seconds for which an ended instance is remembered, its console included.
    keep: float


def read(given: Mapping[str, Any]) -> tuple[Settings, list[str]]:
    """Read the settings; return them and what is wrong with them."""
    reader = options.Reader(given)
    gpu = reader.text("gpu")
    default = listed_types.MachineType(
        name="process",
        gpu=gpu,
        gpu_count=reader.whole("gpus", 1 if gpu else 0, high=64),
        cpus=os.cpu_count() or 1,
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        arch="arm64" if platform.machine() in ("aarch64", "arm64") else "x86_64",
        price=reader.number("price", 0.0),
    )
    if gpu and not default.gpu_count:
        reader.complain("gpus", "is 0 although a gpu is named")
    types = listed_types.read(reader, "machine_types", default)
    for name, one in types.items():
        if one.spot_price is not None:
            reader.complain(f"machine_types.{name}.spot_price", "there is no spot market on this host")
    settings = Settings(
        slots=reader.whole("slots", 4, low=1, high=10_000),
        machine_types=types or {default.name: default},
        grace=reader.seconds("grace", 5.0),
        keep=reader.seconds("keep", 3600.0),
    )
    reader.done()
    return settings, reader.problems


class Local(base.Basics):
    """Processes of this host as instances."""

    def __init__(self, context: base.Context, options: Mapping[str, Any]) -> None:
        self._context = context
        self._settings, problems = read(options)
        if problems:
            raise ValueError("; ".join(problems))
        self._instances = instance_directory.InstanceDirectory(Path(context.directory))

    @classmethod
    def validate(cls, options: Mapping[str, Any]) -> list[str]:
        return read(options)[1]

    @property
    def traits(self) -> base.Traits:
        return base.Traits(
            replay_window=self._settings.keep,
            visibility_grace=0.0,
            self_end=True,
            idempotent_create=True,
            create_rate=20.0,
            create_burst=20,
            power_off=(),
            beside_daemon=True,
            residue="nothing: a supervisor beside each instance ends it at its deadline",
        )

    def scopes(self) -> frozenset[base.Scope]:
        return frozenset({self._scope})

    @property
    def _scope(self) -> base.Scope:
        return base.Scope.of(self._context.name, PLACE, PLACE, PLACE)

    async def _offload(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run blocking work in a thread; its errors become a :class:`base.ProvisionError`."""
        try:
            return await asyncio.to_thread(call, *args, **kwargs)
        except (OSError, ValueError, records.Busy) as error:
            raise base.ProvisionError(base.Kind.TRANSIENT, str(error), code=type(error).__name__) from error

    async def start(self) -> None:
        await self._offload(self._instances.open, now=self._context.now())

    async def close(self) -> None:
        """Nothing is held open."""

    def why_none(self, shape: base.Shape, options: Mapping[str, Any] = base.NO_OPTIONS) -> str:
        return listed_types.why_none(self._settings.machine_types.values(), shape)

    async def offers(self, shape: base.Shape, options: Mapping[str, Any] = base.NO_OPTIONS) -> list[base.Offer]:
        if base.Market.ON_DEMAND not in shape.markets:
            return []
        return [self._offer(one) for one in self._settings.machine_types.values() if one.fits(shape)]

    def _offer(self, machine: listed_types.MachineType) -> base.Offer:
        return base.Offer(
            provider=self._context.name,
            account=PLACE,
            region=PLACE,
            zone=PLACE,
            machine_type=machine.name,
            market=base.Market.ON_DEMAND,
            price=machine.price,
            gpus=machine.gpu_count,
        )

    async def create(self, request: base.CreateRequest) -> base.InstanceView:
        listed_types.refuse_malformed(request, {})
        machine = self._settings.machine_types.get(request.offer.machine_type)
        if machine is None or self._offer(machine).key != request.offer.key:
            raise base.ProvisionError(
                base.Kind.CONFIG, f"{request.offer.key} is no offer of this provider", code="NoSuchOffer"
            )
        now = self._context.now()
        spec = instance_directory.Spec(
            key=request.key,
            name=request.name,
            tags=request.tags,
            offer=request.offer.key,
            created_at=now,
            starts_after=0.0,
            ends_after=request.deadline - now,
            ends_cause=records.Cause.DEADLINE,
            grace=self._settings.grace,
        )
        try:
            await self._offload(self._instances.purge, now=now, keep=self._settings.keep)
            found = await self._offload(self._instances.create, spec, request.user_data, slots=self._settings.slots)
        except instance_directory.NoFreeSlot as error:
            scope = base.OfferPattern.of(self._context.name, PLACE, PLACE, PLACE)
            raise base.ProvisionError(base.Kind.CAPACITY, str(error), scope=scope, code="NoFreeSlot") from error
        except instance_directory.NameTaken as error:
            raise base.ProvisionError(base.Kind.CONFIG, str(error), code="NameTaken") from error
        except instance_directory.LaunchUnclear as error:
            raise base.ProvisionError(
                base.Kind.TRANSIENT, str(error), code="LaunchUnclear", maybe_created=True
            ) from error
        return self._view(found)

    async def describe(self, ref: str) -> base.InstanceView | None:
        found = await self._find(ref)
        return None if found is None else self._view(found)

    async def _find(self, ref: str) -> instance_directory.Snapshot | None:
        if not listed_types.INSTANCE.match(ref):
            return None
        return await self._offload(self._instances.find, ref, now=self._context.now())

    async def delete(self, ref: str) -> None:
        """End it and wait until it is gone: at most the grace and some seconds.

        The work is the supervisor's, so it is also done when this call is cancelled or the daemon killed.
        """
        if not listed_types.INSTANCE.match(ref):
            return
        if not await self._offload(self._instances.ask_to_end, ref, records.Cause.DELETED, now=self._context.now()):
            return
        waited = 0.0
        while waited < self._settings.grace + _SLACK_S:
            found = await self._find(ref)
            if found is None or found.gone:
                return
            if not found.supervised and waited > 0:
                await self._offload(self._instances.kill, ref)
            await self._context.sleep(_POLL_S)
            waited += _POLL_S
        await self._offload(self._instances.kill, ref)
        await self._context.sleep(_POLL_S)
        found = await self._find(ref)
        if found is not None and not found.gone:
            raise base.ProvisionError(base.Kind.TRANSIENT, f"processes of {ref} do not end", code="StillRunning")

    async def delete_residue(self, residue: base.Residue) -> None:
        """There are no side resources."""

    async def list_owned(self, also: frozenset[base.Scope] = frozenset()) -> base.Listing:
        now = self._context.now()
        await self._offload(self._instances.purge, now=now, keep=self._settings.keep)
        try:
            found = await self._offload(lambda: list(self._instances.everything(now=now)))
        except base.ProvisionError as error:
            return base.Listing(views=(), complete_scopes=frozenset(), failures={self._scope: str(error)})
        views = (self._view(one) for one in found if one.tags.get(base.TAG_CONTROLLER) == self._context.controller)
        return base.Listing(views=tuple(views), complete_scopes=self.scopes())

    def _view(self, found: instance_directory.Snapshot) -> base.InstanceView:
        return base.InstanceView(
            ref=found.name,
            name=found.tags.get(base.TAG_INSTANCE, found.name),
            scope=self._scope,
            status=status(found),
            tags=found.tags,
            created_at=found.created_at,
            offer=base.OfferKey.read(found.offer),
            address="127.0.0.1",
        )

    async def end_reason(self, ref: str) -> base.EndReason:
        found = await self._find(ref)
        if found is None or found.cause is None:
            return base.EndReason(base.EndKind.UNKNOWN)
        return reason(found.cause, found.detail)

    async def console_log(self, ref: str) -> str | None:
        if not listed_types.INSTANCE.match(ref):
            return None
        return await self._offload(self._instances.console, ref)

    async def check(self, samples: Sequence[base.CreateRequest] = ()) -> list[base.Finding]:
        place = f"providers.{self._context.name}"
        if sys.platform != "linux":
            return [base.Finding(base.Level.ERROR, place, "local instances need Linux", "use another provider")]
        findings = [
            base.Finding(
                base.Level.WARNING,
                place,
                "jobs run unisolated beside the daemon, as its user, with its files and its network",
                "use it for the demo and for trusted jobs only",
            )
        ]
        if os.geteuid() == 0:
            findings.append(
                base.Finding(
                    base.Level.WARNING,
                    place,
                    "the daemon runs as root, so every job does",
                    "run it as a user of its own",
                )
            )
        return findings + await self._offload(_check_directory, Path(self._context.directory), place)


def _check_directory(directory: Path, place: str) -> list[base.Finding]:
    while not directory.exists():
        directory = directory.parent
    flags = os.statvfs(directory).f_flag
    if flags & os.ST_RDONLY or not os.access(directory, os.W_OK):
        message, remedy = f"{directory} cannot be written", "give the daemon's user a directory that can"
    elif flags & os.ST_NOEXEC:
        message, remedy = f"{directory} is mounted noexec, boot scripts cannot run there", "use another state directory"
    else:
        return [base.Finding(base.Level.OK, place, f"{directory} can hold instances")]
    return [base.Finding(base.Level.ERROR, place, message, remedy)]


def status(found: instance_directory.Snapshot) -> base.InstanceStatus:
    """Return the status that the processes show."""
    if found.gone:
        return base.InstanceStatus.GONE
    if found.cause is not None:
        return base.InstanceStatus.ENDING
    if not found.started:
        return base.InstanceStatus.PENDING
    # Without its supervisor nothing ends it and its script is dead; what is left of it is to be cleared away.
    return base.InstanceStatus.RUNNING if found.supervised else base.InstanceStatus.STOPPED


def reason(cause: records.Cause, detail: str) -> base.EndReason:
    """Return a recorded cause in the terms of the contract."""
    return base.EndReason(_ENDS[cause], f"{_WORDS[cause]}: {detail}" if detail else _WORDS[cause])
