"""A reader of a provider's options that collects every complaint, each with its dotted key.

A provisioner's ``validate`` and its constructor read the same way, so that what was found good is what is used.
Reading never raises: a bad value is noted and its default is used, so one run shows all that is wrong.  An
unknown key is a complaint too, with the nearest key that exists.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provisioners.support import numbers, units
from provisioners.support.spelling import listed as listed
from provisioners.support.spelling import nearest as nearest


@dataclass(frozen=True, slots=True)
class Span:
    """A duration that lies between two bounds, in seconds."""

    low: float
    high: float

    def at(self, share: float) -> float:
        """The duration at ``share`` (0 to 1) of the way."""
        return self.low + (self.high - self.low) * share


class Reader:
    """One mapping of options, read key by key."""

    def __init__(self, options: Any, *, path: str = "", problems: list[str] | None = None) -> None:
        self.problems: list[str] = [] if problems is None else problems
        self._path = path
        self._seen: set[str] = set()
        self._options: Mapping[str, Any] = {}
        if isinstance(options, Mapping):
            self._options = options
        elif options is not None:
            self.complain("", f"expected a map, not {_named(options)}")

    def _place(self, key: str) -> str:
        return ".".join(part for part in (self._path, key) if part) or "options"

    def complain(self, key: str, message: str) -> None:
        """Note that the value under ``key`` is wrong."""
        self.problems.append(f"{self._place(key)}: {message}")

    @property
    def given(self) -> Mapping[str, Any]:
        """All of it as written."""
        return self._options

    def has(self, key: str) -> bool:
        """True when the key is written and not null."""
        return self._options.get(key) is not None

    def raw(self, key: str) -> Any:
        """The value as written, marked as read."""
        self._seen.add(key)
        return self._options.get(key)

    def text(self, key: str, default: str = "", *, choices: Iterable[str] = ()) -> str:
        """A text, one of ``choices`` where given."""
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, str):
            self.complain(key, f"expected a string, not {_named(value)}")
            return default
        known = tuple(choices)
        if known and value not in known:
            self.complain(key, f'"{value}" is not known{nearest(value, known)}')
            return default
        return value

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.complain(key, f"expected true or false, not {_named(value)}")
            return default
        return value

    def whole(self, key: str, default: int, *, low: int = 0, high: int = 10**9) -> int:
        """A whole number within the bounds."""
        found = self.whole_or_none(key, low=low, high=high)
        return default if found is None else found

    def whole_or_none(self, key: str, *, low: int = 0, high: int = 10**9) -> int | None:
        """A whole number within the bounds, None when not written."""
        value = self.raw(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            self.complain(key, f"expected a whole number, not {_named(value)}")
            return None
        if not low <= value <= high:
            self.complain(key, f"{value} is not within {low} to {high}")
            return None
        return value

    def number(self, key: str, default: float, *, low: float = 0.0, high: float = 1e9) -> float:
        """A number within the bounds."""
        value = self.raw(key)
        if value is None:
            return default
        if isinstance(value, str) or numbers.real(value, low=-math.inf, high=math.inf) is None:
            self.complain(key, f"expected a number, not {_named(value)}")
            return default
        if not low <= value <= high:
            self.complain(key, f"{value} is not within {low:g} to {high:g}")
            return default
        return float(value)

    def seconds(self, key: str, default: float) -> float:
        """A duration: a number of seconds, or a string such as ``90s`` or ``1h30m``."""
        value = self.raw(key)
        if value is None:
            return default
        found = self._duration(key, value)
        return default if found is None else found

    def span(self, key: str, default: Span) -> Span:
        """A duration, or two of them as bounds."""
        value = self.raw(key)
        if value is None:
            return default
        if isinstance(value, Sequence) and not isinstance(value, str):
            if len(value) != 2:
                self.complain(key, "expected a duration or [shortest, longest]")
                return default
            low, high = (self._duration(key, part) for part in value)
            if low is None or high is None:
                return default
            if low > high:
                self.complain(key, "the shortest is longer than the longest")
                return default
            return Span(low, high)
        found = self._duration(key, value)
        return default if found is None else Span(found, found)

    def _duration(self, key: str, value: Any) -> float | None:
        try:
            return units.seconds(value)
        except ValueError as error:
            self.complain(key, str(error))
            return None

    def size(self, key: str, default: int) -> int:
        """Return a size in bytes: of a whole number of bytes, or a string such as ``16GiB``."""
        value = self.raw(key)
        if value is None:
            return default
        try:
            return units.size_in_bytes(value)
        except ValueError as error:
            self.complain(key, str(error))
            return default

    def secret(self, key: str) -> str:
        """A reference to a secret (``file:/path``, ``env:NAME`` or ``credential:NAME``); never the secret itself."""
        value = self.text(key)
        source, _, name = value.partition(":")
        if value and (source not in ("file", "env", "credential") or not name):
            # The value may be the secret itself, pasted: it is not repeated.
            self.complain(key, "expected where the secret is: file:/path, env:NAME or credential:NAME")
            return ""
        return value

    def texts(self, key: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
        """A list of texts without repetition."""
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, list | tuple) or not all(isinstance(part, str) and part for part in value):
            self.complain(key, "expected a list of names")
            return default
        if len(set(value)) != len(value):
            self.complain(key, "a name is listed twice")
        return tuple(dict.fromkeys(value))

    def inner(self, key: str) -> Reader:
        """The map under that key (empty when not written)."""
        return Reader(self.raw(key), path=self._place(key), problems=self.problems)

    def named(self, key: str) -> Iterator[tuple[str, Reader]]:
        """The entries of a map of maps, in the operator's order."""
        value = self.raw(key)
        if value is None:
            return
        if not isinstance(value, Mapping):
            self.complain(key, f"expected a map of names, not {_named(value)}")
            return
        for name, entry in value.items():
            if not isinstance(name, str) or not name:
                self.complain(key, f"{name!r} is not a name")
                continue
            yield name, Reader(entry, path=f"{self._place(key)}.{name}", problems=self.problems)

    def listed(self, key: str) -> Iterator[Reader]:
        """The entries of a list of maps."""
        value = self.raw(key)
        if value is None:
            return
        if not isinstance(value, list | tuple):
            self.complain(key, f"expected a list, not {_named(value)}")
            return
        for position, entry in enumerate(value):
            yield Reader(entry, path=f"{self._place(key)}.{position}", problems=self.problems)

    def done(self) -> None:
        """Complain about every key that was not read."""
        for key in self._options:
            if key not in self._seen:
                self.complain(str(key), f"no such key{nearest(str(key), self._seen)}")


def _named(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a map"
    if isinstance(value, list | tuple):
        return "a list"
    return f'"{value}"'
