"""The pure part of the blocklist: which block a failure earns, for how long, and which one holds an offer."""

from __future__ import annotations

import dataclasses

import pytest

from provisioners.base import Failure, Kind, Market, Offer, OfferPattern
from runnerd.model import Block
from runnerd.offers import blocklist

NOW = 1000.0


def offer(provider: str = "sky", zone: str = "a", price: float = 1.0, region: str = "east") -> Offer:
    return Offer(provider, "acct", region, zone, "small", Market.SPOT, price, 1)


def block(pattern: str, *, until: float = NOW + 60, since: float = NOW, reason: str = "capacity") -> Block:
    return Block(pattern, reason, until, since, "says the cloud")


def test_of_several_blocks_the_one_that_lasts_counts() -> None:
    found = blocklist.blocking(offer(), [block("sky/*", until=NOW + 5), block("*", until=NOW + 50), block("x")])
    assert found is not None and found.until == NOW + 50


@pytest.mark.parametrize(
    ("reason", "first", "most"),
    [
        pytest.param(Kind.CAPACITY, 60, 900, id="capacity"),
        pytest.param(Kind.QUOTA, 120, 1800, id="quota"),
        pytest.param(Kind.PRICE, 300, 1800, id="price"),
        pytest.param(Kind.AUTH, 120, 900, id="auth"),
        pytest.param(Kind.CONFIG, 300, 3600, id="config"),
        pytest.param(Kind.TRANSIENT, 5, 120, id="transient"),
        pytest.param("boot", 300, 3600, id="boot"),
        pytest.param("gate", 900, 7200, id="gate"),
    ],
)
def test_a_block_doubles_while_the_same_failure_comes_back_and_has_an_end(
    reason: str, first: float, most: float
) -> None:
    now, blocks, lasted = NOW, list[Block](), list[float]()
    for _ in range(12):
        found = blocklist.block(offer(), reason, Failure(Kind.CAPACITY, ""), blocks=blocks, now=now)
        assert found is not None
        lasted.append(found.until - now)
        blocks = [found]
        now = found.until + 1
    assert lasted[:2] == [first, min(most, 2 * first)]
    assert max(lasted) == lasted[-1] == most


def test_a_failure_after_a_good_while_starts_afresh() -> None:
    old = block(offer().key, since=NOW - 5000, until=NOW - 4000)
    found = blocklist.block(offer(), Kind.CAPACITY, Failure(Kind.CAPACITY, ""), blocks=[old], now=NOW)
    assert found is not None and found.until == NOW + 60


def test_a_block_speaks_for_the_scope_that_the_provider_named() -> None:
    found = blocklist.block(
        offer(), Kind.QUOTA, Failure(Kind.QUOTA, "", scope=OfferPattern("sky/acct/east/*/*/*")), blocks=[], now=NOW
    )
    assert found is not None
    assert OfferPattern(found.pattern).matches(offer(zone="z").key)
    assert not OfferPattern(found.pattern).matches(offer(region="west").key)


def test_throttling_blocks_no_offer() -> None:
    assert blocklist.block(offer(), Kind.THROTTLED, Failure(Kind.THROTTLED, ""), blocks=[], now=NOW) is None


def test_every_kind_of_failure_but_throttling_has_its_time() -> None:
    assert set(Kind) - {Kind.THROTTLED} <= set(blocklist.BLOCK_TIMES_S)


def test_a_time_that_the_provider_documents_wins() -> None:
    failure = Failure(Kind.CAPACITY, "not sold there", block_for=86400.0)
    found = blocklist.block(offer(), Kind.CAPACITY, failure, blocks=[], now=NOW)
    assert found is not None and found.until == NOW + 86400


def test_an_image_is_blocked_wherever_it_boots_and_nothing_else_with_it() -> None:
    bad, good = (dataclasses.replace(offer(), image=image) for image in ("projects/p/images/a", "projects/p/images/b"))
    held = block(OfferPattern.of_image("sky", bad.image))
    assert blocklist.blocking(bad, [held]) is held
    assert blocklist.blocking(good, [held]) is None
    assert blocklist.blocking(offer(), [held]) is None


def test_a_shorter_block_for_another_reason_does_not_shorten_a_longer_one() -> None:
    old = block(offer().key, until=NOW + 300, reason="config")
    assert blocklist.block(offer(), Kind.TRANSIENT, Failure(Kind.TRANSIENT, ""), blocks=[old], now=NOW) is None
    found = blocklist.block(offer(), Kind.AUTH, Failure(Kind.AUTH, "", block_for=900.0), blocks=[old], now=NOW)
    assert found is not None and (found.reason, found.until) == ("auth", NOW + 900)
