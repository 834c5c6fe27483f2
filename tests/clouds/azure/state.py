"""The resources of a simulated subscription."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any


@dataclass(slots=True, eq=False)
class Instance:
    """One virtual machine, as everybody but the API sees it."""

    name: str
    subscription: str
    group: str
    vm_id: str
    region: str
    #: Empty: not placed in a zone.
    zone: str
    type: str
    #: ``spot`` or ``on-demand``.
    market: str
    #: Its ``runnerd-attempt`` tag: what its creator calls the attempt.
    key: str
    tags: dict[str, str]
    user_data: bytes
    #: The body of its PUT.
    body: dict[str, Any]
    created_at: float
    visible_at: float
    runs_at: float
    #: Name of the long operation that makes it.
    operation: str
    #: Fails then, with that code; never: infinite.
    fails_at: float = math.inf
    fails_with: str = ""
    fails_message: str = ""
    #: It runs although its launch failed.
    runs: bool = False
    vanishes_at: float = math.inf
    preempted_at: float = math.inf
    #: ``creating``, ``running``, ``stopped``, ``failed``, ``deleting``, ``gone``.
    state: str = "creating"
    power: str = ""
    #: Wire value of ``provisioningState``.
    provisioning: str = "Creating"
    gone_at: float = math.inf
    stuck: bool = False
    #: What its serial console has shown.
    console: str = ""
    #: Object id of its own identity, empty when it has none.
    principal: str = ""
    #: The operation that deletes it, where there is one.
    deletion: str = ""

    @property
    def ref(self) -> str:
        """The handle that the provider gives it."""
        return f"{self.subscription}/{self.group}/{self.name}/{self.vm_id}"

    @property
    def alive(self) -> bool:
        """It counts against quotas and capacity."""
        return self.state in ("creating", "running", "stopped", "deleting")

    @property
    def billed(self) -> bool:
        """It costs money now: also while it is only stopped."""
        return self.state in ("running", "stopped") or (
            self.state in ("failed", "deleting") and self.power == "running"
        )


@dataclass(slots=True, eq=False)
class Part:
    """An interface, an address or a disk."""

    #: ``networkInterfaces``, ``publicIPAddresses`` or ``disks``.
    kind: str
    name: str
    group: str
    region: str
    zones: tuple[str, ...]
    tags: dict[str, str]
    created_at: float
    #: Goes with its machine.
    delete: bool
    #: The machine that it is attached to, empty when none; for an address, the interface.
    owner: str = ""
    #: An interface of a failed machine is kept for it until then.
    reserved_until: float = 0.0


@dataclass(frozen=True, slots=True)
class Principal:
    """The holder of a token."""

    name: str
    oid: str
    #: Patterns of actions.
    actions: tuple[str, ...]
    not_actions: tuple[str, ...] = ()
    #: Resource id of the managed identity, empty for none.
    resource: str = ""
    #: Resource id below which it may act; empty: everywhere.
    scope: str = ""


class Refused(Exception):
    """The API says no."""

    def __init__(self, status: int, code: str, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after


def iso(at: float) -> str:
    """A time as Azure writes it."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "0+00:00"
