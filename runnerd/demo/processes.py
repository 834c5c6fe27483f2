"""Processes of the demo: started in groups of their own, and always ended by their ids.

Processes left by instances are found by a mark in their environment, never by the name of a program.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from provisioners.processes import identity

#: Every process that the demo starts carries this variable with the demo's directory.
MARK = "RUNNERD_DEMO"
#: Seconds between SIGTERM and SIGKILL.
_GRACE_S = 8.0


class Child:
    """One process with its log."""

    def __init__(
        self, name: str, command: Sequence[str], *, directory: Path, environment: Mapping[str, str], out: Path | None
    ) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        with open(self.log, "ab") as log:
            #: Not reaped before `end`, so its pid stays its own.
            self._process = subprocess.Popen(  # noqa: S603  # our own interpreter
                list(command),
                cwd=directory,
                env={**environment, MARK: str(directory)},
                stdin=subprocess.DEVNULL,
                stdout=log if out is None else open(out, "wb"),  # noqa: SIM115  # the child's from here on
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """Send SIGKILL to this process only."""
        self._process.kill()
        self._process.wait(timeout=_GRACE_S)

    def end(self) -> None:
        """Send SIGTERM, and after the grace period SIGKILL to its whole group."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=_GRACE_S)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait(timeout=_GRACE_S)

    def tail(self, lines: int = 15) -> str:
        """Return the end of its log."""
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(line[:300] for line in text.splitlines()[-lines:])


def _marks(directory: Path, *marks: str) -> Iterator[tuple[identity.Identity, str]]:
    """Yield processes with a mark for that directory or one below it, and its value; never this process."""
    wanted = [os.fsencode(f"{mark}=") for mark in marks]
    inside = os.fsencode(directory)
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        # Identified first, so that a pid that is reused meanwhile causes no mistake.
        who = identity.identify(int(name))
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                variables = file.read().split(b"\0")
        except OSError:
            continue
        for variable in variables if who is not None else ():
            mark, _, value = variable.partition(b"=")
            if mark + b"=" in wanted and (value == inside or value.startswith(inside + b"/")):
                assert who is not None
                yield who, os.fsdecode(value)
                break


def instances(directory: Path) -> set[str]:
    """Return the names of the demo's instances that have living processes."""
    return {Path(value).name for _, value in _marks(directory, identity.MARK)}


def end_leftovers(directory: Path) -> int:
    """Kill all processes of a demo in that directory; return the number that were left."""
    count = 0
    for _ in range(50):
        left = [who for who, _ in _marks(directory, identity.MARK, MARK)]
        if not left:
            return count
        count = max(count, len(left))
        for process in left:
            identity.send(process, signal.SIGKILL)
        time.sleep(0.05)
    return count


def free_ports(count: int) -> list[int]:
    """Return unused ports of the loopback address."""
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(count)]
    try:
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [int(free.getsockname()[1]) for free in sockets]
    finally:
        for free in sockets:
            free.close()
