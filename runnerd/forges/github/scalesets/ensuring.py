"""The scale set of one queue: found or created, with its labels corrected.

Labels of an existing set are changed only while its session is ours, so that a set on which another program listens
is left as it is.  A lost answer to a create call is settled by finding the set the next time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import cast

from runnerd import errors, model
from runnerd.forges.github import failures
from runnerd.forges.github.scalesets import sets
from runnerd.forges.github.scalesets.health import QueueHealth
from runnerd.forges.github.scalesets.service import ScaleSet, Service

log = logging.getLogger(__name__)


class EnsuredSet:
    """One queue's scale set.  ``on_other_queue`` is called when the set turns out to be another one than before."""

    def __init__(
        self,
        queue: model.Queue,
        name: str,
        service: Service,
        *,
        health: QueueHealth,
        on_other_queue: Callable[[], None],
    ) -> None:
        self.name = name
        self.group = ""
        self.labels: tuple[str, ...] = ()
        #: 0 while it is not known.
        self.id = 0
        self._queue = queue
        self._service = service
        self._health = health
        self._on_other_queue = on_other_queue
        #: Id of the set that the message ids belong to.
        self._messages_of = 0
        self._lock = asyncio.Lock()
        #: True when the set was read since the process began or its labels changed.
        self._read = False
        #: Set id and labels for which the labels were compared last.
        self._labels_for: tuple[int, tuple[str, ...]] | None = None
        self._answer: ScaleSet = {}

    def want(self, group: str, labels: tuple[str, ...]) -> None:
        """Set the runner group and the labels that the set should have."""
        self.group = group
        if labels != self.labels:
            self.labels = labels
            # Read the set again, and correct its labels within the session that is open.
            self._read = False

    def restore(self, set_id: int) -> None:
        """Take over the id that an earlier process has recorded."""
        self.id = self._messages_of = set_id

    def vanished(self) -> None:
        """Note that GitHub has deleted the set: it is created again at the next step."""
        self.id = 0
        self._read = False

    async def find(self) -> int:
        """Return the set's id; create the set if need be.  Raises :class:`errors.ForgeError`."""
        if not self.id:
            await self.ensure()
        return self.id

    async def ensure(self) -> None:
        """Find the set or create it, unless both is done.  Raises :class:`errors.ForgeError`."""
        if self.id and self._read:
            return
        async with self._lock:
            if not self.id or not self._read:
                await self._find_or_create()

    async def _find_or_create(self) -> None:
        group = (await self._service.group(self.group))["id"]
        answer = await self._service.find_set(group, self.name)
        created = False
        if answer is None:
            what = f'create the scale set "{self.name}"'
            response = await self._service.create_set(self.name, group, self.labels)
            if response.status in (200, 201):
                answer = cast("ScaleSet", failures.decode(self._service.wire.forge, what, response))
                created = True
            else:
                # Another daemon may have been faster: the name is taken, and that set is as good.
                answer = await self._service.find_set(group, self.name)
                if answer is None:
                    raise self._service.refusal(what, response)
        set_id = answer.get("id")
        if not isinstance(set_id, int) or set_id <= 0:
            raise errors.ForgeUnavailable(
                f'{self._service.wire.forge}: the answer for the scale set "{self.name}" holds no id; runnerd retries'
            )
        if self._messages_of and self._messages_of != set_id:
            self._on_other_queue()
        self.id = self._messages_of = set_id
        self._answer = answer
        self._read = True
        self._labels_for = None
        if created:
            log.info("%s: created the scale set %s (%d)", self._queue, self.name, set_id)
            self._compare_labels()

    async def correct_labels(self) -> None:
        """Make the set's labels ours.  Call it only while its session is ours.  Raises :class:`errors.ForgeError`."""
        if self._labels_for == (self.id, self.labels):
            return
        if sets.missing(self.labels, self._answer) or sets.surplus(self.labels, self._answer):
            what = f'change the labels of the scale set "{self.name}"'
            response = await self._service.relabel_set(self.id, self.name, self.labels)
            if response.status == 404 or response.status >= 500:
                raise self._service.refusal(what, response)
            if response.status >= 400:
                log.warning("%s", self._service.refusal(what, response))
            # The answer may repeat what was sent; only what GitHub keeps counts.
            self._answer = await self._service.get_set(self.id)
        self._compare_labels()

    def _compare_labels(self) -> None:
        """Raise or clear the alarms about labels that GitHub did not take over."""
        self._labels_for = (self.id, self.labels)
        missing = sets.missing(self.labels, self._answer)
        surplus = sets.surplus(self.labels, self._answer)
        if missing:
            self._health.alarm(
                "labels-dropped",
                f'the scale set "{self.name}" lacks the labels {", ".join(missing)}: jobs that ask for them wait. '
                "GitHub Enterprise Server before 3.21 drops them unless its feature flag "
                "DistributedTask.AllowRunnerScaleSetCustomLabels is on. Use the set's name alone in runs-on, or "
                "delete the set when no job uses it and let runnerd create it again",
            )
        else:
            self._health.clear("labels-dropped")
        if surplus:
            self._health.alarm(
                "labels-surplus",
                f'the scale set "{self.name}" still has the labels {", ".join(surplus)}, which the pool no longer '
                "lists: GitHub did not take the change. Delete the set when no job uses it; runnerd creates it again",
            )
        else:
            self._health.clear("labels-surplus")
