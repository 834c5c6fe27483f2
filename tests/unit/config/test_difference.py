"""The difference between two configurations."""

from __future__ import annotations

import copy

from runnerd import config
from tests.unit.config.sample import BASE, changed, read


def test_comparing_finds_only_what_differs() -> None:
    old = read(BASE)
    assert not config.compare(old, read(copy.deepcopy(BASE)))
    new = read(
        changed(
            pools__gpu_1t4__idle="1h",
            pools__gpu_1v100={"gpu": "v100"},
            providers__boxes=...,
            pools__gpu_1a100__from=["aws"],
            log={"level": "debug"},
            state="/srv/runnerd",
        )
    )
    change = config.compare(old, new)
    assert change.pools == config.Difference(added=frozenset({"gpu-v100"}), changed=frozenset({"gpu-t4", "gpu-a100"}))
    assert change.providers == config.Difference(removed=frozenset({"boxes"}))
    assert not change.forges
    assert change.top == {"log", "state"}
    assert change.needs_restart == {"state"}


def test_a_changed_default_changes_the_pools_that_inherit_it() -> None:
    old = read(changed(pools__gpu_1t4__idle="1h"))
    new = read(changed(pools__gpu_1t4__idle="1h", defaults__idle="7m"))
    assert config.compare(old, new).pools.changed == {"gpu-a100"}
    new = read(changed(pools__gpu_1t4__idle="1h", defaults__runner={"env": {"A": "1"}}))
    assert config.compare(old, new).pools.changed == {"gpu-t4", "gpu-a100"}
