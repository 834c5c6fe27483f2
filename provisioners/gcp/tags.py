"""Tags as labels: Google allows so few characters in them that they only find things; what was meant is kept beside.

A label's key has 1 to 63 of ``[a-z0-9_-]`` and starts with a letter, its value up to 63 of the same; a resource has at
most 64 ("Organize resources using labels").  An instance carries its tags as they are in a metadata item as well, and
those are read back as its tags.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from provisioners import base

#: The metadata item with the exact tags, as JSON.
ITEM = "runnerd-tags"
#: Labels of a resource.
MOST = 64
_LENGTH = 63
_REFUSED = re.compile(r"[^a-z0-9_-]")
#: The first that are kept where there are too many.
_FIRST = (
    base.TAG_CONTROLLER,
    base.TAG_INSTANCE,
    base.TAG_ATTEMPT,
    base.TAG_POOL,
    base.TAG_DEADLINE,
    base.TAG_PRICE,
)


def value(text: str) -> str:
    """A label's value."""
    return _REFUSED.sub("-", text.lower())[:_LENGTH]


def key(text: str) -> str:
    """A label's key."""
    found = _REFUSED.sub("-", text.lower())
    return (found if found[:1].isalpha() else f"x-{found}")[:_LENGTH]


def labels(tags: Mapping[str, str]) -> dict[str, str]:
    """The labels for some tags; runnerd's own first, so that too many tags cost none of those."""
    found: dict[str, str] = {}
    for name in [*(one for one in _FIRST if one in tags), *sorted(set(tags) - set(_FIRST))]:
        if len(found) < MOST:
            found.setdefault(key(name), value(tags[name]))
    return found


def altered(tags: Mapping[str, str]) -> list[str]:
    """The tags whose labels differ from them, for people."""
    made = labels(tags)
    return [name for name in tags if made.get(name) != tags[name]]


def owned(controller: str) -> str:
    """The filter of a list call for what carries a controller's label (AIP-160)."""
    return f'labels.{base.TAG_CONTROLLER} = "{value(controller)}"'
