"""Runs a job again that a provider's preemption interrupted: proven, capped, queued durably, off unless configured.

A re-run may publish twice, so nothing is guessed.  The proof is the provider's own word for why the instance ended;
an agent's word or an absence is none.  Only a job that the forge calls failed is run again, at most so often as the
forge's ``retry.preempted`` says.  While one is outstanding, its pool buys and registers on demand only, because a
second preemption would be our own doing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass

from runnerd import errors, model, store
from runnerd.forges import base as forges
from runnerd.model import Event, Instance, InstanceState, JobKey, JobState, Reason
from runnerd.runtime import shared

log = logging.getLogger(__name__)

#: Seconds between tries.
EVERY = 20.0
#: Seconds after which an interrupted job is left to its people.
GIVE_UP = 24 * 3600.0
#: Seconds for which a pool stays on demand after a re-run that was not seen to start.
OUTSTANDING = 3600.0
_PREFIX = "retry/"


@dataclass(frozen=True, slots=True)
class Wish:
    """A job that is to be run again, as it stands in the state."""

    job: JobKey
    pool: str
    #: When it was interrupted.
    at: float
    #: How often it was run again already.
    count: int
    #: When the forge took the last re-run; 0 while it has not.
    taken_at: float = 0.0

    @property
    def setting(self) -> store.Setting:
        value = {"pool": self.pool, "at": self.at, "count": self.count, "taken_at": self.taken_at}
        return store.Setting(_PREFIX + self.job, json.dumps(value, sort_keys=True))


class Retrier:
    """The durable queue of re-runs."""

    def __init__(self, runtime: shared.Runtime) -> None:
        self._runtime = runtime
        self._wishes: dict[JobKey, Wish] = {}
        #: Called with the forge's name and what became of the wish there.
        self.on_outcome: list[Callable[[str, forges.RetryOutcome], None]] = []
        for name, value in runtime.settings.items():
            if name.startswith(_PREFIX) and value:
                key = JobKey(name.removeprefix(_PREFIX))
                self._wishes[key] = Wish(job=key, **json.loads(value))
        runtime.rows.on_step.append(self._stepped)
        runtime.rows.on_proof.append(self._stepped)

    def outstanding(self, pool: str) -> bool:
        """True while an interrupted job of the pool is on its way to run again."""
        return any(self._open(wish) for wish in self._wishes.values() if wish.pool == pool)

    def _open(self, wish: Wish) -> bool:
        now = self._runtime.clock.now()
        if not wish.taken_at:
            return now - wish.at < GIVE_UP and self._allowed(wish)
        job = self._runtime.rows.jobs.get(wish.job)
        started = job is not None and job.started_at > wish.taken_at
        return not started and now - wish.taken_at < OUTSTANDING

    def _allowed(self, wish: Wish) -> bool:
        settings = self._runtime.config.forges.get(wish.job.split("|", 1)[0])
        return settings is not None and wish.count < settings.retry.preempted

    def _stepped(self, old: Instance, new: Instance) -> None:
        if new.state is InstanceState.GONE and new.reason is Reason.PREEMPTED:
            self.proven(new)

    def proven(self, new: Instance) -> None:
        """A provider says that it took the instance back."""
        if new.job is None or new.busy_at <= 0:
            return
        before = self._wishes.get(new.job)
        wish = Wish(new.job, new.pool, self._runtime.clock.now(), before.count if before else 0)
        if self._allowed(wish):
            self._wishes[new.job] = wish
            self._runtime.background.spawn(f"retry wish {new.job}", self._save(wish, "wanted", new.id))

    async def _save(self, wish: Wish, what: str, detail: str) -> None:
        self._wishes[wish.job] = wish
        self._runtime.settings[wish.setting.name] = wish.setting.value
        event = Event(self._runtime.clock.now(), "job", wish.job, f"retry-{what}", "preempted", detail)
        await self._runtime.store.write(wish.setting, event)

    async def run(self) -> None:
        """Try what is wanted until cancelled."""
        while True:
            await self._runtime.clock.sleep(EVERY)
            for wish in list(self._wishes.values()):
                if not wish.taken_at and self._open(wish):
                    await self._try(wish)

    async def _try(self, wish: Wish) -> None:
        job = self._runtime.rows.jobs.get(wish.job)
        if job is None or job.state is not JobState.COMPLETED:
            return  # the forge notices the loss of its runner some minutes late
        if job.finished_at < wish.at - GIVE_UP or job.conclusion == "success":
            await self._drop(wish, f"it ended with {job.conclusion}")
            return
        forge = self._runtime.forges.get(job.queue.forge)
        if forge is None:
            return
        try:
            outcome = await forge.retry(job)
        except (errors.ForgeError, errors.TransportError) as error:
            log.info("%s: not run again yet: %s", wish.job, error)
            return
        for listener in self.on_outcome:
            listener(job.queue.forge, outcome)
        if outcome is forges.RetryOutcome.RETRIED:
            taken = Wish(wish.job, wish.pool, wish.at, wish.count + 1, self._runtime.clock.now())
            await self._save(taken, "taken", f"run again for the {wish.count + 1}. time")
            self._runtime.wake()
        elif outcome is forges.RetryOutcome.REFUSED:
            self._runtime.alarms.ring("job", wish.job, "retry-refused", "the forge does not run it again")
            await self._drop(wish, "the forge refused")

    async def _drop(self, wish: Wish, why: str) -> None:
        del self._wishes[wish.job]
        name = wish.setting.name
        self._runtime.settings[name] = ""
        event = Event(self._runtime.clock.now(), "job", wish.job, "retry-dropped", "", why)
        await self._runtime.store.write(store.Setting(name, ""), event)


def interrupted(row: model.Instance) -> bool:
    """True when an instance's end should be asked of its provider: it was bought to be taken back, and had a job."""
    return row.market == "spot" and row.busy_at > 0
