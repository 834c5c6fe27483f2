"""One daemon per state.

On SQLite a file lock beside the database: the kernel gives it back when the process dies, however it dies.  On
PostgreSQL a session's advisory lock, held on the very connection that writes, so that no write can happen without
it.  Neither is ever broken or waited for.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import zlib
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from runnerd import errors

#: The first half of the advisory lock's key: "rund" in ASCII.  The second half is the schema's checksum.
ADVISORY = 0x72756E64


class FileLock:
    """``<database>.lock``, locked with flock(2): per open file, so it also holds against the same process."""

    def __init__(self, database: Path) -> None:
        self.path = database.with_name(database.name + ".lock")
        self._file = -1
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise errors.StoreUnwritable(f"the lock file {self.path} cannot be opened: {error.strerror}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            text = os.pread(handle, 200, 0).decode("utf-8", "replace").strip()
            os.close(handle)
            if isinstance(error, BlockingIOError):
                raise errors.StoreBusy(
                    f"{database} is in use by {text or 'another runnerd'}; "
                    "stop that one first, or give this one a state directory of its own"
                ) from error
            raise errors.StoreError(f"{self.path} cannot be locked: {error.strerror}") from error
        self._file = handle
        # For messages only: the lock is the kernel's, and a stale text means nothing.
        text = f"runnerd, process {os.getpid()} on {socket.gethostname()}\n"
        try:
            os.ftruncate(handle, 0)
            os.pwrite(handle, text.encode(), 0)
        except OSError:
            # A full disk does not make the lock less held.
            pass

    def release(self) -> None:
        # The file stays: removing it would let two processes lock two files of one name.
        handle, self._file = self._file, -1
        if handle >= 0:
            os.close(handle)


@dataclass(frozen=True, slots=True)
class Session:
    """The server's session that holds the lock."""

    pid: int
    name: str
    address: str

    def __str__(self) -> str:
        ours = re.fullmatch(r"runnerd (\d+)\.\S*@(.*)", self.name)
        who = f"runnerd, process {ours[1]} on {ours[2]}" if ours else self.name or "another runnerd"
        return f"{who} ({self.address})" if self.address else who


def take_advisory(connection: sa.Connection) -> Session | None:
    """Take the lock for this connection's session; return its holder if that fails.

    The lock ends with the session, as https://www.postgresql.org/docs/current/explicit-locking.html (13.3.5) promises.
    A pooler in transaction mode breaks that promise; docs/store.md says so.
    """
    with connection.begin():
        # Two daemons may share a database in schemas of their own.
        schema = connection.scalar(sa.text("SELECT coalesce(current_schema(), '')"))
        keys = {"first": ADVISORY, "second": zlib.crc32(str(schema).encode()) & 0x7FFFFFFF}
        taken = connection.scalar(
            sa.text("SELECT pg_try_advisory_lock(CAST(:first AS integer), CAST(:second AS integer))"), keys
        )
        if taken:
            return None
        row = connection.execute(
            sa.text(
                "SELECT a.pid, a.application_name, host(a.client_addr) "
                "FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
                "WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 "
                "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
                "AND l.classid::bigint = :first AND l.objid::bigint = :second"
            ),
            keys,
        ).first()
        return Session(row[0], row[1] or "", row[2] or "") if row else Session(0, "", "")


def end_session(connection: sa.Connection, session: Session) -> None:
    """Have the server end a session of our own role that lost its client."""
    with connection.begin():
        connection.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": session.pid})
