"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _one_of(column: str, *words: str) -> str:
    return f"{column} IN ({', '.join(repr(word) for word in words)})"


def upgrade() -> None:
    op.create_table(
        "blocks",
        sa.Column("pattern", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("until", sa.Double(), nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("pattern", name=op.f("pk_blocks")),
    )
    op.create_table(
        "cursors",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("queue", name=op.f("pk_cursors")),
    )
    op.create_table(
        "events",
        sa.Column("rowid", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("rowid", name=op.f("pk_events")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_events_at"), "events", ["at"])
    op.create_index(op.f("ix_events_id_rowid"), "events", ["id", "rowid"])
    op.create_table(
        "holder",
        sa.Column("one", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("opened_at", sa.Double(), nullable=False),
        sa.Column("probed_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("one", name=op.f("pk_holder")),
    )
    op.create_table(
        "instances",
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
        sa.Column("ref", sa.Text(), nullable=False),
        sa.Column("price", sa.Double(), nullable=False),
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
        sa.CheckConstraint(
            _one_of(
                "reason",
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
            ),
            name=op.f("ck_instances_reason"),
        ),
        sa.CheckConstraint(
            _one_of(
                "state",
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
            ),
            name=op.f("ck_instances_state"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instances")),
    )
    op.create_index(op.f("ix_instances_created_at"), "instances", ["created_at"])
    op.create_index(op.f("ix_instances_gone_at"), "instances", ["gone_at"])
    op.create_index(op.f("ix_instances_pool_created_at"), "instances", ["pool", "created_at"])
    op.create_index(op.f("ix_instances_state"), "instances", ["state"])
    op.create_table(
        "jobs",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("queue_forge", sa.Text(), nullable=False),
        sa.Column("queue_scope", sa.Text(), nullable=False),
        sa.Column("queue_pool", sa.Text(), nullable=False),
        sa.Column("repo", sa.Text(), nullable=False),
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("labels", sa.Text(), nullable=False),
        sa.Column("aliases", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("conclusion", sa.Text(), nullable=False),
        sa.Column("instance", sa.Text(), nullable=True),
        sa.Column("runner_name", sa.Text(), nullable=False),
        sa.Column("queued_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("finished_at", sa.Double(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("lapses", sa.Integer(), nullable=False),
        sa.CheckConstraint(_one_of("state", "queued", "running", "completed"), name=op.f("ck_jobs_state")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_jobs")),
    )
    op.create_index(op.f("ix_jobs_name"), "jobs", ["name"])
    op.create_index(op.f("ix_jobs_queue_pool_queued_at"), "jobs", ["queue_pool", "queued_at"])
    op.create_index(op.f("ix_jobs_queued_at"), "jobs", ["queued_at"])
    op.create_index(op.f("ix_jobs_state_finished_at"), "jobs", ["state", "finished_at"])
    op.create_table(
        "settings",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_settings")),
    )
    op.create_table(
        "attempts",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("offer", sa.Text(), nullable=False),
        sa.Column("sealed", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.Column("sent_at", sa.Double(), nullable=False),
        sa.Column("sends", sa.Integer(), nullable=False),
        sa.Column("price", sa.Double(), nullable=False),
        sa.Column("failure", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.CheckConstraint(
            _one_of("state", "requesting", "unknown", "created", "failed"), name=op.f("ck_attempts_state")
        ),
        sa.ForeignKeyConstraint(["instance"], ["instances.id"], name=op.f("fk_attempts_instance")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_attempts")),
    )
    op.create_index(op.f("ix_attempts_instance"), "attempts", ["instance"])
    op.create_index(op.f("ix_attempts_state"), "attempts", ["state"])
    op.create_table(
        "registrations",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("queue_forge", sa.Text(), nullable=False),
        sa.Column("queue_scope", sa.Text(), nullable=False),
        sa.Column("queue_pool", sa.Text(), nullable=False),
        sa.Column("runner_name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.Column("forge_id", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.CheckConstraint(
            _one_of("state", "registering", "unclear", "registered", "removing", "gone"),
            name=op.f("ck_registrations_state"),
        ),
        sa.ForeignKeyConstraint(["instance"], ["instances.id"], name=op.f("fk_registrations_instance")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_registrations")),
        sa.UniqueConstraint("runner_name", name=op.f("uq_registrations_runner_name")),
    )
    op.create_index(op.f("ix_registrations_instance"), "registrations", ["instance"])
    op.create_index(op.f("ix_registrations_state"), "registrations", ["state"])
