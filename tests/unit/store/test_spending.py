from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import sqlalchemy as sa
from hypothesis import strategies as st

from runnerd import model, store
from runnerd.store import commit, engine, spending, tables

from . import facts
from .conftest import Opener

S = model.InstanceState
#: A midnight of UTC.
DAY0 = 20_000 * spending.DAY_S
HOUR = 3600.0


@pytest.fixture
async def state(url: str, opened: Opener) -> store.Store:
    return await opened(url)


def ran(id: str, start: float, end: float, **fields: object) -> model.Instance:
    """A closed instance of pool gpu-t4 at $1 an hour that ran from and to so many hours after the first midnight."""
    values = {"running_at": DAY0 + start * HOUR, "gone_at": DAY0 + end * HOUR, "price": 1.0, "provider": "aws"} | fields
    return facts.instance(id, S.GONE, **values)


def lives(id: str, start: float, deadline: float, **fields: object) -> model.Instance:
    values = {"running_at": DAY0 + start * HOUR, "deadline": DAY0 + deadline * HOUR, "price": 1.0, "provider": "aws"}
    return facts.instance(id, S.BUSY, **values | fields)


def table(found: store.Spending) -> list[tuple[str, float, float, int]]:
    return [(one.key, round(one.dollars, 6), round(one.committed, 6), one.instances) for one in found.groups]


async def test_a_row_is_cut_at_the_span_and_at_midnights_of_utc(state: store.Store) -> None:
    await state.write(ran("a", 20, 30, gpus=2, busy_at=DAY0 + 25 * HOUR, price=2.0))
    span = {"since": DAY0 + 22 * HOUR, "until": DAY0 + 29 * HOUR, "now": DAY0 + 100 * HOUR}
    found = await state.spending(by=store.By.DAY, **span)
    first, second = str(int(DAY0)), str(int(DAY0 + spending.DAY_S))
    assert table(found) == [(first, 4.0, 0.0, 1), (second, 10.0, 0.0, 1)]
    assert [one.jobs for one in found.groups] == [0, 1]
    assert (found.total.instances, found.total.jobs) == (1, 1)
    assert (found.total.hours, found.total.gpu_hours) == (7.0, 14.0)


@pytest.mark.parametrize(
    ("busy_at", "counted"),
    [
        pytest.param(30.0, 0, id="after-now"),
        pytest.param(2.0, 0, id="now"),
        pytest.param(0.5, 1, id="before-the-instance-ran"),
    ],
)
async def test_a_job_counts_on_one_day_although_a_clock_was_set(state: store.Store, busy_at: Any, counted: Any) -> None:
    await state.write(lives("a", 1, 60, busy_at=DAY0 + busy_at * HOUR))
    for by in (store.By.POOL, store.By.DAY):
        found = await state.spending(by=by, since=DAY0, until=DAY0 + 50 * HOUR, now=DAY0 + 2 * HOUR)
        assert (found.total.jobs, sum(one.jobs for one in found.groups)) == (counted, counted)


async def test_what_lives_costs_up_to_now_and_is_promised_up_to_its_deadline(state: store.Store) -> None:
    requested = facts.instance("r", S.REQUESTING, price=3.0, deadline=DAY0 + 12 * HOUR, provider="gcp")
    await state.write(lives("a", 2, 14), requested, facts.instance("p", S.PLANNED), ran("b", 0, 1, price=0.0))
    at = DAY0 + 10 * HOUR
    found = await state.spending(by=store.By.PROVIDER, since=DAY0, until=float("inf"), now=at)
    assert table(found) == [("aws", 8.0, 4.0, 2), ("gcp", 0.0, 6.0, 0)]
    past = await state.spending(by=store.By.PROVIDER, since=DAY0, until=DAY0 + 5 * HOUR, now=at)
    assert table(past) == [("aws", 3.0, 0.0, 2)]
    soon = await state.spending(by=store.By.PROVIDER, since=DAY0, until=DAY0 + 11 * HOUR, now=at)
    assert table(soon) == [("gcp", 0.0, 3.0, 0), ("aws", 8.0, 1.0, 2)][::-1]


@pytest.mark.parametrize(
    ("by", "keys"),
    [
        (store.By.POOL, ["gpu-t4", "big"]),
        (store.By.PROVIDER, ["aws", "gcp"]),
        (store.By.REPO, ["", "acme/ml", "acme/x"]),
        (store.By.MARKET, ["spot", "on-demand"]),
        (store.By.REGION, ["aws/us-east-1", "aws/us-west-2", "gcp/us-east-1"]),
    ],
)
async def test_groups_are_named_by_their_fact_the_dearest_first_and_equals_by_name(
    state: store.Store, by: Any, keys: Any
) -> None:
    await state.write(
        ran("a", 0, 5, market="spot", region="us-east-1"),
        ran("b", 0, 2, market="spot", region="us-west-2", repo="acme/ml"),
        ran("c", 0, 2, market="on-demand", region="us-east-1", repo="acme/x", provider="gcp", pool="big"),
    )
    found = await state.spending(by=by, since=DAY0, until=DAY0 + spending.DAY_S, now=DAY0 + spending.DAY_S)
    assert [one.key for one in found.groups] == keys


async def test_a_deadline_from_a_bad_tag_ends_the_counting_all_the_same(state: store.Store) -> None:
    await state.write(lives("a", 0, 1e300), lives("b", 0, -1e9))
    found = await state.spending(by=store.By.DAY, since=DAY0, until=float("inf"), now=DAY0)
    assert found.total.committed == pytest.approx(spending.LONGEST_S / HOUR)


@pytest.fixture(scope="module")
def memory() -> Iterator[sa.Connection]:
    made = engine.make(engine.parse("sqlite:///:memory:"))
    with made.connect() as connection:
        tables.metadata.create_all(connection)
        connection.commit()
        yield connection
    made.dispose()


def fill(connection: sa.Connection, rows: list[model.Instance]) -> None:
    with connection.begin():
        connection.execute(sa.delete(tables.instances))
    batch = commit.Batch()
    batch.add(commit.encode(rows))
    with connection.begin():
        commit.Statements(connection.dialect).apply(connection, batch)


hours = st.floats(0, 24 * 40, allow_nan=False)


@st.composite
def instances(draw: st.DrawFn) -> model.Instance:
    """An instance that ran, runs, or is being requested."""
    start, run, more = draw(hours), draw(hours), draw(hours)
    kind = draw(st.sampled_from([S.REQUESTING, S.BUSY, S.GONE]))
    began = kind is not S.REQUESTING
    return dataclasses.replace(
        facts.BARE,
        state=kind,
        running_at=DAY0 + start * HOUR if began else 0.0,
        gone_at=DAY0 + (start + run) * HOUR if kind is S.GONE else 0.0,
        deadline=DAY0 + (start + run + more) * HOUR,
        busy_at=DAY0 + (start + run / 2) * HOUR if began and draw(st.booleans()) else 0.0,
        price=draw(st.floats(0, 98.32)),
        gpus=draw(st.integers(0, 8)),
        pool=draw(st.sampled_from(["gpu", "big", ""])),
        provider=draw(st.sampled_from(["aws", "gcp", "azure"])),
        region=draw(st.sampled_from(["us-east-1", "westeurope"])),
        repo=draw(st.sampled_from(["", "acme/ml", "acme/x"])),
        market=draw(st.sampled_from(["spot", "on-demand"])),
    )


@hypothesis.settings(
    deadline=None, max_examples=60, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(rows=st.lists(instances(), max_size=25), since=hours, length=hours, at=hours)
def test_the_sum_is_the_same_whatever_is_grouped_by(
    memory: sa.Connection, rows: Any, since: Any, length: Any, at: Any
) -> None:
    named = [dataclasses.replace(row, id=model.InstanceId(f"i{number}")) for number, row in enumerate(rows)]
    fill(memory, named)
    start, end, now = DAY0 + since * HOUR, DAY0 + (since + length) * HOUR, DAY0 + at * HOUR
    totals = set()
    for by in store.By:
        with memory.begin():
            found = spending.spending(memory, by=by, since=start, until=end, now=now)
        total = found.total
        totals.add((total.dollars, total.committed, total.hours, total.gpu_hours, total.instances, total.jobs))
        for fact in ("dollars", "committed", "hours", "gpu_hours", "jobs"):
            parts = sum(getattr(one, fact) for one in found.groups)
            assert parts == pytest.approx(getattr(total, fact), rel=1e-12, abs=1e-9), (by, fact)
        if by is not store.By.DAY:
            assert sum(one.instances for one in found.groups) == total.instances
    assert len(totals) == 1
    # The same by another way: no midnights, no groups.
    paid = sum(
        max(0.0, min(row.gone_at or now, end) - max(row.running_at, start)) / HOUR * row.price
        for row in named
        if row.running_at
    )
    assert totals.pop()[0] == pytest.approx(paid, rel=1e-9, abs=1e-6)


def test_a_hundred_thousand_rows_are_summed_quickly(memory: sa.Connection) -> None:
    r = random.Random(5)
    fill(memory, [ran(f"i{n}", s := r.random() * 700, s + r.random() * 9, repo=f"r{n % 50}") for n in range(100_000)])
    began = time.process_time()
    with memory.begin():
        found = spending.spending(memory, by=store.By.REPO, since=DAY0, until=DAY0 + 720 * HOUR, now=DAY0 + 720 * HOUR)
    spent = time.process_time() - began
    assert (len(found.groups), found.total.instances) == (50, 100_000)
    # 0.4 s; the bound is wide for a busy machine.
    assert spent < 4.0
