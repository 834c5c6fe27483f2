"""A copy of a SQLite database before its schema changes.

The copy is whole or absent: it is written under another name, flushed and renamed.  Only copies that were made here
are ever removed, and only beyond the newest three.  PostgreSQL is the operator's to back up (docs/store.md).
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import time
from pathlib import Path

from runnerd.store import engine

log = logging.getLogger(__name__)

#: The number of copies that are kept.
KEPT_COPIES = 3


def copies(database: Path) -> list[Path]:
    """Return the copies made here, oldest first."""
    pattern = re.compile(re.escape(database.name) + r"\.before-[0-9a-z_]+-(\d{8}T\d{6}Z)")
    stamped = [(match[1], path) for path in database.parent.iterdir() if (match := pattern.fullmatch(path.name))]
    return [path for _, path in sorted(stamped)]


def copy(database: Path, *, revision: str, now: float) -> Path:
    """Copy ``database`` to ``<database>.before-<revision>-<UTC time>`` and return that path.

    Raises ``StoreUnwritable`` when there is no room; the database is untouched then.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    target = database.with_name(f"{database.name}.before-{revision}-{stamp}")
    part = target.with_name(target.name + ".part")
    try:
        part.unlink(missing_ok=True)
        os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        source, sink = sqlite3.connect(database), sqlite3.connect(part)
        try:
            source.backup(sink)
            # The copy is one plain file without a log beside it.
            sink.execute("PRAGMA journal_mode=DELETE")
        finally:
            sink.close()
            source.close()
        with open(part, "rb") as copied:
            os.fsync(copied.fileno())
        os.replace(part, target)
        directory = os.open(database.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except (OSError, sqlite3.Error) as error:
        part.unlink(missing_ok=True)
        failure = engine.translate(error, str(target))
        raise type(failure)(f"no backup before the migration, which was not begun: {failure}") from error
    log.info("database backed up to %s before its migration", target)
    try:
        for old in copies(database)[:-KEPT_COPIES]:
            old.unlink()
    except OSError as error:
        log.warning("old backups of %s were not deleted: %s", database, error)
    return target


def hint(where: str) -> str:
    """Return a message for the operator of a PostgreSQL database."""
    return f"{where} is migrated without a copy; `pg_dump --format=custom` beforehand makes one"
