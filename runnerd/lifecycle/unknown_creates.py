"""Create calls whose outcome is unknown: resolved before anything else is tried for their instance.

Listings are looked at first.  Within the provider's replay window the same request may be sent again, byte for byte;
past its visibility grace, two complete listings that do not have the instance prove that it does not exist.
"""

from __future__ import annotations

import dataclasses

from provisioners import base
from runnerd import planner
from runnerd.kit import display
from runnerd.lifecycle import provisioning
from runnerd.model import Attempt, AttemptState, Instance, InstanceId, InstanceState, Reason
from runnerd.offers import request as launch_request
from runnerd.runtime import providers, shared, step_facts


class UnknownCreates:
    """Finds out what became of create calls without a clear answer."""

    def __init__(self, runtime: shared.Runtime, launcher: provisioning.Launcher) -> None:
        self._runtime = runtime
        self._launcher = launcher

    # -- becoming unknown --------------------------------------------------------------------------------------

    async def settle_restart(self) -> None:
        """Drop what was planned when the last process ended; what it was requesting is unknown from now on."""
        for row in list(self._runtime.rows.instances.values()):
            if row.state is InstanceState.PLANNED:
                await self._runtime.rows.step(row.id, InstanceState.FAILED, reason=Reason.RESTART)
            elif row.state is InstanceState.REQUESTING and row.attempt is not None:
                await self._unknown(row, "the daemon stopped during the request")

    async def lost(self, id: InstanceId) -> None:
        """Make a request unknown whose task has ended, because its answer could not be written."""
        row = self._runtime.rows.instances.get(id)
        if row is None or row.state is not InstanceState.REQUESTING or row.attempt is None:
            return
        await self._unknown(row, "the answer to its request could not be saved")
        self._runtime.wake()

    async def _unknown(self, row: Instance, detail: str) -> None:
        attempt = self._runtime.rows.attempts.get(row.attempt) if row.attempt is not None else None
        moved = None
        if attempt is not None and attempt.state is AttemptState.REQUESTING:
            moved = self._launcher.moved(attempt, AttemptState.UNKNOWN)
        await self._runtime.rows.step(
            row.id, InstanceState.UNKNOWN, expect={InstanceState.REQUESTING}, attempt_row=moved, detail=detail
        )

    # -- resolving ---------------------------------------------------------------------------------------------

    async def resolve(self, id: InstanceId, *, wanted: bool) -> None:
        """Look once what became of an unknown create call; the planner asks again."""
        row = self._runtime.rows.instances.get(id)
        if row is None or row.state is not InstanceState.UNKNOWN or row.attempt is None:
            return
        attempt = self._runtime.rows.attempts.get(row.attempt)
        provider = self._runtime.providers.get(row.provider)
        if attempt is None or provider is None:
            self._runtime.alarms.ring(
                "instance",
                id,
                "unresolved",
                f"its provider {row.provider} is not configured; the instance may exist and cost money",
            )
            return
        asked_at = self._runtime.clock.now()
        try:
            listing = await provider.provisioner.list_owned(self._runtime.scopes(provider.name))
        except base.ProvisionError as error:
            provider.problem = f"listing failed: {error}"
            return
        for view in listing.views:
            if view.tags.get(base.TAG_ATTEMPT) == attempt.key:
                await self._found(attempt, view)
                return
        offer = launch_request.unseal(attempt.sealed, "").offer
        traits = provider.provisioner.traits
        if wanted and traits.idempotent_create and asked_at - attempt.sent_at < traits.replay_window:
            # The provider itself knows the token: its answer is worth more than a listing, and it is there at once.
            await self._replay(id, attempt, provider, offer)
            return
        # A slow call may have been applied at its very end, so absence counts from when its outcome became unknown.
        if listing.covers(offer.scope) and asked_at - attempt.since >= traits.visibility_grace:
            await self._missed(id, attempt, wanted=wanted, asked_at=asked_at)

    async def _missed(self, id: InstanceId, attempt: Attempt, *, wanted: bool, asked_at: float) -> None:
        """Count a complete listing without the instance; enough of them prove that it does not exist."""
        if self._runtime.observations.missed(id).absences < planner.ABSENCES:
            return
        self._runtime.observations.count_afresh(id)
        age = asked_at - attempt.sent_at
        detail = f"not found {display.span(age)} after the request; absent from {planner.ABSENCES} complete listings"
        nowhere: step_facts.InstanceFacts = provisioning.no_place() if wanted else {}
        await self._runtime.rows.step(
            id,
            InstanceState.PLANNED if wanted else InstanceState.FAILED,
            expect={InstanceState.UNKNOWN},
            reason=Reason.REFUSED if wanted else Reason.NOT_WANTED,
            detail=detail,
            attempt_row=dataclasses.replace(self._launcher.moved(attempt, AttemptState.FAILED), detail=detail),
            **nowhere,
        )
        self._runtime.wake()

    async def _found(self, attempt: Attempt, view: base.InstanceView) -> None:
        current = self._runtime.rows.attempts.get(attempt.key)
        if current is not None and current.state is AttemptState.UNKNOWN:
            await self._launcher.created(attempt, view)

    async def _replay(self, id: InstanceId, attempt: Attempt, provider: providers.Provider, offer: base.Offer) -> None:
        """Send the same request again, byte for byte."""
        await provider.bucket(offer.region).take()
        again = dataclasses.replace(self._launcher.moved(attempt, AttemptState.REQUESTING), sends=attempt.sends + 1)
        stepped = await self._runtime.rows.step(
            id, InstanceState.REQUESTING, expect={InstanceState.UNKNOWN}, attempt_row=again
        )
        if stepped is not None:
            await self._launcher.send(again, provider)
