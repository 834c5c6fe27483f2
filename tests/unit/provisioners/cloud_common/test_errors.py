"""Tables of error codes: which row is found, and the failure that it stands for."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import pytest

from provisioners import base
from provisioners.base import Kind
from provisioners.cloud_common import errors
from provisioners.cloud_common.errors import Row


class ErrorScope(enum.Enum):
    OFFER = enum.auto()
    REGION = enum.auto()


@dataclass(frozen=True)
class Target:
    spot: bool = False

    def pattern(self, scope: ErrorScope) -> base.OfferPattern | None:
        return base.OfferPattern.of("cloud", "account", "east") if scope is ErrorScope.REGION else None


FULL = Row(Kind.CAPACITY, ErrorScope.OFFER, 180.0, spot_block_for=60.0)
WRONG = Row(Kind.CONFIG, ErrorScope.REGION, hint="correct it")
IMAGE = Row(Kind.CONFIG, ErrorScope.OFFER, message="image .*is not there")
TABLE = errors.Table(
    {"Full": FULL, "Refused": (IMAGE, WRONG), "Lost": Row(Kind.TRANSIENT, ErrorScope.OFFER, maybe_created=True)},
    prefixes={"Invalid": WRONG},
    normal=str.lower,
)


@pytest.mark.parametrize(
    ("code", "message", "row"),
    [
        pytest.param("Full", "", FULL, id="code"),
        pytest.param("FULL", "", FULL, id="another-form-of-the-code"),
        pytest.param("Refused", "The Image x\nis not there", IMAGE, id="message"),
        pytest.param("Refused", "no", WRONG, id="another-message"),
        pytest.param("InvalidThing", "", WRONG, id="prefix"),
        pytest.param("Unheard", "", None, id="unknown"),
    ],
)
def test_a_row_is_found_by_its_code_then_by_the_message(code: str, message: str, row: Row[ErrorScope] | None) -> None:
    assert TABLE.find(code, message) is row


def test_the_first_error_with_a_row_counts() -> None:
    assert TABLE.first([("Unheard", ""), ("Full", ""), ("Refused", "")]) is FULL
    assert TABLE.first([("Unheard", "")]) is None


@pytest.mark.parametrize(("spot", "block_for"), [(False, 180.0), (True, 60.0)])
def test_the_spot_market_may_be_blocked_for_another_time(spot: bool, block_for: float) -> None:
    assert errors.failure(FULL, "none left", code="Full", target=Target(spot)).block_for == block_for


def test_a_failure_carries_scope_hint_and_outcome_of_its_row() -> None:
    failed = errors.failure(WRONG, "no", code="Refused", target=Target(), retry_after=3.0)
    assert (failed.kind, failed.scope, failed.code) == (Kind.CONFIG, "cloud/account/east/*/*/*", "Refused")
    assert str(failed) == "no (correct it)"
    assert (failed.retry_after, failed.maybe_created) == (3.0, False)
    assert errors.failure(TABLE.rows["lost"][0], "", code="Lost", target=Target()).maybe_created
