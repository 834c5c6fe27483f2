"""What was asked of Amazon once and is kept: zones of subnets, images, what is sold where.

Nothing of it is needed: what is missing is asked for again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from provisioners.support import jsonfile, numbers

FILE = "aws-facts.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Ami:
    """What is known of an image."""

    id: str
    root_device: str
    #: GiB that its root disk needs at least.
    size: int
    arch: str
    name: str = ""


class Facts:
    """The facts of one provider."""

    def __init__(self, directory: str) -> None:
        self._notes = jsonfile.Notes(directory, FILE)
        #: Region -> subnet -> zone.
        self.zones: dict[str, dict[str, str]] = {}
        #: Region -> image as the operator wrote it -> (id, when it was resolved).
        self.images: dict[str, dict[str, tuple[str, float]]] = {}
        #: Region -> image id -> image.
        self.amis: dict[str, dict[str, Ami]] = {}
        #: Region -> (machine type -> zones that have it, when that was asked).
        self.offered: dict[str, tuple[dict[str, list[str]], float]] = {}
        self._notes.load(self._take)

    def _take(self, kept: Any) -> None:
        if kept["format"] != _FORMAT:
            return
        zones = {region: dict(entry) for region, entry in kept["zones"].items()}
        images = {
            region: {key: (str(id), numbers.must(at)) for key, (id, at) in entry.items()}
            for region, entry in kept["images"].items()
        }
        amis = {region: {id: Ami(**ami) for id, ami in entry.items()} for region, entry in kept["amis"].items()}
        offered = {region: (dict(types), numbers.must(at)) for region, (types, at) in kept["offered"].items()}
        self.zones, self.images, self.amis, self.offered = zones, images, amis, offered

    def save(self) -> None:
        """Write them down."""
        amis = {region: {id: asdict(ami) for id, ami in entry.items()} for region, entry in self.amis.items()}
        self._notes.save(
            {"format": _FORMAT, "zones": self.zones, "images": self.images, "amis": amis, "offered": self.offered}
        )


@dataclass(slots=True)
class Exhausted:
    """Subnets that had no address left, for a while.  A hint: lost with the process, it costs one failed launch."""

    until: dict[str, float] = field(default_factory=dict)

    def open(self, subnets: list[str], now: float) -> list[str]:
        """Those that may have room; all of them when none is known to have."""
        return [one for one in subnets if self.until.get(one, 0.0) <= now] or subnets
