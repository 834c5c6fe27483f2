"""Instances and side resources as a provider reports them."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from provisioners.contract.failures import Failure
from provisioners.contract.offer_keys import OfferKey, Scope


class InstanceStatus(enum.StrEnum):
    """The state of an instance at its provider."""

    #: Accepted, not running yet.
    PENDING = "pending"
    #: Running and billed.
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
    #: Unix seconds at which it started to exist, or to run where the provider reports that.
    created_at: float
    #: The offer that it was bought by; None where the provider does not report all of it.
    offer: OfferKey | None = None
    #: An IP address or a host name, for people; empty where there is none.
    address: str = ""
    #: False when the provider's own health probe says the machine is dead; None when there is no probe or no verdict.
    healthy: bool | None = None
    #: The reason why its launch failed after it was accepted; None when it did not fail.
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Residue:
    """An orphaned side resource: a disk, interface, address or spot request without an instance."""

    #: ``disk``, ``interface``, ``address`` and so on, for people and for metrics.
    kind: str
    #: The provider's handle; :meth:`Provisioner.delete_residue` uses it.
    ref: str
    scope: Scope
    tags: Mapping[str, str]
    #: Unix seconds; 0 where the provider does not report it.
    created_at: float


@dataclass(frozen=True, slots=True)
class Listing:
    """Everything of this controller at a provider.  Absence means something only inside ``complete_scopes``."""

    views: tuple[InstanceView, ...]
    complete_scopes: frozenset[Scope]
    residues: tuple[Residue, ...] = ()
    #: Scope, or another name for a part of the listing -> the error there, for people.
    failures: Mapping[str, str] = field(default_factory=dict)

    def covers(self, scope: Scope) -> bool:
        """Return True when every instance of that scope is in ``views``."""
        return scope.within(self.complete_scopes)


class EndKind(enum.StrEnum):
    """The cause of an instance's end, as the provider proves it."""

    #: The provider preempted it.
    PREEMPTED = "preempted"
    #: A call of this controller ended it.
    ENDED_BY_US = "ended-by-us"
    #: It shut itself down.
    SELF_ENDED = "self-ended"
    #: It broke.
    FAILED = "failed"
    #: The provider does not say.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class EndReason:
    """The reason why an instance is gone.  Absence alone proves nothing."""

    kind: EndKind
    #: The provider's own words, for people.
    detail: str = ""
    #: What the end says about its offer, where it was a launch that failed; None otherwise.
    failure: Failure | None = None
