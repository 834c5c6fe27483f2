from __future__ import annotations

import re
from pathlib import Path

from runnerd.model import InstanceId, Queue
from tests.support.clocks import ManualClock
from tests.support.fakes import (
    Place,
)
from tests.support.fakes import place as make_place


def test_nothing_is_known_of_an_instance_before_it_is_observed(place: Place) -> None:
    assert not place.runtime.observations
    assert not place.runtime.observations.of(InstanceId("vm-2")).worker
    assert not place.runtime.observations, "a question is no observation"


def test_a_pool_knows_its_queues(tmp_path: Path, clock: ManualClock) -> None:
    place = make_place(tmp_path, clock, pools={"gpu": {}, "big": {"labels": ["big"]}})
    assert place.runtime.queues("big") == [Queue("hub", "acme", "big")]
    assert place.runtime.queues("none") == []


def test_fresh_names_differ_and_are_safe_everywhere(place: Place) -> None:
    names = {place.runtime.fresh_name() for _ in range(1000)}
    assert len(names) == 1000
    assert all(re.fullmatch(r"[a-z0-9]{10}", name) for name in names)
