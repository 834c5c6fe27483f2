"""Limits of tags in Azure; pure."""

from __future__ import annotations

from collections.abc import Mapping

#: Azure Resource Manager's limits for tags.
TAGS, TAG_NAME, TAG_VALUE = 50, 512, 256
#: Characters that are refused in the names of tags.
TAG_REFUSED = "<>%&\\?/"


def problems(tags: Mapping[str, str]) -> list[str]:
    """Return why Azure would refuse tags."""
    found = []
    if len(tags) > TAGS:
        found.append(f"{len(tags)} tags are too many, Azure takes {TAGS}")
    for name, value in tags.items():
        bad = sorted(set(name) & set(TAG_REFUSED))
        if bad:
            found.append(f'the tag "{name}" has {" ".join(bad)} in its name, which Azure refuses')
        if not name or len(name) > TAG_NAME:
            found.append(f'the tag "{name[:40]}" has a name of {len(name)} characters, Azure takes 1 to {TAG_NAME}')
        if len(value) > TAG_VALUE:
            found.append(f'the tag "{name}" has a value of {len(value)} characters, Azure takes {TAG_VALUE}')
    return found
