"""Migration of a database to the schema of this code.

Alembic does the work; its scripts travel inside the package.  It is imported only where a schema is to be changed:
that takes 11 MB, which a daemon on a finished schema need not carry.  A database of a newer runnerd or of another
program is refused, never changed.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import sqlalchemy as sa

from runnerd import errors
from runnerd.store import backup, engine, lock, tables

if TYPE_CHECKING:
    from alembic import config

log = logging.getLogger(__name__)
T = TypeVar("T")

#: The migrations, beside this module, also in an installed package.
SCRIPTS = Path(__file__).parent / "migrations"


def alembic_config(connection: sa.Connection | None = None) -> config.Config:
    """Return Alembic's configuration, without an ini file."""
    from alembic import config

    settings = config.Config()
    settings.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    settings.set_main_option("path_separator", "os")
    settings.attributes["connection"] = connection
    return settings


@functools.cache
def revisions() -> tuple[str, ...]:
    """Return every revision of this code, oldest first; the history is linear, and its scripts are numbered."""
    return tuple(sorted(path.name.partition("_")[0] for path in (SCRIPTS / "versions").glob("[0-9]*_*.py")))


def _revision(connection: sa.Connection) -> str | None:
    names = set(sa.inspect(connection).get_table_names())
    if tables.VERSION_TABLE not in names:
        ours = sorted(names & set(tables.metadata.tables))
        if ours:
            raise errors.StoreError(
                f"this database holds a table named {ours[0]} that is not runnerd's; give runnerd a database of its own"
            )
        return None
    version = sa.table(tables.VERSION_TABLE, sa.column("version_num", sa.String))
    revision: str | None = connection.execute(sa.select(version.c.version_num)).scalar()
    return revision


def _missing(revision: str | None, where: str) -> tuple[str, ...]:
    known = revisions()
    if revision is None:
        return known
    if revision not in known:
        raise errors.StoreError(
            f"{where} was made by a newer runnerd (its schema is {revision}, this one knows {known[-1]}); "
            "install that version again, or restore the backup that was taken before its migration"
        )
    return known[known.index(revision) + 1 :]


def missing(connection: sa.Connection, where: str) -> tuple[str, ...]:
    """Return the revisions that the database lacks.  Raises :class:`errors.StoreError` if it has an unknown one."""
    return _missing(_revision(connection), where)


def upgrade(connection: sa.Connection, url: sa.URL, *, now: float) -> list[str]:
    """Apply the missing revisions, after a backup, and return them.

    The caller holds the lock.  All revisions are one transaction: a failing one leaves the database as it was.
    """
    where = engine.shown(url)
    with connection.begin():
        revision = _revision(connection)
    todo = _missing(revision, where)
    if not todo:
        return []
    path = engine.file_of(url)
    if revision is not None:
        if path is not None:
            backup.copy(path, revision=todo[0], now=now)
        elif not engine.is_memory(url):
            log.warning("%s", backup.hint(where))
    from alembic import command

    with _tables_may_be_replaced(connection), connection.begin():
        command.upgrade(alembic_config(connection), "head")
        _check_references(connection, where)
    log.info("%s migrated to %s", where, todo[-1])
    return list(todo)


@contextlib.contextmanager
def _tables_may_be_replaced(connection: sa.Connection) -> Iterator[None]:
    """Let SQLite drop a table that others refer to; it alters tables by making new ones.

    The pragma has no effect inside a transaction, so it goes to the driver before and after
    (https://sqlite.org/lang_altertable.html, section 7).
    """
    if connection.dialect.name != "sqlite":
        yield
        return
    driver = connection.connection.driver_connection
    assert driver is not None, "the connection is open"
    driver.execute("PRAGMA foreign_keys=OFF")
    try:
        yield
    finally:
        driver.execute("PRAGMA foreign_keys=ON")


def _check_references(connection: sa.Connection, where: str) -> None:
    """Raise an error if a migration left a row with a dangling reference."""
    if connection.dialect.name == "sqlite":
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
        if broken is not None:
            raise errors.StoreError(f"{where}: the migration left a row of {broken[0]} with a dangling reference")


def _connected(url: str, work: Callable[[sa.Connection, sa.URL], T], *, exclusive: bool) -> T:
    parsed = engine.parse(url)
    where = engine.shown(parsed)
    path = engine.file_of(parsed)
    file_lock = None
    if exclusive and path is not None:
        engine.prepare(path)
        file_lock = lock.FileLock(path)
    database_engine = engine.make(parsed)
    try:

        def connected() -> T:
            with database_engine.connect() as connection:
                if exclusive and parsed.get_backend_name() == "postgresql":
                    holder = lock.take_advisory(connection)
                    if holder is not None:
                        raise errors.StoreBusy(f"{where} is in use by {holder}; stop that one first")
                return work(connection, parsed)

        return engine.call(where, connected)
    finally:
        database_engine.dispose()
        if file_lock is not None:
            file_lock.release()


def migrate(url: str) -> list[str]:
    """Bring the database to this code's schema and return the revisions that were applied, oldest first.

    Takes the lock: raises :class:`errors.StoreBusy` while a daemon uses the database.
    """
    return list(
        _connected(url, lambda connection, parsed: upgrade(connection, parsed, now=time.time()), exclusive=True)
    )


def current(url: str) -> str | None:
    """Return the database's revision; None when it is empty or absent.  Creates nothing."""
    path = engine.file_of(engine.parse(url))
    if path is not None and not path.exists():
        return None
    return _connected(url, lambda connection, _: _revision(connection), exclusive=False)


def pending(url: str) -> list[str]:
    """Return the revisions that :func:`migrate` would apply, oldest first."""
    return list(_missing(current(url), engine.shown(engine.parse(url))))
