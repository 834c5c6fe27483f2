"""Read access to the database without the daemon, or beside it: takes no lock, writes and migrates nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa

from runnerd import config, errors
from runnerd.store import engine, schema

T = TypeVar("T")


def read(settings: config.Config, work: Callable[[sa.Connection], T]) -> T:
    """Run ``work`` on the committed data and return its result.

    Raises :class:`errors.StoreError` when there is no state, when it needs another version of runnerd, or when it
    cannot be read.
    """
    url = engine.parse(settings.database_url)
    where = engine.shown(url)
    path = engine.file_of(url)
    if engine.is_memory(url):
        raise errors.StoreError("the state is in the daemon's memory only")
    if path is not None and not path.exists():
        raise errors.StoreError(f"there is no state at {path}")

    def connected() -> T:
        if path is not None:
            # Read-only: this must neither take the daemon's lock nor create files that its user cannot write.
            made = sa.create_engine("sqlite://", creator=lambda: _read_only(path), poolclass=sa.pool.NullPool)
        else:
            made = engine.make(url, name="runnerd looks")
        try:
            with made.connect() as connection:
                lacking = schema.missing(connection, where)
                if lacking:
                    raise errors.StoreError(f"{where} needs the migration to {lacking[-1]}; run `runnerd db upgrade`")
                return work(connection)
        finally:
            made.dispose()

    return engine.call(where, connected)


def _read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5.0)
