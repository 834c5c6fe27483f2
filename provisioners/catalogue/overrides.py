"""The operator's own prices: negotiated rates, reservations, and types without a published price.

prices:
  g4dn.xlarge: 0.41                             # on demand, in every region
  g5.xlarge: {on-demand: 0.8, spot: 0.3}
  eu-west-1:
    g4dn.xlarge: {on-demand: 0.46, spot: 0.2}   # there, instead of the line above
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from provisioners import base, options

#: The highest price accepted, in dollars per hour; more is a typing error.
_HIGHEST_PRICE = 10000.0
_MARKETS = {market.value: market for market in base.Market}


@dataclass(frozen=True, slots=True)
class Overrides:
    """Dollars per hour that the operator set, by region (empty for everywhere), machine type and market."""

    prices: Mapping[tuple[str, str, base.Market], float] = field(default_factory=dict)

    def dollars(self, machine_type: str, *, region: str, market: base.Market) -> float | None:
        """Return the operator's price there in dollars per hour, None where there is none."""
        found = self.prices.get((region, machine_type, market))
        return self.prices.get(("", machine_type, market)) if found is None else found


def read(reader: options.Reader, key: str, *, machines: Collection[str], regions: Collection[str]) -> Overrides:
    """Read the prices under ``key``, by the names that the cloud has.

    Every complaint names its dotted key and, for an unknown name, the nearest one.
    """
    found: dict[tuple[str, str, base.Market], float] = {}
    entries = reader.raw(key)
    inner = reader.inner(key)
    if not isinstance(entries, Mapping):
        return Overrides()
    for name in entries:
        if name in regions:
            place = inner.inner(name)
            if not inner.has(name):
                inner.complain(name, "expected a map of machine types")
            for machine_type in place.given:
                _read_type(place, str(machine_type), str(name), machines, [*machines], found)
        elif isinstance(name, str):
            _read_type(inner, name, "", machines, [*machines, *regions], found)
        else:
            inner.complain(str(name), "expected the name of a machine type or a region")
    return Overrides(found)


def _read_type(
    reader: options.Reader,
    name: str,
    region: str,
    machines: Collection[str],
    names: Collection[str],
    found: dict[tuple[str, str, base.Market], float],
) -> None:
    if name not in machines:
        what = "no such machine type" if region else "no such machine type or region"
        reader.complain(name, f"{what}{options.nearest(name, names)}")
        return
    if not reader.has(name):
        reader.complain(name, "expected a number")
        return
    if not isinstance(reader.given[name], Mapping):
        found[region, name, base.Market.ON_DEMAND] = reader.number(name, 0.0, high=_HIGHEST_PRICE)
        return
    markets = reader.inner(name)
    for word, market in _MARKETS.items():
        if markets.has(word):
            found[region, name, market] = markets.number(word, 0.0, high=_HIGHEST_PRICE)
        else:
            markets.raw(word)
    markets.done()
