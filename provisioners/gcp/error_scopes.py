"""The reach of an error: the offers that it says something about, as an offer pattern."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from fnmatch import fnmatchcase

from provisioners import base, catalogue
from provisioners.gcp import families

_SPOT = "PREEMPTIBLE_"


class ErrorScope(enum.Enum):
    """The reach of a failure."""

    #: For nothing: the call or the API is to blame, not the place.
    NOTHING = enum.auto()
    #: This type in this zone, in this market.
    OFFER = enum.auto()
    #: This type in this zone, however it is bought.
    TYPE_IN_ZONE = enum.auto()
    #: Everything in this zone.
    ZONE = enum.auto()
    #: This type everywhere in the region.
    TYPE_IN_REGION = enum.auto()
    #: Everything in the region.
    REGION = enum.auto()
    #: This type in the whole project.
    TYPE = enum.auto()
    #: Every type with GPUs in the whole project.
    GPUS = enum.auto()
    #: The whole project.
    PROJECT = enum.auto()
    #: As the quota says that was exceeded.
    METRIC = enum.auto()


@dataclass(frozen=True, slots=True)
class Target:
    """A project, and inside it the offer that was tried, if it was one."""

    provider: str
    project: str
    catalog: catalogue.Catalog
    offer: base.Offer | None = None

    @property
    def spot(self) -> bool:
        """True for an offer in the spot market."""
        return self.offer is not None and self.offer.market is base.Market.SPOT

    def __str__(self) -> str:
        if self.offer is None:
            return f"{self.provider} ({self.project})"
        return f"{self.provider} {self.offer.machine_type} {self.offer.market.value} in {self.offer.zone}"

    def pattern(self, scope: ErrorScope) -> base.OfferPattern | None:
        """The offer pattern for a scope; None where it speaks for nothing, or needs an offer and there is none."""
        if scope is ErrorScope.PROJECT:
            return self.everywhere()
        if scope is ErrorScope.GPUS:
            return self.gpus()
        if self.offer is None or scope in (ErrorScope.NOTHING, ErrorScope.METRIC):
            return None
        offer, any_ = self.offer, base.ANY
        region, zone, machine_type, market = {
            ErrorScope.OFFER: (offer.region, offer.zone, offer.machine_type, offer.market.value),
            ErrorScope.TYPE_IN_ZONE: (offer.region, offer.zone, offer.machine_type, any_),
            ErrorScope.ZONE: (offer.region, offer.zone, any_, any_),
            ErrorScope.TYPE_IN_REGION: (offer.region, any_, offer.machine_type, any_),
            ErrorScope.REGION: (offer.region, any_, any_, any_),
            ErrorScope.TYPE: (any_, any_, offer.machine_type, any_),
        }[scope]
        return base.OfferPattern.of(self.provider, self.project, region, zone, machine_type, market)

    def everywhere(self) -> base.OfferPattern:
        """The pattern of everything in the project."""
        return base.OfferPattern.of(self.provider, self.project)

    def gpus(self) -> base.OfferPattern:
        """The pattern of every type with GPUs in the project."""
        types = base.alternatives(families.gpu_types(self.catalog))
        return base.OfferPattern.of(self.provider, self.project, machine_type=types)

    def quota_pattern(self, metric: str, *, family: str = "", region: str = "") -> base.OfferPattern | None:
        """Return the offers under a quota such as ``NVIDIA_L4_GPUS``, ``PREEMPTIBLE_NVIDIA_T4_GPUS`` or ``CPUS``.

        ``family`` is the GPU family of a quota that has one for each.  A spot instance counts against the plain metric
        where the project has no preemptible one, so that speaks for both markets.
        """
        if metric == "GPUS_ALL_REGIONS":
            return self.gpus()
        spot = metric.startswith(_SPOT)
        types = families.governed(self.catalog, metric.removeprefix(_SPOT), family=family)
        market = base.ANY
        if self.offer is not None:
            region = self.offer.region
            tried = self.offer.machine_type
            if not any(fnmatchcase(tried, one) for one in types) and (types or "GPU" in metric):
                types = (*types, tried)
            if spot or (self.offer.market is base.Market.ON_DEMAND and types):
                market = self.offer.market.value
        elif spot:
            market = base.Market.SPOT.value
        if not types and "GPU" in metric:
            # Some GPUs, and it is not known which: that is no reason to block everything.
            return None
        if not region or metric == "CPUS_ALL_REGIONS":
            region = base.ANY
        return base.OfferPattern.of(
            self.provider, self.project, region, machine_type=base.alternatives(types), market=market
        )
