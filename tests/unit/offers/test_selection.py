from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from provisioners import base
from runnerd.offers import admission, selection
from tests.support.clocks import ManualClock
from tests.support.fakes import (
    Place,
    instance,
)
from tests.support.fakes import place as make_place


def make_selection(place: Place, **more: Any) -> selection.Selection:
    levels = admission.Admission(place.runtime)
    levels.count()
    return selection.Selection(place.runtime, levels, **more)


def open_at(ranked: list[Any]) -> set[str]:
    return {one.offer.provider for one in ranked if one.open}


def test_a_provider_without_a_fit_is_asked_with_the_options_of_the_pool(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_place(tmp_path, clock)
    pool = place.runtime.config.pools["gpu"].model_copy(update={"options": {"sky": {"image": "ubuntu"}}})
    asked: list[Mapping[str, Any]] = []

    def why_none(shape: base.Shape, options: Mapping[str, Any] = base.NO_OPTIONS) -> str:
        asked.append(options)
        return "no such image"

    monkeypatch.setattr(place.sky, "why_none", why_none, raising=False)
    assert "sky: no such image" in make_selection(place).why_none(pool, [])
    assert asked == [{"image": "ubuntu"}]


def test_what_is_bought_next_waits_for_the_first_provider_until_it_may_spill(
    tmp_path: Path, clock: ManualClock
) -> None:
    place = make_place(tmp_path, clock, pools={"gpu": {"spill_after": "10m"}})
    pool = place.runtime.config.pools["gpu"]
    selected = make_selection(place)
    assert open_at(selected.rank(pool)) == {"sky", "sea"}
    assert open_at(selected.for_next(pool)) == {"sky"}, "a job that is planned now waits"
    place.put(instance("vm-1", "planned", age=300.0), instance("vm-2", "planned"))
    assert open_at(selected.for_next(pool)) == {"sky"}
    place.put(instance("vm-1", "planned", age=600.0))
    assert open_at(selected.for_next(pool)) == {"sky", "sea"}, "the oldest is next"


@pytest.mark.parametrize(("market", "sure"), [("spot-then-on-demand", True), ("spot", False), ("on-demand", True)])
def test_a_preempted_job_runs_again_on_demand_where_the_pool_may_buy_that(
    tmp_path: Path, clock: ManualClock, market: str, sure: bool
) -> None:
    place = make_place(tmp_path, clock, pools={"gpu": {"market": market}})
    pool = place.runtime.config.pools["gpu"]
    assert make_selection(place, rerun_outstanding=lambda name: name == "gpu").on_demand_only(pool) is sure
    assert not make_selection(place).on_demand_only(pool)
