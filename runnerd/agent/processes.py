"""Processes of this machine, identified without ambiguity, and the process tree of a runner.

A pid alone is ambiguous: a process here is a pid and its start time, and signals go through a pidfd that was opened
before the start time was compared.  A runner's tree is found by properties that its members cannot easily shed: a mark
in their environment, their session, and their ancestry; the agent adopts orphans, so that ancestry is not lost by
forking twice.  Processes in containers belong to the container engine and are not found.  Linux only.
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
    """One process, unique within a boot."""

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
        """True for a process that only waits to be reaped by its parent."""
        return self.state in "ZXx"


def boot_id() -> str:
    """Return the kernel's id of this boot (random(4)); empty where it has none."""
    try:
        return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    try:
        ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    except (OSError, AttributeError):
        # Mark and session still find all but the processes that hide on purpose.
        return


def stat(pid: int) -> Stat | None:
    """Return the kernel's facts about the process; None when there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            line = file.read()
    except OSError:
        return None
    # The name stands in parentheses and may hold spaces and parentheses itself.
    fields = line[line.rindex(b")") + 2 :].split()
    return Stat(Process(pid, int(fields[19])), fields[0].decode("ascii"), int(fields[1]), int(fields[3]))


def identify(pid: int) -> Process | None:
    """Return the process that has that pid now; None when there is none or it is dead."""
    facts = stat(pid)
    return None if facts is None or facts.dead else facts.process


def alive(process: Process) -> bool:
    """Return True while exactly that process lives."""
    return identify(process.pid) == process


def send(process: Process, number: int) -> bool:
    """Signal exactly that process; return False when it is gone."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    except OSError:
        # A kernel before 5.3: compared and signalled in two steps, the best it offers.
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
    """Return all processes by pid, dead ones included."""
    processes = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            facts = stat(int(name))
            if facts is not None:
                processes[facts.process.pid] = facts
    return processes


def members(mark: str, *, session: int = 0, adopted: bool = False) -> list[Process]:
    """Return the living processes of a runner's tree; never this process or an ancestor of it.

    ``session`` is the runner's session while its leader is not yet reaped, so that the number is still its own.
    With ``adopted`` every child of this process counts: the caller has no other children then.
    """
    everything = table()
    ours = set()
    needle = os.fsencode(f"{MARK}={mark}")
    for pid, facts in everything.items():
        if (session and facts.session == session) or (adopted and facts.parent == os.getpid()) or _marked(pid, needle):
            ours.add(pid)
    children: dict[int, list[int]] = {}
    for pid, facts in everything.items():
        children.setdefault(facts.parent, []).append(pid)
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
        # Gone meanwhile, a kernel thread, or of another user.
        return False


def collect_orphans(spare: typing.Collection[int] = ()) -> None:
    """Reap adopted children that have ended, except those in ``spare``."""
    for pid, facts in table().items():
        if facts.dead and facts.parent == os.getpid() and pid not in spare:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue


def clear(find: typing.Callable[[], list[Process]], *, grace: float, patience: float) -> list[Process]:
    """End the processes that ``find`` returns, with SIGKILL after ``grace``; return the rest after ``patience``."""
    began = time.monotonic()
    asked: set[Process] = set()
    pause = 0.01
    while True:
        left = find()
        waited = time.monotonic() - began
        if not left or waited >= patience:
            return left
        for process in left:
            if waited >= grace:
                _try_send(process, signal.SIGKILL)
            elif process not in asked:
                asked.add(process)
                _try_send(process, signal.SIGTERM)
        time.sleep(pause)
        pause = min(0.2, pause * 1.5)


def _try_send(process: Process, number: int) -> None:
    try:
        send(process, number)
    except PermissionError:
        # Of another user, by setuid; it ends with the machine.
        return
