"""The simulated cloud itself: its machines, what is left of its capacity, and what it remembers of keys.

A machine's whole future is written when it is made: when it runs, when it is taken back or stops or ends itself.  What
it is *now* is a function of that and of the time, so nothing has to happen for time to pass, and a cloud that was
forgotten for an hour is as right as one that was watched.  Only what comes from outside changes a future: a delete,
and the word that its processes ended.  One cloud may outlive many providers: hand it to the next.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from provisioners import base
from provisioners.fake import journal

_NEVER = math.inf
#: The journal is rewritten at opening when it holds so many times more changes than are needed, and at least as many.
_WASTE, _WORTH = 2, 1000


@dataclass(slots=True)
class Machine:
    """One simulated instance, with its future."""

    ref: str
    key: str
    name: str
    offer: base.OfferKey
    scope: base.Scope
    region: str
    machine_type: str
    gpus: int
    tags: dict[str, str]
    created_at: float
    #: When it shows in listings.
    visible_at: float
    #: When it runs.
    boots_at: float
    #: When it stops without ending; never for most.
    stops_at: float
    #: When it begins to end, and is gone, and why.
    ending_at: float
    gone_at: float
    kind: base.EndKind
    detail: str
    #: The end it would have had by itself; false once something else ended it.
    fated: bool = True
    #: What it was asked to boot with; never written down, because it holds a token.
    user_data: str = ""
    _view: base.InstanceView | None = field(default=None, repr=False)
    _counted: bool = field(default=True, repr=False)

    @property
    def breaks(self) -> bool:
        """It was accepted, and is to break by itself."""
        return self.fated and self.kind is base.EndKind.FAILED

    def status(self, now: float) -> base.InstanceStatus:
        """Return its status at that time."""
        if now >= self.gone_at:
            return base.InstanceStatus.GONE
        if now >= self.ending_at:
            return base.InstanceStatus.ENDING
        if now >= self.stops_at:
            return base.InstanceStatus.STOPPED
        return base.InstanceStatus.RUNNING if now >= self.boots_at else base.InstanceStatus.PENDING

    def view(self, now: float, status: base.InstanceStatus | None = None) -> base.InstanceView:
        """Return its view at that time; ``status`` overrides the status that follows from its times."""
        status = status or self.status(now)
        view = self._view
        if view is None or view.status is not status:
            view = self._view = base.InstanceView(
                ref=self.ref,
                name=self.tags.get(base.TAG_INSTANCE, self.name),
                scope=self.scope,
                status=status,
                tags=self.tags,
                created_at=self.created_at,
                offer=self.offer,
            )
        return view

    def entry(self) -> journal.Entry:
        """Return it as a change in the journal."""
        facts = {name: getattr(self, name) for name in _WRITTEN}
        for name in _TIMES:
            # JSON knows no infinity.
            facts[name] = None if facts[name] == _NEVER else facts[name]
        return ["create", facts]

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Machine:
        """Return the machine that the journal describes."""
        for name in _TIMES:
            facts[name] = _NEVER if facts[name] is None else facts[name]
        facts["offer"], facts["scope"] = base.OfferKey(facts["offer"]), base.Scope(facts["scope"])
        facts["kind"] = base.EndKind(facts["kind"])
        return cls(**facts)


_WRITTEN = tuple(name for name in Machine.__dataclass_fields__ if not name.startswith("_") and name != "user_data")
_TIMES = ("stops_at", "ending_at", "gone_at")


class FakeCloud:
    """All the machines of one simulated account."""

    def __init__(self, store: journal.Journal | None = None) -> None:
        self._store = store
        #: Called with every call that was answered, as it goes to the log.
        self.observe: Callable[[Mapping[str, Any]], None] | None = None
        self._remember = 3600.0
        self._replay_window = 86400.0
        #: Tokens left for creates, and when that was so.
        self._bucket: tuple[float, float] | None = None
        self._forget_all()

    def _forget_all(self) -> None:
        #: Every machine that the cloud still knows.
        self.machines: dict[str, Machine] = {}
        #: Those that it lists: all but the ones that have been gone for long.
        self.listed: dict[str, Machine] = {}
        self._keys: dict[str, str] = {}
        #: Counts per fault: matching calls seen, and fired.
        self.counts: dict[str, tuple[int, int]] = {}
        self._by_type: Counter[tuple[str, str]] = Counter()
        self._by_region: Counter[str] = Counter()
        self._gpus: Counter[str] = Counter()
        self._serial = itertools.count(1)
        self._due: list[tuple[float, int, str]] = []
        self._order = itertools.count()

    def configure(self, *, remember: float, replay_window: float) -> None:
        """Set the seconds for which machines that are gone, and keys, are remembered."""
        self._remember, self._replay_window = remember, replay_window

    def open(self, now: float) -> bool:
        """Read the journal, drop what it holds in vain; False when another process is at it, try again soon."""
        if self._store is None:
            return True
        if not self.acquire(now):
            return False
        try:
            needed = len(self.machines) + len(self.counts)
            if self._store.length > max(_WORTH, _WASTE * needed):
                counts: list[journal.Entry] = [["fault", ident, *pair] for ident, pair in self.counts.items()]
                self._store.rewrite([*(one.entry() for one in self.machines.values()), *counts])
        finally:
            self.release()
        return True

    def close(self) -> None:
        """Let go of files.  The machines live on."""
        if self._store is not None:
            self._store.close()

    def acquire(self, now: float) -> bool:
        """Be alone with the cloud, as it is at ``now``; False when another process is at it, try again soon."""
        if self._store is not None:
            if not self._store.acquire():
                return False
            try:
                anew, entries = self._store.news()
                if anew:
                    self._forget_all()
                for entry in entries:
                    self._apply(entry)
            except BaseException:
                self._store.release()
                raise
        self._advance(now)
        return True

    def release(self) -> None:
        """Let the next one in."""
        if self._store is not None:
            self._store.release()

    def _write(self, *entries: journal.Entry) -> None:
        if self._store is not None:
            self._store.append(entries)

    def _apply(self, entry: journal.Entry) -> None:
        what = entry[0]
        if what == "create":
            self._insert(Machine.from_facts(entry[1]))
        elif what == "end":
            self._end(entry[1], entry[2], entry[3], base.EndKind(entry[4]), entry[5])
        elif what == "fault":
            self.counts[entry[1]] = (entry[2], entry[3])
        else:
            raise ValueError(f'the journal holds an unknown change "{what}"')

    def _insert(self, machine: Machine) -> None:
        number = int(machine.ref.removeprefix("fake-"), 16)
        self._serial = itertools.count(number + 1)
        self.machines[machine.ref] = self.listed[machine.ref] = machine
        self._keys[machine.key] = machine.ref
        self._by_type[machine.region, machine.machine_type] += 1
        self._by_region[machine.region] += 1
        self._gpus[machine.region] += machine.gpus
        self._schedule(machine.gone_at, machine.ref)

    def _schedule(self, at: float, ref: str) -> None:
        if at < _NEVER:
            heapq.heappush(self._due, (at, next(self._order), ref))

    def _advance(self, now: float) -> None:
        """Count out what is gone by now, and forget what has been for long."""
        while self._due and self._due[0][0] <= now:
            _, _, ref = heapq.heappop(self._due)
            machine = self.machines.get(ref)
            if machine is None or machine.gone_at > now:
                continue
            unlist_at = machine.gone_at + self._remember
            forget_at = max(unlist_at, machine.created_at + self._replay_window)
            if machine._counted:
                machine._counted = False
                self._by_type[machine.region, machine.machine_type] -= 1
                self._by_region[machine.region] -= 1
                self._gpus[machine.region] -= machine.gpus
                self._schedule(unlist_at, ref)
                self._schedule(forget_at, ref)
            if now >= unlist_at:
                self.listed.pop(ref, None)
            if now >= forget_at:
                del self.machines[ref]
                if self._keys.get(machine.key) == ref:
                    del self._keys[machine.key]

    def _end(self, ref: str, ending_at: float, gone_at: float, kind: base.EndKind, detail: str) -> None:
        machine = self.machines.get(ref)
        if machine is None:
            return
        machine.ending_at, machine.gone_at, machine.kind, machine.detail = ending_at, gone_at, kind, detail
        machine.fated = False
        self._schedule(gone_at, ref)

    def next_ref(self) -> str:
        """A handle that no machine had before."""
        return f"fake-{next(self._serial):08x}"

    def add(self, machine: Machine) -> None:
        """Make it.  Written down before it counts."""
        self._write(machine.entry())
        self._insert(machine)

    def end(self, ref: str, *, at: float, gone_at: float, kind: base.EndKind, detail: str = "") -> bool:
        """Change its future to an end now; False when it has begun to end already, or is not there."""
        machine = self.machines.get(ref)
        if machine is None or at >= machine.ending_at:
            return False
        self._write(["end", ref, at, gone_at, kind.value, detail])
        self._end(ref, at, gone_at, kind, detail)
        return True

    def power_off(self, ref: str, now: float, *, detail: str = "shut itself down") -> bool:
        """Switch a machine off, as a simulated agent does at its end."""
        return self.end(ref, at=now, gone_at=now, kind=base.EndKind.SELF_ENDED, detail=detail)

    def preempt(self, ref: str, now: float) -> bool:
        """Preempt a machine, as the simulated provider does."""
        return self.end(ref, at=now, gone_at=now, kind=base.EndKind.PREEMPTED, detail="taken back")

    def count(self, ident: str, pair: tuple[int, int]) -> None:
        """Remember how often a fault was met and fired."""
        self._write(["fault", ident, *pair])
        self.counts[ident] = pair

    def by_key(self, key: str, now: float) -> Machine | None:
        """The machine of that key, within the time that keys are remembered."""
        ref = self._keys.get(key)
        machine = None if ref is None else self.machines.get(ref)
        if machine is None or now - machine.created_at > self._replay_window:
            return None
        return machine

    def known(self, ref: str, now: float) -> Machine | None:
        """The machine under that handle, as long as the cloud speaks of it."""
        machine = self.listed.get(ref)
        return None if machine is None or now >= machine.gone_at + self._remember else machine

    def visible(self, now: float) -> Iterator[Machine]:
        """Return the machines that a listing shows."""
        return (one for one in self.listed.values() if one.visible_at <= now)

    def used(self, region: str, machine_type: str = "") -> int:
        """Machines that take up capacity there, of one type or of all."""
        return self._by_type[region, machine_type] if machine_type else self._by_region[region]

    def gpus_used(self, region: str) -> int:
        """GPUs that count against the quota there."""
        return self._gpus[region]

    def take_token(self, now: float, *, rate: float, burst: int) -> float:
        """Take one token for a create; 0 when there was one, else the seconds until there is."""
        level, since = self._bucket or (float(burst), now)
        level = min(float(burst), level + max(0.0, now - since) * rate)
        granted = level >= 1.0
        self._bucket = (level - 1.0 if granted else level, now)
        return 0.0 if granted else (1.0 - level) / rate
