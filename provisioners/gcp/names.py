"""Names and handles: of instances, zones and links, and the ids that make a request idempotent.  Pure."""

from __future__ import annotations

import uuid
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ref:
    """A handle: ``project/zone/name/id``.  The id tells an instance from a later one of the same name."""

    project: str
    zone: str
    name: str
    id: str

    def __str__(self) -> str:
        return f"{self.project}/{self.zone}/{self.name}/{self.id}"

    @property
    def region(self) -> str:
        return region_of(self.zone)


def parse(ref: str) -> Ref | None:
    """A handle taken apart; None for one that was never ours."""
    parts = ref.split("/")
    return Ref(*parts) if len(parts) == 4 and all(parts) and parts[3].isdigit() else None


def region_of(zone: str) -> str:
    """``us-central1`` of ``us-central1-a``."""
    return zone.rpartition("-")[0]


def last(link: str) -> str:
    """The name at the end of a link."""
    return link.rpartition("/")[2]


#: Keeps ids derived here apart from everybody else's.
_NAMESPACE = uuid.UUID("3c1f2bb2-52c5-5ef3-9d0c-6a7f1d0f9a4e")


def request_id(*parts: str) -> str:
    """A UUID that is derived from some words: the idempotency token of the API."""
    return str(uuid.uuid5(_NAMESPACE, "/".join(parts)))


def instance_name(name: str) -> str:
    """An instance's name in Compute Engine: like ours, but a letter is first."""
    return name if name[:1].isalpha() else f"r-{name}"
