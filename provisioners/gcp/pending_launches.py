"""Launches whose operation had not ended when the caller was answered.

Only a short cut, lost with the process: their outcome is read from the operations of the zone as well.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

from google.cloud import compute_v1

from provisioners import base
from provisioners.gcp import end_reasons, names
from provisioners.gcp.calls import Calls
from provisioners.gcp.operations import Operations

#: Launches that are remembered at most, and of those how many are polled in one listing.
_REMEMBERED, _POLLED = 2000, 50
#: Seconds for which a launch under way is remembered.
_KEEP_S = 3600.0


class Launches:
    """Launches under way, and those that failed after the caller was answered."""

    def __init__(self, context: base.Context, calls: Calls, operations: Operations) -> None:
        self._context = context
        self._calls = calls
        self._operations = operations
        #: Handle -> (name of the operation, the instance as requested).
        self._pending: dict[str, tuple[str, base.InstanceView]] = {}
        self._failed: dict[str, base.InstanceView] = {}

    def add(self, ref: names.Ref, operation: str, view: base.InstanceView) -> None:
        """Remember a launch under way."""
        if len(self._pending) < _REMEMBERED:
            self._pending[str(ref)] = (operation, view)

    def forget(self, ref: str) -> None:
        """Drop a launch whose instance was deleted."""
        self._pending.pop(ref, None)
        self._failed.pop(ref, None)

    async def failed(self, listed: Set[str]) -> list[base.InstanceView]:
        """Return launches that were accepted, failed later, and left nothing that is ``listed``."""
        now = self._context.now()
        for ref, (name, view) in list(self._pending.items())[:_POLLED]:
            parsed = names.parse(ref)
            if parsed is None or now - view.created_at > _KEEP_S:
                del self._pending[ref]
                continue
            target = self._calls.target(project=parsed.project)
            try:
                operation = await self._operations.get(parsed.project, parsed.zone, name, target)
            except base.ProvisionError:
                continue
            del self._pending[ref]
            if operation is not None and operation.status != compute_v1.Operation.Status.DONE:
                # Back to the end of the line.
                self._pending[ref] = (name, view)
                continue
            failure = None
            if operation is not None:
                failure = end_reasons.failure([operation], parsed, self._calls.target_of(view))
            if failure is not None:
                self._failed[ref] = replace(view, status=base.InstanceStatus.FAILED, failure=failure)
        for ref, view in list(self._failed.items()):
            if now - view.created_at > 2 * _KEEP_S:
                del self._failed[ref]
        return [view for ref, view in self._failed.items() if ref not in listed]
