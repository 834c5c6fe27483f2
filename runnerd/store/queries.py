"""Queries of the durable state.

Each function takes an open connection and returns facts of :mod:`runnerd.model`.  Lists are bounded and newest
first unless said otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import sqlalchemy as sa

from provisioners import base
from runnerd import model
from runnerd.store import rows, tables

T = TypeVar("T")

#: Seconds for which a completed job stays in the controller's memory.
RECENT_S = 24 * 3600.0

_CLOSED = sorted(state.value for state in model.CLOSED)
_OPEN = sorted(state.value for state in model.InstanceState if state not in model.CLOSED)
#: Attempts without a known outcome; rows about them are never pruned.
OPEN_ATTEMPTS = [model.AttemptState.REQUESTING.value, model.AttemptState.UNKNOWN.value]
#: Registrations that the forge may still have.
OPEN_REGISTRATIONS = sorted(state.value for state in model.RegistrationState if state != model.RegistrationState.GONE)

_instances, _attempts, _registrations = tables.instances.c, tables.attempts.c, tables.registrations.c
_jobs, _events = tables.jobs.c, tables.events.c


@dataclass(frozen=True, slots=True)
class State:
    """Everything that the controller mirrors in memory."""

    #: Live instances, and closed ones with an open registration or attempt.
    instances: tuple[model.Instance, ...] = ()
    #: The attempts of these instances.
    attempts: tuple[model.Attempt, ...] = ()
    #: Registrations that the forge may still have.
    registrations: tuple[model.Registration, ...] = ()
    #: Jobs that are not completed, or were completed within the last 24 hours.
    jobs: tuple[model.Job, ...] = ()
    #: By queue.
    cursors: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: rows.EMPTY)
    blocks: tuple[model.Block, ...] = ()
    settings: Mapping[str, str] = field(default_factory=lambda: rows.EMPTY)


def _all(connection: sa.Connection, codec: rows.Codec[T], query: sa.Select[Any]) -> list[T]:
    decode = codec.decode
    return [decode(row) for row in connection.execute(query)]


def load(connection: sa.Connection, now: float) -> State:
    """Return the state that a daemon starts from."""
    kept = sa.union(
        sa.select(_instances.id).where(_instances.state.in_(_OPEN)),
        sa.select(_registrations.instance).where(_registrations.state.in_(OPEN_REGISTRATIONS)),
        sa.select(_attempts.instance).where(_attempts.state.in_(OPEN_ATTEMPTS)),
    )
    recent = sa.or_(
        _jobs.state.in_([model.JobState.QUEUED.value, model.JobState.RUNNING.value]),
        sa.and_(_jobs.state == model.JobState.COMPLETED.value, _jobs.finished_at >= now - RECENT_S),
    )
    return State(
        instances=tuple(
            _all(
                connection,
                rows.INSTANCE,
                rows.INSTANCE.select.where(_instances.id.in_(kept)).order_by(_instances.created_at, _instances.id),
            )
        ),
        attempts=tuple(
            _all(
                connection,
                rows.ATTEMPT,
                rows.ATTEMPT.select.where(_attempts.instance.in_(kept)).order_by(_attempts.created_at, _attempts.key),
            )
        ),
        registrations=tuple(
            _all(
                connection,
                rows.REGISTRATION,
                rows.REGISTRATION.select.where(_registrations.state.in_(OPEN_REGISTRATIONS)).order_by(
                    _registrations.created_at, _registrations.id
                ),
            )
        ),
        jobs=tuple(_all(connection, rows.JOB, rows.JOB.select.where(recent).order_by(_jobs.queued_at, _jobs.key))),
        cursors={each.queue: each.value for each in _all(connection, rows.CURSOR, rows.CURSOR.select)},
        blocks=tuple(_all(connection, rows.BLOCK, rows.BLOCK.select.order_by(tables.blocks.c.pattern))),
        settings={each.name: each.value for each in _all(connection, rows.SETTING, rows.SETTING.select)},
    )


def events(
    connection: sa.Connection, *, subject: str | None, id: str | None, since: float, after_rowid: int, limit: int
) -> list[tuple[int, model.Event]]:
    """Return events with their row ids, oldest first.

    With ``after_rowid`` the first ``limit`` ones after it, to follow the trail; without, the last ``limit`` ones.
    """
    query = sa.select(_events.rowid, *(tables.events.c[name] for name in rows.EVENT.columns))
    if id is not None:
        query = query.where(_events.id == id)
    if subject is not None:
        query = query.where(_events.subject == subject)
    if since > 0:
        query = query.where(_events.at >= since)
    if after_rowid > 0:
        query = query.where(_events.rowid > after_rowid).order_by(_events.rowid)
    else:
        query = query.order_by(_events.rowid.desc())
    numbered = [(row[0], rows.EVENT.decode(row[1:])) for row in connection.execute(query.limit(limit))]
    return numbered if after_rowid > 0 else numbered[::-1]


def instance(connection: sa.Connection, id: str) -> model.Instance | None:
    """Return the instance of that id, live or closed."""
    matching = _all(connection, rows.INSTANCE, rows.INSTANCE.select.where(_instances.id == id))
    return matching[0] if matching else None


def instances(connection: sa.Connection, *, live: bool | None, pool: str | None, limit: int) -> list[model.Instance]:
    """Return instances, newest first."""
    query = rows.INSTANCE.select
    if live is not None:
        query = query.where(_instances.state.in_(_OPEN if live else _CLOSED))
    if pool is not None:
        query = query.where(_instances.pool == pool)
    return _all(connection, rows.INSTANCE, query.order_by(_instances.created_at.desc(), _instances.id).limit(limit))


def unexplained(connection: sa.Connection, since: float) -> list[model.Instance]:
    """Return the instances gone since then for which the provider has given no end reason, oldest first."""
    query = rows.INSTANCE.select.where(
        _instances.gone_at >= since,
        _instances.state == model.InstanceState.GONE.value,
        _instances.end == base.EndKind.UNKNOWN.value,
    )
    return _all(connection, rows.INSTANCE, query.order_by(_instances.gone_at, _instances.id))


def consoles(connection: sa.Connection, instance_id: str) -> list[model.Console]:
    """Return the stored output of an instance, by kind."""
    query = rows.CONSOLE.select.where(tables.consoles.c.instance == instance_id)
    return _all(connection, rows.CONSOLE, query.order_by(tables.consoles.c.key))


def attempts(connection: sa.Connection, instance_id: str) -> list[model.Attempt]:
    """Return all attempts for an instance, oldest first."""
    query = rows.ATTEMPT.select.where(_attempts.instance == instance_id)
    return _all(connection, rows.ATTEMPT, query.order_by(_attempts.created_at, _attempts.key))


def registrations(connection: sa.Connection, instance_id: str) -> list[model.Registration]:
    """Return all registrations of an instance, oldest first."""
    query = rows.REGISTRATION.select.where(_registrations.instance == instance_id)
    return _all(connection, rows.REGISTRATION, query.order_by(_registrations.created_at, _registrations.id))


def job(connection: sa.Connection, name: str, *, limit: int = 100) -> list[model.Job]:
    """Return the jobs that ``name`` may mean: a key, one of the forge's ids, a run or a job's name."""
    exact = _all(connection, rows.JOB, rows.JOB.select.where(_jobs.key == name))
    if exact:
        return exact
    # Aliases are a JSON array of text, so the quoted text occurs in it; the decoded list has the last word.
    quoted = json.dumps(name)
    query = rows.JOB.select.where(
        sa.or_(_jobs.name == name, _jobs.run == name, _jobs.aliases.contains(quoted, autoescape=True))
    )
    return [
        each
        for each in _all(connection, rows.JOB, query.order_by(_jobs.queued_at.desc(), _jobs.key).limit(limit))
        if name in (each.name, each.run) or name in each.aliases
    ]


def jobs(connection: sa.Connection, *, state: model.JobState | None, pool: str | None, limit: int) -> list[model.Job]:
    """Return jobs, newest first."""
    query = rows.JOB.select
    if state is not None:
        query = query.where(_jobs.state == model.JobState(state).value)
    if pool is not None:
        query = query.where(_jobs.queue_pool == pool)
    return _all(connection, rows.JOB, query.order_by(_jobs.queued_at.desc(), _jobs.key).limit(limit))


def costs(connection: sa.Connection, since: float) -> list[rows.Cost]:
    """Return the costs of closed instances that were gone at ``since`` or later, oldest first."""
    query = (
        sa.select(
            _instances.id,
            _instances.pool,
            _instances.provider,
            _instances.market,
            _instances.repo,
            _instances.running_at,
            _instances.gone_at,
            _instances.price,
        )
        .where(_instances.gone_at >= since, _instances.running_at > 0, _instances.state.in_(_CLOSED))
        .order_by(_instances.gone_at, _instances.id)
    )
    return [rows.Cost(*row) for row in connection.execute(query)]
