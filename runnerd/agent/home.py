"""What the agent keeps on disk, so that a restart of its process is no loss: nonce, session, the runner's record.

Files are for the agent's user alone (0600).  The runner's record is written before the runner is started: once it is
there, this instance never registers again.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import pathlib
import secrets
import typing
from dataclasses import dataclass

from runnerd.agent import config, documents


class Occupied(Exception):
    """Another agent runs in this directory."""


@dataclass(frozen=True)
class RunnerRecord:
    """The one runner of this instance.  Holds nothing that is secret."""

    #: ``github`` or ``gitlab``.
    kind: str
    name: str
    #: Carried in the environment of everything that the runner starts.
    mark: str
    #: Pid and start time in clock ticks; 0 while it is being started.
    pid: int = 0
    started: int = 0
    #: The boot that pid and times belong to.
    boot: str = ""
    #: Monotonic seconds at which a job was seen; negative for none.
    job_at: float = -1.0
    #: The directory of the runner's installation, for its own logs.
    root: str = ""


class Home:
    """The agent's directory."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self._lock: int | None = None

    def occupy(self) -> None:
        """Be the only agent here, for as long as this process lives.  Raises :class:`Occupied`."""
        handle = os.open(self.path / "agent.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            raise Occupied(f"another agent runs in {self.path}") from error
        self._lock = handle

    def leave(self) -> None:
        """Let another agent in."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def log(self) -> pathlib.Path:
        """The agent's own log."""
        return self.path / "agent.log"

    @property
    def runner_log(self) -> pathlib.Path:
        """What the runner prints."""
        return self.path / "runner.log"

    def nonce(self) -> str:
        """This instance's nonce: made once, the same ever after."""
        path = self.path / "nonce"
        try:
            found = path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            found = ""
        if found:
            return found
        made = secrets.token_urlsafe(32)
        draft = path.with_name(".nonce.new")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
            file.write(made)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        return made

    def welcome(self) -> dict[str, typing.Any] | None:
        """The answer to hello, when it came in an earlier life of this process."""
        return self._read("session.json")

    def keep_welcome(self, answer: dict[str, typing.Any]) -> None:
        config.write(self.path / "session.json", answer)

    def runner(self) -> RunnerRecord | None:
        """The runner that was started, or was about to be."""
        found = self._read("runner.json")
        if found is None:
            return None
        known = {one.name for one in dataclasses.fields(RunnerRecord)}
        return RunnerRecord(**{key: value for key, value in found.items() if key in known})

    def keep_runner(self, record: RunnerRecord) -> None:
        config.write(self.path / "runner.json", dataclasses.asdict(record))

    def _read(self, name: str) -> dict[str, typing.Any] | None:
        try:
            found = documents.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            # Written in one step, so this is a damaged disk: as good as not there.
            return None
        return found if isinstance(found, dict) else None
