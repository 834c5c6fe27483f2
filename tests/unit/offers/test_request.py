from __future__ import annotations

import dataclasses

import pytest

from provisioners import base
from runnerd import config, model
from runnerd.offers import request as launch_request
from tests.support.fakes import TOKENS, Place

INSTANCE = model.InstanceId("i" * 48)
KEY = model.AttemptKey("k" * 26)


def sent(settings: config.Config, traits: base.Traits) -> int:
    """Return the bytes of the boot script of the longest request, as it is sent."""
    request = launch_request.compose(
        settings,
        base.Offer("sky", "acct", "east", "a", "small", base.Market.ON_DEMAND, 1.0),
        pool=settings.pools["gpu"],
        traits=traits,
        instance=INSTANCE,
        key=KEY,
        repo="",
        bundle="ab" * 32,
        now=0.0,
    )
    return len(launch_request.unseal(launch_request.seal(request), TOKENS.boot(KEY)).user_data.encode())


@pytest.mark.parametrize("changes", [{}, {"beside_daemon": True}, {"power_off": ("sh", "-c", "é" * 900)}])
def test_a_boot_script_is_refused_from_the_first_byte_that_the_provider_does_not_take(
    place: Place, changes: dict[str, object]
) -> None:
    settings, traits = place.runtime.config, dataclasses.replace(place.sky.traits, **changes)  # type: ignore[arg-type]
    size = sent(settings, traits)

    def problem(limit: int) -> str:
        limited = dataclasses.replace(traits, user_data_limit=limit)
        return launch_request.boot_script_problem(settings, settings.pools["gpu"], "sky", limited)

    assert problem(size) == ""
    assert problem(size - 1) == f"the boot script has {size} bytes, and sky takes {size - 1} as user data"


def test_a_boot_script_that_cannot_be_written_is_a_problem_and_no_fault(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, traits = place.runtime.config, dataclasses.replace(place.sky.traits, beside_daemon=True)
    monkeypatch.setattr("sys.executable", "/home/o'neill/bin/python")
    words = launch_request.boot_script_problem(settings, settings.pools["gpu"], "sky", traits)
    assert words == "the boot script cannot be written: a value would break out of the script"
