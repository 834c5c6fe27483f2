from __future__ import annotations

import pytest

from provisioners.base import Market, Offer, OfferPattern
from runnerd.model import Block
from runnerd.offers import ranking

NOW = 1000.0


def offer(provider: str = "sky", zone: str = "a", price: float = 1.0, region: str = "east") -> Offer:
    return Offer(provider, "acct", region, zone, "small", Market.SPOT, price, 1)


def block(pattern: str, *, until: float = NOW + 60, since: float = NOW, reason: str = "capacity") -> Block:
    return Block(pattern, reason, until, since, "says the cloud")


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        pytest.param("sky/acct/east/a/small/spot", True, id="the offer itself"),
        pytest.param("sky/acct/east/*/small/*", True, id="a region"),
        pytest.param("sky/acct/*", True, id="missing segments match anything"),
        pytest.param("sky", True, id="a provider"),
        pytest.param("sky/acct/east/b/*/*", False, id="another zone"),
        pytest.param("sky/acct/east/a/small/on-demand", False, id="another market"),
        pytest.param("sk", False, id="no prefixes"),
        pytest.param("*/*/*/*/small/*", True, id="a type anywhere"),
        pytest.param("*/*/*/*/large|small/spot", True, id="one type or another"),
        pytest.param("*/*/*/*/l*|x*/spot", False, id="none of several"),
        pytest.param("*/*/*/*/*/*/image-1", False, id="an image that is not told"),
    ],
)
def test_a_pattern_matches_segment_by_segment(pattern: str, matches: bool) -> None:
    assert OfferPattern(pattern).matches(offer().key) is matches


def test_offers_stand_in_the_order_of_providers_and_keep_their_own() -> None:
    found = ranking.rank(
        [offer("sea"), offer("sky", "b", 9.0), offer("sky", "a", 1.0), offer("moon")],
        providers=["sky", "sea"],
        cheapest=False,
        blocks=[],
        now=NOW,
    )
    assert [(one.offer.provider, one.offer.zone) for one in found] == [("sky", "b"), ("sky", "a"), ("sea", "a")]
    assert all(one.open for one in found)


def test_the_cheapest_come_first_where_that_is_wanted_and_ties_go_to_the_first_provider() -> None:
    found = ranking.rank(
        [offer("sky", price=2.0), offer("sea", price=1.0), offer("sea", "b", 2.0)],
        providers=["sky", "sea"],
        cheapest=True,
        blocks=[],
        now=NOW,
    )
    assert [(one.offer.provider, one.offer.price) for one in found] == [("sea", 1.0), ("sky", 2.0), ("sea", 2.0)]


def test_a_blocked_offer_keeps_its_place_and_says_until_when() -> None:
    found = ranking.rank(
        [offer("sky"), offer("sea")],
        providers=["sky", "sea"],
        cheapest=False,
        blocks=[block("sky/*", since=NOW - 5), block("sea/*", until=NOW)],
        now=NOW,
    )
    assert [(one.offer.provider, one.open, one.until) for one in found] == [("sky", False, NOW + 60), ("sea", True, 0)]
    assert found[0].refusal == "blocked 5 s ago (capacity: says the cloud); retry in 1 min"


def test_a_closed_provider_is_closed_whatever_its_blocks() -> None:
    (found,) = ranking.rank(
        [offer()], providers=["sky"], cheapest=False, blocks=[], now=NOW, closed_providers={"sky": "it hangs"}
    )
    assert found.refusal == "it hangs"
