"""The price list as it was last renewed: a file in the provider's own directory, region by region with its day."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provisioners.catalogue.shipped import Pair
from provisioners.support import jsonfile, numbers

FILE = "prices.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Region:
    """The renewed prices of one region."""

    #: ISO day on which they were asked for.
    as_of: str
    source: str
    prices: Mapping[str, Pair]


@dataclass(frozen=True, slots=True)
class Renewed:
    """Renewed prices by region."""

    by_region: Mapping[str, Region] = field(default_factory=dict)

    @property
    def regions(self) -> frozenset[str]:
        return frozenset(self.by_region)

    def pair(self, region: str, machine_type: str) -> Pair | None:
        """Return the on-demand and the spot price of that type there."""
        found = self.by_region.get(region)
        return found.prices.get(machine_type) if found else None

    def day(self, region: str) -> str:
        """Return the ISO day of that region's prices, empty when it has none."""
        found = self.by_region.get(region)
        return found.as_of if found else ""

    def available_in(self, machine_type: str) -> frozenset[str]:
        """Return the regions that have a renewed price of that type."""
        return frozenset(name for name, region in self.by_region.items() if machine_type in region.prices)


def read(directory: str, cloud: str) -> tuple[Renewed, str]:
    """Read the file there; return its prices and, when it cannot be used, why.  There may be no file."""
    path = Path(directory, FILE)
    if not directory or not path.exists():
        return Renewed(), ""
    try:
        return _parsed(numbers.loads(path.read_text(encoding="utf-8")), cloud), ""
    except jsonfile.DAMAGED as error:
        return Renewed(), f"{path}: renewed prices are not used ({error}); shipped prices are; renew them"


def _parsed(document: Any, cloud: str) -> Renewed:
    if document["format"] != _FORMAT or document["cloud"] != cloud:
        raise ValueError(f"written for {document['cloud']}, format {document['format']}")
    return Renewed(
        {
            name: Region(
                entry["as_of"],
                entry["source"],
                {machine_type: (_dollars(od), _dollars(spot)) for machine_type, (od, spot) in entry["prices"].items()},
            )
            for name, entry in document["regions"].items()
        }
    )


def _dollars(value: Any) -> float | None:
    if value is None:
        return None
    dollars = numbers.real(value)
    if dollars is None:
        raise ValueError(f"{value} is not a price")
    return dollars


def write(directory: str, cloud: str, renewed: Renewed) -> None:
    """Replace the file there in one step.  Raises OSError."""
    document = {
        "format": _FORMAT,
        "cloud": cloud,
        "regions": {
            name: {"as_of": region.as_of, "source": region.source, "prices": dict(region.prices)}
            for name, region in renewed.by_region.items()
        },
    }
    jsonfile.replace(Path(directory, FILE), document)
