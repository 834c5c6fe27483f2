"""Acquiring offered jobs: the flow of GitHub Enterprise Server, where a job is offered before it is assigned.

github.com assigns at once while capacity is announced and sends no offers.  Elsewhere only as many are acquired as the
announced capacity has room for (ARC #3446); the rest stays on offer, and offers of a lost message are listed again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from runnerd import config, errors
from runnerd.forges.github.scalesets.service import Service
from runnerd.forges.github.scalesets.session import MessageSession
from runnerd.kit import clock as clocks

log = logging.getLogger(__name__)

#: Offers kept while there is no room for them.
OFFERS_KEPT = 5000
#: Seconds for which a granted offer takes up capacity before its assignment is seen.
GRANTED_S = 120.0
#: Seconds between listings of offers, for those whose message was lost.
RELIST_S = 300.0


class Offers:
    """The offers of one queue."""

    def __init__(
        self,
        service: Service,
        session: MessageSession,
        *,
        clock: clocks.Clock,
        acquire: config.Acquire,
        hosted: bool,
    ) -> None:
        self._service = service
        self._session = session
        self._clock = clock
        self._disabled = acquire is config.Acquire.NEVER
        #: True once offers are known to come.
        self._expected = acquire is config.Acquire.ALWAYS or (acquire is config.Acquire.AUTO and not hosted)
        #: Request ids of the offers that were not acquired, oldest first.
        self._open: dict[int, None] = {}
        #: Request ids that were granted, with the time.
        self._granted: dict[int, float] = {}
        self._listed_at = 0.0

    def add(self, request: int) -> None:
        """Keep the offer of a job by its request id."""
        if self._disabled or not request:
            return
        self._expected = True
        if len(self._open) < OFFERS_KEPT:
            self._open[request] = None

    def settled(self, request: int) -> None:
        """Drop the offer of a job that was assigned or is over."""
        if request:
            self._open.pop(request, None)
            self._granted.pop(request, None)

    def clear(self) -> None:
        """Drop all offers: they belonged to another set."""
        self._open.clear()
        self._granted.clear()
        self._listed_at = 0.0

    async def refresh(self) -> None:
        """List the offers when that is due; a failure is logged only."""
        now = self._clock.now()
        if not self._expected or now - self._listed_at < RELIST_S:
            return
        self._listed_at = now
        try:
            entries = await self._service.acquirable(self._session.set_id)
        except errors.ForgeError as error:
            log.info("%s", error)
            return
        for entry in entries:
            request = entry.get("runnerRequestId")
            if isinstance(request, int) and request not in self._granted:
                self.add(request)

    async def take(self, capacity: Callable[[], int], assigned: int) -> None:
        """Acquire as many offers as there is room for beside the ``assigned`` jobs; a failure is logged only."""
        if not self._open:
            return
        now = self._clock.now()
        self._granted = {id: at for id, at in self._granted.items() if now - at < GRANTED_S}
        room = capacity() - assigned - len(self._granted)
        wanted = list(self._open)[: max(0, room)]
        if not wanted:
            return
        try:
            granted = await self._session.acquire(wanted)
        except errors.ForgeError as error:
            # The message that brought them must be acknowledged all the same; the offers are tried again.
            log.warning("%s", error)
            return
        for request in wanted:
            self._open.pop(request, None)
        self._granted.update(dict.fromkeys(granted, now))
