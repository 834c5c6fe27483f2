"""The small process that runs one local instance, from its boot to its end, whether or not the daemon lives.

It takes the start lock, leaves its identity and only then starts the boot script, so that however often it is
launched, the script starts at most once.  It ends the instance at its deadline (counted on the boot-time clock, which
no one can set), on SIGTERM, or when the script ends; it collects every descendant first and itself goes last.
It does not use the network.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from provisioners.processes import identity, records

#: prctl(2)
_SET_DEATH_SIGNAL = 1
_SET_SUBREAPER = 36
#: What it waits for; blocked, and taken one by one with sigtimedwait.
_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD})
#: Bytes beyond which the console is cut; the part before is kept once.
CONSOLE_LIMIT_BYTES = 8 * 2**20
#: Seconds between checks of the console's length.
_CHECK_S = 20.0
#: Exit statuses of the launch.
STARTED, REFUSED = 0, 3


def uptime() -> float:
    """Seconds since the host's boot, suspended ones included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


class Supervisor:
    """One instance's life."""

    def __init__(self, directory: Path, record: dict[str, Any]) -> None:
        self._directory = directory
        begun = float(record["uptime"])
        self._starts_at = begun + float(record["starts_after"])
        self._ends_at = begun + float(record["ends_after"])
        self._ends_cause = records.Cause(record["ends_cause"])
        self._grace = float(record["grace"])
        self._name = str(record["name"])
        self._main: int | None = None
        self._status: int | None = None

    def run(self) -> None:
        """Live until nothing of the instance is left."""
        cause, detail = self._live()
        try:
            records.end(self._directory, cause, at=time.time(), detail=detail)
        except OSError as error:
            # A full disk must not keep the processes alive; the reader will see that the supervisor recorded no cause.
            print(f"runnerd: cannot write the end of this instance: {error}", flush=True)
        self._clear(self._grace)

    def _live(self) -> tuple[records.Cause, str]:
        while True:
            if (self._directory / records.END).exists():
                return records.Cause.DELETED, ""
            now = uptime()
            if now >= self._ends_at:
                return self._ends_cause, ""
            if self._main is None and now >= self._starts_at:
                self._main = self._launch()
            wait = min(_CHECK_S, self._ends_at - now)
            if self._main is None:
                wait = min(wait, self._starts_at - now)
            got = signal.sigtimedwait(_SIGNALS, max(0.0, wait))
            if got is not None and got.si_signo in (signal.SIGTERM, signal.SIGINT):
                return records.Cause.SIGNAL, f"signal {got.si_signo} from process {got.si_pid}"
            self._collect()
            if self._status is not None:
                code = os.waitstatus_to_exitcode(self._status)
                if code == 0:
                    return records.Cause.EXIT, "exit status 0"
                return records.Cause.CRASH, f"exit status {code}" if code > 0 else f"killed by signal {-code}"
            self._cut_console()

    def _launch(self) -> int:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        # In the child: any error here must end in _exit, never in the supervisor's own code.
        try:
            os.setsid()
            _prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(127)
            home = self._directory / records.HOME
            os.chdir(home)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            _execute(self._directory / records.BOOT, environment(self._directory, self._name))
        except BaseException as error:
            os.write(2, f"runnerd: the boot script cannot be run: {error}\n".encode())
        os._exit(127)

    def _collect(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._main:
                self._status = status

    def _clear(self, grace: float) -> None:
        """End every other process of the instance: asked first, then forced."""
        deadline = uptime() + grace
        asked: set[identity.Identity] = set()
        pause = 0.02
        while True:
            self._collect()
            left = identity.members(str(self._directory), [_self()])
            if not left:
                return
            force = uptime() >= deadline
            for one in left:
                if force:
                    identity.send(one, signal.SIGKILL)
                elif one not in asked:
                    asked.add(one)
                    identity.send(one, signal.SIGTERM)
            # A look reads all of /proc: seldom, unless a child's end says that it is worth it.
            signal.sigtimedwait({signal.SIGCHLD}, min(pause, max(0.02, deadline - uptime())))
            pause = min(0.5, pause * 1.5)

    def _cut_console(self) -> None:
        console = self._directory / records.CONSOLE
        try:
            if console.stat().st_size > CONSOLE_LIMIT_BYTES:
                shutil.copyfile(console, console.with_suffix(".log.1"))
                os.truncate(console, 0)
        except OSError:
            # No room for a copy: the log grows on, which is the operator's disk alarm to catch.
            pass


def _self() -> identity.Identity:
    found = identity.identify(os.getpid())
    assert found is not None
    return found


def _execute(script: Path, variables: dict[str, str]) -> NoReturn:
    """Replace this process by the script.

    A child that another thread of the daemon was forking while the script was written holds it open for writing until
    its own exec, and the kernel answers ETXTBSY so long (execve(2)); that passes.
    """
    for _ in range(200):
        try:
            os.execve(script, [str(script)], variables)  # noqa: S606  # the boot script is what we are here to run
        except OSError as error:
            if error.errno != errno.ETXTBSY:
                raise
            time.sleep(0.01)
    raise OSError(errno.ETXTBSY, "another process keeps it open for writing")


def environment(directory: Path, name: str) -> dict[str, str]:
    """Return the environment of the boot script; it has nothing of the daemon's own."""
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(directory / records.HOME),
        "LANG": "C.UTF-8",
        "RUNNERD_INSTANCE": name,
        identity.MARK: str(directory),
    }


def claim(directory: Path) -> bool:
    """Become the process that runs this instance; False when another one is, or when it has ended."""
    with records.locked(directory / records.LOCK):
        if (directory / records.END).exists() or (directory / records.IDENTITY).exists():
            return False
        records.write(directory / records.IDENTITY, _self().as_dict())
        return True


def main(argument: str) -> NoReturn:
    """Detach, claim the instance, tell the launcher, and live its life."""
    directory = Path(argument)
    told, tell = os.pipe()
    if os.fork():
        os.close(tell)
        answer = os.read(told, 1)
        os._exit(STARTED if answer == b"+" else REFUSED)
    os.close(told)
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    os.setsid()
    _prctl(_SET_SUBREAPER, 1)
    record = records.read(directory / records.RECORD)
    if record is None or record["boot"] != identity.boot_id() or not claim(directory):
        os._exit(REFUSED)
    os.write(tell, b"+")
    os.close(tell)
    Supervisor(directory, record).run()
    sys.stdout.flush()
    os._exit(0)
