"""The frame of a cloud adapter: what simulation, end-to-end tests and benchmarks need to know of one simulated cloud.

A cloud has one adapter, in ``tests/clouds/<cloud>/adapter.py``; :mod:`tests.clouds.registry` lists them all, and
nothing else in these three suites sets a cloud up.
"""

from __future__ import annotations

import gzip
import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

from provisioners import base
from tests.clouds import faults, wire

#: Makes the fault of a class; keywords say where it strikes (``region``, ``zone``, ``type``, ``market``) and how often
#: (``times``, ``after``, ``probability``).
FaultMaker = Callable[..., Any]
#: Stores a secret under a file name; returns the reference that a configuration names it by.
Secret = Callable[[str, str], str]

#: Seconds in which machines boot, end and appear in listings where tests wait for them in real time.
QUICK_BOOT_S, QUICK_END_S, QUICK_VISIBILITY_S = (0.2, 0.8), (0.3, 1.0), (0.0, 0.4)
#: Controller whose machines the simulation counts as its own.
CONTROLLER = "sim"


class Connection(Protocol):
    """The way from a provisioner to its cloud in process: latency, and seams at which the daemon can die."""

    def handle(self, request: wire.Request) -> wire.Answer:
        """Answer a request as the cloud does."""
        ...

    def latency(self) -> Callable[[], float]:
        """Return a new source of latencies in seconds."""
        ...

    def cross(self, seam: str) -> Awaitable[None]:
        """Cross a seam at which a crash can come."""
        ...


@dataclass(frozen=True, slots=True)
class Rate:
    """A documented limit of create calls."""

    per_second: float
    burst: int
    #: Each region has a bucket of its own.
    by_region: bool = False


@dataclass(frozen=True, slots=True)
class Burst:
    """The stage of a burst test: one region without capacity, one with."""

    dry: str
    good: str
    #: Region -> the letters of its zones.
    regions: Mapping[str, str]
    types: Sequence[str]
    #: The rate that the provisioner keeps.
    rate: Rate


@dataclass(frozen=True, slots=True)
class BadDay:
    """Scripted trouble of one cloud in a list of several, and what `explain` says of it."""

    #: Name -> fault, where each must be met.
    faults: Mapping[str, faults.Fault] = field(default_factory=dict)
    #: Lines of `explain`, each of some job.
    lines: Sequence[str] = ()
    #: Refusals of offers that stay.
    refusals: Sequence[str] = ()
    #: Outcomes of create calls that the metrics count.
    outcomes: Sequence[str] = ()
    #: Some of its offers are blocked in the end.
    blocked: bool = False
    #: Regions instead of the usual ones.
    regions: Mapping[str, str] | None = None


class VM(ABC):
    """One machine of a simulated cloud, as it really is."""

    def __init__(self, cloud: Any, instance: Any, *, uid: str, ref: str, id: str, market: str) -> None:
        self._cloud = cloud
        self.instance = instance
        #: Unique in all clouds.
        self.uid = uid
        #: Its name to the provisioner, and to the simulated cloud.
        self.ref = ref
        self.id = id
        #: The attempt that it came of, and its name, by its tags.
        self.key: str = self.tags.get(base.TAG_ATTEMPT, "")
        self.name: str = self.tags.get(base.TAG_INSTANCE, "")
        self.market: str = market or "on-demand"
        self.created_at: float = instance.created_at
        #: When listings show it.
        self.visible_at: float = instance.visible_at

    @property
    def tags(self) -> Mapping[str, str]:
        found: Mapping[str, str] = self.instance.tags
        return found

    @property
    def gpus(self) -> tuple[str, int]:
        """Model and number."""
        return "", 0

    @property
    def raw_user_data(self) -> bytes:
        """The user data as the guest reads it."""
        found = self.instance.user_data
        return found.encode() if isinstance(found, str) else bytes(found)

    @property
    def user_data(self) -> str:
        """The boot script."""
        raw = self.raw_user_data
        return (gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw).decode()

    @property
    def gone_at(self) -> float | None:
        """The time at which its costs ended; None while it costs."""
        found: float | None = self.instance.gone_at
        return found

    @abstractmethod
    def running(self, now: float) -> bool:
        """Return True when its guest is up."""

    @abstractmethod
    def rising(self, now: float) -> bool:
        """Return True when it runs or is about to."""

    @abstractmethod
    def live(self, now: float) -> bool:
        """Return True when it exists and may cost."""

    def failed(self, now: float) -> bool:
        """Return True when its launch was accepted and failed, and it is still there, not on its way out."""
        return False

    @abstractmethod
    def ends_at(self) -> float:
        """Return when it has ended, or will by what is known now; infinity when that is open."""

    def power_off(self, now: float) -> None:
        """Let its guest switch itself off."""
        if self.running(now):
            self._cloud.power_off(self.id)

    def preempt(self) -> None:
        """Take a spot machine back now."""
        self._cloud.preempt(self.id)

    def show_console(self, text: str) -> None:
        """Set what its console shows."""
        self.instance.console = text


class CloudAdapter(ABC):
    """One simulated cloud with its provisioner."""

    #: Type of the provider, and its name in configurations of tests.
    name: ClassVar[str]
    #: Region -> the letters of its zones, where tests do not name others.  The first region has two.
    regions: ClassVar[Mapping[str, str]]
    #: Two machine types with one T4 each, the cheapest first.
    t4_types: ClassVar[Sequence[str]]
    #: The cheapest T4 type as a pool names it.
    machine_type: ClassVar[str]
    #: A small machine type without a GPU, so that no quota is near.
    small_type: ClassVar[str]
    #: Machine types of many families: what one of them is refused says nothing of the next.
    varied_types: ClassVar[Sequence[str]]
    #: Create calls as the cloud documents them.
    documented: ClassVar[Rate]
    burst: ClassVar[Burst]
    #: What a fault is made of.
    fault: ClassVar[type[faults.Fault]]
    #: Class of fault -> what makes it; a class that this cloud does not know is missing.
    fault_classes: ClassVar[Mapping[str, FaultMaker]]
    #: Classes of fault whose offers rest for longer than a scenario lasts.
    long_blocks: ClassVar[frozenset[str]] = frozenset()
    #: Seconds that a refusal for capacity takes, beyond the call itself.
    refusal_s: ClassVar[float] = 1.0
    #: A launch that fails late leaves a machine that runs all the same.
    late_failures_run: ClassVar[bool] = False
    #: The console of a machine that is gone can still be read.
    keeps_consoles: ClassVar[bool] = False
    #: It is served with TLS.
    tls: ClassVar[bool] = False
    #: Environment of a daemon that uses it over a socket.
    environment: ClassVar[Mapping[str, str]] = {}

    def __init__(self, cloud: Any) -> None:
        self.cloud = cloud
        #: Where it is served, and the file of the authority that signed its certificate.
        self.url = self.ca = ""
        self._vms: dict[Any, VM] = {}

    @classmethod
    @abstractmethod
    def simulated(cls, now: Callable[[], float], rng: random.Random, **more: Any) -> Self:
        """Create a cloud in virtual time."""

    @classmethod
    @abstractmethod
    def quick(cls, now: Callable[[], float], rng: random.Random, *, throttled: bool = True) -> Self:
        """Create a cloud in real time whose machines boot and end in a moment."""

    # -- configuration ---------------------------------------------------------------------------------------------

    @abstractmethod
    def options(self, regions: Mapping[str, str] | None = None, **more: Any) -> dict[str, Any]:
        """Return options of a provider; ``regions`` maps a region to the letters of its zones."""

    def simulated_options(self, **more: Any) -> dict[str, Any]:
        """Return options of a provider that uses it in process."""
        return self.options(**more)

    def served_options(self, secret: Secret, regions: Mapping[str, str] | None = None, **more: Any) -> dict[str, Any]:
        """Return options of a provider that uses it over a socket."""
        return {**self.options(regions), **self.access(secret), **more}

    @abstractmethod
    def access(self, secret: Secret) -> dict[str, Any]:
        """Return the options that name its address and a credential."""

    @abstractmethod
    def provisioner(
        self, context: base.Context, options: Mapping[str, Any], connection: Connection
    ) -> base.Provisioner:
        """Create the real provisioner with its SDK, answered in process."""

    def zones(self, region: str) -> list[str]:
        """Return the zones of a region as its offers name them."""
        return list(self.regions[region])

    # -- requests --------------------------------------------------------------------------------------------------

    def handle(self, request: wire.Request) -> wire.Answer:
        answer: wire.Answer = self.cloud.handle(request)
        return answer

    def tick(self) -> None:
        """Let happen what is due."""
        self.cloud.tick()

    @abstractmethod
    def creates(self, request: wire.Request) -> tuple[str, str] | None:
        """Return the instance's name and the region when a request creates one."""

    def refused(self, request: wire.Request, answer: wire.Answer) -> Iterator[tuple[str, str]]:
        """Yield the launches that an answer proves to have failed: a mark of the launch, and the instance's name."""
        created = self.creates(request) if answer.status >= 400 else None
        if created is not None:
            yield f"call {self.count_calls()}", created[0]

    @abstractmethod
    def count_calls(self) -> int:
        """Return how many calls it had."""

    @abstractmethod
    def squat(self, request: wire.Request) -> str | None:
        """Create another owner's machine of the name that a request is about to create; return its id."""

    @abstractmethod
    def has(self, id: str) -> bool:
        """Return True while there is a machine of that id."""

    # -- machines and what belongs to them -------------------------------------------------------------------------

    def vms(self) -> list[VM]:
        """Return every machine that it still knows."""
        return [self._vm(instance) for instance in self.made()]

    def _vm(self, instance: Any) -> VM:
        if instance not in self._vms:
            self._vms[instance] = self.vm(instance)
        return self._vms[instance]

    @abstractmethod
    def made(self) -> Iterable[Any]:
        """Return every instance that it still knows, as it keeps them."""

    @abstractmethod
    def vm(self, instance: Any) -> VM: ...

    @abstractmethod
    def orphans(self) -> Iterator[str]:
        """Yield side resources of ours that no machine needs."""

    @abstractmethod
    def costing(self) -> list[str]:
        """Return all that costs, instances and what belongs to them."""

    @abstractmethod
    def keys(self) -> list[str]:
        """Return the idempotency key of every instance that was ever made."""

    @abstractmethod
    def retag(self, id: str, key: str, value: str) -> None:
        """Change a tag of an instance from outside."""

    @abstractmethod
    def story(self, lines: int) -> str:
        """Return the last calls and instances, for a report of a failure."""

    def close(self) -> None:  # noqa: B027  # most have nothing open
        """Close what is open."""

    # -- faults and limits -----------------------------------------------------------------------------------------

    def unstick(self) -> None:
        """Let deletions that are stuck go on."""
        for vm in self.vms():
            vm.instance.stuck = False

    @abstractmethod
    def limit_t4s(self, region: str, machines: int) -> None:
        """Set the quota of a region to that many machines of the cheapest T4 type, on demand."""

    @abstractmethod
    def narrow_quotas(self, rng: random.Random, few: int) -> None:
        """Set quotas of all regions that a scenario can run into."""

    @abstractmethod
    def limit_capacity(self, region: str, zone: str, machines: int) -> None:
        """Leave room for that many T4 machines in a zone."""

    @abstractmethod
    def dry_up(self, region: str) -> None:
        """Leave no capacity for T4 machines in a region."""

    @abstractmethod
    def refuse(self, region: str = "*") -> None:
        """Refuse every create call in a region for want of capacity, at once."""

    def bad_day(self, room: int) -> BadDay:
        """Script trouble for a test with several clouds; ``room`` machines fit where some do."""
        return BadDay()
