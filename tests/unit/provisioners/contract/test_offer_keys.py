from __future__ import annotations

import copy
import json
import pickle

import pytest

from provisioners import base

KEY = base.OfferKey("sky/acct/east/a/small/spot")
SCOPE = base.Scope("sky/acct/east/a")


def test_a_key_is_its_text_and_its_segments() -> None:
    assert KEY == "sky/acct/east/a/small/spot" == json.loads(json.dumps(KEY))
    assert (KEY.provider, KEY.account, KEY.region, KEY.zone) == ("sky", "acct", "east", "a")
    assert (KEY.machine_type, KEY.market, KEY.scope) == ("small", "spot", SCOPE)
    assert base.OfferKey.of("sky", "acct", "east", "a", "small", "spot") == KEY == SCOPE.offer("small", "spot")


@pytest.mark.parametrize("value", [KEY, SCOPE, base.OfferPattern("sky/*")], ids=["key", "scope", "pattern"])
def test_a_copy_is_of_the_same_kind(value: str) -> None:
    for made in (copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert (made, type(made)) == (value, type(value))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        pytest.param(base.Scope, "sky/acct/east", id="a region is no scope"),
        pytest.param(base.Scope, "sky/acct/east/a/small", id="a scope with a type"),
        pytest.param(base.OfferKey, "", id="no key"),
        pytest.param(base.OfferKey, "sky/acct/east/a/small", id="a key without a market"),
        pytest.param(base.OfferKey, "sky/acct/east/a/small/spot/image", id="a key with an image"),
        pytest.param(base.OfferPattern, "sky/*/*/*/*/*/image/more", id="a pattern with eight segments"),
    ],
)
def test_a_wrong_number_of_segments_is_refused(kind: type[base.Scope], text: str) -> None:
    assert kind.read(text) is None
    with pytest.raises(ValueError, match="does not have the form provider/account/region/zone"):
        kind(text)


def test_a_scope_is_within_itself_and_within_its_whole_region() -> None:
    assert SCOPE.within(frozenset({SCOPE}))
    assert SCOPE.within(frozenset({base.Scope("sky/acct/east/*")}))
    assert not SCOPE.within(frozenset({base.Scope("sky/acct/east/b"), base.Scope("sky/acct/west/*")}))
    assert not SCOPE.in_zone(base.ANY).within(frozenset({SCOPE}))


def test_a_pattern_without_some_segments_has_any_there_and_keeps_its_text() -> None:
    short = base.OfferPattern("sky/acct")
    assert (short, short.region, short.zone, short.machine_type, short.market) == ("sky/acct", "*", "*", "*", "*")
    assert base.OfferPattern.of("sky", "acct", machine_type="a|b") == "sky/acct/*/*/a|b/*"


def test_a_pattern_of_an_image_matches_offers_with_that_image_only() -> None:
    pattern = base.OfferPattern.of_image("sky", "family/one|two")
    assert pattern == "sky/*/*/*/*/*/family:one:two"
    assert pattern.matches(KEY.with_image("family/one|two"))
    assert not pattern.matches(KEY.with_image("family/one"))
    assert not pattern.matches(KEY)


def test_alternatives_are_sorted_and_any_when_there_are_none() -> None:
    assert (base.alternatives(["b", "a", "b"]), base.alternatives([])) == ("a|b", "*")


def test_an_offer_comes_back_from_its_key() -> None:
    offer = base.Offer.of(KEY, price=1.5, image="image-1")
    assert (offer.key, offer.market, offer.price, offer.image) == (KEY, base.Market.SPOT, 1.5, "image-1")
    with pytest.raises(ValueError, match="is not a valid Market"):
        base.Offer.of(SCOPE.offer("small", base.UNKNOWN))
