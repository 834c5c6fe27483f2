"""Orphan runners: records at a forge that carry a name of ours and belong to nothing.

A forge has been seen to confirm a removal that it did not make; such a runner would count as capacity for a day.
"""

from __future__ import annotations

import logging
import re

from runnerd import errors
from runnerd.forges import base as forges
from runnerd.model import InstanceId, Queue, Registration, RegistrationId, RegistrationState
from runnerd.runtime import shared

log = logging.getLogger(__name__)

#: Seconds between two looks at the runners of every queue.
PERIOD_S = 300.0


class OrphanRunners:
    """Removes runners of ours that no row knows."""

    def __init__(self, runtime: shared.Runtime) -> None:
        self._runtime = runtime
        #: Runners seen without a row; removed when seen again.
        self._suspects: set[tuple[Queue, str]] = set()

    async def run(self) -> None:
        """Sweep every queue from time to time, until cancelled."""
        while True:
            await self._runtime.clock.sleep(PERIOD_S)
            for spec in self._runtime.specs:
                try:
                    await self.sweep(spec.queue)
                except (errors.ForgeError, errors.TransportError) as error:
                    log.info("%s: runners cannot be listed: %s", spec.queue, error)

    async def sweep(self, queue: Queue) -> None:
        """Remove the orphan runners of a queue that two listings have shown."""
        forge = self._runtime.forges.get(queue.forge)
        if forge is None:
            return
        prefix = re.escape(self._runtime.name_prefix(queue.pool))
        ours = re.compile(rf"(?P<id>{prefix}[a-z0-9]{{{shared.NAME_LENGTH}}})(-\d+)?")
        listing = await forge.list_runners(queue)
        suspects: set[tuple[Queue, str]] = set()
        for view in listing.views:
            named = ours.fullmatch(view.name)
            if named is None or InstanceId(named["id"]) in self._runtime.rows.instances:
                continue
            if self._runtime.rows.runner(view.name) is not None:
                continue
            if (queue, view.name) in self._suspects:
                outcome = await forge.deregister(self._orphan(queue, view, named["id"]))
                if outcome is forges.Removal.REMOVED:
                    continue
            suspects.add((queue, view.name))
        self._suspects = {one for one in self._suspects if one[0] != queue} | suspects

    def _orphan(self, queue: Queue, view: forges.RunnerView, id: str) -> Registration:
        now = self._runtime.clock.now()
        return Registration(
            id=RegistrationId(""),
            instance=InstanceId(id),
            queue=queue,
            runner_name=view.name,
            state=RegistrationState.REMOVING,
            created_at=now,
            since=now,
            forge_id=view.forge_id,
        )
