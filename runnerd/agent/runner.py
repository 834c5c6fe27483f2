"""The runner's process: started once, watched by what it prints, ended with everything that it started.

Its output goes to a file, not to a pipe, so that a job survives the agent's own end, and an agent that is started
again takes up where the last one was.  Secrets are in its environment and nowhere else.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
import secrets
import shutil
import subprocess
import typing

from runnerd.agent import client, environment, home, hooks, lines, processes

log = logging.getLogger("agent.runner")

#: The output is cut when it is longer than this and has been read.
_OUTPUT_LIMIT = 16 * 1024 * 1024
_LINE_LIMIT = 64 * 1024


class NotStarted(Exception):
    """The runner cannot be started."""


class Runner:
    """The one runner of this instance."""

    def __init__(
        self,
        record: home.RunnerRecord,
        at: home.Home,
        marks: hooks.Hooks,
        *,
        child: subprocess.Popen[bytes] | None = None,
        adopts: bool = False,
    ) -> None:
        self.record = record
        self._home = at
        self._marks = marks
        self._child = child
        self._adopts = adopts
        self._process = processes.Process(record.pid, record.started)
        self._offset = 0
        self._rest = b""

    @classmethod
    def start(
        cls,
        orders: client.Orders,
        place: environment.Place,
        at: home.Home,
        *,
        instance: str,
        base: dict[str, str],
        adopts: bool = False,
    ) -> Runner:
        """Start what the daemon ordered, in a session of its own.

        With ``adopts`` every child of this process belongs to the runner.  Raises :class:`NotStarted`.
        """
        mark = secrets.token_hex(16)
        variables = environment.variables(
            orders.environment, place, kind=orders.kind, instance=instance, mark=mark, base=base
        )
        program = _program(orders.command[0], variables["PATH"], place.work)
        record = home.RunnerRecord(
            kind=orders.kind,
            name=orders.name,
            mark=mark,
            boot=processes.boot_id(),
            root=str(pathlib.Path(program).parent.parent),
        )
        # From here on this instance never registers again, whatever happens.
        at.keep_runner(record)
        output = os.open(at.runner_log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        who = place.account
        identity: dict[str, typing.Any] = {}
        if who is not None:
            identity = {"user": who.uid, "group": who.gid, "extra_groups": who.groups}
        try:
            child = subprocess.Popen(
                (program, *orders.command[1:]),
                cwd=place.work,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=0o022,
                **identity,
            )
        except OSError as error:
            raise NotStarted(f"the runner command {program} cannot be run: {error.strerror}") from error
        finally:
            os.close(output)
        # Not collected yet, so the pid is certainly its own.
        found = processes.stat(child.pid)
        started = found.process.started if found is not None else 0
        record = dataclasses.replace(record, pid=child.pid, started=started)
        at.keep_runner(record)
        return cls(record, at, place.hooks, child=child, adopts=adopts)

    @classmethod
    def resume(cls, record: home.RunnerRecord, at: home.Home, marks: hooks.Hooks) -> Runner | None:
        """The runner of an earlier agent; it may have ended meanwhile.  None when it was never started."""
        if record.boot != processes.boot_id():
            # Nothing of another boot lives; its numbers mean nothing now.
            record = dataclasses.replace(record, pid=0, started=0)
            return cls(record, at, marks) if record.job_at >= 0 else None
        if not record.pid:
            # The agent died in the very act: the leader of its own session that carries the mark is the runner.
            for one in processes.members(record.mark):
                seen = processes.stat(one.pid)
                if seen is not None and seen.session == one.pid:
                    record = dataclasses.replace(record, pid=one.pid, started=one.started)
                    at.keep_runner(record)
                    return cls(record, at, marks)
            return None
        return cls(record, at, marks)

    @property
    def kind(self) -> str:
        return self.record.kind

    @property
    def marks(self) -> hooks.Hooks:
        return self._marks

    def keep_job(self, at: float) -> None:
        """Write down that a job was seen, at that monotonic time."""
        self.record = dataclasses.replace(self.record, job_at=at)
        self._home.keep_runner(self.record)

    def exited(self) -> bool:
        """True once the runner's own process has ended; what it started may live on."""
        if self._child is None:
            return not self.record.pid or not processes.alive(self._process)
        # Looked at and not collected: its number stays its own until its tree has been cleared.
        return os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    @property
    def code(self) -> int | None:
        """The exit code, negative for a signal; None while unknown."""
        return None if self._child is None else self._child.returncode

    def send(self, number: int) -> None:
        """Signal the runner itself, which passes on what its job must know."""
        processes.send(self._process, number)

    def clear(self, *, grace: float, patience: float) -> None:
        """End everything that is left of the runner's tree, itself included."""
        # The session's number is certain only while its leader is not collected.
        session = self._child.pid if self._child is not None and self._child.returncode is None else 0

        def look() -> list[processes.Process]:
            return processes.members(self.record.mark, session=session, adopted=self._adopts and bool(session))

        left = processes.clear(look, grace=grace, patience=patience)
        if left:
            log.error("processes %s of the runner do not end", ", ".join(str(one.pid) for one in left))
        if self._child is not None:
            try:
                self._child.wait(timeout=1.0)
            except subprocess.TimeoutExpired:
                log.error("the runner's process %d does not end", self._child.pid)
        if self._adopts:
            self.collect()

    def collect(self) -> None:
        """Collect adopted orphans that have ended."""
        if self._adopts:
            processes.collect_orphans({self._child.pid} if self._child is not None else ())

    def look(self, *, last: bool = False) -> list[lines.Sighting]:
        """What its output tells since the last look; with ``last`` also from a line without an end."""
        data = self._rest + self._fresh()
        whole, newline, rest = data.rpartition(b"\n")
        if last:
            whole, rest = data, b""
        elif not newline:
            whole, rest = b"", data
        # A line without an end that is longer than any that matters.
        self._rest = rest if len(rest) <= _LINE_LIMIT else b""
        found = []
        for line in whole.split(b"\n"):
            seen = lines.read(self.kind, line.decode("utf-8", "replace"))
            if seen is not None:
                found.append(seen)
        return found

    def _fresh(self) -> bytes:
        try:
            with open(self._home.runner_log, "rb") as file:
                file.seek(self._offset)
                data = file.read(_OUTPUT_LIMIT)
        except FileNotFoundError:
            return b""
        self._offset += len(data)
        if self._offset > _OUTPUT_LIMIT:
            # The runner appends, so it goes on at the new end.
            os.truncate(self._home.runner_log, 0)
            self._offset = 0
        return data

    def last_line(self) -> str:
        """The last line that it printed."""
        try:
            with open(self._home.runner_log, "rb") as file:
                file.seek(0, 2)
                file.seek(max(0, file.tell() - 4096))
                text = file.read(4096).decode("utf-8", "replace")
        except OSError:
            return ""
        said = [line.strip() for line in text.splitlines() if line.strip()]
        return said[-1][:300] if said else ""


def _program(name: str, path: str, work: pathlib.Path) -> str:
    if "/" in name:
        program = name if os.path.isabs(name) else str(work / name)
        if not os.path.exists(program):
            raise NotStarted(f"the runner command {program} does not exist on this instance")
        if os.path.isdir(program) or not os.access(program, os.X_OK):
            raise NotStarted(f"the runner command {program} is not executable")
        return program
    found = shutil.which(name, path=path)
    if found is None:
        raise NotStarted(f'the runner command "{name}" does not exist on this instance; the PATH is {path}')
    return found
