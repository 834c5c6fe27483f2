"""Encoding of changes, and the transaction that writes those of many callers.

Runs in the offload's thread.  Statements are built once by SQLAlchemy for the database at hand and then given to the
driver with plain tuples, because a burst of a thousand instances must not cost the daemon a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from runnerd import errors, model
from runnerd.store import rows

Change = (
    model.Instance
    | model.Attempt
    | model.Registration
    | model.Job
    | model.Console
    | model.Event
    | model.Block
    | rows.Cursor
    | rows.Setting
    | rows.Unblock
)

#: In the order of writing: referenced tables come first.
CODECS: tuple[rows.Codec[Any], ...] = (
    rows.INSTANCE,
    rows.ATTEMPT,
    rows.REGISTRATION,
    rows.JOB,
    rows.CONSOLE,
    rows.BLOCK,
    rows.CURSOR,
    rows.SETTING,
)
_BY_KIND = {codec.kind: (place, codec) for place, codec in enumerate(CODECS)}
_BLOCKS = CODECS.index(rows.BLOCK)

#: One encoded change: the place of its table, its key (None for an event), its row (None for a deletion).
Encoded = tuple[int, str | None, tuple[Any, ...] | None]


def encode(changes: Iterable[Change]) -> list[Encoded]:
    """Return the changes as rows.  Raises :class:`errors.StoreError` for one that cannot be stored."""
    encoded: list[Encoded] = []
    for change in changes:
        kind = type(change)
        if kind is model.Event:
            encoded.append((-1, None, rows.EVENT.encode(change)))  # type: ignore[arg-type]
        elif kind is rows.Unblock:
            encoded.append((_BLOCKS, change.pattern, None))  # type: ignore[union-attr]
        elif kind in _BY_KIND:
            place, codec = _BY_KIND[kind]
            row = codec.encode(change)
            encoded.append((place, row[0], row))
        else:
            raise errors.StoreError(f"a {kind.__name__} is not a kind of row")
    return encoded


@dataclass(slots=True)
class Batch:
    """Changes that become one transaction.  Of several for the same row only the last one is kept; events all stay."""

    rows: list[dict[str, tuple[Any, ...] | None]] = field(default_factory=lambda: [{} for _ in CODECS])
    events: list[tuple[Any, ...]] = field(default_factory=list)

    def add(self, encoded: Sequence[Encoded]) -> None:
        for place, key, row in encoded:
            if key is None:
                assert row is not None, "an event is never deleted here"
                self.events.append(row)
            else:
                self.rows[place][key] = row


class Statements:
    """The SQL for one dialect."""

    def __init__(self, dialect: sa.Dialect) -> None:
        self._upserts = [self._upsert(codec, dialect) for codec in CODECS]
        self._insert = _compiled(sa.insert(rows.EVENT.table), rows.EVENT.columns, dialect)
        pattern = sa.bindparam("pattern", type_=sa.Text)
        self._unblock = str(
            sa.delete(rows.BLOCK.table).where(rows.BLOCK.table.c.pattern == pattern).compile(dialect=dialect)
        )

    @staticmethod
    def _upsert(codec: rows.Codec[Any], dialect: sa.Dialect) -> str:
        insert: Any = (postgresql if dialect.name == "postgresql" else sqlite).insert(codec.table)
        changed = {name: insert.excluded[name] for name in codec.columns if name != codec.key}
        return _compiled(insert.on_conflict_do_update(index_elements=[codec.key], set_=changed), codec.columns, dialect)

    def apply(self, connection: sa.Connection, batch: Batch) -> None:
        """Send the batch inside the connection's open transaction."""
        for place, (statement, changed) in enumerate(zip(self._upserts, batch.rows, strict=True)):
            if not changed:
                continue
            upserts = [row for row in changed.values() if row is not None]
            if upserts:
                _execute(connection, statement, upserts)
            if place == _BLOCKS and len(upserts) < len(changed):
                _execute(connection, self._unblock, [(key,) for key, row in changed.items() if row is None])
        if batch.events:
            _execute(connection, self._insert, batch.events)


def _compiled(statement: Any, columns: list[str], dialect: sa.Dialect) -> str:
    compiled = statement.compile(dialect=dialect, column_keys=columns)
    assert list(compiled.positiontup or ()) == columns, "the tuples of a codec are in the order of its columns"
    return str(compiled)


def _execute(connection: sa.Connection, statement: str, values: list[tuple[Any, ...]]) -> None:
    # A list of one is a plain execution: drivers prepare more for many.
    connection.exec_driver_sql(statement, values if len(values) > 1 else values[0])
