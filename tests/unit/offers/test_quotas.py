from __future__ import annotations

import pytest

from provisioners.base import Market, Offer, OfferPattern, Quota, Unit
from runnerd import model
from runnerd.offers import quotas
from tests.support.fakes import instance

NOW = 1000.0
OFFER = Offer("sky", "acct", "east", "a", "small", Market.SPOT, 1.0, gpus=2, cpus=8)


def quota(unit: Unit, limit: float, used: float = 0.0, pattern: str = "sky/acct/east/*/*/spot") -> Quota:
    return Quota("L-1", OfferPattern(pattern), unit, limit, used, NOW, remedy="https://quotas.example")


def counted(*told: Quota, rows: tuple[model.Instance, ...] = ()) -> quotas.Quotas:
    made = quotas.Quotas()
    made.count({"sky": told}, rows)
    return made


@pytest.mark.parametrize(
    ("told", "refused"),
    [
        pytest.param(quota(Unit.VCPUS, 16, 8), False, id="room for just one"),
        pytest.param(quota(Unit.VCPUS, 16, 9), True, id="not enough vCPUs"),
        pytest.param(quota(Unit.GPUS, 1), True, id="less than one instance needs"),
        pytest.param(quota(Unit.INSTANCES, 0), True, id="none at all"),
        pytest.param(quota(Unit.INSTANCES, 0, pattern="sky/acct/west/*/*/*"), False, id="another region's"),
        pytest.param(quota(Unit.VCPUS, 0, pattern="sky/*/*/*/large|huge/*"), False, id="other types'"),
    ],
)
def test_an_offer_is_held_back_by_the_quotas_that_govern_it(told: Quota, refused: bool) -> None:
    words = counted(told).refusal(OFFER)
    assert bool(words) is refused
    assert not refused or ("L-1" in words and "https://quotas.example" in words)


def test_what_was_asked_for_since_counts_and_what_the_cloud_knew_does_not_count_twice() -> None:
    known = instance("vm-1", "busy", offer=OFFER.key, provider="sky", gpus=2, cpus=8, running_at=NOW - 5)
    asked = instance("vm-2", "requesting", offer=OFFER.key, provider="sky", gpus=2, cpus=8, since=NOW + 1)
    assert not counted(quota(Unit.VCPUS, 24, 8), rows=(known, asked)).refusal(OFFER)
    assert "16 of 23" in counted(quota(Unit.VCPUS, 23, 8), rows=(known, asked)).refusal(OFFER)


def test_a_burst_counts_each_instance_as_it_is_admitted_and_takes_back_what_did_not_come() -> None:
    made = counted(quota(Unit.GPUS, 4))
    made.add(OFFER, 1)
    assert not made.refusal(OFFER)
    made.add(OFFER, 1)
    assert made.refusal(OFFER)
    made.add(OFFER, -1)
    assert not made.refusal(OFFER)


def test_a_provider_that_tells_no_quota_holds_nothing_back() -> None:
    assert not quotas.Quotas().refusal(OFFER)
