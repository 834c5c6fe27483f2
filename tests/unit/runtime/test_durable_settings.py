from __future__ import annotations

import pytest

from runnerd import errors, model
from runnerd.runtime import durable_settings, ledger
from tests.support.clocks import START, ManualClock
from tests.support.fakes import (
    FULL,
    Book,
)

JOB = model.JobKey("hub|acme/ml|1|train")
RERUN = durable_settings.Rerun(JOB, "gpu", START, 1, START + 5)


@pytest.fixture
def rows(book: Book, clock: ManualClock) -> ledger.Ledger:
    return ledger.Ledger(book, clock.now)


async def test_names_and_values_are_those_of_every_version(rows: ledger.Ledger) -> None:
    kept = durable_settings.DurableSettings(rows)
    await kept.write_drained("gpu", True)
    await kept.write_drained("big", False)
    await kept.write_rerun(RERUN)
    await kept.write_provider("sky", '{"type":"fake"}')
    assert rows.settings == {
        "drained/gpu": "yes",
        "drained/big": "no",
        f"retry/{JOB}": f'{{"at": {START}, "count": 1, "pool": "gpu", "taken_at": {START + 5}}}',
        "provider/sky": '{"type":"fake"}',
    }
    again = durable_settings.DurableSettings(rows)
    assert (again.drained("gpu"), again.drained("big"), again.ever_drained("big")) == (True, False, True)
    assert again.reruns == {JOB: RERUN} and again.provider("sky") == '{"type":"fake"}'
    assert not again.ever_drained("other") and again.provider("sea") is None


async def test_a_dropped_rerun_stays_dropped(rows: ledger.Ledger) -> None:
    kept = durable_settings.DurableSettings(rows)
    await kept.write_rerun(RERUN)
    await kept.drop_rerun(JOB)
    assert not kept.reruns and not durable_settings.DurableSettings(rows).reruns


async def test_nothing_is_true_that_could_not_be_written(rows: ledger.Ledger, book: Book) -> None:
    kept = durable_settings.DurableSettings(rows)
    book.broken = FULL
    for work in (kept.write_drained("gpu", True), kept.write_rerun(RERUN), kept.write_provider("sky", "{}")):
        with pytest.raises(errors.StoreUnwritable):
            await work
    assert not kept.drained("gpu") and not kept.reruns and kept.provider("sky") is None


async def test_an_unchanged_provider_is_not_written_again(rows: ledger.Ledger, book: Book) -> None:
    kept = durable_settings.DurableSettings(rows)
    for _ in range(2):
        await kept.write_provider("sky", "{}")
    assert len(book.commits) == 1
