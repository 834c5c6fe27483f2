"""Connections to SQLite and PostgreSQL, and the meaning of their errors.

The two differ here and in :mod:`runnerd.store.lock` only.  Every driver error leaves this package as an
:class:`errors.StoreError` in plain words; nothing here retries.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event, exc, pool

from runnerd import errors

T = TypeVar("T")

#: Seconds that a statement waits for another program that has the file locked.
BUSY_TIMEOUT_S = 5.0
#: File systems on which SQLite's write-ahead log does not work (https://sqlite.org/wal.html, "Overview", point 2).
NETWORK_FILESYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "glusterfs", "fuse.sshfs", "fuse.glusterfs", "9p", "lustre"}
)

_UNWRITABLE = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_READONLY: "the database is read-only",
    sqlite3.SQLITE_IOERR: "I/O error",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened",
    sqlite3.SQLITE_PERM: "access is denied",
    sqlite3.SQLITE_BUSY: "another program holds the database",
    sqlite3.SQLITE_LOCKED: "another program holds the database",
    sqlite3.SQLITE_NOMEM: "out of memory",
}
#: SQLSTATEs and classes: connection, read-only, rolled back, resources (53100 is a full disk), lock, operator, system.
#: https://www.postgresql.org/docs/current/errcodes-appendix.html
_UNWRITABLE_STATES = ("08", "25006", "40", "53", "55P03", "57", "58")
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def parse(url: str) -> sa.URL:
    """Parse the URL of a database.  Raises :class:`errors.StoreError` for one that runnerd cannot use."""
    try:
        parsed = sa.make_url(url)
    except exc.ArgumentError as error:
        raise errors.StoreError(
            "this is not a database URL; write sqlite:////path/to/runnerd.db or postgresql://user@host/name"
        ) from error
    backend, _, driver = parsed.drivername.partition("+")
    if backend == "sqlite" and driver in ("", "pysqlite"):
        return parsed.set(drivername="sqlite")
    if backend in ("postgresql", "postgres") and driver in ("", "psycopg"):
        try:
            import psycopg  # noqa: F401  # only asked whether it is there
        except ImportError as error:
            raise errors.StoreError(
                "PostgreSQL needs the psycopg package: pip install 'runnerd[postgresql]'"
            ) from error
        return parsed.set(drivername="postgresql+psycopg")
    raise errors.StoreError(f"runnerd keeps its state in sqlite or postgresql, not in {parsed.drivername}")


def shown(url: sa.URL) -> str:
    """Return the URL without its password."""
    return url.render_as_string(hide_password=True)


def file_of(url: sa.URL) -> Path | None:
    """Return the SQLite file; None for a server or a database in memory."""
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return None
    if url.database.startswith("file:"):
        raise errors.StoreError("write the path of the SQLite file itself: sqlite:////path/to/runnerd.db")
    return Path(url.database).absolute()


def is_memory(url: sa.URL) -> bool:
    """Return True for a database in memory, which is gone with the process."""
    return url.get_backend_name() == "sqlite" and file_of(url) is None


def prepare(path: Path) -> None:
    """Check the directory of a SQLite file and create the file, readable by its owner only."""
    directory = path.parent
    if not directory.exists():
        raise errors.StoreUnwritable(f"the state directory {directory} does not exist; create it or correct the URL")
    if not directory.is_dir():
        raise errors.StoreUnwritable(f"{directory} is not a directory")
    if path.is_dir():
        raise errors.StoreUnwritable(f"{path} is a directory; the URL must name the database file in it")
    kind = _filesystem(directory)
    if kind in NETWORK_FILESYSTEMS:
        raise errors.StoreError(
            f"{directory} is on a network file system ({kind}), where SQLite loses data; "
            "use a local disk, or PostgreSQL"
        )
    if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        raise errors.StoreUnwritable(
            f"the state directory {directory} is not writable for user id {os.geteuid()}; SQLite writes beside its file"
        )
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise errors.StoreUnwritable(f"{path} cannot be opened for writing: {error.strerror}") from error


def _filesystem(directory: Path) -> str:
    """Return the type of file system, as Linux names it; empty when it is unknown."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    real = str(directory.resolve())
    best, kind = "", ""
    for line in lines:
        left, _, right = line.partition(" - ")
        mount = left.split()[4].replace("\\040", " ")
        inside = real == mount or real.startswith(mount.rstrip("/") + "/")
        # Later lines lie on top of earlier ones of the same length.
        if inside and len(mount) >= len(best):
            best, kind = mount, right.split()[0]
    return kind


def make(url: sa.URL, *, name: str = "runnerd") -> sa.Engine:
    """Create an engine whose connections are set up for durable writes.  Opens none yet."""
    if url.get_backend_name() != "sqlite":
        server = sa.create_engine(
            url,
            poolclass=pool.NullPool,
            paramstyle="format",
            # The name appears in `StoreBusy` of another daemon; a dead network must not block this one for long.
            connect_args={
                "application_name": name,
                "connect_timeout": 10,
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
                "tcp_user_timeout": 20_000,
                "client_encoding": "utf8",
            },
        )
        event.listen(server, "connect", _set_up_server)
        return server
    memory = is_memory(url)
    engine = sa.create_engine(
        url,
        poolclass=pool.StaticPool if memory else pool.NullPool,
        # The threads of the offload take turns under the store's own lock.
        connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_S},
    )

    @event.listens_for(engine, "connect")
    def _set_up(connection: Any, _record: Any) -> None:
        # Transactions are begun below: sqlite3's own habit leaves DDL and reads outside of them.
        connection.isolation_level = None
        cursor = connection.cursor()
        if not memory:
            cursor.execute("PRAGMA journal_mode=WAL")
        # In WAL mode anything less loses the last commits when the power fails.
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA temp_store=MEMORY")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        # A writer takes the lock at once: a reader that turns writer half way can be refused without waiting.
        options = connection.get_execution_options()
        connection.exec_driver_sql("BEGIN" if options.get("reads") else "BEGIN IMMEDIATE")

    return engine


def _set_up_server(connection: Any, _record: Any) -> None:
    with connection.cursor() as cursor:
        # A server that acknowledges before it has flushed would break what `write` promises.
        cursor.execute(
            "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
        )
        cursor.execute("SET lock_timeout = '10s'")
        cursor.execute("SHOW server_encoding")
        [encoding] = cursor.fetchone()
    connection.commit()
    if encoding != "UTF8":
        raise errors.StoreError(f"the database's encoding is {encoding}; create it with ENCODING 'UTF8'")


def translate(error: BaseException, where: str) -> errors.StoreError:
    """Return a driver's error as a :class:`errors.StoreError`; ``where`` names the database."""
    if isinstance(error, errors.StoreError):
        return error
    cause = error.orig if isinstance(error, exc.DBAPIError) and error.orig is not None else error
    if isinstance(cause, sqlite3.Error):
        code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
        if code in _DAMAGED:
            return errors.StoreError(
                f"{where} is damaged or is not a database ({cause}); runnerd leaves it untouched. Restore a backup, or "
                "move the file away and start: runnerd then finds its instances by their tags"
            )
        if code in _UNWRITABLE:
            return errors.StoreUnwritable(f"{where} cannot be written: {_UNWRITABLE[code]} ({cause})")
        return errors.StoreError(f"{where} refused: {cause}")
    if isinstance(error, exc.DBAPIError):
        state = getattr(cause, "sqlstate", None) or ""
        message = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
        if is_lost(error) or state.startswith(_UNWRITABLE_STATES):
            return errors.StoreUnwritable(f"{where} cannot be written: {message}")
        return errors.StoreError(f"{where} refused: {message}")
    if isinstance(error, UnicodeError):
        return errors.StoreError(f"text that cannot be stored: {error}")
    if isinstance(error, OSError):
        return errors.StoreUnwritable(f"{where} cannot be written: {error}")
    return errors.StoreError(f"{where}: {type(error).__name__}: {error}")


def is_lost(error: BaseException) -> bool:
    """Return True when the connection itself is lost."""
    if not isinstance(error, exc.DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    # psycopg gives a refused or broken connection no SQLSTATE.
    return (
        isinstance(error, exc.OperationalError)
        and not isinstance(error.orig, sqlite3.Error)
        and not getattr(error.orig, "sqlstate", None)
    )


def call(where: str, work: Callable[[], T]) -> T:
    """Call ``work`` and translate the errors of drivers."""
    try:
        return work()
    except (exc.SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise translate(error, where) from error
