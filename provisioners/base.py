"""The contract between runnerd and a source of instances.

A provisioner translates; it does not decide.  It keeps no state that it could not read back from its provider, never
repeats a create call by itself, and says of every failure what may be concluded from it.  The guarantees that callers
rely on are stated at each method; ``tests/contract`` proves them for every provisioner, and a third party can run
the same suite against its own.

This module is the public path of all names of the contract.  The values that are exchanged are defined in
``provisioners.contract``: offers and requests, instances, failures, tags, and the texts that name places.

Units: times are unix seconds, durations seconds, sizes bytes, money US dollars.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from provisioners.contract.failures import Failure, Kind, ProvisionError
from provisioners.contract.instances import EndKind, EndReason, InstanceStatus, InstanceView, Listing, Residue
from provisioners.contract.offer_keys import ANY, UNKNOWN, OfferKey, OfferPattern, Scope, alternatives
from provisioners.contract.offers import TOKEN_PLACEHOLDER, CreateRequest, Market, Offer, Quota, Shape, Unit
from provisioners.contract.tags import (
    TAG_ATTEMPT,
    TAG_CONTROLLER,
    TAG_DEADLINE,
    TAG_INSTANCE,
    TAG_POOL,
    TAG_PRICE,
    tagged_deadline,
    tagged_price,
)
from provisioners.offload import Offload

__all__ = [
    "ANY",
    "NO_OPTIONS",
    "POWER_OFF",
    "TAG_ATTEMPT",
    "TAG_CONTROLLER",
    "TAG_DEADLINE",
    "TAG_INSTANCE",
    "TAG_POOL",
    "TAG_PRICE",
    "TOKEN_PLACEHOLDER",
    "UNKNOWN",
    "Basics",
    "Context",
    "CreateRequest",
    "EndKind",
    "EndReason",
    "Failure",
    "Finding",
    "InstanceStatus",
    "InstanceView",
    "Kind",
    "Level",
    "Listing",
    "Market",
    "Offer",
    "OfferKey",
    "OfferPattern",
    "Offload",
    "ProvisionError",
    "Provisioner",
    "Quota",
    "Residue",
    "Scope",
    "Shape",
    "Traits",
    "Unit",
    "alternatives",
    "tagged_deadline",
    "tagged_price",
]

#: The commands by which an instance that is a machine of its own ends.
POWER_OFF = ("systemctl", "poweroff")
#: The options of a pool that sets none for a provider.
NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Traits:
    """The guarantees of a provider, in numbers."""

    #: Seconds after the first send in which the same request is certain to be recognised as the same.
    replay_window: float
    #: Seconds until a created instance is certain to show in listings; absence before that proves nothing.
    visibility_grace: float
    #: True when an instance ends (and stops costing) by itself at its deadline without the daemon.
    self_end: bool
    #: True when :meth:`Provisioner.create` with the same key returns the instance that exists already.
    idempotent_create: bool
    #: Creates per second in the long run, and the number allowed at once; the caller paces itself.
    create_rate: float = 10.0
    create_burst: int = 50
    #: True when that holds for each region by itself, False when for the whole provider.
    paced_by_region: bool = False
    #: Bytes of user-data that the provider takes, counted before any encoding; a pool whose boot script is longer buys
    #: nothing there, and :meth:`Provisioner.create` never sees it.
    user_data_limit: int = 16384
    #: The command, without a shell, by which an instance ends itself when its agent leaves or its deadline passes;
    #: empty when it is only a process.
    power_off: tuple[str, ...] = POWER_OFF
    #: Seconds within which :meth:`Provisioner.end_reason` may still learn the cause of an end; 0: it knows at once.
    proof_lag: float = 0.0
    #: Seconds of notice before a spot instance is preempted, where the operator chose it; 0 for the cloud's own.
    preemption_notice: float = 0.0
    #: True when its instances are processes on the daemon's host: no hardware to check, the daemon's Python and user.
    beside_daemon: bool = False
    #: What can be left behind if the daemon never comes back, for people; ``check`` prints it.
    residue: str = ""


class Level(enum.StrEnum):
    """The severity of a finding."""

    #: It works.
    OK = "ok"
    #: It works and may stop working, or could not be checked.
    WARNING = "warning"
    #: Instances cannot be bought until it is corrected.
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of ``runnerd check``."""

    level: Level
    #: The part of the configuration that it is about: ``providers.aws``, ``pools.gpu-t4``.
    place: str
    message: str
    #: What to do about it; empty when there is nothing to do.
    remedy: str = ""


def _no_secrets(reference: str) -> str:
    raise ValueError(f"{reference}: secrets cannot be read here")


@dataclass(frozen=True, slots=True)
class Context:
    """Everything outside itself that a provisioner may depend on, handed over by runnerd."""

    #: The operator's name for this provider.
    name: str
    #: The controller whose instances are listed and ended.
    controller: str
    #: A directory of its own that survives restarts; empty for none.
    directory: str
    #: Returns unix seconds.
    now: Callable[[], float]
    #: ``await sleep(seconds)``.
    sleep: Callable[[float], Any]
    #: ``offload(width)`` makes the executor of a blocking SDK: at most that many calls run at once.
    offload: Callable[[int], Offload] = Offload
    #: Reads the value behind a secret's reference (``file:``, ``env:``, ``credential:``) at each call; raises
    #: ValueError with a message for people.  Options hold references only.
    secret: Callable[[str], str] = _no_secrets


class Basics:
    """The answers of a provisioner without quotas, price lists and options of pools; to inherit from."""

    @classmethod
    def validate_pool(cls, options: Mapping[str, Any]) -> list[str]:
        return [f"{key}: this provider takes no options from pools" for key in options]

    def why_none(self, shape: Shape, options: Mapping[str, Any] = NO_OPTIONS) -> str:
        return ""

    async def quotas(self) -> list[Quota]:
        return []

    async def refresh_prices(self) -> list[Finding]:
        return []


@runtime_checkable
class Provisioner(Protocol):
    """A source of instances.  Every coroutine may raise :class:`ProvisionError`.

    It is made with a :class:`Context` and its own options from the configuration; the constructor raises ValueError
    for options that :meth:`validate` rejects.
    """

    def __init__(self, context: Context, options: Mapping[str, Any]) -> None: ...

    @classmethod
    def validate(cls, options: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with a provider's options, as ``"dotted.key: problem"``; empty when usable.  No I/O."""
        ...

    @classmethod
    def validate_pool(cls, options: Mapping[str, Any]) -> list[str]:
        """Return the problems of a pool's options for this provider, in the form of :meth:`validate`.  No I/O."""
        ...

    @property
    def traits(self) -> Traits: ...

    def scopes(self) -> frozenset[Scope]:
        """Return every scope that the configuration names, as far as it is known before :meth:`start`."""
        ...

    async def start(self) -> None:
        """Open what is needed; called once before any other coroutine."""
        ...

    async def close(self) -> None:
        """Release connections.  Instances live on."""
        ...

    async def offers(self, shape: Shape, options: Mapping[str, Any] = NO_OPTIONS) -> list[Offer]:
        """Return the offers for a shape, in the operator's order.  Availability is not guaranteed.

        ``options`` are the pool's for this provider, as they will stand in the request.
        """
        ...

    def why_none(self, shape: Shape, options: Mapping[str, Any] = NO_OPTIONS) -> str:
        """Explain why :meth:`offers` has nothing for a shape, with the nearest thing that exists; empty if it has."""
        ...

    async def quotas(self) -> list[Quota]:
        """Return the account's ceilings on configured offers, where the provider reports them; the caller caches."""
        ...

    async def create(self, request: CreateRequest) -> InstanceView:
        """Buy one instance.  Send at most one request and never repeat it."""
        ...

    async def describe(self, ref: str) -> InstanceView | None:
        """Return the instance now, or None when the provider has nothing under that handle."""
        ...

    async def delete(self, ref: str) -> None:
        """Ask for its end, side resources included.  Idempotent; not found is success."""
        ...

    async def delete_residue(self, residue: Residue) -> None:
        """Remove an orphaned side resource.  Idempotent; not found is success."""
        ...

    async def list_owned(self, also: frozenset[Scope] = frozenset()) -> Listing:
        """List everything with the controller's tag, in configured scopes and those of ``also`` (which have rows)."""
        ...

    async def end_reason(self, ref: str) -> EndReason:
        """Return the cause of an instance's end, as far as the provider proves it."""
        ...

    async def console_log(self, ref: str) -> str | None:
        """Return the last console output, None where there is none."""
        ...

    async def check(self, samples: Sequence[CreateRequest] = ()) -> list[Finding]:
        """Try credentials, permissions, quota, image and network without buying anything.

        ``samples`` are requests as the pools would send them, one for each pool that buys here; as much of them as
        can be tried without buying is tried.  A finding about a sample names ``pools.<its runnerd-pool tag>``.
        """
        ...

    async def refresh_prices(self) -> list[Finding]:
        """Fetch the provider's price list, keep it in the context's directory, and return what came of it."""
        ...
