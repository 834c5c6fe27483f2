from __future__ import annotations

import random

from runnerd.forges.gitlab import discovery, polling


def schedule(*ids: int, poll: float = 15.0, idle: float = 60.0) -> polling.Schedule:
    made = polling.Schedule(poll=poll, idle_poll=idle, rng=random.Random(1))
    made.set_projects([discovery.Project(id_, f"acme/p{id_}", "acme", active_at=-1e6) for id_ in ids], 0.0)
    return made


def test_new_projects_are_due_at_once_and_only_once() -> None:
    round_ = schedule(1, 2)
    taken = {slot.project.id for slot in (round_.take(0.0), round_.take(0.0)) if slot}
    assert taken == {1, 2} and round_.take(0.0) is None


def test_busy_projects_come_again_sooner_than_quiet_ones() -> None:
    round_ = schedule(1, 2)
    for _ in range(2):
        slot = round_.take(0.0)
        assert slot is not None
        round_.answered(slot, 0.0, busy=slot.project.id == 1, pages=1)
    busy, quiet = round_.slot(1), round_.slot(2)
    assert busy is not None and quiet is not None
    assert 13.5 <= busy.due <= 15.0 and 54.0 <= quiet.due <= 60.0


def test_a_project_cools_down_after_its_work() -> None:
    round_ = schedule(1)
    slot = round_.take(0.0)
    assert slot is not None
    round_.answered(slot, 0.0, busy=True, pages=1)
    assert round_.interval(slot, polling.ACTIVE_FOR_S - 1) == 15.0
    assert round_.interval(slot, polling.ACTIVE_FOR_S + 1) == 60.0


def test_long_lists_are_asked_less_often() -> None:
    round_ = schedule(1)
    slot = round_.take(0.0)
    assert slot is not None
    round_.answered(slot, 0.0, busy=True, pages=11)
    assert round_.interval(slot, 1.0) == 15.0 + 10 * polling.PER_PAGE_S


def test_a_failing_project_is_asked_less_and_less_up_to_a_minute() -> None:
    round_ = schedule(1)
    now, gaps = 0.0, []
    for _ in range(10):
        slot = round_.take(now)
        assert slot is not None
        round_.failed(slot, now)
        gaps.append(slot.due - now)
        now = slot.due
    assert gaps[0] <= 2.0 and 48.0 <= gaps[-1] <= 60.0 and max(gaps) <= 60.0
    assert slot is not None and slot.asked and not slot.polled_at


def test_a_hint_goes_before_the_round_but_not_for_ever() -> None:
    round_ = schedule(1, 2)
    for _ in range(2):
        slot = round_.take(0.0)
        assert slot is not None
        round_.answered(slot, 0.0, busy=False, pages=1)
    assert round_.hint(2, 99, 61.0) and not round_.hint(3, 99, 61.0)
    first = round_.take(61.0)
    assert first is not None and first.project.id == 2
    late = 60.0 * (polling.LATE + 2)
    first.held = False
    first.due = late
    overdue = round_.take(late)
    assert overdue is not None and overdue.project.id == 1


def test_projects_that_went_are_named_and_forgotten() -> None:
    round_ = schedule(1, 2)
    assert round_.set_projects([discovery.Project(2, "acme/p2", "acme")], 5.0) == [1]
    assert round_.slot(1) is None


def test_the_wait_is_until_the_next_is_due() -> None:
    round_ = schedule(1)
    slot = round_.take(0.0)
    assert slot is not None
    round_.answered(slot, 0.0, busy=True, pages=1)
    assert 0 < round_.wait(1.0) <= 14.0
    assert round_.wait(15.0) == 0.0
