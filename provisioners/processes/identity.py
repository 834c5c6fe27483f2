"""Processes of this host, identified for certain.

A pid alone names nothing: it is reused within minutes.  Here a process is a pid, its start time and the boot it was
started in, and signals go through a pidfd that was opened before the start time was compared.  Members of an
instance are found by what they cannot easily shed: the mark in their environment, and their descent.
Linux only.  Standard library only, because the supervisor imports it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

#: Every process of an instance carries this variable with the instance's directory.
MARK = "RUNNERD_INSTANCE_DIRECTORY"


def boot_id() -> str:
    """Return the kernel's name of this boot (random(4)); a process of another boot is gone for certain."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


@dataclass(frozen=True, slots=True)
class Identity:
    """One process, never confused with another."""

    pid: int
    #: Clock ticks from boot to its start: field 22 of /proc/PID/stat (proc(5)).
    started: int
    boot: str

    def as_dict(self) -> dict[str, Any]:
        return {"pid": self.pid, "started": self.started, "boot": self.boot}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Identity:
        return cls(pid=int(value["pid"]), started=int(value["started"]), boot=str(value["boot"]))


@dataclass(frozen=True, slots=True)
class Stat:
    """The part of /proc/PID/stat that matters here."""

    pid: int
    state: str
    parent: int
    group: int
    session: int
    started: int


def stat(pid: int) -> Stat | None:
    """Return the process's stat line, None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            line = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name stands in parentheses and may hold spaces and parentheses itself.
    fields = line[line.rindex(b")") + 2 :].split()
    return Stat(
        pid=pid,
        state=fields[0].decode("ascii"),
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        started=int(fields[19]),
    )


def identify(pid: int) -> Identity | None:
    """Return the process that has that pid now; None for none, and for a zombie."""
    found = stat(pid)
    if found is None or found.state in "ZXx":
        return None
    return Identity(pid=pid, started=found.started, boot=boot_id())


def alive(identity: Identity) -> bool:
    """Return True while exactly that process lives."""
    return identify(identity.pid) == identity


def send(identity: Identity, number: int) -> bool:
    """Send a signal to exactly that process; False when it is gone."""
    try:
        handle = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return False
    try:
        if not alive(identity):
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def _stats() -> dict[int, Stat]:
    found: dict[int, Stat] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            one = stat(int(name))
            if one is not None and one.state not in "ZXx":
                found[one.pid] = one
    return found


def _marked(pid: int, mark: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return mark in file.read().split(b"\0")
    except OSError:
        # Gone meanwhile, a kernel thread, or another user's process: not part of the instance.
        return False


def members(directory: str, roots: Iterable[Identity] = ()) -> list[Identity]:
    """Return every living process of the instance in that directory.

    These are the marked ones, and the descendants of them and of ``roots``.

    ``roots`` themselves are included while they live.
    """
    boot = boot_id()
    everything = _stats()
    mark = os.fsencode(f"{MARK}={directory}")
    ours = {
        root.pid
        for root in roots
        if root.pid in everything and everything[root.pid].started == root.started and root.boot == boot
    }
    ours.update(pid for pid in everything if pid not in ours and _marked(pid, mark))
    children: dict[int, list[int]] = {}
    for one in everything.values():
        children.setdefault(one.parent, []).append(one.pid)
    frontier = list(ours)
    while frontier:
        for child in children.get(frontier.pop(), ()):
            if child not in ours:
                ours.add(child)
                frontier.append(child)
    ours.discard(os.getpid())
    return [Identity(pid=pid, started=everything[pid].started, boot=boot) for pid in sorted(ours)]
