"""What was asked of Amazon once and is kept: zones of subnets, images, what is sold where.

A file in the provider's directory; without a directory, or when it cannot be written, memory.  Nothing in it is
needed: what is missing is asked for again.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

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
        self._path = Path(directory) / FILE if directory else None
        #: Region -> subnet -> zone.
        self.zones: dict[str, dict[str, str]] = {}
        #: Region -> image as the operator wrote it -> (id, when it was resolved).
        self.images: dict[str, dict[str, tuple[str, float]]] = {}
        #: Region -> image id -> image.
        self.amis: dict[str, dict[str, Ami]] = {}
        #: Region -> (machine type -> zones that have it, when that was asked).
        self.offered: dict[str, tuple[dict[str, list[str]], float]] = {}
        self._load()

    def _load(self) -> None:
        if self._path is None:
            return
        try:
            kept = json.loads(self._path.read_text())
            if kept.get("format") != _FORMAT:
                return
            self.zones = {region: dict(entry) for region, entry in kept["zones"].items()}
            self.images = {
                region: {key: (str(id), float(at)) for key, (id, at) in entry.items()}
                for region, entry in kept["images"].items()
            }
            self.amis = {
                region: {id: Ami(**ami) for id, ami in entry.items()} for region, entry in kept["amis"].items()
            }
            self.offered = {region: (dict(types), float(at)) for region, (types, at) in kept["offered"].items()}
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s cannot be read and is made anew: %s", self._path, error)
            self.zones, self.images, self.amis, self.offered = {}, {}, {}, {}

    def save(self) -> None:
        """Write them down, where there is a directory."""
        if self._path is None or not self._path.parent.is_dir():
            return
        kept: dict[str, Any] = {
            "format": _FORMAT,
            "zones": self.zones,
            "images": self.images,
            "amis": {region: {id: asdict(ami) for id, ami in entry.items()} for region, entry in self.amis.items()},
            "offered": self.offered,
        }
        beside = self._path.with_suffix(f".{os.getpid()}")
        try:
            beside.write_text(json.dumps(kept, sort_keys=True))
            beside.replace(self._path)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path, error)


@dataclass(slots=True)
class Exhausted:
    """Subnets that had no address left, for a while.  A hint: lost with the process, it costs one failed launch."""

    until: dict[str, float] = field(default_factory=dict)

    def open(self, subnets: list[str], now: float) -> list[str]:
        """Those that may have room; all of them when none is known to have."""
        return [one for one in subnets if self.until.get(one, 0.0) <= now] or subnets
