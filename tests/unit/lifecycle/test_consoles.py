from __future__ import annotations

import asyncio

import pytest

from runnerd.kit import redaction
from runnerd.lifecycle import consoles

KEY = "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEowIBAAKCAQEAx\n" * 60 + "-----END RSA PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        pytest.param("a\r\nb\r\r\nc\n", "a\nb\nc\n", id="line ends"),
        pytest.param("10%\r20%\r30%\n", "10%\n20%\n30%\n", id="progress"),
        pytest.param("\x1b[31mred\x1b[0m \x1b[2K\x1b[1;1Hhome", "red home", id="colours and moves"),
        pytest.param("\x1b]0;title\x07here \x1b]2;more\x1b\\there", "here there", id="window titles"),
        pytest.param("bell\x07 nul\x00 \x9b31m", "bell\ufffd nul\ufffd \ufffd31m", id="other controls"),
        pytest.param("half \ud800 of it\tok", "half ? of it\tok", id="no text at all"),
    ],
)
def test_what_is_shown_cannot_command_a_terminal(printed: str, shown: str) -> None:
    assert consoles.clean(printed) == shown


async def test_the_end_of_a_long_text_is_kept_from_a_whole_line_on() -> None:
    lines = [f"line {number} ü" for number in range(40_000)]
    kept = await consoles.kept("\n".join(lines))
    assert consoles.MOST_BYTES - 20 < len(kept.encode()) <= consoles.MOST_BYTES
    assert kept.split("\n") == lines[-kept.count("\n") - 1 :]


async def test_a_text_without_lines_is_bounded_too() -> None:
    kept = await consoles.kept("ü" * 400_000)
    assert set(kept) == {"ü"} and consoles.MOST_BYTES - 2 <= len(kept.encode()) <= consoles.MOST_BYTES


@pytest.mark.parametrize("before", [0, 5000, consoles.PIECE - 40, consoles.PIECE + 1, 3 * consoles.PIECE - 700])
async def test_a_private_key_is_masked_wherever_it_lies(before: int) -> None:
    text = "x" * (before - 1) + "\n" * bool(before) + KEY + "after it\n" + "y\n" * 20_000
    kept = await consoles.kept(text)
    assert "MIIE" not in kept and redaction.MASK in kept and "after it" in kept


async def test_a_key_that_was_not_printed_whole_is_masked_to_the_end() -> None:
    cut = KEY[: len(KEY) // 2]
    assert "MIIE" not in await consoles.kept("x\n" * consoles.PIECE + cut)


async def test_known_secrets_and_tokens_are_masked() -> None:
    redaction.learn("a-boot-token-of-an-instance")
    kept = await consoles.kept(
        "+ hello a-boot-token-of-an-instance\nAuthorization: Bearer ghp_0123456789abcdef01234567\n"
    )
    assert "a-boot-token" not in kept and "ghp_" not in kept


async def test_others_get_their_turn_while_a_long_text_is_masked() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await consoles.kept("a line of some length\n" * 20_000)
    task.cancel()
    assert turns >= 2 * consoles.MOST_BYTES / consoles.PIECE / 2


def test_a_line_is_one_line_and_short() -> None:
    assert consoles.line("Server.InternalError:\n  the\tdisk\x07 broke", most=28) == "Server.InternalError: the di"
