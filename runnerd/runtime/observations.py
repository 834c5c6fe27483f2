"""Observations of instances: one owner, one verb for each kind of report, one clock.

Agents and providers are the two observers of an instance.  What they say is not durable: it ages, and it is gathered
again after a restart.  Times are stamped here by the steady clock; only a listing is stamped with the moment at which
it was asked for, because it may be older than what was heard since.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from provisioners import base
from runnerd.model import InstanceId
from runnerd.planner.observation import Observation

_NOTHING = Observation()


class Observations(Mapping[InstanceId, Observation]):
    """The observations of all instances."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._known: dict[InstanceId, Observation] = {}

    # -- reading -----------------------------------------------------------------------------------------------

    def __getitem__(self, id: InstanceId) -> Observation:
        return self._known[id]

    def __iter__(self) -> Iterator[InstanceId]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def get(self, id: InstanceId, default: Any = None) -> Any:  # the planner asks for each instance in each pass
        """Return what is known of an instance, or the default."""
        return self._known.get(id, default)

    def of(self, id: InstanceId) -> Observation:
        """Return what is known of an instance; an empty observation when nothing is."""
        return self._known.get(id, _NOTHING)

    # -- the agent ---------------------------------------------------------------------------------------------

    def heard(self, id: InstanceId, *, worker: bool | None = None, asking: bool | None = None) -> Observation:
        """Take note that the agent spoke, and of what it said of its runner; None leaves that as it was."""
        old = self.of(id)
        return self._keep(
            id,
            dataclasses.replace(
                old,
                agent_at=self._now(),
                worker=old.worker if worker is None else worker,
                asking=old.asking if asking is None else asking,
            ),
        )

    # -- the provider ------------------------------------------------------------------------------------------

    def created(self, id: InstanceId, view: base.InstanceView) -> Observation:
        """Take note of the answer to a create call; a listing may still not show the instance for a while."""
        old = self.of(id)
        return self._keep(
            id,
            dataclasses.replace(old, cloud=view.status, cloud_at=self._now(), absences=0, failure=view.failure),
        )

    def adopted(self, id: InstanceId, view: base.InstanceView) -> Observation:
        """Take note of an instance that was found without a row."""
        old = self.of(id)
        return self._keep(
            id,
            dataclasses.replace(
                old, cloud=view.status, cloud_at=self._now(), healthy=view.healthy, failure=view.failure
            ),
        )

    def listed(self, id: InstanceId, view: base.InstanceView, *, asked_at: float) -> Observation:
        """Take note that a listing which was asked for at that time shows the instance."""
        old = self.of(id)
        return self._keep(
            id,
            dataclasses.replace(
                old,
                cloud=view.status,
                cloud_at=asked_at,
                absences=0,
                seen=True,
                healthy=view.healthy,
                failure=view.failure,
            ),
        )

    def seen(self, id: InstanceId, view: base.InstanceView) -> Observation:
        """Take note that the provider, asked for this one instance, has it."""
        old = self.of(id)
        return self._keep(id, dataclasses.replace(old, cloud=view.status, cloud_at=self._now(), absences=0, seen=True))

    def missed(self, id: InstanceId) -> Observation:
        """Count one more complete answer of the provider that does not have the instance."""
        old = self.of(id)
        return self._keep(id, dataclasses.replace(old, absences=old.absences + 1))

    def count_afresh(self, id: InstanceId) -> Observation:
        """Forget absences: that of one attempt is proven, and the next attempt has not been looked for."""
        return self._keep(id, dataclasses.replace(self.of(id), absences=0))

    def deleted(self, id: InstanceId) -> Observation:
        """Take note that the provider accepted the deletion of the instance."""
        return self._keep(id, dataclasses.replace(self.of(id), deleted_at=self._now()))

    # -- the whole ---------------------------------------------------------------------------------------------

    def forget(self, id: InstanceId) -> None:
        """Drop what is known of an instance whose row has left memory."""
        self._known.pop(id, None)

    def shift(self, drift: float) -> None:
        """Move every time, because the clock that stamped them was moved; 0 means never and stays."""
        for id, old in list(self._known.items()):
            self._known[id] = dataclasses.replace(
                old,
                agent_at=old.agent_at + drift if old.agent_at else 0.0,
                cloud_at=old.cloud_at + drift if old.cloud_at else 0.0,
                deleted_at=old.deleted_at + drift if old.deleted_at else 0.0,
            )

    def _keep(self, id: InstanceId, new: Observation) -> Observation:
        self._known[id] = new
        return new
