"""The files in the directory of one local instance, and the order in which they are written.

``record.json`` appears together with the directory, by one rename, before anything is started: it is the intent.
``identity.json`` is written under ``start.lock`` by the process that is to run the instance, before it runs anything:
a process that finds it there does not start a second one.  ``end.json`` holds the cause of the end; it is written once,
by the first writer, and under the same lock when it comes from outside, so that nothing starts after it.
``gone.json`` says that the last process was seen to be gone.  Standard library only, because the supervisor imports it.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from provisioners.processes import identity
from provisioners.support import numbers

RECORD = "record.json"
IDENTITY = "identity.json"
END = "end.json"
GONE = "gone.json"
LOCK = "start.lock"
BOOT = "boot"
HOME = "home"
CONSOLE = "console.log"


class Cause(enum.StrEnum):
    """The cause of an instance's end."""

    #: A call of runnerd deleted it.
    DELETED = "deleted"
    #: Its script came to an end with status 0.
    EXIT = "exit"
    #: Its script came to an end otherwise.
    CRASH = "crash"
    #: Its deadline passed.
    DEADLINE = "deadline"
    #: The simulated provider preempted it.
    PREEMPTED = "preempted"
    #: The simulated provider switched it off, and goes on billing.
    STOPPED = "stopped"
    #: Its supervisor received a signal from elsewhere.
    SIGNAL = "signal"
    #: Its supervisor is gone and recorded no cause.
    VANISHED = "vanished"
    #: The host was started anew.
    REBOOT = "reboot"
    #: It could not be started.
    UNSTARTED = "unstarted"


class Busy(Exception):
    """Another process holds the lock for longer than is reasonable."""


@contextlib.contextmanager
def locked(path: Path, *, patience: float = 10.0) -> Iterator[None]:
    """Hold an exclusive lock on that file; the kernel drops it with its holder.  Raises :class:`Busy`."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise Busy(f"{path} is held by another process") from None
                time.sleep(0.005)
        yield
    finally:
        os.close(handle)


def write(path: Path, value: dict[str, Any], *, replace: bool = True) -> bool:
    """Write JSON so that a reader sees all of it or nothing, also after a crash.

    With ``replace=False`` an existing file stays and False comes back.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    try:
        with open(draft, "x", encoding="utf-8", opener=_private) as file:
            json.dump(value, file)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(draft, path)
            return True
        try:
            os.link(draft, path)
        except FileExistsError:
            return False
        return True
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def read(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in that file, None when there is no file.  Raises ValueError for anything else."""
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        value = numbers.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object")
    return value


def end(directory: Path, cause: Cause, *, at: float, detail: str = "") -> bool:
    """Record the cause of the end, unless one is recorded already; False in that case."""
    return write(directory / END, {"cause": cause.value, "at": at, "detail": detail}, replace=False)


def supervisor(directory: Path) -> identity.Identity | None:
    """Return the process that runs the instance, None when none was ever started."""
    value = read(directory / IDENTITY)
    return None if value is None else identity.Identity.from_dict(value)
