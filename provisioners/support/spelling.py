"""Names that were misspelt, and the known ones that were probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

#: A list of at most so many known names is worth printing whole.
_MOST_LISTED = 16
#: How alike two names must be (0 to 1) for one to be suggested for the other, and that for names of up to 3 letters.
_ALIKE, _ALIKE_SHORT = 0.6, 0.5
#: So alike that it is a slip of the finger, even if the name has parts in common with others.
_SLIP = 0.9


def close(word: str, known: Iterable[str]) -> list[str]:
    """Return up to three known names that were probably meant, the nearest first; empty when none is near.

    Case does not count, nor does ``_`` for ``-``.  The same name comes first, then those spelt almost the same, those
    that begin with the word (``a100`` of ``a100-80``), those that are a part of it (``t4`` of ``nvidia-tesla-t4``),
    those spelt like it.
    """
    word = _folded(word)
    by_folded = {_folded(name): name for name in known}
    if word in by_folded:
        return [by_folded[word]]
    beginning = [name for folded, name in by_folded.items() if len(word) > 1 and folded.startswith(word + "-")]
    contained = [by_folded[part] for part in re.split(r"[- ]", word) if part in by_folded]
    alike = _ALIKE if len(word) > 3 else _ALIKE_SHORT
    return (_spelt_like(word, by_folded, _SLIP) or beginning or contained or _spelt_like(word, by_folded, alike))[:3]


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return the known name that was probably meant, None when none is near."""
    found = close(word, known)
    return found[0] if found else None


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint to append to a complaint: ``; did you mean "g4dn.xlarge"?``, or the known names when they are few.

    Empty where neither helps.
    """
    names = sorted(known)
    found = close(word, names)
    if found:
        quoted = [f'"{name}"' for name in found]
        return f"; did you mean {listed(quoted)}?"
    return f"; known: {', '.join(names)}" if names and len(names) <= _MOST_LISTED else ""


def listed(words: Iterable[object]) -> str:
    """Return the words as one text: ``1, 4 or 8``."""
    *rest, last = [str(word) for word in words]
    return f"{', '.join(rest)} or {last}" if rest else last


def _folded(name: str) -> str:
    return name.lower().replace("_", "-")


def _spelt_like(word: str, by_folded: dict[str, str], cutoff: float) -> list[str]:
    """Return the nearest by spelling, and a second one where it is just as near (``us-est-1``)."""
    near = difflib.get_close_matches(word, by_folded, n=2, cutoff=cutoff)
    ratios = [difflib.SequenceMatcher(None, folded, word).ratio() for folded in near]
    return [by_folded[folded] for folded, ratio in zip(near, ratios, strict=True) if ratio > ratios[0] - 0.01]
