from __future__ import annotations

import asyncio
import dataclasses

import pytest

from provisioners.offload import Offload
from runnerd import errors, model, store

from . import facts
from .conftest import Opener


@pytest.fixture
async def state(url: str, opened: Opener) -> store.Store:
    return await opened(url)


def bad(id: str) -> model.Attempt:
    """An attempt that the database refuses: its instance does not exist."""
    return dataclasses.replace(facts.ATTEMPT, key=model.AttemptKey(id), instance=model.InstanceId("nobody"))


def words(events: list[model.Event]) -> list[str]:
    return [event.what for event in events]


def event(word: str) -> model.Event:
    return model.Event(1.0, "daemon", "d", word)


async def test_calls_of_one_moment_are_one_transaction(state: store.Store) -> None:
    await asyncio.gather(*(state.write(event(f"{n:02}")) for n in range(50)))
    assert state.commits == 1
    assert words(await state.events()) == [f"{n:02}" for n in range(50)]


async def test_calls_during_a_commit_share_the_next_one(file_url: str, opened: Opener) -> None:
    state = await opened(file_url)
    # Holding the writer's turn keeps the first commit under way.
    with state._database._writing:
        writes = [asyncio.create_task(state.write(event("first")))]
        await asyncio.sleep(0.02)
        writes += [asyncio.create_task(state.write(event(f"{n:02}"))) for n in range(20)]
        await asyncio.sleep(0.02)
        assert not any(each.done() for each in writes)
    await asyncio.gather(*writes)
    assert state.commits == 2
    assert words(await state.events()) == ["first", *(f"{n:02}" for n in range(20))]


async def test_a_bad_change_fails_its_own_caller_alone(state: store.Store) -> None:
    answers = await asyncio.gather(
        state.write(event("a")),
        state.write(event("beside the bad one"), bad("x")),
        state.write(event("b")),
        state.write(bad("y")),
        state.write(facts.BARE, event("c")),
        return_exceptions=True,
    )
    assert [type(each) for each in answers] == [
        type(None),
        errors.StoreError,
        type(None),
        errors.StoreError,
        type(None),
    ]
    assert words(await state.events()) == ["a", "b", "c"]
    assert await state.instance("rd-2") == facts.BARE


async def test_each_caller_gets_an_exception_of_its_own(state: store.Store) -> None:
    calls = [state.write(bad("x")), state.write(bad("y"))]
    one, two = await asyncio.gather(*calls, return_exceptions=True)
    assert one is not two
    assert isinstance(one, BaseException) and one.__cause__ is not None


async def test_the_last_of_several_callers_has_the_last_word(state: store.Store) -> None:
    await asyncio.gather(*(state.write(store.Setting("n", str(n))) for n in range(20)))
    assert (await state.load()).settings == {"n": "19"}


async def test_order_is_kept_when_a_bad_change_divides_the_transaction(state: store.Store) -> None:
    await asyncio.gather(
        *(state.write(store.Setting("n", str(n))) for n in range(10)),
        state.write(bad("x")),
        *(state.write(store.Setting("n", str(n))) for n in range(10, 20)),
        return_exceptions=True,
    )
    assert (await state.load()).settings == {"n": "19"}


async def test_a_cancelled_writer_does_not_take_the_others_with_it(file_url: str, opened: Opener) -> None:
    state = await opened(file_url)
    with state._database._writing:
        first = asyncio.create_task(state.write(event("first")))
        await asyncio.sleep(0.02)
        second = asyncio.create_task(state.write(event("second")))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
    await second
    assert first.cancelled()
    assert "second" in words(await state.events())
    await state.write(event("third"))


async def test_more_than_fits_one_transaction_is_several(state: store.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runnerd.store.store.MOST_CHANGES", 10)
    await asyncio.gather(*(state.write(event(f"{n:02}a"), event(f"{n:02}b")) for n in range(20)))
    assert state.commits == 4
    assert words(await state.events()) == [f"{n:02}{letter}" for n in range(20) for letter in "ab"]


async def test_closing_writes_what_was_asked_for(durable_url: str, opened: Opener) -> None:
    state = await opened(durable_url)
    writes = [asyncio.create_task(state.write(event(f"{n}"))) for n in range(5)]
    await asyncio.sleep(0)
    await state.close()
    await asyncio.gather(*writes)
    assert words(await (await opened(durable_url)).events()) == ["0", "1", "2", "3", "4"]


async def test_an_executor_that_is_gone_fails_the_write_and_not_in_silence(file_url: str) -> None:
    door = Offload(1)
    state = await store.Store.open(file_url, offload=door, now=lambda: 1.0)
    door.close()
    with pytest.raises(errors.StoreError, match="not carried out"):
        await state.write(facts.BARE)
    state.abandon()


async def test_inline_the_store_is_deterministic(file_url: str) -> None:
    state = await store.Store.open(file_url, offload=Offload(0), now=lambda: 1.0)
    await asyncio.gather(*(state.write(event(f"{n}")) for n in range(3)))
    assert state.commits == 1
    await state.close()
