"""Options that every cloud has, read and checked in one way."""

from __future__ import annotations

from provisioners import base, catalogue, options


def read_markets(reader: options.Reader) -> tuple[base.Market, ...]:
    """Return the markets that a provider is used in: those under ``markets``, by default all."""
    known = {market.value: market for market in base.Market}
    names = reader.texts("markets")
    for name in names:
        if name not in known:
            reader.complain("markets", f'"{name}" is not known{options.nearest(name, known)}')
    return tuple(known[name] for name in names if name in known) or tuple(base.Market)


def read_pool_regions(reader: options.Reader, catalog: catalogue.Catalog) -> tuple[str, ...]:
    """Return the regions that a pool keeps to: those under ``regions``, by default none in particular."""
    names = reader.texts("regions")
    for name in names:
        check_region(reader, "regions", name, catalog)
    return names


def check_region(reader: options.Reader, key: str, name: str, catalog: catalogue.Catalog) -> None:
    """Complain of a region that the cloud does not have."""
    if name not in catalog.regions:
        reader.complain(key, f'no such region "{name}"{catalog.nearest_region(name)}')
