from __future__ import annotations

import pytest

from runnerd import errors
from runnerd.forges.base import RunnerView
from runnerd.lifecycle import adoption
from tests.support.fakes import Place, bought


@pytest.fixture
def adopter(place: Place) -> adoption.Adoption:
    return adoption.Adoption(place.runtime)


def runners(place: Place) -> dict[str, str]:
    """Registrations that are not gone, by runner name."""
    return {one.runner_name: one.state.value for one in place.rows.registrations.values()}


@pytest.mark.parametrize(
    ("busy", "state"),
    [pytest.param(True, "busy", id="busy"), pytest.param(False, "registered", id="idle"), (None, "registered")],
)
async def test_an_adopted_instance_finds_its_runner_by_name(
    adopter: adoption.Adoption, place: Place, busy: bool | None, state: str
) -> None:
    place.put(bought("vm-1", "booting", adopted=True))
    place.forge.runners = {
        name: RunnerView(f"id-{name}", name, True, busy) for name in ("vm-1-2", "vm-10", "somebody-else")
    }
    assert await adopter.discover(place.row()) is True
    assert runners(place) == {"vm-1-2": "registered"}
    assert (place.state(), place.row().job_started) == (state, bool(busy))
    assert await adopter.discover(place.row()) is True
    assert len(place.rows.registrations) == 1


async def test_a_forge_that_cannot_list_leaves_the_question_open(adopter: adoption.Adoption, place: Place) -> None:
    place.put(bought("vm-1", "booting", adopted=True))
    place.forge.complete = False
    assert await adopter.discover(place.row()) is False
    place.forge.listing_error = errors.ForgeUnavailable("503")
    assert await adopter.discover(place.row()) is False
    assert place.state() == "booting"
