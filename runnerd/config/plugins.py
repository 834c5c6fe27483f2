"""The provisioners that are installed, and their checks of their own options.

Nothing here knows a cloud: a provider's options, and a pool's for it, pass as mappings to the class that understands
them.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Iterator, Mapping
from typing import Any

from provisioners import base
from provisioners.support import numbers, spelling
from runnerd import errors
from runnerd.kit import yamlfile

#: The group under which packages register provisioners; runnerd's own are in setup.cfg.
ENTRY_POINTS = "runnerd.provisioners"

#: Provisioner classes by type, for callers that bring their own.
Provisioners = Mapping[str, type[base.Provisioner]]


def provisioner_types() -> dict[str, str]:
    """Return every installed provider type with the `module:Class` behind it. Imports none of them."""
    return {point.name: point.value for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}


def provisioner_class(kind: str) -> type[base.Provisioner]:
    """Return the class behind a provider type.

    Raises KeyError for an unknown type, ImportError or AttributeError when its package is missing or
    another one.
    """
    module, _, name = provisioner_types()[kind].partition(":")
    cls: type[base.Provisioner] = getattr(importlib.import_module(module), name)
    return cls


def _provider_entries(data: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    entries = data.get("providers")
    if not isinstance(entries, Mapping):
        return []
    return [(name, entry) for name, entry in entries.items() if isinstance(entry, Mapping)]


def complaints(
    document: yamlfile.Document, data: Mapping[str, Any], provisioners: Provisioners
) -> Iterator[errors.Problem]:
    """Yield unknown provider types, and the problems that each provisioner finds in its own options."""
    known = sorted({*provisioner_types(), *provisioners})
    for name, entry in _provider_entries(data):
        kind = entry.get("type")
        if not isinstance(kind, str) or not kind:
            continue  # the model reports it
        place: yamlfile.Place = ("providers", name, "type")
        if kind not in known:
            near = spelling.closest(kind, known)
            hint = "" if near else f"; there are {', '.join(known)}, and packages can add more"
            yield document.problem(place, f'there is no provider type "{kind}"{hint}', nearest=near)
            continue
        try:
            provisioner = provisioners[kind] if kind in provisioners else provisioner_class(kind)
        except (ImportError, AttributeError) as error:
            yield document.problem(place, f"the package behind the provider type {kind} cannot be used: {error}")
            continue
        for text in provisioner.validate(entry.get("options") or {}):
            yield _option_problem(document, text, "providers", name)
        for pool, options in _pool_options(data, name):
            for text in provisioner.validate_pool(options):
                yield _option_problem(document, text, "pools", pool, "options", name)


def _option_problem(document: yamlfile.Document, text: str, *place: str) -> errors.Problem:
    """Return a provisioner's message about an option as a problem at the line of that option."""
    key, colon, message = text.partition(": ")
    return document.problem((*place, *(_option_place(key) if colon else ())), message if colon else text)


def _pool_options(data: Mapping[str, Any], provider: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the options that each pool sets for a provider."""
    pools = data.get("pools")
    for pool, entry in pools.items() if isinstance(pools, Mapping) else ():
        options = entry.get("options") if isinstance(entry, Mapping) else None
        own = options.get(provider) if isinstance(options, Mapping) else None
        if isinstance(own, Mapping):
            yield pool, own


def _option_place(key: str) -> yamlfile.Place:
    parts: list[str | int] = []
    for part in key.replace("[", ".[").split("."):
        index = numbers.whole(part[1:-1]) if part.startswith("[") and part.endswith("]") else None
        if index is not None:
            parts.append(index)
        elif part:
            parts.append(part)
    return tuple(parts)
