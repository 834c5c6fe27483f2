from __future__ import annotations

import pytest

from runnerd.reconcile import clock_guard
from tests.support.clocks import START, ManualClock
from tests.support.fakes import (
    ScriptedForge,
)

DAY = 86400.0


@pytest.fixture
def forge() -> ScriptedForge:
    return ScriptedForge()


def watch(clock: ManualClock) -> tuple[clock_guard.Guard, list[float]]:
    anchored: list[float] = []

    def reanchor() -> None:
        anchored.append(clock.jump)
        clock.time, clock.jump = clock.time + clock.jump, 0.0

    return clock_guard.Guard(clock, reanchor=reanchor), anchored


def test_clocks_that_agree_hold_nothing(clock: ManualClock, forge: ScriptedForge) -> None:
    watcher, _ = watch(clock)
    assert watcher.check([]) is False
    forge.date = (START + 1, START)
    assert watcher.check([forge]) is False and watcher.problem == ""


@pytest.mark.parametrize("jump", [DAY, -DAY, 61.0])
def test_a_wall_clock_that_jumps_holds_until_it_comes_back(
    clock: ManualClock, forge: ScriptedForge, jump: float
) -> None:
    watcher, anchored = watch(clock)
    clock.jump = jump
    assert watcher.check([forge]) is True
    assert f"jumped by {jump:+.0f} s" in watcher.problem
    clock.jump = 0.0
    assert watcher.check([forge]) is False and not anchored


def test_a_small_drift_is_no_jump(clock: ManualClock) -> None:
    watcher, _ = watch(clock)
    clock.jump = 59.0
    assert watcher.check([]) is False


def test_a_forges_date_from_before_the_jump_confirms_nothing(clock: ManualClock, forge: ScriptedForge) -> None:
    watcher, anchored = watch(clock)
    forge.date = (START - 1 + DAY, START - 1)
    clock.jump = DAY
    assert watcher.check([forge]) is True and not anchored


async def test_a_forge_that_confirms_the_new_time_ends_the_hold(clock: ManualClock, forge: ScriptedForge) -> None:
    watcher, anchored = watch(clock)
    clock.jump = DAY
    assert watcher.check([forge]) is True
    await clock.advance(5)
    forge.date = (clock.now() + DAY, clock.now())
    assert watcher.check([forge]) is False
    assert anchored == [DAY]


async def test_a_forge_that_denies_the_new_time_keeps_the_hold(clock: ManualClock, forge: ScriptedForge) -> None:
    watcher, anchored = watch(clock)
    clock.jump = DAY
    watcher.check([forge])
    await clock.advance(5)
    forge.date = (clock.now(), clock.now())
    assert watcher.check([forge]) is True and not anchored


def test_a_host_whose_clock_all_forges_contradict_is_held_and_one_odd_forge_is_not_believed(
    clock: ManualClock, forge: ScriptedForge
) -> None:
    watcher, _ = watch(clock)
    other = ScriptedForge("lab")
    forge.date, other.date = (START + DAY, START), (START, START)
    assert watcher.check([forge, other]) is False
    other.date = (START + DAY, START)
    assert watcher.check([forge, other]) is True
    assert watcher.problem == "this host's clock is 1 d behind the forges' clocks"
    forge.date = other.date = (START - DAY, START)
    assert watcher.check([forge, other]) is True
    assert watcher.problem == "this host's clock is 1 d ahead of the forges' clocks"
