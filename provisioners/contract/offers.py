"""Offers, and the request to buy one."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from provisioners.contract.offer_keys import OfferKey, OfferPattern, Scope

#: Stands in a sealed user-data text where the instance's one-time token goes at sending time.
TOKEN_PLACEHOLDER = "@@runnerd-token@@"  # noqa: S105  # a placeholder, the opposite of a secret


class Market(enum.StrEnum):
    """The way in which an instance is bought."""

    #: At the list price, until ended.
    ON_DEMAND = "on-demand"
    #: At a lower price, until the provider preempts it.
    SPOT = "spot"


@dataclass(frozen=True, slots=True)
class Shape:
    """The hardware that a pool needs."""

    #: Catalogue name of the GPU model (``t4``, ``a100-40``), empty for none.
    gpu: str = ""
    #: GPUs per instance; 0 beside a model means one.
    gpu_count: int = 0
    #: The least vCPUs; 0 for any.
    cpus: int = 0
    #: The least main memory in bytes; 0 for any.
    memory: int = 0
    arch: str = "x86_64"
    #: Exact machine types; empty for any that fits.
    types: tuple[str, ...] = ()
    #: In the order in which they are tried.
    markets: tuple[Market, ...] = (Market.ON_DEMAND,)


@dataclass(frozen=True, slots=True)
class Offer:
    """A machine type in a zone, in a market, at a price."""

    #: The operator's name for the provider.
    provider: str
    account: str
    region: str
    zone: str
    machine_type: str
    market: Market
    #: US dollars per hour at launch.
    price: float
    gpus: int = 0
    #: vCPUs; 0 where not known.
    cpus: int = 0
    #: The image that it boots from, empty where not known: boot failures of one image count together.
    image: str = ""
    #: Source and day of the price, for people: ``catalogue 2026-07-20``, ``spot price history``.
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
        """``provider/account/region/zone/type/market``: the name that block patterns match."""
        return OfferKey.of(self.provider, self.account, self.region, self.zone, self.machine_type, self.market.value)

    @property
    def scope(self) -> Scope:
        """The listing scope in which an instance of this offer appears."""
        return Scope.of(self.provider, self.account, self.region, self.zone)


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """The content of a create call.  The same request sent twice yields at most one instance."""

    #: The idempotency token: unique per attempt, at most 36 characters of ``[a-z0-9-]``.
    key: str
    #: The instance's name, at most 48 characters of ``[a-z0-9-]``.
    name: str
    offer: Offer
    #: A script for the instance's first boot, starting with ``#!``.
    user_data: str
    #: Complete tags, the ``runnerd-`` ones included.
    tags: Mapping[str, str]
    #: Unix seconds at which the provider, or the instance itself, ends it where it can.
    deadline: float
    #: Seconds from the composing of the request to the deadline, for providers that count a duration; 0 if not known.
    lifetime: float = 0.0
    #: Boot disk in bytes; 0 for the provider's default.
    disk: int = 0
    #: Options from the pool for this provider, as the operator wrote them.
    options: Mapping[str, Any] = field(default_factory=dict)


class Unit(enum.StrEnum):
    """The unit that a quota counts."""

    #: Whole instances.
    INSTANCES = "instances"
    #: GPUs of all instances.
    GPUS = "gpus"
    #: Virtual CPUs of all instances.
    VCPUS = "vcpus"


@dataclass(frozen=True, slots=True)
class Quota:
    """A ceiling that the provider sets for the account, as last reported."""

    #: The provider's own name for it, for people.
    name: str
    #: The offers that it governs.
    pattern: OfferPattern
    unit: Unit
    limit: float
    #: Used in the whole account, by runnerd and by others.
    used: float
    #: Unix seconds of the report.
    as_of: float
    #: The place where it is raised, for people.
    remedy: str = ""
