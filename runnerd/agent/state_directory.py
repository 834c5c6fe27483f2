"""The agent's files, so that it survives a restart: nonce, session, the runner's record.

Only the agent's user can read them (0600).  The runner's record is written before the runner is started: once it
exists, this instance never registers again.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import pathlib
import secrets
import typing
from dataclasses import dataclass

from runnerd.agent import config, strict_json


class Occupied(Exception):
    """Another agent runs in this directory."""


@dataclass(frozen=True)
class RunnerRecord:
    """The one runner of this instance.  Contains no secret."""

    #: ``github`` or ``gitlab``.
    kind: str
    name: str
    #: Value of a variable in the environment of every process that the runner starts.
    mark: str
    #: Pid and start time in clock ticks; 0 while it is being started.
    pid: int = 0
    started: int = 0
    #: The boot that the pid and the times belong to.
    boot: str = ""
    #: When a job was seen, in monotonic seconds; negative for none.
    job_at: float = -1.0
    #: The directory of the runner's installation, which contains its own logs.
    root: str = ""


class StateDirectory:
    """The agent's directory."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self._lock: int | None = None

    def occupy(self) -> None:
        """Lock the directory for as long as this process lives.  Raises :class:`Occupied`."""
        handle = os.open(self.path / "agent.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            raise Occupied(f"another agent runs in {self.path}") from error
        self._lock = handle

    def leave(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def log(self) -> pathlib.Path:
        """The agent's own log."""
        return self.path / "agent.log"

    @property
    def runner_log(self) -> pathlib.Path:
        """The runner's output."""
        return self.path / "runner.log"

    def nonce(self) -> str:
        """Return this instance's nonce, which is created once and then kept."""
        path = self.path / "nonce"
        try:
            stored = path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            stored = ""
        if stored:
            return stored
        made = secrets.token_urlsafe(32)
        draft = path.with_name(".nonce.new")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
            file.write(made)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        return made

    def welcome(self) -> dict[str, typing.Any] | None:
        """Return the answer to hello, if an earlier process of the agent received it."""
        return self._read("session.json")

    def keep_welcome(self, answer: dict[str, typing.Any]) -> None:
        config.write(self.path / "session.json", answer)

    def runner(self) -> RunnerRecord | None:
        """Return the record of the runner that was started, or was about to be."""
        stored = self._read("runner.json")
        if stored is None:
            return None
        known = {field.name for field in dataclasses.fields(RunnerRecord)}
        return RunnerRecord(**{key: value for key, value in stored.items() if key in known})

    def keep_runner(self, record: RunnerRecord) -> None:
        config.write(self.path / "runner.json", dataclasses.asdict(record))

    def _read(self, name: str) -> dict[str, typing.Any] | None:
        try:
            stored = strict_json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            # Files are written atomically, so this is a damaged disk: treated as missing.
            return None
        return stored if isinstance(stored, dict) else None
