"""The open database: one connection that writes, one that reads, and the lock that goes with them.

Everything here blocks and is called through the offload.  A transaction that fails leaves the object usable: the
next one may succeed, once the disk or the server works again.  Only another daemon that took over meanwhile is final:
from then on every write is refused.
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import sqlalchemy as sa

from runnerd import errors
from runnerd.store import commit, engine, lock, schema, tables

log = logging.getLogger(__name__)
T = TypeVar("T")

_serial = itertools.count(1)


class Database:
    """One database in use by this process alone.  :meth:`open` comes first."""

    def __init__(self, url: str, *, now: Callable[[], float]) -> None:
        self._url = engine.parse(url)
        #: The database's URL without a password, for messages.
        self.where = engine.shown(self._url)
        self._path = engine.file_of(self._url)
        self._now = now
        self._server = self._url.get_backend_name() != "sqlite"
        # PostgreSQL cuts a session's name at 63 bytes, and the whole token must fit.
        self._host, self._pid = socket.gethostname()[:24], os.getpid()
        #: Identifies this opening of the database.
        self._token = f"{self._pid}.{next(_serial)}.{now():.6f}@{self._host}"
        self._engine = engine.make(self._url, name=f"runnerd {self._token}")
        self._statements = commit.Statements(self._engine.dialect)
        self._writing = threading.Lock()
        # A database in memory is one connection, so its readers take turns with the writer.
        self._reading = self._writing if engine.is_memory(self._url) else threading.Lock()
        self._writer: sa.Connection | None = None
        self._reader: sa.Connection | None = None
        self._file_lock: lock.FileLock | None = None
        self._inode: tuple[int, int] | None = None
        self._lost_to = ""
        self._closed = False
        #: Transactions that were committed for writers.
        self.commits = 0

    # -- opening and closing ------------------------------------------------------------------------------------

    def open(self, *, migrate: bool) -> None:
        """Lock, migrate and sign the database.

        Raises :class:`errors.StoreBusy`, :class:`errors.StoreUnwritable` or :class:`errors.StoreError`; nothing is
        held then.
        """
        with self._writing:
            if self._closed:
                raise errors.StoreError("the store is closed")
            try:
                engine.call(self.where, lambda: self._open(migrate))
            except BaseException:
                self._close()
                raise

    def _open(self, migrate: bool) -> None:
        if self._path is not None:
            engine.prepare(self._path)
            self._file_lock = lock.FileLock(self._path)
        self._writer = self._engine.connect()
        if self._server:
            self._lock_server(self._writer)
        if migrate:
            schema.upgrade(self._writer, self._url, now=self._now())
        with self._writer.begin():
            lacking = schema.missing(self._writer, self.where)
        if lacking:
            raise errors.StoreError(f"{self.where} needs the migration to {lacking[-1]}; run `runnerd db upgrade`")
        holder, now = tables.holder, self._now()
        with self._writer.begin():
            self._writer.execute(sa.delete(holder))
            signature = {"token": self._token, "host": self._host, "pid": self._pid}
            self._writer.execute(sa.insert(holder).values(one=1, opened_at=now, probed_at=now, **signature))
        if engine.is_memory(self._url):
            self._reader = self._writer
        else:
            self._reader = self._connect_reader()
        if self._path is not None:
            status = self._path.stat()
            self._inode = status.st_dev, status.st_ino

    def _connect_reader(self) -> sa.Connection:
        return self._engine.connect().execution_options(reads=True)

    def close(self) -> None:
        """Release everything.  Harmless when done twice or half opened."""
        with self._writing:
            self._close()

    def _close(self) -> None:
        self._closed = True
        self._drop_writer()
        reader, self._reader = self._reader, None
        if reader is not None:
            _close(reader)
        self._engine.dispose()
        if self._file_lock is not None:
            self._file_lock.release()

    # -- the lock on a server -----------------------------------------------------------------------------------

    def _lock_server(self, connection: sa.Connection) -> None:
        holder = lock.take_advisory(connection)
        if holder is None:
            return
        if self._token in holder.name:
            # Our own lost session: the server has not noticed yet that its client is gone.
            lock.end_session(connection, holder)
            raise errors.StoreUnwritable(f"{self.where} still holds the session that was lost; its end was requested")
        raise errors.StoreBusy(
            f"{self.where} is in use by {holder}; stop that one first, or give this one a database of its own"
        )

    def _reconnect(self) -> sa.Connection:
        connection = self._engine.connect()
        try:
            if self._server:
                self._lock_server(connection)
                with connection.begin():
                    token = connection.scalar(sa.select(tables.holder.c.token))
                if token != self._token:
                    raise errors.StoreBusy(
                        f"{self.where} was taken over by another runnerd ({token}) while the connection was lost"
                    )
        except errors.StoreBusy as error:
            self._lost_to = str(error)
            _close(connection)
            raise
        except BaseException:
            _close(connection)
            raise
        log.info("connected again to %s", self.where)
        return connection

    # -- transactions -------------------------------------------------------------------------------------------

    def transaction(self, work: Callable[[sa.Connection], T]) -> T:
        """Run ``work`` in one durable transaction.

        Raises :class:`errors.StoreUnwritable` when it cannot be written now (after a lost connection it may have been
        committed all the same), :class:`errors.StoreBusy` when another daemon has the database, and
        :class:`errors.StoreError` when the database refuses what is written.
        """
        with self._writing:
            self._check()
            try:
                if self._writer is None:
                    self._writer = self._reconnect()
                with self._writer.begin():
                    return work(self._writer)
            except Exception as error:
                self._recover(error)
                raise engine.translate(error, self.where) from error

    def _check(self) -> None:
        if self._closed:
            raise errors.StoreError("the store is closed")
        if self._lost_to:
            raise errors.StoreBusy(self._lost_to)
        if self._path is not None:
            # SQLite would go on writing into a file that no restart ever finds.
            try:
                status = os.stat(self._path)
            except OSError:
                status = None
            if status is None or (status.st_dev, status.st_ino) != self._inode:
                raise errors.StoreUnwritable(
                    f"{self._path} was moved, removed or replaced while in use; put it back, or restart runnerd"
                )

    def _recover(self, error: Exception) -> None:
        """Make sure that the next transaction begins on a sound connection."""
        if self._writer is None:
            return
        try:
            if self._writer.in_transaction():
                self._writer.rollback()
            sound = not (self._writer.closed or self._writer.invalidated or engine.is_lost(error))
        except Exception:
            sound = False
        if not sound and not engine.is_memory(self._url):
            self._drop_writer()

    def _drop_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            _close(writer)

    def write(self, batches: Sequence[Sequence[commit.Encoded]]) -> list[errors.StoreError | None]:
        """Write all batches in one transaction; return for each the error for which it was not written, or None.

        When the database refuses something, each batch is tried alone, in order, so that a bad one fails alone.
        """
        error = self._write(batches)
        if error is None:
            return [None] * len(batches)
        if len(batches) == 1 or isinstance(error, (errors.StoreUnwritable, errors.StoreBusy)):
            return [error] * len(batches)
        return [self._write([batch]) for batch in batches]

    def _write(self, batches: Sequence[Sequence[commit.Encoded]]) -> errors.StoreError | None:
        merged = commit.Batch()
        for batch in batches:
            merged.add(batch)
        try:
            self.transaction(lambda connection: self._statements.apply(connection, merged))
        except errors.StoreError as error:
            return error
        self.commits += 1
        return None

    def probe(self) -> None:
        """Make a tiny durable write.  Raises like :meth:`transaction`."""
        now = self._now()
        self.transaction(lambda connection: connection.execute(sa.update(tables.holder).values(probed_at=now)))

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Run ``work`` on committed data.  A lost connection is replaced once."""
        with self._reading:
            for last in (False, True):
                if self._closed:
                    raise errors.StoreError("the store is closed")
                try:
                    if self._reader is None:
                        self._reader = self._connect_reader()
                    with self._reader.begin():
                        return work(self._reader)
                except Exception as error:
                    lost = engine.is_lost(error)
                    if lost and self._reader is not None:
                        reader, self._reader = self._reader, None
                        _close(reader)
                    if last or not lost:
                        raise engine.translate(error, self.where) from error
        raise AssertionError("the second try ends the loop")


def _close(connection: sa.Connection) -> None:
    try:
        connection.close()
    except Exception as error:
        log.debug("closing a broken connection: %s", error)
