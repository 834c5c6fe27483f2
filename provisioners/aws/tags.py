"""Tags: read from resources, and what Amazon refuses of them.  Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

#: Tags that a resource carries, and characters of a key and a value ("Tag restrictions" in the EC2 user guide).
TAGS, KEY, VALUE = 50, 128, 256
#: Characters that every service of Amazon takes in tags, beside letters, digits and spaces.
_COMMON = frozenset("+-=._:/@")


def problems(tags: Mapping[str, str]) -> list[str]:
    """Return what Amazon refuses of tags."""
    found = []
    if len(tags) > TAGS:
        found.append(f"{len(tags)} tags; Amazon takes {TAGS}")
    for key, value in tags.items():
        if not key:
            found.append("a tag without a name")
        if key.lower().startswith("aws:"):
            found.append(f'the tag "{key}": names that begin with aws: are Amazon\'s own')
        if len(key) > KEY:
            found.append(f'the tag "{key[:40]}..." has a name of {len(key)} characters; Amazon takes {KEY}')
        if len(value) > VALUE:
            found.append(f'the tag "{key}" has a value of {len(value)} characters; Amazon takes {VALUE}')
        for character in key + value:
            if unicodedata.category(character) in ("Cc", "Cs", "Cn"):
                found.append(f'the tag "{key}" has the character U+{ord(character):04X}, which Amazon refuses')
                break
    return found


def unusual(tags: Mapping[str, str]) -> list[str]:
    """Return the tags that EC2 takes and other services of Amazon, the billing among them, do not."""
    return [
        key
        for key, value in tags.items()
        if any(not (one in _COMMON or one.isalnum() or one.isspace()) for one in key + value)
    ]


def of(resource: Mapping[str, Any]) -> dict[str, str]:
    """A resource's tags, without those that Amazon added."""
    given = resource.get("Tags") or resource.get("TagSet") or []
    return {tag["Key"]: tag.get("Value", "") for tag in given if not tag["Key"].startswith("aws:")}
