"""The instances of one provider on this host: a directory with one directory for each instance.

All calls block for milliseconds and are meant to run in a thread.  The state is on disk; two objects on the same
directory, also in two processes, see the same and cannot start an instance twice.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import provisioners
from provisioners.processes import identity, records, supervisor

#: Seconds that a launch may take before its outcome counts as unknown.
_LAUNCH_LIMIT_S = 30.0
#: Bytes of console output that are returned.
CONSOLE_TAIL_BYTES = 64 * 1024
_LAUNCHER = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from provisioners.processes import supervisor; supervisor.main(sys.argv[2])"
)


class NoFreeSlot(Exception):
    """Every slot is taken."""


class NameTaken(Exception):
    """The name belongs to an instance with another key."""


class LaunchUnclear(Exception):
    """The instance is on record, whether it was started is not known."""


@dataclass(frozen=True, slots=True)
class Spec:
    """The description of an instance to start."""

    key: str
    name: str
    tags: Mapping[str, str]
    offer: str
    created_at: float
    #: Seconds after ``created_at`` at which the script starts.
    starts_after: float
    #: Seconds after ``created_at`` at which all of it ends, and the cause recorded then.
    ends_after: float
    ends_cause: records.Cause
    #: Seconds between SIGTERM and SIGKILL.
    grace: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An instance as the disk and /proc show it."""

    key: str
    name: str
    tags: Mapping[str, str]
    offer: str
    created_at: float
    #: A process has been started for it.
    started: bool
    #: Its supervisor lives.
    supervised: bool
    #: No process of it is left.
    gone: bool
    cause: records.Cause | None
    detail: str
    ended_at: float


class InstanceDirectory:
    """A directory of instances."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory.absolute()
        self._instances = self._directory / "instances"
        self._lock = self._directory / "lock"

    def open(self, *, now: float) -> None:
        """Create the directory and finish what a killed predecessor left half-way.

        A create that was recorded but not started is started: it was accepted, and its caller may look for it.
        """
        self._instances.mkdir(mode=0o700, parents=True, exist_ok=True)
        with records.locked(self._lock):
            for draft in self._instances.glob(".new-*"):
                shutil.rmtree(draft)
        for name in self.names():
            directory = self._instances / name
            try:
                found = self._inspect(directory, now=now)
            except ValueError:
                continue
            if found is not None and not found.started and found.cause is None:
                try:
                    self._launch(directory)
                except (LaunchUnclear, OSError) as error:
                    self._fence(directory, records.Cause.UNSTARTED, now=now, detail=str(error))

    def names(self) -> list[str]:
        """Return the recorded names in alphabetical order."""
        try:
            return sorted(name for name in os.listdir(self._instances) if not name.startswith("."))
        except FileNotFoundError:
            return []

    def create(self, spec: Spec, script: str, *, slots: int | None = None) -> Snapshot:
        """Start the instance, or return the one that has this key already.

        Raises :class:`NoFreeSlot`, :class:`NameTaken` and OSError when it is certain that nothing was started, else
        :class:`LaunchUnclear`.
        """
        with records.locked(self._lock):
            existing = self._by_key(spec.key, now=spec.created_at)
            if existing is None:
                directory = self._instances / spec.name
                if directory.exists():
                    raise NameTaken(f'the name "{spec.name}" belongs to another instance')
                if slots is not None and self._used(now=spec.created_at) >= slots:
                    raise NoFreeSlot(f"all {slots} slots are taken")
                self._record(directory, spec, script)
            else:
                directory = self._instances / existing.name
                if existing.started or existing.cause is not None:
                    return existing
        try:
            self._launch(directory)
        except OSError:
            # Nothing was started, as far as can be seen: fence it, look again, and forget it.
            self._fence(directory, records.Cause.UNSTARTED, now=spec.created_at)
            if records.supervisor(directory) is not None:
                self.ask_to_end(spec.name, records.Cause.UNSTARTED, now=spec.created_at)
                raise LaunchUnclear(f"the launch of {spec.name} failed half-way; it is being ended") from None
            self._remove(directory)
            raise
        found = self._inspect(directory, now=spec.created_at)
        if found is None:
            raise LaunchUnclear(f"the instance {spec.name} was deleted while it was created")
        return found

    def _record(self, directory: Path, spec: Spec, script: str) -> None:
        draft = self._instances / f".new-{spec.name}"
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(draft)
        draft.mkdir(mode=0o700)
        try:
            (draft / records.HOME).mkdir(mode=0o700)
            boot = draft / records.BOOT
            handle = os.open(boot, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o700)
            with open(handle, "w", encoding="utf-8") as file:
                file.write(script)
            record: dict[str, Any] = {
                "key": spec.key,
                "name": spec.name,
                "tags": dict(spec.tags),
                "offer": spec.offer,
                "created_at": spec.created_at,
                "boot": identity.boot_id(),
                "uptime": supervisor.uptime(),
                "starts_after": spec.starts_after,
                "ends_after": spec.ends_after,
                "ends_cause": spec.ends_cause.value,
                "grace": spec.grace,
            }
            records.write(draft / records.RECORD, record)
            os.rename(draft, directory)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise

    def _launch(self, directory: Path) -> None:
        """Start the supervisor; harmless when one was started before.

        Raises OSError when none was started, :class:`LaunchUnclear` when that is not known.
        """
        root = str(Path(provisioners.__file__).resolve().parent.parent)
        console = os.open(directory / records.CONSOLE, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            done = subprocess.run(  # noqa: S603  # our own interpreter and module, no shell
                [sys.executable, "-I", "-S", "-c", _LAUNCHER, root, str(directory)],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                cwd=directory,
                env=supervisor.environment(directory, directory.name),
                start_new_session=True,
                timeout=_LAUNCH_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise LaunchUnclear(
                f"the supervisor of {directory.name} did not answer within {_LAUNCH_LIMIT_S:g} s"
            ) from error
        finally:
            os.close(console)
        if (directory / records.IDENTITY).exists() or (directory / records.END).exists():
            return
        raise OSError(f"the supervisor of {directory.name} could not be started (status {done.returncode})")

    def find(self, name: str, *, now: float) -> Snapshot | None:
        """Return the instance of that name, None when there is no record."""
        return self._inspect(self._instances / name, now=now)

    def everything(self, *, now: float) -> Iterator[Snapshot]:
        """Yield every recorded instance.  Raises OSError or ValueError, naming the file, when one cannot be read."""
        for name in self.names():
            found = self._inspect(self._instances / name, now=now)
            if found is not None:
                yield found

    def _by_key(self, key: str, *, now: float) -> Snapshot | None:
        for name in self.names():
            record = records.read(self._instances / name / records.RECORD)
            if record is not None and record["key"] == key:
                return self._inspect(self._instances / name, now=now)
        return None

    def _used(self, *, now: float) -> int:
        return sum(not one.gone for one in self.everything(now=now))

    def _inspect(self, directory: Path, *, now: float) -> Snapshot | None:
        try:
            return self._read(directory, now=now)
        except FileNotFoundError:
            # Removed meanwhile.
            if (directory / records.RECORD).exists():
                raise
            return None

    def _read(self, directory: Path, *, now: float) -> Snapshot | None:
        record = records.read(directory / records.RECORD)
        if record is None:
            return None
        who = records.supervisor(directory)
        rebooted = record["boot"] != identity.boot_id()
        supervised = who is not None and not rebooted and identity.alive(who)
        ended = records.read(directory / records.END)
        gone = (directory / records.GONE).exists()
        if not gone and not supervised and (who is not None or ended is not None or rebooted):
            # The supervisor writes the cause before it exits, so a second read decides between "ended" and "lost".
            ended = records.read(directory / records.END)
            if rebooted or not identity.members(str(directory)):
                cause = records.Cause.REBOOT if rebooted else records.Cause.VANISHED
                if ended is None:
                    self._fence(directory, cause, now=now)
                    ended = records.read(directory / records.END)
                records.write(directory / records.GONE, {"at": now}, replace=False)
                self._strip(directory)
                gone = True
        return Snapshot(
            key=str(record["key"]),
            name=str(record["name"]),
            tags={str(tag): str(value) for tag, value in record["tags"].items()},
            offer=str(record["offer"]),
            created_at=float(record["created_at"]),
            started=who is not None,
            supervised=supervised,
            gone=gone,
            cause=None if ended is None else records.Cause(ended["cause"]),
            detail="" if ended is None else str(ended["detail"]),
            ended_at=0.0 if ended is None else float(ended["at"]),
        )

    def _fence(self, directory: Path, cause: records.Cause, *, now: float, detail: str = "") -> None:
        """Record the end, after which nothing is started in that directory any more."""
        with records.locked(directory / records.LOCK):
            records.end(directory, cause, at=now, detail=detail)

    def ask_to_end(self, name: str, cause: records.Cause, *, now: float) -> bool:
        """Record the cause and wake the supervisor, which does the rest; False when there is no record."""
        directory = self._instances / name
        try:
            self._fence(directory, cause, now=now)
        except (FileNotFoundError, NotADirectoryError):
            return False
        who = records.supervisor(directory)
        if who is not None:
            identity.send(who, signal.SIGTERM)
        return True

    def kill(self, name: str) -> None:
        """Kill every process of it at once, the supervisor last so that it can still reap what it inherits."""
        directory = self._instances / name
        who = records.supervisor(directory)
        roots = [] if who is None else [who]
        for one in identity.members(str(directory), roots):
            if one != who:
                identity.send(one, signal.SIGKILL)
        if who is not None:
            identity.send(who, signal.SIGKILL)

    def purge(self, *, now: float, keep: float) -> None:
        """Remove instances that have been gone for longer than ``keep`` seconds."""
        for name in self.names():
            gone = records.read(self._instances / name / records.GONE)
            if gone is not None and now - float(gone["at"]) > keep:
                self._remove(self._instances / name)

    def _strip(self, directory: Path) -> None:
        """Delete what only a living instance needs: the boot script with its token, and the job's files."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(directory / records.BOOT)
        shutil.rmtree(directory / records.HOME, ignore_errors=True)

    def _remove(self, directory: Path) -> None:
        # Renamed first, so that no half-removed directory is ever taken for an instance.
        with records.locked(self._lock):
            away = directory.with_name(f".new-gone-{directory.name}")
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(away)
            with contextlib.suppress(FileNotFoundError):
                os.rename(directory, away)
                shutil.rmtree(away, ignore_errors=True)

    def console(self, name: str) -> str | None:
        """Return the end of its console output, None when there is no record."""
        directory = self._instances / name
        parts: list[bytes] = []
        wanted = CONSOLE_TAIL_BYTES
        for path in (directory / records.CONSOLE, directory / f"{records.CONSOLE}.1"):
            try:
                with open(path, "rb") as file:
                    length = file.seek(0, os.SEEK_END)
                    file.seek(max(0, length - wanted))
                    parts.insert(0, file.read(wanted))
            except (FileNotFoundError, NotADirectoryError):
                continue
            wanted -= len(parts[0])
            if wanted <= 0:
                break
        return b"".join(parts).decode("utf-8", errors="replace") if parts else None
