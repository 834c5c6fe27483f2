"""What was looked up once and has to stay: concrete image versions, and every resource group that ever held ours.

A group that left the configuration may still hold machines, and a listing that does not look there would make them
vanish.  Without a directory this lasts as long as the process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from provisioners import base
from provisioners.support import jsonfile, numbers

#: Seconds after which a version is looked up again.
_FRESH = 24 * 3600.0
_HOUR = 3600.0
#: Seconds after the last purchase in a group in which one may still appear.
_SETTLED = 24 * _HOUR
FILE = "azure.json"


@dataclass(slots=True)
class Memory:
    """The two tables, and the file they are in."""

    context: base.Context
    #: ``region image`` -> (version, when it was looked up).
    images: dict[str, tuple[str, float]] = field(default_factory=dict)
    #: (subscription, resource group) -> when something was bought there, to the hour.
    groups: dict[tuple[str, str], float] = field(default_factory=dict)

    @property
    def _notes(self) -> jsonfile.Notes:
        return jsonfile.Notes(self.context.directory, FILE)

    def load(self) -> None:
        """Read the file."""
        self._notes.load(self._take)

    def _take(self, kept: Any) -> None:
        images = {str(key): (str(version), numbers.must(at)) for key, (version, at) in kept["images"].items()}
        self.groups |= {(str(subscription), str(group)): numbers.must(at) for subscription, group, at in kept["groups"]}
        self.images = images

    def _save(self) -> None:
        groups = [[*place, at] for place, at in sorted(self.groups.items())]
        self._notes.save({"images": self.images, "groups": groups})

    def remember_group(self, subscription: str, group: str) -> None:
        """Before anything is bought there."""
        now = self.context.now()
        if now - self.groups.get((subscription, group), 0.0) > _HOUR:
            self.groups[subscription, group] = now
            self._save()

    def forget_old_group(self, subscription: str, group: str) -> None:
        """Nothing of ours was seen there; it is forgotten once nothing can appear there any more."""
        if self.context.now() - self.groups.get((subscription, group), 0.0) > _SETTLED:
            self.groups.pop((subscription, group), None)
            self._save()

    def version(self, region: str, image: str) -> tuple[str, bool]:
        """The version that an image was last found to have there (empty when never), and whether that is fresh."""
        version, at = self.images.get(f"{region} {image}", ("", 0.0))
        return version, bool(version) and self.context.now() - at < _FRESH

    def remember_version(self, region: str, image: str, version: str) -> None:
        """From now on it is that one."""
        self.images[f"{region} {image}"] = (version, self.context.now())
        self._save()
