"""The simulated clouds' own records: every create and delete call that they received.

The demo's result is checked against these logs and not against the daemon's state.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Machine:
    """One instance in its cloud's record.  Times are unix seconds."""

    ref: str
    #: The attempt that created it.
    key: str
    name: str
    cloud: str
    #: Dollars per hour.
    price: float
    created_at: float
    #: When it was deleted, or seen to have ended by itself; 0 for neither.
    ended_at: float = 0.0

    def dollars(self, now: float) -> float:
        """Return its cost in simulated dollars until its end, or until now."""
        return max(0.0, (self.ended_at or now) - self.created_at) / 3600.0 * self.price


@dataclass(frozen=True, slots=True)
class Refusal:
    """A create call that was not carried out."""

    name: str
    cloud: str
    code: str
    at: float


@dataclass(frozen=True, slots=True)
class Record:
    """All calls of all clouds."""

    #: By cloud and the cloud's own handle, in the order of their creation.
    machines: Mapping[tuple[str, str], Machine]
    refusals: tuple[Refusal, ...]
    #: Names of instances whose create call was carried out and never answered.
    unanswered: tuple[str, ...]

    @property
    def twice(self) -> int:
        """The number of instances beyond the first of an attempt or a name."""
        attempts = {machine.key for machine in self.machines.values()}
        names = {machine.name for machine in self.machines.values()}
        return len(self.machines) - min(len(attempts), len(names))

    def ended(self, seen: Mapping[str, float]) -> Record:
        """Return the record with the ends, by name, of instances that ended by themselves."""
        machines = {
            key: replace(machine, ended_at=machine.ended_at or seen.get(machine.name, 0.0))
            for key, machine in self.machines.items()
        }
        return replace(self, machines=machines)

    def dollars(self, now: float) -> float:
        return sum(machine.dollars(now) for machine in self.machines.values())


def read(logs: Mapping[str, Path], prices: Mapping[str, float]) -> Record:
    """Read the logs of the clouds; a log that does not exist yet is empty."""
    lines: list[dict[str, Any]] = []
    for cloud, path in logs.items():
        lines += [{**line, "cloud": cloud} for line in _lines(path)]
    return record(sorted(lines, key=lambda line: float(line["at"])), prices)


def _lines(path: Path) -> Iterable[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    # The last line may be incomplete.
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def record(lines: Iterable[Mapping[str, Any]], prices: Mapping[str, float]) -> Record:
    """Return the record of these calls, which are in the order of their time."""
    machines: dict[tuple[str, str], Machine] = {}
    refusals: list[Refusal] = []
    unanswered: list[str] = []
    for line in lines:
        cloud, at, outcome = str(line["cloud"]), float(line["at"]), str(line["outcome"])
        if line["call"] == "create":
            if outcome == "created":
                machine = Machine(str(line["ref"]), str(line["key"]), str(line["name"]), cloud, prices[cloud], at)
                machines[cloud, machine.ref] = machine
                if line.get("lost"):
                    unanswered.append(machine.name)
            elif outcome != "existing":
                refusals.append(Refusal(str(line["name"]), cloud, outcome, at))
        elif line["call"] == "delete" and outcome == "ok":
            deleted = machines.get((cloud, str(line["ref"])))
            if deleted is not None and not deleted.ended_at:
                machines[cloud, deleted.ref] = replace(deleted, ended_at=at)
    return Record(machines, tuple(refusals), tuple(unanswered))
