"""The contract between runnerd and whatever rents out instances.

A provisioner translates; it does not decide.  It keeps no state that it could not read back from its provider, never
repeats a create call by itself, and says of every failure what may be concluded from it.  The promises that callers
rely on are stated at each method; ``tests/contract`` proves them for every provisioner, and a third party can run
the same suite against its own.

Units: times are unix seconds, durations seconds, money US dollars.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from provisioners.offer_keys import ANY as ANY
from provisioners.offer_keys import UNKNOWN as UNKNOWN
from provisioners.offer_keys import OfferKey as OfferKey
from provisioners.offer_keys import OfferPattern as OfferPattern
from provisioners.offer_keys import Scope as Scope
from provisioners.offer_keys import alternatives as alternatives
from provisioners.offload import Offload

#: Tag names that every instance and side resource carries from the moment it exists.
TAG_CONTROLLER = "runnerd-controller"
TAG_INSTANCE = "runnerd-instance"
TAG_POOL = "runnerd-pool"
TAG_ATTEMPT = "runnerd-attempt"
TAG_DEADLINE = "runnerd-deadline"
TAG_PRICE = "runnerd-price"

#: Stands in a sealed user-data text where the instance's one-time token goes at sending time.
TOKEN_PLACEHOLDER = "@@runnerd-token@@"  # noqa: S105  # a placeholder, the opposite of a secret


class Market(enum.StrEnum):
    """How an instance is bought."""

    #: At the list price, until ended.
    ON_DEMAND = "on-demand"
    #: At a lower price, until the provider wants it back.
    SPOT = "spot"


@dataclass(frozen=True, slots=True)
class Shape:
    """What a pool needs."""

    #: Catalogue name of the GPU model (``t4``, ``a100-40``), empty for none.
    gpu: str = ""
    gpu_count: int = 0
    #: At least that many vCPUs and bytes of memory; 0 for any.
    cpus: int = 0
    memory: int = 0
    arch: str = "x86_64"
    #: Exact machine types; empty for any that fits.
    types: tuple[str, ...] = ()
    markets: tuple[Market, ...] = (Market.ON_DEMAND,)


@dataclass(frozen=True, slots=True)
class Offer:
    """A machine type in a place, in a market, at a price."""

    #: The name the operator gave the provider.
    provider: str
    account: str
    region: str
    zone: str
    machine_type: str
    market: Market
    #: Dollars per hour at launch.
    price: float
    gpus: int = 0
    cpus: int = 0
    #: What it boots from, as far as it is known: boot failures of one image count together.
    image: str = ""
    #: Where the price comes from and of which day, for people: ``catalogue 2026-07-20``, ``spot price history``.
    price_source: str = ""

    @classmethod
    def of(cls, key: OfferKey, *, price: float = 0.0, gpus: int = 0, cpus: int = 0, image: str = "") -> Offer:
        """Return the offer of a key.  Raises ValueError when the key does not name a market."""
        return cls(
            provider=key.provider,
            account=key.account,
            region=key.region,
            zone=key.zone,
            machine_type=key.machine_type,
            market=Market(key.market),
            price=price,
            gpus=gpus,
            cpus=cpus,
            image=image,
        )

    @property
    def key(self) -> OfferKey:
        """``provider/account/region/zone/type/market``: what blocks match."""
        return OfferKey.of(self.provider, self.account, self.region, self.zone, self.machine_type, self.market.value)

    @property
    def scope(self) -> Scope:
        """The listing scope in which an instance of this offer appears."""
        return Scope.of(self.provider, self.account, self.region, self.zone)


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """Everything a create call is made of.  The same request sent twice yields at most one instance."""

    #: The idempotency token: unique per attempt, at most 36 characters of ``[a-z0-9-]``.
    key: str
    #: The instance's name, at most 48 characters of ``[a-z0-9-]``.
    name: str
    offer: Offer
    #: A script for the instance's first boot, starting with ``#!``.
    user_data: str
    #: Complete tags, the ``runnerd-`` ones included.
    tags: Mapping[str, str]
    #: The provider, or the instance itself, ends it then where it can.
    deadline: float
    #: Seconds from its composing to the deadline, for providers that count a duration; 0 when that is not told.
    lifetime: float = 0.0
    #: Boot disk in bytes; 0 for the provider's default.
    disk: int = 0
    #: Options from the pool for this provider, as the operator wrote them.
    options: Mapping[str, Any] = field(default_factory=dict)


class Kind(enum.StrEnum):
    """What a failed call means for what is tried next."""

    #: Nothing free here now; elsewhere there may be.
    CAPACITY = "capacity"
    #: Our limit at the provider is reached.
    QUOTA = "quota"
    #: The price asked is above what we pay.
    PRICE = "price"
    #: Too many calls; pause this API, the offer is not to blame.
    THROTTLED = "throttled"
    #: The credential is missing, expired or refused.
    AUTH = "auth"
    #: The request cannot work as configured (image, subnet, type).
    CONFIG = "config"
    #: The provider stumbled; the same call may pass.
    TRANSIENT = "transient"
    #: There is nothing under that handle.
    NOT_FOUND = "not-found"
    #: The machine was there and its system did not come up: the image is suspected.
    BOOT = "boot"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something could not be bought, and how far that speaks."""

    kind: Kind
    message: str
    #: The offers that it speaks for, as widely as the provider says; None for only this one.
    scope: OfferPattern | None = None
    #: The provider's own code.
    code: str = ""
    #: Seconds for which the provider's own documents say that it lasts; 0 for what is usual for the kind.
    block_for: float = 0.0


class InstanceStatus(enum.StrEnum):
    """What the provider says of an instance."""

    #: Accepted, not running yet.
    PENDING = "pending"
    #: Running.
    RUNNING = "running"
    #: On its way out.
    ENDING = "ending"
    #: Exists, does not run, may still cost money: runnerd deletes it.
    STOPPED = "stopped"
    #: Its launch was accepted and then failed; it never runs, may still cost money, and is deleted at once.
    FAILED = "failed"
    #: Ended; the provider still remembers it.
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class InstanceView:
    """An instance as the provider sees it."""

    #: The provider's handle; :meth:`Provisioner.describe` and ``delete`` take it.
    ref: str
    #: Its ``runnerd-instance`` tag.
    name: str
    scope: Scope
    status: InstanceStatus
    tags: Mapping[str, str]
    #: When it started to exist, and, where the provider tells, to run.
    created_at: float
    #: Its market, region and so on; None where the provider does not report them all.
    offer: OfferKey | None = None
    address: str = ""
    #: False when the provider's own health probe says the machine is dead; None when there is no probe or no verdict.
    healthy: bool | None = None
    #: Why its launch failed after it was accepted; None when it did not.
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Residue:
    """A side resource (disk, interface, address, spot request) without an instance."""

    kind: str
    ref: str
    scope: Scope
    tags: Mapping[str, str]
    created_at: float


@dataclass(frozen=True, slots=True)
class Listing:
    """What a provider has of ours.  Absence means something only inside ``complete_scopes``."""

    views: tuple[InstanceView, ...]
    complete_scopes: frozenset[Scope]
    residues: tuple[Residue, ...] = ()
    #: Scope, or another name for a part of the listing -> what went wrong there, in plain words.
    failures: Mapping[str, str] = field(default_factory=dict)

    def covers(self, scope: Scope) -> bool:
        """True when every instance of that scope is in ``views``."""
        return scope.within(self.complete_scopes)


class EndKind(enum.StrEnum):
    """Who ended an instance, as the provider proves it."""

    #: The provider took it back.
    PREEMPTED = "preempted"
    #: A call of ours.
    ENDED_BY_US = "ended-by-us"
    #: It shut itself down.
    SELF_ENDED = "self-ended"
    #: It broke.
    FAILED = "failed"
    #: The provider does not say.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class EndReason:
    """Why an instance is not there any more.  Absence alone proves nothing."""

    kind: EndKind
    detail: str = ""
    #: What the end says about its offer, where it was a launch that failed; None otherwise.
    failure: Failure | None = None


class ProvisionError(Exception):
    """A provider call failed.

    ``scope``, ``code`` and ``block_for`` are those of :class:`Failure`; ``retry_after`` is the pause in seconds that a
    throttling provider asked for (0: it did not say).

    ``maybe_created`` is True unless it is certain that no instance came of the call; an unknown outcome must be
    resolved by listing or by sending the same request again, never by a new one.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        scope: OfferPattern | None = None,
        code: str = "",
        maybe_created: bool = False,
        retry_after: float = 0.0,
        block_for: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.scope = scope
        self.code = code
        self.maybe_created = maybe_created
        self.retry_after = retry_after
        self.block_for = block_for

    @property
    def failure(self) -> Failure:
        """What is remembered of it."""
        return Failure(self.kind, str(self), self.scope, self.code, self.block_for)


class Unit(enum.StrEnum):
    """What a quota counts."""

    INSTANCES = "instances"
    GPUS = "gpus"
    VCPUS = "vcpus"


@dataclass(frozen=True, slots=True)
class Quota:
    """A ceiling that the provider sets for the account, as it last told it."""

    #: The provider's own name for it, for people.
    name: str
    #: The offers that it governs.
    pattern: OfferPattern
    unit: Unit
    limit: float
    #: Used by everybody in the account, us included.
    used: float
    as_of: float
    #: Where it is raised.
    remedy: str = ""


#: The commands by which an instance that is a machine of its own ends.
POWER_OFF = ("systemctl", "poweroff")


@dataclass(frozen=True, slots=True)
class Traits:
    """What a provider guarantees, in numbers."""

    #: Seconds after the first send in which the same request is surely recognised as the same.
    replay_window: float
    #: Seconds until a created instance surely shows in listings; absence before that proves nothing.
    visibility_grace: float
    #: True when an instance ends (and stops costing) by itself at its deadline without the daemon.
    self_end: bool
    #: True when :meth:`Provisioner.create` with the same key returns the instance that exists already.
    idempotent_create: bool
    #: Creates per second in the long run, and how many at once; the caller paces itself.
    create_rate: float = 10.0
    create_burst: int = 50
    #: True when that holds for each region by itself, False when for the whole provider.
    paced_by_region: bool = False
    #: Bytes of user-data that the provider takes, counted before any encoding; a pool whose boot script is longer buys
    #: nothing there, and :meth:`Provisioner.create` never sees it.
    user_data_limit: int = 16384
    #: How an instance ends itself when its agent leaves or its deadline passes, as a command without a shell; empty
    #: when it is only a process.
    power_off: tuple[str, ...] = POWER_OFF
    #: Seconds within which :meth:`Provisioner.end_reason` may still learn who ended an instance; 0: it knows at once.
    proof_lag: float = 0.0
    #: Seconds of notice before a spot instance is taken back, where the operator chose it; 0 for the cloud's own.
    preemption_notice: float = 0.0
    #: Its instances are processes beside the daemon: no hardware to prove, the daemon's Python, the daemon's user.
    beside_daemon: bool = False
    #: Plain words on what can be left behind if the daemon never comes back; ``check`` prints them.
    residue: str = ""


class Level(enum.StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of ``runnerd check``."""

    level: Level
    #: What it is about: ``providers.aws``, ``pools.gpu-t4``.
    place: str
    message: str
    #: What to do; empty when nothing is to be done.
    remedy: str = ""


def _no_secrets(reference: str) -> str:
    raise ValueError(f"{reference}: nobody here can read secrets")


@dataclass(frozen=True, slots=True)
class Context:
    """What runnerd hands a provisioner: everything it may depend on from outside."""

    #: The operator's name for this provider.
    name: str
    #: The controller whose instances are ours.
    controller: str
    #: A directory of its own that survives restarts.
    directory: str
    #: Unix seconds.
    now: Callable[[], float]
    #: ``await sleep(seconds)``.
    sleep: Callable[[float], Any]
    #: ``offload(width)`` makes the door through which a blocking SDK is called: at most that many calls at once.
    offload: Callable[[int], Offload] = Offload
    #: Reads the value behind a secret's reference (``file:``, ``env:``, ``credential:``) now; raises ValueError in
    #: plain words.  Options hold references only.
    secret: Callable[[str], str] = _no_secrets


#: A pool that sets no options for a provider.
NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


class Basics:
    """What a provisioner without quotas, price lists and options of pools answers; to inherit from."""

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
    """A source of instances.  Every method may raise :class:`ProvisionError`.

    It is made with a :class:`Context` and its own options from the configuration.
    """

    def __init__(self, context: Context, options: Mapping[str, Any]) -> None: ...

    @classmethod
    def validate(cls, options: Mapping[str, Any]) -> list[str]:
        """Problems of a provider's options as ``"dotted.key: what is wrong"``; empty when usable.  No I/O."""
        ...

    @classmethod
    def validate_pool(cls, options: Mapping[str, Any]) -> list[str]:
        """Problems of a pool's options for this provider, told like those of :meth:`validate`.  No I/O."""
        ...

    @property
    def traits(self) -> Traits: ...

    def scopes(self) -> frozenset[Scope]:
        """Every scope that the configuration names, as far as it can be told before :meth:`start`."""
        ...

    async def start(self) -> None:
        """Open what is needed; called once before any other coroutine."""
        ...

    async def close(self) -> None:
        """Let go of connections.  Instances live on."""
        ...

    async def offers(self, shape: Shape, options: Mapping[str, Any] = NO_OPTIONS) -> list[Offer]:
        """What could be bought for that shape, in the operator's order.  Availability is not promised.

        ``options`` are the pool's for this provider, as they will stand in the request.
        """
        ...

    def why_none(self, shape: Shape, options: Mapping[str, Any] = NO_OPTIONS) -> str:
        """Plain words on why :meth:`offers` has nothing for a shape, with the nearest thing that exists; else empty."""
        ...

    async def quotas(self) -> list[Quota]:
        """The account's ceilings that govern configured offers, where the provider tells them; cached by the caller."""
        ...

    async def create(self, request: CreateRequest) -> InstanceView:
        """Buy one instance.  Sends at most one request and never repeats it."""
        ...

    async def describe(self, ref: str) -> InstanceView | None:
        """The instance now, or None when the provider has nothing under that handle."""
        ...

    async def delete(self, ref: str) -> None:
        """Ask for its end, side resources included.  Idempotent; not found is success."""
        ...

    async def delete_residue(self, residue: Residue) -> None:
        """Remove a side resource.  Idempotent."""
        ...

    async def list_owned(self, also: frozenset[Scope] = frozenset()) -> Listing:
        """Everything that carries our controller tag, in configured scopes and those of ``also`` (which have rows)."""
        ...

    async def end_reason(self, ref: str) -> EndReason:
        """Who ended it, as far as the provider proves."""
        ...

    async def console_log(self, ref: str) -> str | None:
        """The last console output, None where there is none."""
        ...

    async def check(self, samples: Sequence[CreateRequest] = ()) -> list[Finding]:
        """Try credentials, permissions, quota, image and network without buying anything.

        ``samples`` are requests as the pools would send them, one for each pool that buys here; what can be tried of
        them without buying is tried.  A finding about a sample names ``pools.<its runnerd-pool tag>``.
        """
        ...

    async def refresh_prices(self) -> list[Finding]:
        """Ask the provider's price list anew and keep the answer in the context's directory; what came of it."""
        ...
