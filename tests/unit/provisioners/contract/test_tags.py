from __future__ import annotations

import pytest

from provisioners import base


@pytest.mark.parametrize(
    ("text", "number"),
    [("1764374400", 1764374400.0), ("0.53", 0.53), ("", 0.0), ("nan", 0.0), ("inf", 0.0), ("1e400", 0.0), ("-1", 0.0)],
)
def test_a_tag_is_a_finite_number_or_nothing(text: str, number: float) -> None:
    assert base.tagged_deadline({base.TAG_DEADLINE: text}) == number
    assert base.tagged_price({base.TAG_PRICE: text}) == number


def test_a_missing_tag_is_nothing() -> None:
    assert (base.tagged_deadline({}), base.tagged_price({})) == (0.0, 0.0)
