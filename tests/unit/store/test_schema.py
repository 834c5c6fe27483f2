from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import autogenerate, command, runtime, script

from runnerd import errors, model, store
from runnerd.store import backup, engine, schema, tables

from . import facts
from .conftest import Opener

HEAD = schema.revisions()[-1]


@pytest.fixture
def later(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Adds migrations to a copy of the real ones, as later versions of runnerd do."""
    scripts = tmp_path_factory.mktemp("later") / "migrations"
    shutil.copytree(schema.SCRIPTS, scripts)
    monkeypatch.setattr(schema, "SCRIPTS", scripts)
    schema.revisions.cache_clear()

    def add(body: str) -> str:
        old = schema.revisions()[-1]
        new = f"{int(old) + 1:04}"
        (scripts / "versions" / f"{new}_later.py").write_text(
            "import sqlalchemy as sa\nfrom alembic import op\n"
            f"revision = {new!r}\ndown_revision = {old!r}\n\ndef upgrade():\n    {body}\n"
        )
        schema.revisions.cache_clear()
        return new

    yield add
    schema.revisions.cache_clear()


def connected(url: str) -> sa.Connection:
    return engine.make(engine.parse(url)).connect()


def checks(inspector: sa.Inspector) -> dict[str, set[tuple[str, str]]]:
    """The CHECK constraints of every table, which Alembic does not compare."""
    return {
        table: {(str(each["name"]), each["sqltext"]) for each in inspector.get_check_constraints(table)}
        for table in inspector.get_table_names()
        if table in tables.metadata.tables
    }


async def test_an_empty_database_is_migrated_on_opening(durable_url: str, opened: Opener) -> None:
    assert store.current(durable_url) is None
    assert store.pending(durable_url) == list(schema.revisions())
    await opened(durable_url)
    assert store.current(durable_url) == HEAD
    assert store.pending(durable_url) == []


def test_by_hand_the_migrations_are_applied_once(durable_url: str) -> None:
    assert store.migrate(durable_url) == list(schema.revisions())
    assert store.migrate(durable_url) == []
    assert store.current(durable_url) == HEAD


def test_looking_creates_nothing(file_url: str, tmp_path: Path) -> None:
    assert store.current(file_url) is None
    assert store.pending(file_url) == list(schema.revisions())
    assert list(tmp_path.iterdir()) == []


def test_the_migrations_lead_to_the_tables_of_the_code(durable_url: str) -> None:
    store.migrate(durable_url)
    with connected(durable_url) as connection:
        context = runtime.migration.MigrationContext.configure(
            connection,
            opts={
                "version_table": tables.VERSION_TABLE,
                "compare_type": True,
                "compare_server_default": True,
            },
        )
        assert autogenerate.compare_metadata(context, tables.metadata) == []


def test_the_migrations_lead_to_the_words_of_the_enums(file_url: str, tmp_path: Path) -> None:
    store.migrate(file_url)
    other = f"sqlite:///{tmp_path}/created.db"
    with connected(file_url) as migrated, connected(other) as created:
        tables.metadata.create_all(created)
        found = checks(sa.inspect(migrated))
        assert found == checks(sa.inspect(created)), "an enum changed: write a migration for its CHECK constraint"
        assert len(found["instances"]) == 2


class TestOlder:
    async def test_a_copy_is_taken_before_an_older_database_is_migrated(
        self, file_url: str, opened: Opener, tmp_path: Path, later: Callable[[str], str]
    ) -> None:
        first = await opened(file_url)
        await first.write(facts.INSTANCE)
        await first.close()
        new = later('op.create_table("later", sa.Column("id", sa.Integer))')
        second = await opened(file_url, at=1_700_000_000.0)
        assert store.current(file_url) == new
        assert (await second.load()).instances == (facts.INSTANCE,)
        [copy] = backup.copies(tmp_path / "runnerd.db")
        assert copy.name == f"runnerd.db.before-{new}-20231114T221320Z"
        assert copy.stat().st_mode & 0o077 == 0
        assert store.current(f"sqlite:///{copy}") == HEAD
        with contextlib.closing(sqlite3.connect(copy)) as plain:
            assert plain.execute("SELECT id FROM instances").fetchall() == [("rd-1",)]

    async def test_a_new_database_is_not_copied(self, file_url: str, opened: Opener, tmp_path: Path) -> None:
        await opened(file_url)
        assert backup.copies(tmp_path / "runnerd.db") == []

    async def test_three_copies_are_kept_and_nothing_else_is_touched(
        self, file_url: str, opened: Opener, tmp_path: Path, later: Callable[[str], str]
    ) -> None:
        await (await opened(file_url)).close()
        mine = tmp_path / "runnerd.db.before-I-forget"
        mine.write_text("dear")
        made = []
        for number in range(5):
            made.append(later(f'op.create_table("later{number}", sa.Column("id", sa.Integer))'))
            await (await opened(file_url, at=1_700_000_000.0 + number)).close()
        assert [each.name.split("-")[1] for each in backup.copies(tmp_path / "runnerd.db")] == made[-3:]
        assert mine.read_text() == "dear"

    async def test_a_failing_migration_leaves_the_database_as_it_was(
        self, durable_url: str, opened: Opener, later: Callable[[str], str]
    ) -> None:
        await (await opened(durable_url)).close()
        later('op.create_table("later", sa.Column("id", sa.Integer)); op.execute("SELECT nonsense FROM nowhere")')
        with pytest.raises(errors.StoreError, match="no"):
            await opened(durable_url)
        assert store.current(durable_url) == HEAD
        with connected(durable_url) as connection:
            assert "later" not in sa.inspect(connection).get_table_names()

    async def test_without_room_for_the_copy_nothing_is_migrated(
        self,
        file_url: str,
        opened: Opener,
        tmp_path: Path,
        later: Callable[[str], str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        await (await opened(file_url)).close()
        later('op.create_table("later", sa.Column("id", sa.Integer))')

        def full(source: Path, target: Path) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(errors.StoreUnwritable, match=r"not begun.*No space left"):
            await opened(file_url)
        assert store.current(file_url) == HEAD
        assert sorted(each.name for each in tmp_path.iterdir()) == ["runnerd.db", "runnerd.db.lock"]

    async def test_without_leave_to_migrate_an_older_database_is_refused(
        self, durable_url: str, opened: Opener, later: Callable[[str], str]
    ) -> None:
        await (await opened(durable_url)).close()
        new = later('op.create_table("later", sa.Column("id", sa.Integer))')
        with pytest.raises(errors.StoreError, match=f"needs the migration to {new}"):
            await opened(durable_url, migrate=False)
        assert store.pending(durable_url) == [new]

    async def test_a_server_is_migrated_with_a_word_about_backups(
        self, postgres: str, opened: Opener, later: Callable[[str], str], caplog: pytest.LogCaptureFixture
    ) -> None:
        await (await opened(postgres)).close()
        later('op.create_table("later", sa.Column("id", sa.Integer))')
        await opened(postgres)
        assert "pg_dump" in caplog.text


#: What migration 0001 had in a row of instances, with a value for each column.
FIRST_ROW = {
    **dict.fromkeys(("reason", "provider", "offer", "region", "zone", "machine_type", "market", "ref"), ""),
    **dict.fromkeys(("running_at", "ready_at", "registered_at", "busy_at", "job_ended_at", "gone_at"), 0.0),
    "deadline": 9.5,
    "hold_until": 0.0,
    "repo": "acme/ml",
    "agent_nonce": "n",
    "detail": "as it was",
    "gpus": 2,
    "id": "rd-7",
    "pool": "gpu-t4",
    "state": "busy",
    "created_at": 1.0,
    "since": 2.0,
    "price": 0.5,
    "job_started": True,
    "adopted": False,
}


ATTEMPT_ROW = {
    "key": "rd-7/1",
    "state": "created",
    "provider": "aws",
    "offer": "o",
    "sealed": "{}",
    "failure": "",
    "code": "",
    "created_at": 1.0,
    "since": 1.0,
    "sent_at": 1.0,
    "sends": 1,
    "price": 0.5,
    "detail": "",
}
REGISTRATION_ROW = {
    "id": "rd-7",
    "queue_forge": "a",
    "queue_scope": "b",
    "queue_pool": "c",
    "runner_name": "rd-7",
    "state": "registered",
    "created_at": 1.0,
    "since": 1.0,
    "forge_id": "1",
    "detail": "",
}


class TestSecond:
    """The migration to 0002 takes over what a daemon of the first version has left."""

    @pytest.fixture
    def first(self, durable_url: str) -> str:
        """A database of the first version with an instance, its attempt and its registration."""
        with connected(durable_url) as connection:
            with connection.begin():
                command.upgrade(schema.alembic_config(connection), "0001")
            with connection.begin():
                for table, row in (
                    ("instances", FIRST_ROW),
                    ("attempts", {**ATTEMPT_ROW, "instance": "rd-7"}),
                    ("registrations", {**REGISTRATION_ROW, "instance": "rd-7"}),
                ):
                    columns: list[sa.ColumnClause[Any]] = [sa.column(name) for name in row]
                    connection.execute(sa.insert(sa.table(table, *columns)).values(row))
        return durable_url

    async def test_every_row_is_kept_and_new_fields_are_empty(self, first: str, opened: Opener) -> None:
        state = await opened(first)
        found = await state.instance("rd-7")
        assert found is not None
        assert (found.detail, found.gpus, found.deadline, found.job_started) == ("as it was", 2, 9.5, True)
        assert (found.cpus, found.image, found.price_source, found.end, found.end_detail) == (0, "", "", "", "")
        assert [each.key for each in await state.attempts("rd-7")] == ["rd-7/1"]
        assert [each.id for each in await state.registrations("rd-7")] == ["rd-7"]

    async def test_references_and_words_are_enforced_afterwards(self, first: str, opened: Opener) -> None:
        state = await opened(first)
        with pytest.raises(errors.StoreError):
            await state.write(dataclasses.replace(facts.ATTEMPT, instance=model.InstanceId("who")))
        await state.write(facts.instance("rd-8", model.InstanceState.FAILED, reason=model.Reason.LAUNCH_FAILED))
        with connected(first) as connection, pytest.raises(sa.exc.IntegrityError), connection.begin():
            connection.exec_driver_sql("UPDATE instances SET reason = 'because'")

    def test_it_leads_to_the_tables_of_the_code(self, first: str) -> None:
        assert store.migrate(first) == list(schema.revisions()[1:])
        with connected(first) as connection:
            context = runtime.migration.MigrationContext.configure(
                connection, opts={"version_table": tables.VERSION_TABLE, "compare_server_default": True}
            )
            assert autogenerate.compare_metadata(context, tables.metadata) == []

    def test_a_row_that_points_nowhere_is_not_carried_over_silently(self, file_url: str) -> None:
        with connected(file_url) as connection:
            with connection.begin():
                command.upgrade(schema.alembic_config(connection), "0001")
            raw = connection.connection.driver_connection
            assert raw is not None
            raw.execute("PRAGMA foreign_keys=OFF")
            with connection.begin():
                row = {**ATTEMPT_ROW, "instance": "nobody"}
                columns: list[sa.ColumnClause[Any]] = [sa.column(name) for name in row]
                connection.execute(sa.insert(sa.table("attempts", *columns)).values(row))
        with pytest.raises(errors.StoreError, match="attempts with a dangling reference"):
            store.migrate(file_url)
        assert store.current(file_url) == "0001"


class TestRefused:
    async def test_a_database_of_a_newer_runnerd_is_refused_and_unchanged(
        self, durable_url: str, opened: Opener
    ) -> None:
        await (await opened(durable_url)).close()
        with connected(durable_url) as connection, connection.begin():
            connection.exec_driver_sql(f"UPDATE {tables.VERSION_TABLE} SET version_num = '9999'")
        with pytest.raises(errors.StoreError, match="made by a newer runnerd"):
            await opened(durable_url)
        assert store.current(durable_url) == "9999"
        with pytest.raises(errors.StoreError, match="made by a newer runnerd"):
            store.migrate(durable_url)

    async def test_a_database_of_another_program_is_refused(self, durable_url: str, opened: Opener) -> None:
        with connected(durable_url) as connection, connection.begin():
            connection.exec_driver_sql("CREATE TABLE jobs (mine INTEGER)")
        with pytest.raises(errors.StoreError, match="table named jobs that is not runnerd's"):
            await opened(durable_url)


def test_the_numbered_scripts_are_the_history_that_alembic_follows() -> None:
    scripts = script.ScriptDirectory.from_config(schema.alembic_config())
    assert schema.revisions() == tuple(reversed([each.revision for each in scripts.walk_revisions()]))


def test_a_database_that_needs_no_migration_is_opened_without_alembic(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/runnerd.db"
    store.migrate(url)
    code = (
        "import asyncio, sys, time\nfrom provisioners.offload import Offload\nfrom runnerd import store\n"
        "async def main():\n"
        f"    opened = await store.Store.open({url!r}, offload=Offload(0), now=time.time)\n"
        "    await opened.close()\n"
        "asyncio.run(main())\nsys.exit('alembic' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 0
