from __future__ import annotations

import asyncio
import os
import re
from typing import Any

import psycopg
import pytest

from provisioners.offload import Offload
from runnerd import errors, store
from runnerd.store import engine

from . import facts
from .conftest import Opener


def admin(url: str) -> psycopg.Connection[Any]:
    """A connection beside the store's."""
    parsed = engine.parse(url)
    return psycopg.connect(host=str(parsed.query["host"]), user="postgres", dbname=parsed.database, autocommit=True)


def terminate(url: str) -> int:
    """End every session of runnerd in the database, as a server's restart does; wait until they are gone."""
    query = "FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'runnerd %'"
    with admin(url) as connection:
        ended = connection.execute(f"SELECT pg_terminate_backend(pid, 5000) {query}").fetchall()
        return len(ended)


async def test_a_second_opener_is_refused_and_told_who_has_it(durable_url: str, opened: Opener) -> None:
    first = await opened(durable_url)
    with pytest.raises(errors.StoreBusy, match=rf"process {os.getpid()} on ") as refused:
        await opened(durable_url)
    assert "stop that one first" in str(refused.value)
    await first.write(facts.BARE)


async def test_after_closing_another_may_open(durable_url: str, opened: Opener) -> None:
    first = await opened(durable_url)
    await first.write(facts.BARE)
    await first.close()
    second = await opened(durable_url)
    assert (await second.load()).instances == (facts.BARE,)


async def test_an_abandoned_store_can_be_opened_again_in_the_same_process(durable_url: str) -> None:
    door = Offload(0)
    first = await store.Store.open(durable_url, offload=door, now=lambda: 1.0)
    await first.write(facts.BARE)
    unanswered = asyncio.create_task(first.write(facts.INSTANCE))
    await asyncio.sleep(0)
    first.abandon()
    await asyncio.gather(unanswered, return_exceptions=True)
    assert unanswered.cancelled()
    second = await store.Store.open(durable_url, offload=door, now=lambda: 1.0)
    assert facts.BARE in (await second.load()).instances
    await second.close()


async def test_upgrading_by_hand_is_refused_while_a_daemon_runs(durable_url: str, opened: Opener) -> None:
    await opened(durable_url)
    with pytest.raises(errors.StoreBusy):
        store.migrate(durable_url)


async def test_a_failed_open_holds_nothing(durable_url: str, opened: Opener) -> None:
    with pytest.raises(errors.StoreError, match=re.escape("runnerd db upgrade")):
        await opened(durable_url, migrate=False)
    await opened(durable_url)


async def test_two_databases_in_memory_are_two(opened: Opener) -> None:
    one, two = await opened("sqlite://"), await opened("sqlite://")
    await one.write(facts.BARE)
    assert (await two.load()).instances == ()


class TestServer:
    async def test_a_lost_connection_is_reported_and_the_next_write_succeeds(
        self, postgres: str, opened: Opener
    ) -> None:
        state = await opened(postgres)
        await state.write(facts.BARE)
        assert terminate(postgres) == 2
        with pytest.raises(errors.StoreUnwritable):
            await state.write(facts.INSTANCE)
        await state.write(facts.INSTANCE)
        await state.probe()
        assert len((await state.load()).instances) == 2

    async def test_the_lock_is_held_again_after_a_reconnect(self, postgres: str, opened: Opener) -> None:
        state = await opened(postgres)
        terminate(postgres)
        with pytest.raises(errors.StoreUnwritable):
            await state.probe()
        await state.probe()
        with pytest.raises(errors.StoreBusy):
            await opened(postgres)

    async def test_reading_survives_a_lost_connection(self, postgres: str, opened: Opener) -> None:
        state = await opened(postgres)
        await state.write(facts.BARE)
        terminate(postgres)
        assert await state.instance("rd-2") == facts.BARE

    async def test_a_store_whose_lock_another_took_never_writes_again(self, postgres: str, opened: Opener) -> None:
        state = await opened(postgres)
        terminate(postgres)
        other = await opened(postgres)
        with pytest.raises(errors.StoreUnwritable):
            await state.write(facts.BARE)
        with pytest.raises(errors.StoreBusy, match="in use by runnerd"):
            await state.write(facts.BARE)
        await other.close()
        with pytest.raises(errors.StoreBusy):
            await state.write(facts.BARE)
        assert (await state.instances()) == []

    async def test_a_store_that_was_taken_over_and_left_knows_it(self, postgres: str, opened: Opener) -> None:
        state = await opened(postgres)
        terminate(postgres)
        other = await opened(postgres)
        await other.write(facts.INSTANCE)
        await other.close()
        with pytest.raises(errors.StoreUnwritable):
            await state.write(facts.BARE)
        with pytest.raises(errors.StoreBusy, match="taken over"):
            await state.write(facts.BARE)

    async def test_two_schemas_of_one_database_are_two_states(self, postgres: str, opened: Opener) -> None:
        # The URL ends with the name of its schema.
        with admin(postgres) as connection:
            connection.execute(f"CREATE SCHEMA {postgres.rsplit('%3D')[-1]}_two")
        one, two = await opened(postgres), await opened(postgres + "_two")
        await one.write(facts.BARE)
        assert (await two.load()).instances == ()

    async def test_a_server_that_acknowledges_too_early_is_overruled(self, postgres: str, opened: Opener) -> None:
        state = await opened(postgres + "%20-csynchronous_commit%3Doff")

        def setting(connection: Any) -> None:
            return connection.exec_driver_sql("SHOW synchronous_commit").scalar()

        assert state._database.transaction(setting) == "on"
