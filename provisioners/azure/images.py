"""Images: as operators write them, as Azure takes them, and the defaults."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from provisioners import base
from provisioners.support import numbers

#: Driver, CUDA and docker are in it (microsoft-dsvm, the image of Azure's own HPC guides).
GPU = "microsoft-dsvm:ubuntu-hpc:2204:latest"
CPU = "Canonical:ubuntu-24_04-lts:server:latest"
ARM64 = "Canonical:ubuntu-24_04-lts:server-arm64:latest"
LATEST = "latest"

_URN = re.compile(r"[\w.-]+:[\w.-]+:[\w.-]+:[\w.-]+\Z")
_PATHS = (
    (re.compile(r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.Compute/images/[^/]+\Z", re.I), "id"),
    (
        re.compile(
            r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.Compute"
            r"/galleries/[^/]+/images/[^/]+(/versions/[^/]+)?\Z",
            re.I,
        ),
        "id",
    ),
    (re.compile(r"/sharedGalleries/[^/]+/images/[^/]+(/versions/[^/]+)?\Z", re.I), "sharedGalleryImageId"),
    (re.compile(r"/communityGalleries/[^/]+/images/[^/]+(/versions/[^/]+)?\Z", re.I), "communityGalleryImageId"),
)


@dataclass(frozen=True, slots=True)
class Urn:
    """An image of the marketplace."""

    publisher: str
    offer: str
    sku: str
    version: str

    def __str__(self) -> str:
        return f"{self.publisher}:{self.offer}:{self.sku}:{self.version}"


def default(gpus: int, arch: str) -> str:
    """Return the image where the operator names none."""
    if arch == "arm64":
        return ARM64
    return GPU if gpus else CPU


def problem(text: str) -> str:
    """Return what is wrong with an image as written; empty when nothing is."""
    if _URN.match(text) or any(pattern.match(text) for pattern, _ in _PATHS):
        return ""
    return f'"{text}" is not an image: write publisher:offer:sku:version, or the id of an image or a gallery image'


def urn(text: str) -> Urn | None:
    """The marketplace image behind a text, None when it is an id."""
    return Urn(*text.split(":")) if _URN.match(text) else None


def floating(text: str) -> bool:
    """True when the version still has to be looked up."""
    found = urn(text)
    return found is not None and found.version.lower() == LATEST


def reference(text: str) -> dict[str, Any]:
    """The ``imageReference`` of an image.  Raises a definite CONFIG failure for a text that names none."""
    found = urn(text)
    if found is not None:
        return {
            "publisher": found.publisher,
            "offer": found.offer,
            "sku": found.sku,
            "version": found.version,
        }
    for pattern, field in _PATHS:
        if pattern.match(text):
            return {field: text}
    raise base.ProvisionError(base.Kind.CONFIG, problem(text), code="InvalidImage")


def newest(versions: list[str]) -> str | None:
    """The highest of some versions, which are numbers with dots between."""
    return max(versions, key=_numbers, default=None)


def _numbers(version: str) -> tuple[int, ...]:
    parts = [numbers.whole(part) for part in version.split(".")]
    return tuple(-1 if part is None else part for part in parts)
