"""End reasons: asked of the provider at an instance's end, and again where the proof comes late."""

from __future__ import annotations

import asyncio
import logging

from provisioners import base
from runnerd import errors, model
from runnerd.jobs import rerun
from runnerd.kit import display
from runnerd.lifecycle import consoles
from runnerd.runtime import shared

log = logging.getLogger(__name__)

#: Seconds that a provider may take to say why an instance ended.
ANSWER_S = 20.0
#: Seconds until a provider that learns late is asked again; doubled each time.
FIRST_RETRY_S = 30.0
#: Seconds for which a restarted daemon looks back for ends that no provider has explained.
LOOK_BACK_S = 24 * 3600.0


class EndReasons:
    """Asks providers why instances ended."""

    def __init__(self, runtime: shared.Runtime) -> None:
        self._runtime = runtime

    async def ask(self, row: model.Instance) -> base.EndReason:
        """Return why an instance ended, as its provider says; unknown, with why, where it does not say in time."""
        provider = self._runtime.providers.get(row.provider)
        if provider is None or not row.ref:
            return base.EndReason(base.EndKind.UNKNOWN, "there is no provider to ask")
        try:
            async with asyncio.timeout(ANSWER_S):
                why = await provider.provisioner.end_reason(row.ref)
        except TimeoutError:
            return base.EndReason(
                base.EndKind.UNKNOWN, f"{provider.name} did not answer within {display.span(ANSWER_S)}"
            )
        except base.ProvisionError as error:
            message = consoles.line(f"{provider.name}: {error}", most=consoles.LONGEST_MESSAGE)
            return base.EndReason(base.EndKind.UNKNOWN, message)
        except Exception as error:
            # A fault of a plugin must not keep a row open, and its cost counting, for ever.
            log.exception("%s: asking why %s ended failed in an unexpected way", provider.name, row.id)
            return base.EndReason(base.EndKind.UNKNOWN, f"{provider.name}: {type(error).__name__}")
        return base.EndReason(why.kind, consoles.line(why.detail, most=consoles.LONGEST_MESSAGE), why.failure)

    async def resume(self) -> None:
        """Go on asking about the instances whose end an earlier process left unexplained."""
        since = self._runtime.clock.now() - LOOK_BACK_S
        for row in await self._runtime.history.unexplained(since):
            self.await_proof(row)

    def await_proof(self, row: model.Instance) -> None:
        """Ask again until the provider knows why an instance ended, where a job that it interrupted is worth it."""
        if rerun.interrupted(row):
            self._runtime.background.spawn(f"proof {row.id}", self._await_proof(row))

    async def _await_proof(self, row: model.Instance) -> None:
        provider = self._runtime.providers.get(row.provider)
        lag = provider.provisioner.traits.proof_lag if provider is not None else 0.0
        if lag > 0:
            # After a restart part of the time is over; the provider is asked once at least.
            lag = min(lag, max(FIRST_RETRY_S, row.gone_at + lag - self._runtime.clock.now()))
        pause = FIRST_RETRY_S
        while lag > 0:
            await self._runtime.clock.sleep(min(pause, lag))
            lag, pause = lag - pause, 2 * pause
            why = await self.ask(row)
            if why.kind is base.EndKind.UNKNOWN:
                continue
            try:
                await self._runtime.rows.prove(row.id, why.kind, why.detail)
            except errors.StoreError as error:
                log.warning("%s: why it ended could not be saved yet: %s", row.id, error)
                continue
            return
