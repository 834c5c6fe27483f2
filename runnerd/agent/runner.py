"""The runner's process: started once, followed through its output, ended with everything that it started.

Its output goes to a file, not to a pipe, so that a job survives the end of the agent, and a restarted agent continues
where the last one stopped.  Secrets are in its environment and nowhere else.
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

from runnerd.agent import client, environment, hooks, processes, runner_output, state_directory

log = logging.getLogger("agent.runner")

#: Bytes after which the output file is truncated, once it has been read.
_OUTPUT_LIMIT = 16 * 1024 * 1024
#: Bytes of a line; no relevant one is longer.
_LINE_LIMIT = 64 * 1024


class NotStarted(Exception):
    """The runner cannot be started."""


class Runner:
    """The one runner of this instance."""

    def __init__(
        self,
        record: state_directory.RunnerRecord,
        at: state_directory.StateDirectory,
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
        assignment: client.Assignment,
        place: environment.Place,
        at: state_directory.StateDirectory,
        *,
        instance: str,
        base: dict[str, str],
        adopts: bool = False,
    ) -> Runner:
        """Start the assigned runner, in a session of its own.

        With ``adopts`` every child of this process belongs to the runner.  Raises :class:`NotStarted`.
        """
        mark = secrets.token_hex(16)
        variables = environment.variables(
            assignment.environment, place, kind=assignment.kind, instance=instance, mark=mark, base=base
        )
        program = _program(assignment.command[0], variables["PATH"], place.work)
        record = state_directory.RunnerRecord(
            kind=assignment.kind,
            name=assignment.name,
            mark=mark,
            boot=processes.boot_id(),
            root=str(pathlib.Path(program).parent.parent),
        )
        # From here on this instance never registers again.
        at.keep_runner(record)
        output = os.open(at.runner_log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        who = place.account
        identity: dict[str, typing.Any] = {}
        if who is not None:
            identity = {"user": who.uid, "group": who.gid, "extra_groups": who.groups}
        try:
            child = subprocess.Popen(
                (program, *assignment.command[1:]),
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
        # Not reaped yet, so the pid is certainly its own.
        facts = processes.stat(child.pid)
        started = facts.process.started if facts is not None else 0
        record = dataclasses.replace(record, pid=child.pid, started=started)
        at.keep_runner(record)
        return cls(record, at, place.hooks, child=child, adopts=adopts)

    @classmethod
    def resume(
        cls, record: state_directory.RunnerRecord, at: state_directory.StateDirectory, marks: hooks.Hooks
    ) -> Runner | None:
        """Return the runner of an earlier agent, which may have ended meanwhile; None when it was never started."""
        if record.boot != processes.boot_id():
            # No process of another boot lives; its pids are meaningless now.
            record = dataclasses.replace(record, pid=0, started=0)
            return cls(record, at, marks) if record.job_at >= 0 else None
        if not record.pid:
            # The agent died while starting it: the session leader that carries the mark is the runner.
            for process in processes.members(record.mark):
                facts = processes.stat(process.pid)
                if facts is not None and facts.session == process.pid:
                    record = dataclasses.replace(record, pid=process.pid, started=process.started)
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
        """Record that a job was seen, at that monotonic time."""
        self.record = dataclasses.replace(self.record, job_at=at)
        self._home.keep_runner(self.record)

    def exited(self) -> bool:
        """Return True once the runner's own process has ended; its children may live on."""
        if self._child is None:
            return not self.record.pid or not processes.alive(self._process)
        # Polled and not reaped: its pid stays its own until its tree has been cleared.
        return os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    @property
    def code(self) -> int | None:
        """The exit code, negative for a signal; None while unknown."""
        return None if self._child is None else self._child.returncode

    def send(self, number: int) -> None:
        """Signal the runner itself, which forwards signals to its job as needed."""
        processes.send(self._process, number)

    def clear(self, *, grace: float, patience: float) -> None:
        """End the rest of the runner's tree, itself included."""
        # The session's number is unambiguous only while its leader is not reaped.
        session = self._child.pid if self._child is not None and self._child.returncode is None else 0

        def find() -> list[processes.Process]:
            return processes.members(self.record.mark, session=session, adopted=self._adopts and bool(session))

        left = processes.clear(find, grace=grace, patience=patience)
        if left:
            log.error("processes %s of the runner do not end", ", ".join(str(process.pid) for process in left))
        if self._child is not None:
            try:
                self._child.wait(timeout=1.0)
            except subprocess.TimeoutExpired:
                log.error("the runner's process %d does not end", self._child.pid)
        if self._adopts:
            self.collect()

    def collect(self) -> None:
        """Reap adopted orphans that have ended."""
        if self._adopts:
            processes.collect_orphans({self._child.pid} if self._child is not None else ())

    def read_events(self, *, last: bool = False) -> list[runner_output.Event]:
        """Return the events in its new output; with ``last`` also from an unterminated line."""
        data = self._rest + self._fresh()
        whole, newline, rest = data.rpartition(b"\n")
        if last:
            whole, rest = data, b""
        elif not newline:
            whole, rest = b"", data
        # Drop an unterminated line that is longer than any relevant one.
        self._rest = rest if len(rest) <= _LINE_LIMIT else b""
        events = []
        for line in whole.split(b"\n"):
            event = runner_output.read(self.kind, line.decode("utf-8", "replace"))
            if event is not None:
                events.append(event)
        return events

    def _fresh(self) -> bytes:
        try:
            with open(self._home.runner_log, "rb") as file:
                file.seek(self._offset)
                data = file.read(_OUTPUT_LIMIT)
        except FileNotFoundError:
            return b""
        self._offset += len(data)
        if self._offset > _OUTPUT_LIMIT:
            # The runner appends, so it continues at the new end.
            os.truncate(self._home.runner_log, 0)
            self._offset = 0
        return data

    def last_line(self) -> str:
        """Return the last line of its output."""
        try:
            with open(self._home.runner_log, "rb") as file:
                file.seek(0, 2)
                file.seek(max(0, file.tell() - 4096))
                text = file.read(4096).decode("utf-8", "replace")
        except OSError:
            return ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1][:300] if lines else ""


def _program(name: str, path: str, work: pathlib.Path) -> str:
    if "/" in name:
        program = name if os.path.isabs(name) else str(work / name)
        if not os.path.exists(program):
            raise NotStarted(f"the runner command {program} does not exist on this instance")
        if os.path.isdir(program) or not os.access(program, os.X_OK):
            raise NotStarted(f"the runner command {program} is not executable")
        return program
    program_path = shutil.which(name, path=path)
    if program_path is None:
        raise NotStarted(f'the runner command "{name}" does not exist on this instance; the PATH is {path}')
    return program_path
