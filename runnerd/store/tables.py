"""The tables, as SQLAlchemy Core metadata: the schema after the newest migration.

One column per field of the dataclass of the same name in :mod:`runnerd.model`, in the same order; a queue is three
columns, so that no name can break its parsing and pools can be asked for.  Times are unix seconds in double
precision, enums are text that a CHECK constraint holds to the enum, lists and cursors are JSON text.  A change here
needs a migration beside it; a test compares the two.
"""

from __future__ import annotations

import enum

import sqlalchemy as sa

from runnerd import model

#: Names of constraints are the same on every database, so that a later migration can address them.
NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}

metadata = sa.MetaData(naming_convention=NAMING)

#: Alembic's table of the revision; not its default name, which another program in the same database may use.
VERSION_TABLE = "runnerd_version"


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False)


def _real(name: str) -> sa.Column[float]:
    return sa.Column(name, sa.Double, nullable=False)


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean, nullable=False)


def _whole(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False)


def _one_of(name: str, values: type[enum.StrEnum]) -> sa.CheckConstraint:
    members = ", ".join(f"'{value.value}'" for value in values)
    return sa.CheckConstraint(f"{name} IN ({members})", name=name)


instances = sa.Table(
    "instances",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    _text("pool"),
    _text("state"),
    _real("created_at"),
    _real("since"),
    _text("reason"),
    # All three or none: the queue it registered for.
    sa.Column("queue_forge", sa.Text),
    sa.Column("queue_scope", sa.Text),
    sa.Column("queue_pool", sa.Text),
    # No foreign key: attempts point here, and each row of a pair is written before or after the other.
    sa.Column("attempt", sa.Text),
    _text("provider"),
    _text("offer"),
    _text("region"),
    _text("zone"),
    _text("machine_type"),
    _text("market"),
    _whole("gpus"),
    _whole("cpus"),
    _text("image"),
    _text("ref"),
    _real("price"),
    _text("price_source"),
    _real("running_at"),
    _real("ready_at"),
    _real("registered_at"),
    _real("busy_at"),
    _real("job_ended_at"),
    _real("gone_at"),
    _real("deadline"),
    _real("hold_until"),
    _text("repo"),
    # No foreign key: a job may be forgotten before the instance that ran it, and the other way round.
    sa.Column("job", sa.Text),
    _text("agent_nonce"),
    _flag("job_started"),
    _flag("adopted"),
    _text("detail"),
    _text("end"),
    _text("end_detail"),
    _one_of("state", model.InstanceState),
    _one_of("reason", model.Reason),
    sa.Index(None, "state"),
    sa.Index(None, "pool", "created_at"),
    sa.Index(None, "created_at"),
    sa.Index(None, "gone_at"),
)

#: Apart from the instances: a console is large, and the rows of instances are read all the time.
consoles = sa.Table(
    "consoles",
    metadata,
    # The instance and the kind: one text of each kind is kept.
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("instance", sa.Text, sa.ForeignKey("instances.id"), nullable=False),
    _text("kind"),
    _real("at"),
    _text("text"),
    _text("problem"),
    _one_of("kind", model.ConsoleKind),
    sa.Index(None, "instance"),
    sa.Index(None, "at"),
)

attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("instance", sa.Text, sa.ForeignKey("instances.id"), nullable=False),
    _text("state"),
    _text("provider"),
    _text("offer"),
    _text("sealed"),
    _real("created_at"),
    _real("since"),
    _real("sent_at"),
    _whole("sends"),
    _real("price"),
    _text("failure"),
    _text("code"),
    _text("detail"),
    _one_of("state", model.AttemptState),
    sa.Index(None, "instance"),
    sa.Index(None, "state"),
)

registrations = sa.Table(
    "registrations",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("instance", sa.Text, sa.ForeignKey("instances.id"), nullable=False),
    _text("queue_forge"),
    _text("queue_scope"),
    _text("queue_pool"),
    _text("runner_name"),
    _text("state"),
    _real("created_at"),
    _real("since"),
    _text("forge_id"),
    _text("detail"),
    _one_of("state", model.RegistrationState),
    # A runner's name is used once for ever: a lost answer is resolved by name.
    sa.UniqueConstraint("runner_name"),
    sa.Index(None, "instance"),
    sa.Index(None, "state"),
)

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    _text("queue_forge"),
    _text("queue_scope"),
    _text("queue_pool"),
    _text("repo"),
    _text("run"),
    _text("name"),
    _text("labels"),
    _text("aliases"),
    _text("state"),
    _text("conclusion"),
    sa.Column("instance", sa.Text),
    _text("runner_name"),
    _real("queued_at"),
    _real("started_at"),
    _real("finished_at"),
    _text("url"),
    _whole("lapses"),
    _one_of("state", model.JobState),
    sa.Index(None, "state", "finished_at"),
    sa.Index(None, "queue_pool", "queued_at"),
    sa.Index(None, "queued_at"),
    sa.Index(None, "name"),
)

events = sa.Table(
    "events",
    metadata,
    # Grows for ever and is never used again after pruning, so that "after this one" stays true.
    sa.Column("rowid", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    _real("at"),
    _text("subject"),
    _text("id"),
    _text("what"),
    _text("reason"),
    _text("detail"),
    sa.Index(None, "id", "rowid"),
    sa.Index(None, "at"),
    sqlite_autoincrement=True,
)

blocks = sa.Table(
    "blocks",
    metadata,
    sa.Column("pattern", sa.Text, primary_key=True),
    _text("reason"),
    _real("until"),
    _real("since"),
    _text("detail"),
)

cursors = sa.Table("cursors", metadata, sa.Column("queue", sa.Text, primary_key=True), _text("value"))

settings = sa.Table("settings", metadata, sa.Column("name", sa.Text, primary_key=True), _text("value"))

#: One row: the process that opened this state last.  A process that lost its connection checks here that no other
#: opened the state meanwhile.
holder = sa.Table(
    "holder",
    metadata,
    sa.Column("one", sa.Integer, primary_key=True, autoincrement=False),
    _text("token"),
    _text("host"),
    _whole("pid"),
    _real("opened_at"),
    _real("probed_at"),
)
