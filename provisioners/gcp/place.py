"""Where a call went, and how far its failure speaks as an offer pattern."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from provisioners import base, catalogue

_CPUS = "_CPUS"
_SPOT = "PREEMPTIBLE_"


class Reach(enum.Enum):
    """How far a failure speaks."""

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
class Place:
    """A project, and inside it the offer that was tried, if it was one."""

    provider: str
    project: str
    book: catalogue.Book
    offer: base.Offer | None = None

    def __str__(self) -> str:
        if self.offer is None:
            return f"{self.provider} ({self.project})"
        return f"{self.provider} {self.offer.machine_type} {self.offer.market.value} in {self.offer.zone}"

    def pattern(self, reach: Reach) -> str:
        """The offer pattern for a reach; empty where it speaks for nothing, or needs an offer and there is none."""
        root = f"{self.provider}/{self.project}"
        if reach is Reach.PROJECT:
            return f"{root}/*/*/*/*"
        if reach is Reach.GPUS:
            return f"{root}/*/*/{alternatives(gpu_types(self.book))}/*"
        if self.offer is None or reach in (Reach.NOTHING, Reach.METRIC):
            return ""
        region, zone, type_, market = self.offer.region, self.offer.zone, self.offer.machine_type, self.offer.market
        return {
            Reach.OFFER: f"{root}/{region}/{zone}/{type_}/{market.value}",
            Reach.TYPE_IN_ZONE: f"{root}/{region}/{zone}/{type_}/*",
            Reach.ZONE: f"{root}/{region}/{zone}/*/*",
            Reach.TYPE_IN_REGION: f"{root}/{region}/*/{type_}/*",
            Reach.REGION: f"{root}/{region}/*/*/*",
            Reach.TYPE: f"{root}/*/*/{type_}/*",
        }[reach]

    def quota_pattern(self, metric: str, *, family: str = "", region: str = "") -> str:
        """What an exceeded quota governs: ``NVIDIA_L4_GPUS``, ``PREEMPTIBLE_NVIDIA_T4_GPUS``, ``CPUS`` and so on.

        ``family`` is the GPU family of a quota that has one for each.  A spot instance counts against the plain metric
        where the project has no preemptible one, so that speaks for both markets.
        """
        if metric == "GPUS_ALL_REGIONS":
            return self.pattern(Reach.GPUS)
        spot = metric.startswith(_SPOT)
        types = governed(self.book, metric.removeprefix(_SPOT), family=family)
        market = "*"
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
            # Some GPUs, and nobody knows which: that is no reason to leave everything alone.
            return ""
        if not region or metric == "CPUS_ALL_REGIONS":
            region = "*"
        return f"{self.provider}/{self.project}/{region}/*/{alternatives(types) if types else '*'}/{market}"


def alternatives(names: Iterable[str]) -> str:
    """One segment of a pattern that matches each of the names."""
    return "|".join(sorted(set(names))) or "*"


def gpu_types(book: catalogue.Book) -> tuple[str, ...]:
    """Patterns for every type with GPUs; whole families where all their types have some, to keep it short."""
    families: dict[str, set[bool]] = {}
    for machine in book.machines.values():
        if not machine.accelerator:
            families.setdefault(machine.name.partition("-")[0], set()).add(bool(machine.gpu_count))
    found = {f"{name}-*" for name, kinds in families.items() if kinds == {True}}
    for machine in book.machines.values():
        if machine.accelerator:
            found.add("*+*")
        elif machine.gpu_count and f"{machine.name.partition('-')[0]}-*" not in found:
            found.add(machine.name)
    return tuple(sorted(found))


def governed(book: catalogue.Book, metric: str, *, family: str = "") -> tuple[str, ...]:
    """Patterns for the machine types that a quota counts; none where it counts something that every type uses."""
    if family or metric.endswith("_GPUS"):
        metric = f"{family}_GPUS" if family else metric
        gpus = [one for one in book.machines.values() if one.gpu_count]
        model = metric.removeprefix("NVIDIA_").removesuffix("_GPUS").lower().replace("_", "-")
        counted = [one for one in gpus if one.family == metric]
        counted = counted or [one for one in gpus if model in (one.gpu, f"{one.gpu}-mega")]
        # Many types take the same accelerator; one pattern stands for them.
        return tuple(sorted({f"*+{one.accelerator}x*" if one.accelerator else one.name for one in counted}))
    if metric == "CPUS":
        # What attaches GPUs to a general type takes its vCPUs from there as well.
        return tuple(one.name for one in book.machines.values() if one.family == metric or one.name.startswith("n1-"))
    if metric.endswith(_CPUS) and metric != "CPUS_ALL_REGIONS":
        prefix = f"{metric.removesuffix(_CPUS).lower()}-"
        return tuple(one.name for one in book.machines.values() if one.name.startswith(prefix))
    return ()
