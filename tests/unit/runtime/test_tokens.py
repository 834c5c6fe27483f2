from __future__ import annotations

import pytest

from runnerd.model import AttemptKey
from runnerd.runtime import tokens
from tests.support.fakes import NONCE, TOKENS

KEY = AttemptKey("abc-123")


def test_a_boot_token_names_its_attempt_and_is_the_same_each_time() -> None:
    token = TOKENS.boot(KEY)
    assert TOKENS.read_boot(token) == KEY
    assert TOKENS.boot(KEY) == token


def test_a_session_names_its_attempt_and_nonce() -> None:
    assert TOKENS.read_session(TOKENS.session(KEY, NONCE)) == (KEY, NONCE)


def _bent(token: str, place: int) -> str:
    other = "0" if token[place] != "0" else "1"
    return token[:place] + other + token[place + 1 :]


@pytest.mark.parametrize(
    "token",
    [
        pytest.param("", id="empty"),
        pytest.param("rb1", id="a stub"),
        pytest.param(_bent(TOKENS.boot(KEY), -1), id="another signature"),
        pytest.param(_bent(TOKENS.boot(KEY), 4), id="another attempt"),
        pytest.param(TOKENS.session(KEY, NONCE), id="a session"),
        pytest.param(TOKENS.boot(KEY) + "\n", id="a line end"),
        pytest.param(TOKENS.boot(KEY).upper(), id="upper case"),
        pytest.param(tokens.Tokens(b"another key of sixteen").boot(KEY), id="another controller's"),
        pytest.param("rb1.é." + "0" * 64, id="not ASCII"),
    ],
)
def test_what_is_not_a_boot_token_is_none(token: str) -> None:
    assert TOKENS.read_boot(token) is None


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(TOKENS.boot(KEY), id="a boot token"),
        pytest.param(_bent(TOKENS.session(KEY, NONCE), 14), id="another nonce"),
        pytest.param(_bent(TOKENS.session(KEY, NONCE), -1), id="another signature"),
        pytest.param(TOKENS.session(KEY, NONCE).replace("rs1", "rb1"), id="another purpose"),
    ],
)
def test_what_is_not_a_session_is_none(token: str) -> None:
    assert TOKENS.read_session(token) is None


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        tokens.Tokens(b"short")
