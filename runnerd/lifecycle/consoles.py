"""Console output of instances and diagnostics of agents: asked for, made fit to be kept and shown, and kept.

A text is kept by its end, without secrets and without control characters.  Root on the instance wrote it, so it is
data for people only.  The provider is asked once in an instance's life, and never holds an end up for long.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator

from provisioners import base
from runnerd import errors, model
from runnerd.kit import display, redaction
from runnerd.model import InstanceId
from runnerd.runtime import shared

log = logging.getLogger(__name__)

#: Bytes of a text that are kept: the end says why.
MOST_BYTES = 256 * 1024
#: Characters that are worked on before others get their turn: masking a whole text at once takes 0.1 s.
PIECE = 8 * 1024
#: Seconds that a provider may take to answer with what an instance printed.
ANSWER_S = 20.0
#: Seconds between two diagnostics of one agent that are written.
DIAGNOSTICS_S = 10.0
#: Characters of a provider's message that are kept.
LONGEST_MESSAGE = 2000

#: Escape sequences of terminals (ECMA-48): colours, the cursor, window titles.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_RETURNS = re.compile(r"\r+\n")


class Consoles:
    """The kept texts of instances."""

    def __init__(self, runtime: shared.Runtime) -> None:
        self._runtime = runtime
        #: Instances whose console this process has asked for.
        self._asked: set[InstanceId] = set()
        #: Diagnostics of agents that wait to be written; None while their writer rests.
        self._diagnostics: dict[InstanceId, str | None] = {}

    async def ask(self, row: model.Instance) -> tuple[str, str]:
        """Ask the provider now for what an instance printed; the text, or why there is none."""
        provider = self._runtime.providers.get(row.provider)
        if provider is None or not row.ref:
            return "", "no provider has it"
        try:
            async with asyncio.timeout(ANSWER_S):
                text = await provider.provisioner.console_log(row.ref)
        except TimeoutError:
            return "", f"{provider.name} did not answer within {display.span(ANSWER_S)}"
        except base.ProvisionError as error:
            return "", line(f"{provider.name}: {error}", most=LONGEST_MESSAGE)
        except Exception as error:
            log.exception("%s: asking for the console of %s failed in an unexpected way", provider.name, row.id)
            return "", f"{provider.name}: {type(error).__name__}"
        if not text:
            return "", f"{provider.name} has no console output for it"
        return await kept(text), ""

    async def keep(self, row: model.Instance) -> None:
        """Keep what an instance printed, or why there is none; asked for once in its life."""
        if row.id in self._asked or not row.ref:
            return
        self._asked.add(row.id)
        kind = model.ConsoleKind.CONSOLE
        try:
            # Another process of this daemon may have asked before it ended.
            if any(one.kind is kind for one in await self._runtime.history.consoles(row.id)):
                return
            text, problem = await self.ask(row)
            console = model.Console(row.id, kind, self._runtime.clock.now(), text, problem)
            await self._runtime.rows.write_console(console)
        except errors.StoreError as error:
            log.warning("%s: its console output could not be saved: %s", row.id, error)

    def keep_diagnostics(self, id: InstanceId, text: str) -> None:
        """Keep the diagnostics of an agent.  It may send more than once: the last ones win."""
        if id not in self._diagnostics:
            self._runtime.background.spawn(f"diagnostics of {id}", self._write_diagnostics(id))
        self._diagnostics[id] = text

    async def _write_diagnostics(self, id: InstanceId) -> None:
        try:
            while (text := self._diagnostics.get(id)) is not None:
                self._diagnostics[id] = None
                now = self._runtime.clock.now()
                console = model.Console(id, model.ConsoleKind.AGENT, now, await kept(text))
                try:
                    await self._runtime.rows.write_console(console)
                except errors.StoreError as error:
                    log.warning("%s: the diagnostics of its agent could not be saved: %s", id, error)
                # Root on an instance may send as often as it likes.
                await self._runtime.clock.sleep(DIAGNOSTICS_S)
        finally:
            self._diagnostics.pop(id, None)

    def forget(self, id: InstanceId) -> None:
        """Drop what is kept in memory for an instance that is gone."""
        self._asked.discard(id)


# -- texts ---------------------------------------------------------------------------------------------------------


def clean(text: str) -> str:
    """Return text as a terminal may show it: line breaks and tabs are its only control characters."""
    text = _ESCAPES.sub("", _RETURNS.sub("\n", text)).replace("\r", "\n")
    return _CONTROL.sub("\ufffd", text).encode("utf-8", "replace").decode("utf-8")


def line(text: str, *, most: int) -> str:
    """Return a short text on one line."""
    return redaction.redact(" ".join(clean(text[: 4 * most]).split()))[:most]


async def kept(text: str) -> str:
    """Return what is kept of a text."""
    # More than is kept at first: a secret must not be cut in two before it is known.
    pieces = []
    for piece in _pieces(clean(text[-2 * MOST_BYTES :])):
        pieces.append(redaction.redact(piece))
        await asyncio.sleep(0)
    data = "".join(pieces).encode()
    if len(data) <= MOST_BYTES:
        return data.decode()
    data = data[-MOST_BYTES:]
    # From the first whole line on, where there is one.
    return data[data.find(b"\n", 0, PIECE) + 1 :].decode("utf-8", "ignore")


def _pieces(text: str) -> Iterator[str]:
    """Yield the text in pieces of whole lines, none of which ends within a private key."""
    start = 0
    while start < len(text):
        end = text.find("\n", start + PIECE) + 1 or len(text)
        begun = text.rfind("-----BEGIN", start, end)
        if begun >= 0 and text.find("-----END", begun, end) < 0:
            closing = text.find("-----END", end)
            end = text.find("\n", closing) + 1 or len(text) if closing >= 0 else len(text)
        yield text[start:end]
        start = end
