"""Error codes of a cloud as a table: one row for each code, and the failure that a row stands for.

The tables themselves are in the clouds' own ``errors``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from provisioners import base

S = TypeVar("S")
_S = TypeVar("_S", contravariant=True)


@dataclass(frozen=True, slots=True)
class Row(Generic[S]):
    """The meaning of a code for the next attempt."""

    kind: base.Kind
    #: How far it speaks: a member of the cloud's own ``ErrorScope``.
    scope: S
    #: Seconds that the offers are unavailable; 0 for what is usual for the kind.
    block_for: float = 0.0
    #: In the spot market, where that differs.
    spot_block_for: float | None = None
    #: True when the call may have been carried out all the same.
    maybe_created: bool = False
    #: What to do about it, for people.
    hint: str = ""
    #: A regular expression that the message has to contain, in either case; empty for any message.
    message: str = ""


class Target(Protocol[_S]):
    """The offer, or the account, that a call was about."""

    @property
    def spot(self) -> bool: ...

    def pattern(self, scope: _S, /) -> base.OfferPattern | None:
        """Return the offers that an error of that scope speaks for; None for this offer alone."""
        ...


class Table(Generic[S]):
    """The rows of a cloud by code."""

    def __init__(
        self,
        rows: Mapping[str, Row[S] | Sequence[Row[S]]],
        *,
        prefixes: Mapping[str, Row[S]] | None = None,
        normal: Callable[[str], str] = str,
    ) -> None:
        """Index the rows; ``normal`` gives the form of a code that is looked up.

        Several rows of one code are tried in order, by their ``message``.  ``prefixes`` are tried in order where no row
        fits.
        """
        self._normal = normal
        self._prefixes = prefixes or {}
        self.rows: dict[str, tuple[Row[S], ...]] = {
            normal(code): (row,) if isinstance(row, Row) else tuple(row) for code, row in rows.items()
        }

    def find(self, code: str, message: str = "") -> Row[S] | None:
        """Return the row of a code, None where there is none."""
        for row in self.rows.get(self._normal(code), ()):
            if not row.message or re.search(row.message, message, re.IGNORECASE | re.DOTALL):
                return row
        return next((row for prefix, row in self._prefixes.items() if code.startswith(prefix)), None)

    def first(self, errors: Iterable[tuple[str, str]]) -> Row[S] | None:
        """Return the row of the first (code, message) that has one."""
        return next((row for code, message in errors if (row := self.find(code, message)) is not None), None)


def failure(
    row: Row[S], message: str, *, code: str, target: Target[S], retry_after: float = 0.0
) -> base.ProvisionError:
    """Return the failure that a row stands for; ``maybe_created`` is the row's."""
    block_for = row.block_for if row.spot_block_for is None or not target.spot else row.spot_block_for
    return base.ProvisionError(
        row.kind,
        f"{message} ({row.hint})" if row.hint else message,
        scope=target.pattern(row.scope),
        code=code,
        maybe_created=row.maybe_created,
        retry_after=retry_after,
        block_for=block_for,
    )
