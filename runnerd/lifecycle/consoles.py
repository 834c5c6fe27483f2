"""What an instance printed, made fit to be kept and shown: its end, without secrets and without control characters.

Whoever was root on the instance wrote it, so it is data for people only.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

from runnerd.kit import redaction

#: Bytes of a text that are kept: the end says why.
MOST = 256 * 1024
#: Characters that are worked on before others get their turn: masking a whole text at once takes 0.1 s.
PIECE = 8 * 1024

#: Escape sequences of terminals (ECMA-48): colours, the cursor, window titles.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_RETURNS = re.compile(r"\r+\n")


def clean(text: str) -> str:
    """Text as a terminal may show it: line breaks and tabs are its only control characters."""
    text = _ESCAPES.sub("", _RETURNS.sub("\n", text)).replace("\r", "\n")
    return _CONTROL.sub("\ufffd", text).encode("utf-8", "replace").decode("utf-8")


def line(text: str, *, most: int) -> str:
    """A short text on one line."""
    return redaction.redact(" ".join(clean(text[: 4 * most]).split()))[:most]


async def kept(text: str) -> str:
    """What is kept of a text."""
    # More than is kept at first: a secret must not be cut in two before it is known.
    found = []
    for piece in _pieces(clean(text[-2 * MOST :])):
        found.append(redaction.redact(piece))
        await asyncio.sleep(0)
    data = "".join(found).encode()
    if len(data) <= MOST:
        return data.decode()
    data = data[-MOST:]
    # From the first whole line on, where there is one.
    return data[data.find(b"\n", 0, PIECE) + 1 :].decode("utf-8", "ignore")


def _pieces(text: str) -> Iterator[str]:
    """The text in pieces of whole lines, none of which ends within a private key."""
    start = 0
    while start < len(text):
        end = text.find("\n", start + PIECE) + 1 or len(text)
        begun = text.rfind("-----BEGIN", start, end)
        if begun >= 0 and text.find("-----END", begun, end) < 0:
            closing = text.find("-----END", end)
            end = text.find("\n", closing) + 1 or len(text) if closing >= 0 else len(text)
        yield text[start:end]
        start = end
