"""The catalogue of one cloud: machine types with what they have, and their prices by region and market."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from provisioners import base


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine type."""

    name: str
    #: Catalogue name of the GPU model (``t4``, ``a100-40``), empty for none.
    gpu: str
    gpu_count: int
    #: Memory of one GPU in bytes.
    gpu_memory: int
    cpus: int
    #: Bytes.
    memory: int
    arch: str = "x86_64"
    #: What the provider's quota counts it under (``g``, ``standardNCASv3_T4Family``), empty where that is not told.
    family: str = ""
    #: Bytes of disk inside the machine that are gone when it ends.
    scratch: int = 0
    #: Attached to a general machine type by this name (Google Cloud's ``nvidia-tesla-t4``); empty when built in.
    accelerator: str = ""


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars per hour, with where they come from."""

    dollars: float
    #: For people: ``operator``, ``catalogue``, ``price list``, ``spot price history``, ``estimate``.
    source: str
    #: ISO day; empty for an operator's own.
    as_of: str = ""

    def __str__(self) -> str:
        return f"{self.source} {self.as_of}".strip()


@dataclass(slots=True)
class Book:
    """The machines of one cloud, and what they cost."""

    cloud: str
    machines: Mapping[str, Machine]
    #: Every region that the cloud has.
    regions: frozenset[str] = frozenset()
    _prices: dict[tuple[str, str, base.Market], Price] = field(default_factory=dict)


def load(cloud: str) -> Book:
    """The catalogue that ships with runnerd for ``aws``, ``gcp`` or ``azure``."""
    raise KeyError(cloud)
