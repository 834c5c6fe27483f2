"""Pools: inheritance, shapes, GPUs and times."""

from __future__ import annotations

import pytest

from provisioners import base
from runnerd import config, planner
from tests.unit.config.sample import changed, read


def test_a_pool_inherits_what_it_does_not_set() -> None:
    pools = read(changed(pools__gpu_1t4__idle="1h")).pools
    assert pools["gpu-t4"].idle == 3600.0
    assert pools["gpu-a100"].idle == 300.0
    assert pools["gpu-t4"].market is config.MarketChoice.SPOT_THEN_ON_DEMAND
    assert pools["gpu-t4"].boot == 600.0


def test_maps_merge_key_by_key_so_that_a_pool_cannot_lose_a_restriction_by_accident() -> None:
    data = changed(defaults__allow={"repos": ["acme/*"]}, pools__gpu_1t4__allow={"protected_only": True})
    allow = read(data).pools["gpu-t4"].allow
    assert (allow.repos, allow.protected_only) == (("acme/*",), True)


def test_a_pool_serves_all_forges_from_all_providers_under_its_own_name_unless_told_otherwise() -> None:
    pool = read(changed(pools={"gpu": None})).pools["gpu"]
    assert (pool.name, pool.labels, pool.from_, pool.forges) == (
        "gpu",
        ("gpu",),
        ("boxes", "aws"),
        ("acme", "gl"),
    )


def test_a_shape_says_what_to_buy() -> None:
    data = changed(pools__gpu_1a100__types={"aws": ["p4d.24xlarge"]}, pools__gpu_1a100__memory="64GiB")
    pool = read(data).pools["gpu-a100"]
    assert pool.shape("aws") == base.Shape(
        gpu="a100-40",
        gpu_count=4,
        memory=64 * 2**30,
        types=("p4d.24xlarge",),
        markets=(base.Market.SPOT, base.Market.ON_DEMAND),
    )
    assert pool.shape("boxes").types == ()


def test_a_pool_lives_for_boot_wait_and_job_and_leaves_twice_the_slack_of_the_planner_for_both_clocks() -> None:
    pool = read(changed(defaults__boot="10m", defaults__idle="5m", defaults__max_job="1h")).pools["gpu-t4"]
    assert pool.lifetime == 600 + 300 + 3600 + 2 * planner.SLACK_S
    kept = read(
        changed(pools__gpu_1t4__warm=1, defaults__boot="10m", defaults__max_idle_age="2h", defaults__max_job="1h")
    )
    assert kept.pools["gpu-t4"].lifetime == 600 + 7200 + 3600 + 2 * planner.SLACK_S


@pytest.mark.parametrize(("text", "model", "count"), [("T4", "t4", 1), ("a100-40x4", None, 0), ("h100 x8", "h100", 8)])
def test_reads_gpus_with_a_count(text: str, model: str | None, count: int) -> None:
    data = changed(pools__gpu_1t4__gpu=text)
    if model is None:
        # Without a blank, `x4` belongs to the model's name.
        assert read(data).pools["gpu-t4"].gpu_model == text
    else:
        pool = read(data).pools["gpu-t4"]
        assert (pool.gpu_model, pool.gpu_count) == (model, count)


def test_a_provider_keeps_the_keys_of_its_type_as_options() -> None:
    provider = read(changed(providers__aws__tags={"cost": "ml"})).providers["aws"]
    assert provider.options == {"regions": {"us-east-1": {}}}
    assert (provider.name, provider.type, provider.tags) == ("aws", "cloudy", {"cost": "ml"})
