"""What to tell a person who named something that does not exist."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

#: So many names are still read; more are not worth listing.
_LISTED = 16


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint to append, such as ``; did you mean "g4dn.xlarge"?``; the names themselves when they are few."""
    names = sorted(known)
    close = _close(word.lower(), {name.lower(): name for name in names})
    if close:
        quoted = [f'"{name}"' for name in close]
        return f"; did you mean {listed(quoted)}?"
    return f"; known: {', '.join(names)}" if names and len(names) <= _LISTED else ""


def _close(word: str, by_folded: dict[str, str]) -> list[str]:
    """What begins with the word (``a100``), what is a part of it (``nvidia-tesla-t4``), else what is spelt like it."""
    if word in by_folded:
        return [by_folded[word]]
    beginning = [name for folded, name in by_folded.items() if len(word) > 1 and folded.startswith(word + "-")]
    contained = [by_folded[part] for part in re.split(r"[-_ ]", word) if part in by_folded]
    return (beginning or contained or _spelt_like(word, by_folded))[:3]


def _spelt_like(word: str, by_folded: dict[str, str]) -> list[str]:
    """The nearest by spelling, and a second one where it is just as near (``us-est-1``)."""
    cutoff = 0.6 if len(word) > 3 else 0.5
    near = difflib.get_close_matches(word, by_folded, n=2, cutoff=cutoff)
    ratios = [difflib.SequenceMatcher(None, folded, word).ratio() for folded in near]
    return [by_folded[folded] for folded, ratio in zip(near, ratios, strict=True) if ratio > ratios[0] - 0.01]


def listed(words: Iterable[object]) -> str:
    """``1, 4 or 8``."""
    *rest, last = [str(word) for word in words]
    return f"{', '.join(rest)} or {last}" if rest else last
