"""Handles of instances: an instance's id is unique within its region only, so a handle has both."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ref:
    """The handle of an instance: ``region/id``."""

    region: str
    id: str

    def __str__(self) -> str:
        return f"{self.region}/{self.id}"


def parse(ref: str) -> Ref | None:
    """Return the parts of a handle; None for one that is not ours."""
    region, slash, id = ref.partition("/")
    return Ref(region, id) if slash and id.startswith("i-") else None
