from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from provisioners.base import Market, Offer
from runnerd.model import InstanceState
from runnerd.offers import admission
from runnerd.runtime import budget
from tests.support.clocks import START, ManualClock
from tests.support.fakes import (
    Place,
    bought,
    instance,
)
from tests.support.fakes import place as make_place

HOUR = 3600.0
LIFE = 2 * HOUR


def offer(provider: str = "sky", price: float = 1.0, market: Market = Market.ON_DEMAND, gpus: int = 1) -> Offer:
    return Offer(provider, "acct", "east", "a", "small", market, price, gpus)


def counted(place: Place) -> admission.Admission:
    found = admission.Admission(place.runtime)
    found.count()
    return found


LEVELS: list[Any] = [
    pytest.param({"limits": {"instances": 1}}, "the daemon", id="whole"),
    pytest.param({"pools": {"gpu": {"limits": {"instances": 1}}}}, "pool gpu", id="pool"),
    pytest.param(
        {"providers": {"sky": {"type": "fake", "limits": {"instances": 1}}, "sea": {"type": "fake"}}},
        "provider sky",
        id="provider",
    ),
    pytest.param({"teams": {"nlp": {"repos": ["acme/nlp-*"], "limits": {"instances": 1}}}}, "team nlp", id="team"),
]


@pytest.mark.parametrize(("changes", "title"), LEVELS)
def test_a_limit_holds_at_every_level(tmp_path: Path, clock: ManualClock, changes: dict[str, Any], title: str) -> None:
    place = make_place(tmp_path, clock, **changes)
    levels = counted(place)
    assert levels.reserve(offer(), pool="gpu", repo="acme/nlp-1", lifetime=LIFE)
    assert title in levels.refusal(offer(), pool="gpu", repo="acme/nlp-2", lifetime=LIFE)
    assert levels.reserve(offer(), pool="gpu", repo="acme/nlp-2", lifetime=LIFE) is None


@pytest.mark.parametrize(
    ("limits", "fits"),
    [
        pytest.param({"dollars_per_day": 4.0}, 2, id="a day"),
        pytest.param({"dollars_per_month": 7.0}, 3, id="a month"),
        pytest.param({"dollars_total": 2.0}, 1, id="in all"),
        pytest.param({"dollars_per_hour": 3.5}, 3, id="an hour"),
        pytest.param({"gpus": 2}, 2, id="gpus"),
        pytest.param({"dollars_per_day": 1.0, "on_reached": "alert"}, 5, id="alert only"),
    ],
)
def test_dollars_are_counted_before_they_are_spent(
    tmp_path: Path, clock: ManualClock, limits: dict[str, Any], fits: int
) -> None:
    place = make_place(tmp_path, clock, limits={"instances": 8} | limits)
    levels = counted(place)
    admitted = [levels.reserve(offer(), pool="gpu", repo="", lifetime=LIFE) is not None for _ in range(5)]
    assert admitted == [n < fits for n in range(5)]


def test_with_spot_only_a_used_up_budget_still_buys_spot(tmp_path: Path, clock: ManualClock) -> None:
    place = make_place(tmp_path, clock, limits={"instances": 8, "dollars_per_day": 1.0, "on_reached": "spot-only"})
    levels = counted(place)
    assert levels.refusal(offer(), pool="gpu", repo="", lifetime=LIFE)
    assert not levels.refusal(offer(market=Market.SPOT), pool="gpu", repo="", lifetime=LIFE)


def test_what_lives_and_what_was_spent_today_is_counted(tmp_path: Path, clock: ManualClock) -> None:
    place = make_place(tmp_path, clock, limits={"instances": 8, "dollars_per_day": 10.0})
    place.put(bought("vm-1", "busy", running_at=START - HOUR, deadline=START + 3 * HOUR, price=1.0))
    place.put(instance("vm-2", "planned"))
    place.rows.tally.add(
        budget.Account("gpu", "sky", "acme/ml", "spot"), start=START - 4 * HOUR, end=START - HOUR, price=1.0
    )
    levels = counted(place)
    ((_, committed),) = levels.totals("all", "")
    assert committed == pytest.approx(7.0)
    left, more = levels.left("all", "", offer(), LIFE) or pytest.fail("there is a budget")
    assert (left.left, left.limit, more) == pytest.approx((3.0, 10.0, 2.0)) and left.span == "today"
    assert levels.reserve(offer(), pool="gpu", repo="", lifetime=LIFE)
    assert "$9.00 of $10.00 is spent or committed today" in levels.refusal(offer(), pool="gpu", repo="", lifetime=LIFE)


def test_what_is_spent_counts_for_its_own_pool_provider_and_team_alone(tmp_path: Path, clock: ManualClock) -> None:
    day = {"dollars_per_day": 5.0}
    place = make_place(
        tmp_path,
        clock,
        pools={"gpu": {"limits": day}, "big": {"labels": ["big"], "limits": day}},
        teams={"nlp": {"repos": ["acme/nlp-*"], "limits": day}},
    )
    place.rows.tally.add(
        budget.Account("gpu", "sky", "acme/nlp-1", "spot"), start=START - 4 * HOUR, end=START, price=1.0
    )
    levels = counted(place)
    spent = {key: levels.totals(*key)[0][1] for key in (("pool", "gpu"), ("pool", "big"), ("team", "nlp"))}
    assert spent == {("pool", "gpu"): pytest.approx(4.0), ("pool", "big"): 0.0, ("team", "nlp"): pytest.approx(4.0)}


def test_what_was_admitted_is_not_forgotten_when_a_pass_counts_before_its_row_is_written(
    tmp_path: Path, clock: ManualClock
) -> None:
    place = make_place(tmp_path, clock, limits={"instances": 8, "dollars_per_day": 3.0})
    place.put(instance("vm-1", "planned"), instance("vm-2", "planned"))
    levels = counted(place)
    reservation = levels.reserve(offer(), pool="gpu", repo="", lifetime=LIFE)
    assert reservation is not None
    levels.count()
    assert levels.reserve(offer(), pool="gpu", repo="", lifetime=LIFE) is None
    # Once the row stands for itself it is counted once.
    place.put(bought("vm-1", "requesting", running_at=0.0, deadline=START + LIFE))
    reservation.commit()
    levels.count()
    ((_, committed),) = levels.totals("all", "")
    assert committed == pytest.approx(2.0)


def test_a_provider_at_its_limit_is_closed(tmp_path: Path, clock: ManualClock) -> None:
    place = make_place(tmp_path, clock, providers={"sky": {"type": "fake", "limits": {"instances": 1}}})
    place.put(bought("vm-1", "booting"))
    assert "limit of 1" in counted(place).provider_refusal("sky")
    assert counted(place).provider_refusal("sea") == ""


def test_a_team_whose_budget_cannot_pay_one_more_instance_is_named(tmp_path: Path, clock: ManualClock) -> None:
    place = make_place(tmp_path, clock, teams={"nlp": {"repos": ["acme/nlp-*"], "limits": {"dollars_per_day": 3.0}}})
    levels = counted(place)
    assert levels.team_refusals(offer(), LIFE) == {}
    assert levels.reserve(offer(), pool="gpu", repo="acme/nlp-1", lifetime=LIFE)
    assert list(levels.team_refusals(offer(), LIFE)) == ["nlp"]


def test_what_passes_a_limit_all_the_same_is_told(tmp_path: Path, clock: ManualClock) -> None:
    place = make_place(tmp_path, clock, limits={"instances": 8, "dollars_per_day": 1.0})
    place.put(bought("vm-1", "busy", running_at=START - HOUR, deadline=START + 3 * HOUR, price=1.0))
    assert counted(place).overruns() == [("the daemon", "$4.00 is spent or committed today; the limit is $1.00")]
    assert set(place.runtime.alarms.open) == {("budget", "the whole", "overrun")}


async def test_a_reservation_from_which_nothing_came_is_free_again(tmp_path: Path, clock: ManualClock) -> None:
    place = make_place(tmp_path, clock, limits={"instances": 1})
    levels = counted(place)
    with levels.reserve(offer(), pool="gpu", repo="", lifetime=LIFE) or pytest.fail("there is room"):
        assert levels.reserve(offer(), pool="gpu", repo="", lifetime=LIFE) is None
    reservation = levels.reserve(offer(), pool="gpu", repo="", lifetime=LIFE)
    assert reservation is not None
    with reservation:
        reservation.commit()
    assert levels.reserve(offer(), pool="gpu", repo="", lifetime=LIFE) is None
    levels.count()
    assert levels.reserve(offer(), pool="gpu", repo="", lifetime=LIFE), "no row was written for it"


@pytest.mark.parametrize(("to", "free"), [("planned", True), ("unknown", False), ("booting", False)])
async def test_a_refused_request_frees_its_room_before_the_next_pass(
    tmp_path: Path, clock: ManualClock, to: str, free: bool
) -> None:
    place = make_place(tmp_path, clock, limits={"instances": 1, "dollars_per_day": 3.0})
    place.put(bought("vm-1", "requesting", running_at=0.0, deadline=START + LIFE))
    levels = counted(place)
    await place.rows.step(place.row().id, InstanceState(to))
    assert (levels.reserve(offer(), pool="gpu", repo="", lifetime=LIFE) is not None) is free
