"""Small durable facts with a meaning: drained pools, jobs to run again, the blocks of providers.

The state has them as pairs of text.  Their names and the form of their values are data: rows of every version are
read, so neither changes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from runnerd.model import Event, JobKey
from runnerd.runtime import ledger

_DRAINED, _RERUN, _PROVIDER = "drained/", "retry/", "provider/"


@dataclass(frozen=True, slots=True)
class Rerun:
    """A job that a preemption interrupted and that is to run again."""

    job: JobKey
    pool: str
    interrupted_at: float
    #: How often it was run again already.
    count: int = 0
    #: When the forge accepted the last re-run; 0 while it has not.
    taken_at: float = 0.0


class DurableSettings:
    """The settings rows, read and written by what they mean."""

    def __init__(self, rows: ledger.Ledger) -> None:
        self._rows = rows
        self._reruns: dict[JobKey, Rerun] = {}
        for name, value in rows.settings.items():
            if name.startswith(_RERUN) and value:
                job = JobKey(name.removeprefix(_RERUN))
                self._reruns[job] = _read_rerun(job, value)

    # -- drained pools -----------------------------------------------------------------------------------------

    def drained(self, pool: str) -> bool:
        """Return True while an operator drains the pool."""
        return self._rows.settings.get(_DRAINED + pool) == "yes"

    def ever_drained(self, pool: str) -> bool:
        """Return True when an operator has drained the pool at some time, whether it is configured or not."""
        return _DRAINED + pool in self._rows.settings

    async def write_drained(self, pool: str, drained: bool, *events: Event) -> None:
        """Drain a pool, or end that."""
        await self._rows.write_setting(_DRAINED + pool, "yes" if drained else "no", *events)

    # -- re-runs -----------------------------------------------------------------------------------------------

    @property
    def reruns(self) -> Mapping[JobKey, Rerun]:
        """Return the jobs that are to run again or were lately."""
        return self._reruns

    async def write_rerun(self, rerun: Rerun, *events: Event) -> None:
        """Keep a job that is to run again, or how far that has come."""
        value = {
            "pool": rerun.pool,
            "at": rerun.interrupted_at,
            "count": rerun.count,
            "taken_at": rerun.taken_at,
        }
        await self._rows.write_setting(_RERUN + rerun.job, json.dumps(value, sort_keys=True), *events)
        self._reruns[rerun.job] = rerun

    async def drop_rerun(self, job: JobKey, *events: Event) -> None:
        """Forget that a job is to run again."""
        await self._rows.write_setting(_RERUN + job, "", *events)
        self._reruns.pop(job, None)

    # -- providers ---------------------------------------------------------------------------------------------

    def provider(self, name: str) -> str | None:
        """Return the block of a provider's configuration as JSON, kept to end its instances once it left the file."""
        return self._rows.settings.get(_PROVIDER + name)

    async def write_provider(self, name: str, block: str) -> None:
        """Keep the block of a provider's configuration."""
        if self.provider(name) != block:
            await self._rows.write_setting(_PROVIDER + name, block)


def _read_rerun(job: JobKey, value: str) -> Rerun:
    raw = json.loads(value)
    return Rerun(job, raw["pool"], raw["at"], raw.get("count", 0), raw.get("taken_at", 0.0))
