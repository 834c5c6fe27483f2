"""Ends and consoles: what a provider says of an instance's end, what it printed, and where its price came from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

REASONS = (
    "",
    "job-done",
    "idle",
    "age",
    "surplus",
    "boot-timeout",
    "gate-failed",
    "register-failed",
    "max-job",
    "preempted",
    "vanished",
    "dead",
    "runner-exited",
    "operator",
    "orphan",
    "retired",
    "not-wanted",
    "no-offer",
    "restart",
    "refused",
    "launch-failed",
)
STATES = (
    "planned",
    "requesting",
    "unknown",
    "booting",
    "ready",
    "registering",
    "registered",
    "busy",
    "draining",
    "ending",
    "gone",
    "failed",
)
#: Each new column with what it holds in rows that are there already.
NEW = (
    ("cpus", sa.Integer(), "0"),
    ("image", sa.Text(), "''"),
    ("price_source", sa.Text(), "''"),
    ("end", sa.Text(), "''"),
    ("end_detail", sa.Text(), "''"),
)


def _one_of(column: str, words: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(repr(word) for word in words)})"


def upgrade() -> None:
    if op.get_context().dialect.name == "sqlite":
        _rebuild()
    else:
        for name, kind, value in NEW:
            op.add_column("instances", sa.Column(name, kind, nullable=False, server_default=sa.text(value)))
            op.alter_column("instances", name, server_default=None)
        op.drop_constraint(op.f("ck_instances_reason"), "instances", type_="check")
        op.create_check_constraint(op.f("ck_instances_reason"), "instances", _one_of("reason", REASONS))
    op.create_table(
        "consoles",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=False),
        sa.CheckConstraint(_one_of("kind", ("console", "agent")), name=op.f("ck_consoles_kind")),
        sa.ForeignKeyConstraint(["instance"], ["instances.id"], name=op.f("fk_consoles_instance")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_consoles")),
    )
    op.create_index(op.f("ix_consoles_at"), "consoles", ["at"])
    op.create_index(op.f("ix_consoles_instance"), "consoles", ["instance"])


def _rebuild() -> None:
    """SQLite changes no constraint of a table: a new table takes the rows over and then the name."""
    old = [column["name"] for column in sa.inspect(op.get_bind()).get_columns("instances")]
    op.create_table(
        "instances_0002",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("queue_forge", sa.Text(), nullable=True),
        sa.Column("queue_scope", sa.Text(), nullable=True),
        sa.Column("queue_pool", sa.Text(), nullable=True),
        sa.Column("attempt", sa.Text(), nullable=True),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("offer", sa.Text(), nullable=False),
        sa.Column("region", sa.Text(), nullable=False),
        sa.Column("zone", sa.Text(), nullable=False),
        sa.Column("machine_type", sa.Text(), nullable=False),
        sa.Column("market", sa.Text(), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("cpus", sa.Integer(), nullable=False),
        sa.Column("image", sa.Text(), nullable=False),
        sa.Column("ref", sa.Text(), nullable=False),
        sa.Column("price", sa.Double(), nullable=False),
        sa.Column("price_source", sa.Text(), nullable=False),
        sa.Column("running_at", sa.Double(), nullable=False),
        sa.Column("ready_at", sa.Double(), nullable=False),
        sa.Column("registered_at", sa.Double(), nullable=False),
        sa.Column("busy_at", sa.Double(), nullable=False),
        sa.Column("job_ended_at", sa.Double(), nullable=False),
        sa.Column("gone_at", sa.Double(), nullable=False),
        sa.Column("deadline", sa.Double(), nullable=False),
        sa.Column("hold_until", sa.Double(), nullable=False),
        sa.Column("repo", sa.Text(), nullable=False),
        sa.Column("job", sa.Text(), nullable=True),
        sa.Column("agent_nonce", sa.Text(), nullable=False),
        sa.Column("job_started", sa.Boolean(), nullable=False),
        sa.Column("adopted", sa.Boolean(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("end", sa.Text(), nullable=False),
        sa.Column("end_detail", sa.Text(), nullable=False),
        sa.CheckConstraint(_one_of("reason", REASONS), name=op.f("ck_instances_reason")),
        sa.CheckConstraint(_one_of("state", STATES), name=op.f("ck_instances_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instances")),
    )
    taken = ", ".join(old)
    names = ", ".join(f'"{name}"' for name, _, _ in NEW)
    values = ", ".join(value for _, _, value in NEW)
    # Only names and constants from above.
    op.execute(f"INSERT INTO instances_0002 ({taken}, {names}) SELECT {taken}, {values} FROM instances")  # noqa: S608
    op.drop_table("instances")
    op.rename_table("instances_0002", "instances")
    for columns in (["created_at"], ["gone_at"], ["pool", "created_at"], ["state"]):
        op.create_index(op.f(f"ix_instances_{'_'.join(columns)}"), "instances", columns)
