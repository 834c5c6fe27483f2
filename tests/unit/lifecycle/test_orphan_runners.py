from __future__ import annotations

import pytest

from runnerd.forges.base import RunnerView
from runnerd.lifecycle import orphan_runners
from tests.support.fakes import QUEUE, Place, bought

ORPHAN = "acme-ci-gpu-abcdefghij"


@pytest.fixture
def sweeper(place: Place) -> orphan_runners.OrphanRunners:
    return orphan_runners.OrphanRunners(place.runtime)


async def test_a_runner_of_ours_without_a_row_is_removed_when_seen_twice(
    sweeper: orphan_runners.OrphanRunners, place: Place
) -> None:
    place.forge.runners = {name: RunnerView("9", name, False, False) for name in (ORPHAN, "somebody-else", "vm-1")}
    await sweeper.sweep(QUEUE)
    assert place.forge.calls == []
    await sweeper.sweep(QUEUE)
    assert place.forge.calls == [("deregister", ORPHAN)]
    assert set(place.forge.runners) == {"somebody-else", "vm-1"}


async def test_a_runner_of_a_known_instance_is_not_swept(sweeper: orphan_runners.OrphanRunners, place: Place) -> None:
    place.put(bought(ORPHAN, "busy"))
    place.forge.runners = {
        ORPHAN: RunnerView("9", ORPHAN, True, True),
        f"{ORPHAN}-2": RunnerView("10", f"{ORPHAN}-2", True, True),
    }
    for _ in range(3):
        await sweeper.sweep(QUEUE)
    assert place.forge.calls == []
