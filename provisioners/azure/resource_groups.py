"""Durable state: every resource group that ever held machines of ours.

A group that left the configuration may still hold machines, and a listing that does not read it would make them vanish.
Azure cannot be asked for this.  Without a directory it lasts as long as the process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from provisioners import base
from provisioners.support import jsonfile, numbers

_HOUR_S = 3600.0
#: Seconds after the last purchase in a group in which a machine may still appear there.
_SETTLED_S = 24 * _HOUR_S
FILE = "azure.json"


@dataclass(slots=True)
class ResourceGroups:
    """The groups, and the file that they are kept in."""

    context: base.Context
    #: (subscription, resource group) -> when a machine was bought there, to the hour.
    bought_at: dict[tuple[str, str], float] = field(default_factory=dict)

    @property
    def _file(self) -> jsonfile.Notes:
        return jsonfile.Notes(self.context.directory, FILE)

    def load(self) -> None:
        """Read the file."""
        self._file.load(self._take)

    def _take(self, kept: Any) -> None:
        groups = {(str(subscription), str(group)): numbers.must(at) for subscription, group, at in kept["groups"]}
        self.bought_at |= groups

    def _save(self) -> None:
        groups = [[*place, at] for place, at in sorted(self.bought_at.items())]
        # The images are for older versions, which read nothing of a file without them.
        self._file.save({"images": {}, "groups": groups})

    def remember(self, subscription: str, group: str) -> None:
        """Note a group, before a machine is bought there."""
        now = self.context.now()
        if now - self.bought_at.get((subscription, group), 0.0) > _HOUR_S:
            self.bought_at[subscription, group] = now
            self._save()

    def forget_settled(self, subscription: str, group: str) -> None:
        """Drop a group in which nothing of ours was seen, once no machine can appear there any more."""
        if self.context.now() - self.bought_at.get((subscription, group), 0.0) > _SETTLED_S:
            self.bought_at.pop((subscription, group), None)
            self._save()
