"""The data that ships with runnerd: one CSV per cloud, machines down, regions across.

Lines that start with ``#`` name the sources of the data; those of the form ``#prices REGIONS DAY WORDS`` date the
prices of some regions, ``#whole NAMES`` names those whose list has everything that is sold there (``*``: all), and
``#regions NAMES`` names regions without any price.  Then follow the header and one row per machine::

    name,gpu,gpus,gpu_gib,cpus,gib,arch,family,scratch_gb,accelerator,eu-west-1,us-east-1
    g4dn.xlarge,t4,1,16,4,16,x86_64,g,125,,0.587,0.526/0.21

A cell is dollars per hour on demand, then, where known, a slash and those in the spot market; a question mark is a type
that is sold there for a price that is not known.  The price cells of a
machine stay text until they are used: a daemon needs few of them, and its memory counts.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources

from provisioners.catalogue.machine import Machine
from provisioners.support import numbers

_GIB = 2**30
_FACTS = 10

#: On demand and spot, in dollars per hour; None where it is not sold or not known.
Pair = tuple[float | None, float | None]


@dataclass(frozen=True, slots=True)
class Shipped:
    """The data of one cloud."""

    machines: Mapping[str, Machine]
    regions: frozenset[str]
    #: Where the data comes from, for people.
    sources: tuple[str, ...]
    #: Regions of which it is known what is not sold there; ``*`` for all that have prices.
    whole: frozenset[str]
    _days: Mapping[str, str]
    _columns: tuple[str, ...]
    _cells: Mapping[str, str]
    _parsed: dict[str, Mapping[str, Pair]] = field(default_factory=dict)

    def day(self, region: str) -> str:
        """Return the ISO day of that region's prices."""
        return self._days.get(region, "")

    def prices(self, machine_type: str) -> Mapping[str, Pair]:
        """Return region -> prices of that type, only for regions in which it is known to be available."""
        found = self._parsed.get(machine_type)
        if found is None:
            cells = self._cells.get(machine_type, "").split(",")
            found = {region: _pair(cell) for region, cell in zip(self._columns, cells, strict=False) if cell}
            self._parsed[machine_type] = found
        return found


def _pair(cell: str) -> Pair:
    if cell == "?":
        return (None, None)
    on_demand, _, spot = cell.partition("/")
    return (numbers.must(on_demand) if on_demand else None, numbers.must(spot) if spot else None)


@functools.cache
def read(cloud: str) -> Shipped:
    """Read the data for ``aws``, ``gcp`` or ``azure``.  Raises KeyError for any other name."""
    file = resources.files("provisioners.catalogue").joinpath(f"{cloud}.csv")
    if not cloud.isalpha() or not file.is_file():
        raise KeyError(cloud)
    return parse(file.read_text(encoding="utf-8"))


def parse(text: str) -> Shipped:
    """Parse the data in a text.  Raises ValueError where it does not have the form above."""
    lines = text.splitlines()
    sources: list[str] = []
    days: dict[str, str] = {}
    regions: set[str] = set()
    whole: set[str] = set()
    while lines and lines[0].startswith("#"):
        line = lines.pop(0)
        keyword, _, rest = line[1:].partition(" ")
        if keyword == "prices":
            names, day, words = rest.split(" ", 2)
            days.update(dict.fromkeys(names.split(","), day))
            sources.append(f"{words}, as of {day}")
        elif keyword == "regions":
            regions.update(rest.split())
        elif keyword == "whole":
            whole.update(rest.split())
        else:
            sources.append(line[1:].strip())
    columns = tuple(lines[0].split(",")[_FACTS:])
    regions.update(columns)
    if "*" in whole:
        whole = set(columns)
    machines: dict[str, Machine] = {}
    cells: dict[str, str] = {}
    for line in lines[1:]:
        name, gpu, gpus, gpu_gib, cpus, gib, arch, family, scratch, accelerator, prices = line.split(",", _FACTS)
        machines[name] = Machine(
            name=name,
            gpu=gpu,
            gpu_count=int(gpus),
            gpu_memory=int(float(gpu_gib) * _GIB),
            cpus=int(cpus),
            memory=int(float(gib) * _GIB),
            arch=arch,
            family=family,
            scratch=int(scratch) * 10**9,
            accelerator=accelerator,
        )
        cells[name] = prices
    return Shipped(machines, frozenset(regions), tuple(sources), frozenset(whole), days, columns, cells)
