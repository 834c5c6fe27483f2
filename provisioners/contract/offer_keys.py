"""Offer keys, listing scopes and offer patterns: the texts that name where something is bought.

All three are ``/``-separated segments.  They are texts because they are stored in rows, shown to people and written to
JSON as such; the classes here are the only place that takes them apart or puts them together.

================  ==================================================  ==========================================
:class:`Scope`     ``provider/account/region/zone``                    where instances are listed
:class:`OfferKey`  ``provider/account/region/zone/type/market``        one offer
`OfferPattern`     the same with ``*`` and ``a|b``, up to an image     the offers that a block or a quota governs
================  ==================================================  ==========================================
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Self

#: Matches any value of a segment; as the zone of a scope it stands for every zone of the region.
ANY = "*"
#: Stands for a segment of an offer key that the provider did not report.
UNKNOWN = "?"


class _Path(str):
    """Segments with ``/`` between them."""

    __slots__ = ()
    _shape = ""
    _least = 0

    def __new__(cls, text: str) -> Self:
        """Raises ValueError when the number of segments is wrong."""
        if not cls._least <= text.count("/") + 1 <= cls._shape.count("/") + 1:
            raise ValueError(f'"{text}" does not have the form {cls._shape}')
        return super().__new__(cls, text)

    @classmethod
    def read(cls, text: str) -> Self | None:
        """Return the text as this kind of path, None when it does not have that form."""
        try:
            return cls(text)
        except ValueError:
            return None

    def _segment(self, index: int) -> str:
        return self.split("/")[index]

    @property
    def provider(self) -> str:
        """The operator's name for the provider."""
        return self._segment(0)

    @property
    def account(self) -> str:
        """The account: an AWS account, an Azure subscription, a GCP project."""
        return self._segment(1)

    @property
    def region(self) -> str:
        return self._segment(2)

    @property
    def zone(self) -> str:
        return self._segment(3)


class Scope(_Path):
    """A listing scope: ``provider/account/region/zone``; the zone ``*`` stands for every zone of the region."""

    __slots__ = ()
    _shape = "provider/account/region/zone"
    _least = 4

    @classmethod
    def of(cls, provider: str, account: str, region: str, zone: str = ANY) -> Self:
        """Return the scope of a zone, or of a whole region."""
        return cls("/".join((provider, account, region, zone)))

    def in_zone(self, zone: str) -> Scope:
        """Return the scope of that zone in the same region, of the whole region for ``*``."""
        return Scope.of(self.provider, self.account, self.region, zone)

    def within(self, scopes: frozenset[Scope]) -> bool:
        """Return True when it is one of those scopes, or its region is there with all its zones."""
        return self in scopes or self.in_zone(ANY) in scopes

    def offer(self, machine_type: str, market: str) -> OfferKey:
        """Return the key of a machine type there."""
        return OfferKey.of(self.provider, self.account, self.region, self.zone, machine_type, market)


class OfferKey(_Path):
    """The name of one offer: ``provider/account/region/zone/type/market``."""

    __slots__ = ()
    _shape = "provider/account/region/zone/type/market"
    _least = 6

    @classmethod
    def of(cls, provider: str, account: str, region: str, zone: str, machine_type: str, market: str) -> Self:
        """Return the key with those segments."""
        return cls("/".join((provider, account, region, zone, machine_type, market)))

    @property
    def machine_type(self) -> str:
        return self._segment(4)

    @property
    def market(self) -> str:
        """``on-demand`` or ``spot``; ``?`` where the provider did not report it."""
        return self._segment(5)

    @property
    def scope(self) -> Scope:
        """The listing scope in which an instance of this offer appears."""
        return Scope(self.rsplit("/", 2)[0])

    def with_image(self, image: str) -> str:
        """Return the key with its image as the seventh segment, for patterns that name an image."""
        return f"{self}/{_image_segment(image)}"


class OfferPattern(_Path):
    """The offers that a failure, a block or a quota governs.

    Each segment matches the segment of the key in the same position: ``*`` any characters, ``a|b`` either.  Missing
    segments match anything.  A seventh segment names the image.
    """

    __slots__ = ()
    _shape = "provider/account/region/zone/type/market/image"
    _least = 1

    @classmethod
    def of(
        cls,
        provider: str,
        account: str = ANY,
        region: str = ANY,
        zone: str = ANY,
        machine_type: str = ANY,
        market: str = ANY,
    ) -> Self:
        """Return the pattern with those segments."""
        return cls("/".join((provider, account, region, zone, machine_type, market)))

    @classmethod
    def of_image(cls, provider: str, image: str) -> Self:
        """Return the pattern of everything at a provider that boots from an image."""
        return cls("/".join((provider, ANY, ANY, ANY, ANY, ANY, _image_segment(image))))

    def _segment(self, index: int) -> str:
        segments = self.split("/")
        return segments[index] if index < len(segments) else ANY

    @property
    def machine_type(self) -> str:
        return self._segment(4)

    @property
    def market(self) -> str:
        return self._segment(5)

    def matches(self, key: str) -> bool:
        """Return True for an offer key, or a key with its image, that the pattern governs."""
        return _matches(self, key)

    def matches_provider(self, name: str) -> bool:
        """Return True when offers of that provider can be among those that the pattern governs."""
        return _matches(self.provider, name)


def alternatives(names: Iterable[str]) -> str:
    """Return one segment of a pattern that matches each of the names; ``*`` for none."""
    return "|".join(sorted(set(names))) or ANY


@functools.lru_cache(maxsize=65536)
def _matches(pattern: str, key: str) -> bool:
    parts, values = pattern.split("/"), key.split("/")
    if len(parts) > len(values):
        return False
    return all(
        any(fnmatchcase(value, choice) for choice in part.split("|"))
        for value, part in zip(values, parts, strict=False)
    )


def _image_segment(image: str) -> str:
    return image.replace("/", ":").replace("|", ":")
