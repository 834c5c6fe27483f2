"""Bad days: full and read-only disks, lost files, damage, and URLs that cannot work."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runnerd import errors, model, store
from runnerd.store import engine

from . import facts
from .conftest import Opener

BIG = model.Event(1.0, "daemon", "d", "big", detail="x" * 300_000)


def sql(state: store.Store, statement: str) -> Any:
    """A statement on the store's own writing connection, outside a transaction."""
    writer = state._database._writer
    assert writer is not None
    cursor = writer.connection.cursor()
    return (cursor.execute(statement).fetchone() or [None])[0]


@contextlib.contextmanager
def no_file_grows_beyond(size: int) -> Iterator[None]:
    """The kernel refuses to let this process's files grow, as a quota does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Permissions mean nothing to root, so be somebody else meanwhile."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


class TestUnwritable:
    async def test_a_full_disk_is_told_and_later_writes_succeed(self, file_url: str, opened: Opener) -> None:
        state = await opened(file_url)
        await state.write(facts.BARE)
        pages = sql(state, "PRAGMA page_count")
        sql(state, f"PRAGMA max_page_count = {pages}")
        with pytest.raises(errors.StoreUnwritable, match="the disk is full"):
            await state.write(facts.INSTANCE, BIG)
        assert await state.instance("rd-1") is None
        sql(state, f"PRAGMA max_page_count = {pages + 10_000}")
        await state.write(facts.INSTANCE, BIG)
        assert await state.instance("rd-1") == facts.INSTANCE

    async def test_a_write_that_the_system_refuses_is_told_and_later_writes_succeed(
        self, file_url: str, opened: Opener
    ) -> None:
        state = await opened(file_url)
        with no_file_grows_beyond(200_000), pytest.raises(errors.StoreUnwritable):
            await state.write(BIG)
        await state.write(facts.INSTANCE, BIG)
        assert (await state.load()).instances == (facts.INSTANCE,)
        assert sql(state, "PRAGMA integrity_check") == "ok"

    async def test_everyone_in_a_transaction_is_told_that_it_was_not_written(
        self, file_url: str, opened: Opener
    ) -> None:
        state = await opened(file_url)
        sql(state, "PRAGMA query_only = 1")
        answers = await asyncio.gather(state.write(facts.BARE), state.write(facts.INSTANCE), return_exceptions=True)
        assert [type(each) for each in answers] == [errors.StoreUnwritable] * 2
        assert "read-only" in str(answers[0])

    async def test_the_probe_tells_and_recovers(self, file_url: str, opened: Opener) -> None:
        state = await opened(file_url)
        sql(state, "PRAGMA query_only = 1")
        with pytest.raises(errors.StoreUnwritable, match="read-only"):
            await state.probe()
        sql(state, "PRAGMA query_only = 0")
        await state.probe()

    async def test_a_read_only_server_is_told(self, postgres: str, opened: Opener) -> None:
        state = await opened(postgres)
        with state._database._writing:
            connection = state._database._writer
            assert connection is not None
            with connection.begin():
                connection.exec_driver_sql("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
        with pytest.raises(errors.StoreUnwritable, match="read-only"):
            await state.write(facts.BARE)
        with pytest.raises(errors.StoreUnwritable):
            await state.probe()

    async def test_another_program_that_holds_the_file_is_told(
        self, file_url: str, opened: Opener, tmp_path: Path
    ) -> None:
        state = await opened(file_url)
        sql(state, "PRAGMA busy_timeout = 10")
        with contextlib.closing(sqlite3.connect(tmp_path / "runnerd.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(errors.StoreUnwritable, match="another program"):
                await state.write(facts.BARE)
            other.execute("ROLLBACK")
        await state.write(facts.BARE)

    async def test_a_file_that_is_moved_away_is_noticed_before_anything_is_lost(
        self, file_url: str, opened: Opener, tmp_path: Path
    ) -> None:
        state = await opened(file_url)
        await state.write(facts.BARE)
        os.rename(tmp_path / "runnerd.db", tmp_path / "elsewhere.db")
        with pytest.raises(errors.StoreUnwritable, match="moved, removed or replaced"):
            await state.write(facts.INSTANCE)
        with pytest.raises(errors.StoreUnwritable):
            await state.probe()
        os.rename(tmp_path / "elsewhere.db", tmp_path / "runnerd.db")
        await state.write(facts.INSTANCE)

    async def test_a_read_only_directory_is_told_at_the_start(self, opened: Opener) -> None:
        # Not below tmp_path, which is closed to the account that root becomes.
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            directory.chmod(0o555)
            with unprivileged(), pytest.raises(errors.StoreUnwritable, match="not writable"):
                await opened(f"sqlite:///{directory}/runnerd.db")
            assert list(directory.iterdir()) == []
            directory.chmod(0o755)

    @pytest.mark.parametrize(
        ("path", "words"),
        [("missing/runnerd.db", "does not exist"), ("file/runnerd.db", "not a directory"), ("", "is a directory")],
    )
    async def test_a_path_that_cannot_work_is_told_at_the_start(
        self, opened: Opener, tmp_path: Path, path: Any, words: Any
    ) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(errors.StoreUnwritable, match=words):
            await opened(f"sqlite:///{tmp_path}/{path}")


class TestDamage:
    async def test_a_file_that_is_no_database_is_told_and_left_alone(self, opened: Opener, tmp_path: Path) -> None:
        path = tmp_path / "runnerd.db"
        path.write_bytes(b"this is not a database, but it may be dear to somebody" * 100)
        before = path.read_bytes()
        with pytest.raises(errors.StoreError, match="damaged or is not a database"):
            await opened(f"sqlite:///{path}")
        assert path.read_bytes() == before

    async def test_a_damaged_table_is_told(self, file_url: str, opened: Opener, tmp_path: Path) -> None:
        state = await opened(file_url)
        many = [facts.instance(f"i{n}", model.InstanceState.READY) for n in range(500)]
        await state.write(*many)
        await state.close()
        path = tmp_path / "runnerd.db"
        content = bytearray(path.read_bytes())
        content[4096 * 2 :] = b"\xaa" * (len(content) - 4096 * 2)
        path.write_bytes(content)
        with pytest.raises(errors.StoreError, match="runnerd leaves it untouched"):
            await (await opened(file_url)).load()
        assert path.exists()

    async def test_the_file_is_readable_by_its_owner_alone(self, file_url: str, opened: Opener, tmp_path: Path) -> None:
        state = await opened(file_url)
        await state.write(facts.BARE)
        for path in tmp_path.iterdir():
            assert path.stat().st_mode & 0o077 == 0, path

    async def test_commits_are_flushed_and_references_are_checked(self, file_url: str, opened: Opener) -> None:
        state = await opened(file_url)
        assert sql(state, "PRAGMA journal_mode") == "wal"
        assert sql(state, "PRAGMA synchronous") == 2
        assert sql(state, "PRAGMA foreign_keys") == 1


class TestAddress:
    @pytest.mark.parametrize(
        ("url", "words"),
        [
            ("runnerd.db", "not a database URL"),
            ("mysql://host/db", "not in mysql"),
            ("sqlite+aiosqlite:///x.db", "not in sqlite"),
            ("sqlite:///file:x.db?mode=ro&uri=true", "the path of the SQLite file"),
        ],
    )
    async def test_a_url_that_cannot_work_is_told(self, opened: Opener, url: str, words: Any) -> None:
        with pytest.raises(errors.StoreError, match=words):
            await opened(url)

    @pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
    def test_every_spelling_of_postgresql_means_psycopg(self, scheme: Any) -> None:
        # SQLAlchemy itself does not know the short one.
        assert engine.parse(f"{scheme}://u@h/d").drivername == "postgresql+psycopg"

    async def test_a_server_that_is_not_there_is_told_without_the_password(
        self, opened: Opener, tmp_path: Path
    ) -> None:
        with pytest.raises(errors.StoreUnwritable) as refused:
            await opened(f"postgresql://me:swordfish@/db?host={tmp_path}")
        assert "swordfish" not in str(refused.value) and "cannot be written" in str(refused.value)

    async def test_a_network_file_system_is_refused(
        self, opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine, "_filesystem", lambda directory: "nfs4")
        with pytest.raises(errors.StoreError, match="network file system"):
            await opened(f"sqlite:///{tmp_path}/runnerd.db")

    def test_the_kind_of_a_file_system_is_known(self) -> None:
        assert engine._filesystem(Path("/proc")) == "proc"
        assert engine._filesystem(Path("/")) != ""
