"""Deletion of old rows, in steps between which other writers get their turn.

An instance stays while one of its attempts is open or a forge may have one of its runners, and events stay as long as
their subjects.  Output of instances goes earlier than their rows, because it is large.
"""

from __future__ import annotations

from typing import Any, Protocol

import sqlalchemy as sa

from runnerd import model
from runnerd.store import queries, tables

#: The most rows that one step deletes.
ROWS_PER_STEP = 2000
#: Seconds for which the output of instances is kept, and the most texts that are kept.
CONSOLES_S, MOST_CONSOLES = 14 * 86400.0, 5000


class Step(Protocol):
    """Deletes some rows; returns their number, and True when there may be more."""

    def __call__(self, connection: sa.Connection, before: float) -> tuple[int, bool]: ...


def _instances(connection: sa.Connection, before: float) -> tuple[int, bool]:
    i, a, r = tables.instances.c, tables.attempts.c, tables.registrations.c
    old = (
        sa.select(i.id)
        .where(
            i.state.in_([state.value for state in model.CLOSED]),
            i.since < before,
            i.gone_at < before,
            ~sa.exists().where(a.instance == i.id, a.state.in_(queries.OPEN_ATTEMPTS)),
            ~sa.exists().where(r.instance == i.id, r.state.in_(queries.OPEN_REGISTRATIONS)),
        )
        .limit(ROWS_PER_STEP)
    )
    ids = list(connection.scalars(old))
    if not ids:
        return 0, False
    deleted = 0
    for column in (a.instance, r.instance, tables.consoles.c.instance, i.id):
        deleted += connection.execute(sa.delete(column.table).where(column.in_(ids))).rowcount
    return deleted, len(ids) == ROWS_PER_STEP


def _limited(table: sa.Table, *conditions: sa.ColumnElement[bool]) -> Any:
    key = next(iter(table.primary_key))
    return sa.delete(table).where(key.in_(sa.select(key).where(*conditions).limit(ROWS_PER_STEP)))


def _jobs(connection: sa.Connection, before: float) -> tuple[int, bool]:
    j = tables.jobs.c
    deleted = connection.execute(
        _limited(tables.jobs, j.state == model.JobState.COMPLETED.value, j.finished_at < before)
    ).rowcount
    return deleted, deleted == ROWS_PER_STEP


def _events(connection: sa.Connection, before: float) -> tuple[int, bool]:
    e = tables.events.c
    kept = sa.or_(
        *(
            sa.and_(e.subject == subject, sa.exists().where(column == e.id))
            for subject, column in (
                ("instance", tables.instances.c.id),
                ("attempt", tables.attempts.c.key),
                ("registration", tables.registrations.c.id),
                ("job", tables.jobs.c.key),
            )
        )
    )
    deleted = connection.execute(_limited(tables.events, e.at < before, ~kept)).rowcount
    return deleted, deleted == ROWS_PER_STEP


def _blocks(connection: sa.Connection, before: float) -> tuple[int, bool]:
    deleted = connection.execute(_limited(tables.blocks, tables.blocks.c.until < before)).rowcount
    return deleted, deleted == ROWS_PER_STEP


def consoles(connection: sa.Connection, before: float) -> tuple[int, bool]:
    """Delete output older than that time, and the oldest beyond the limit."""
    c = tables.consoles.c
    surplus = connection.scalar(sa.select(c.at).order_by(c.at.desc()).offset(MOST_CONSOLES).limit(1))
    deleted = connection.execute(
        _limited(tables.consoles, c.at < before if surplus is None else sa.or_(c.at < before, c.at <= surplus))
    ).rowcount
    return deleted, deleted == ROWS_PER_STEP


#: In this order: events go after their subjects.
STEPS: tuple[Step, ...] = (_instances, _jobs, _events, _blocks)
