"""What to tell a person who named something that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: So many names are still read; more are not worth listing.
_LISTED = 16


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint to append, such as ``; did you mean "g4dn.xlarge"?``; the names themselves when they are few."""
    names = sorted(known)
    by_folded = {name.lower(): name for name in names}
    close = difflib.get_close_matches(word.lower(), by_folded, n=1, cutoff=0.6)
    if close:
        return f'; did you mean "{by_folded[close[0]]}"?'
    return f"; known: {', '.join(names)}" if names and len(names) <= _LISTED else ""


def listed(words: Iterable[object]) -> str:
    """``1, 4 or 8``."""
    *rest, last = [str(word) for word in words]
    return f"{', '.join(rest)} or {last}" if rest else last
