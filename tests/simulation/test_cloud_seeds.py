"""Random scenarios over the simulated clouds: the invariants hold with the real provisioners and SDKs in them."""

from __future__ import annotations

import os

import pytest

from tests.simulation import cloud_scenarios

SEEDS = int(os.environ.get("CLOUD_SEEDS", "16"))


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, id=f"{seed}-{'-'.join(cloud_scenarios.names(seed))}") for seed in range(SEEDS)]
)
def test_the_promises_hold_over_the_clouds_whatever_breaks(seed: int) -> None:
    cloud_scenarios.play(seed)
