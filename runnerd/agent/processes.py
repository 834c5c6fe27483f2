"""Processes of this machine, told apart for certain, and everything that a runner has started.

A pid alone names nothing: a process here is a pid and its start time, and signals go through a pidfd that was opened
before the start time was compared.  A runner's tree is found by what its members cannot easily shed: a mark in their
environment, their session, and their descent; the agent adopts orphans, so that descent is not lost by forking twice.
What runs in containers belongs to the container engine, and is not found here.  Linux only.
"""

from __future__ import annotations

import ctypes
import os
import pathlib
import signal
import time
import typing
from dataclasses import dataclass

#: The variable that carries the mark.
MARK = "RUNNERD_AGENT_RUN"
_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Process:
    """One process, never confused with another of the same boot."""

    pid: int
    #: Clock ticks from boot to its start: field 22 of /proc/PID/stat (proc(5)).
    started: int


@dataclass(frozen=True)
class Stat:
    """The part of /proc/PID/stat that matters here."""

    process: Process
    state: str
    parent: int
    session: int

    @property
    def dead(self) -> bool:
        """It only waits to be collected."""
        return self.state in "ZXx"


def boot_id() -> str:
    """The kernel's name of this boot (random(4)); empty where it tells none."""
    try:
        return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    try:
        ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    except (OSError, AttributeError):
        # Mark and session still find all but those that hide on purpose.
        return


def stat(pid: int) -> Stat | None:
    """What the kernel says of the process; None when there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            line = file.read()
    except OSError:
        return None
    # The name stands in parentheses and may hold spaces and parentheses itself.
    fields = line[line.rindex(b")") + 2 :].split()
    return Stat(Process(pid, int(fields[19])), fields[0].decode("ascii"), int(fields[1]), int(fields[3]))


def identify(pid: int) -> Process | None:
    """Who has that pid now; None for nobody and for the dead."""
    found = stat(pid)
    return None if found is None or found.dead else found.process


def alive(process: Process) -> bool:
    """True while exactly that process lives."""
    return identify(process.pid) == process


def send(process: Process, number: int) -> bool:
    """Signal exactly that process; False when it is gone."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    except OSError:
        # A kernel before 5.3: compared and signalled in two steps, which is as good as it has.
        return _send_plain(process, number)
    try:
        if not alive(process):
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def _send_plain(process: Process, number: int) -> bool:
    if not alive(process):
        return False
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def table() -> dict[int, Stat]:
    """Every process, the dead ones included."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            one = stat(int(name))
            if one is not None:
                found[one.process.pid] = one
    return found


def members(mark: str, *, session: int = 0, adopted: bool = False) -> list[Process]:
    """The living processes of a runner's tree; never this process or one above it.

    ``session`` is the runner's session while its leader is not yet collected, so that the number is still its own.
    With ``adopted`` every child of this process counts: the caller has no other children then.
    """
    everything = table()
    ours = set()
    needle = os.fsencode(f"{MARK}={mark}")
    for pid, one in everything.items():
        if (session and one.session == session) or (adopted and one.parent == os.getpid()) or _marked(pid, needle):
            ours.add(pid)
    children: dict[int, list[int]] = {}
    for pid, one in everything.items():
        children.setdefault(one.parent, []).append(pid)
    frontier = list(ours)
    while frontier:
        for child in children.get(frontier.pop(), ()):
            if child not in ours:
                ours.add(child)
                frontier.append(child)
    above = os.getpid()
    while above in everything:
        ours.discard(above)
        above = everything[above].parent
    return [everything[pid].process for pid in sorted(ours) if not everything[pid].dead]


def _marked(pid: int, needle: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return needle in file.read().split(b"\0")
    except OSError:
        # Gone meanwhile, a kernel thread, or another user's.
        return False


def collect_orphans(spare: typing.Collection[int] = ()) -> None:
    """Collect adopted children that have ended, all but those in ``spare``."""
    for pid, one in table().items():
        if one.dead and one.parent == os.getpid() and pid not in spare:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue


def clear(look: typing.Callable[[], list[Process]], *, grace: float, patience: float) -> list[Process]:
    """End all that ``look`` finds, asked first and forced after ``grace`` seconds; what is left after ``patience``."""
    began = time.monotonic()
    asked: set[Process] = set()
    pause = 0.01
    while True:
        left = look()
        waited = time.monotonic() - began
        if not left or waited >= patience:
            return left
        for one in left:
            if waited >= grace:
                _try(one, signal.SIGKILL)
            elif one not in asked:
                asked.add(one)
                _try(one, signal.SIGTERM)
        time.sleep(pause)
        pause = min(0.2, pause * 1.5)


def _try(process: Process, number: int) -> None:
    try:
        send(process, number)
    except PermissionError:
        # Another user's, by setuid; it is the machine's end that ends it.
        return
