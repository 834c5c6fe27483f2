"""Random scenarios under faults and crashes: the invariants hold in each of them."""

from __future__ import annotations

import os

import pytest

from tests.simulation import scenarios

SEEDS = int(os.environ.get("SEEDS", "200"))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_the_promises_hold_whatever_breaks(seed: int) -> None:
    scenarios.play(seed)
