"""Calls to Amazon's APIs: in threads, each within the documented rate of its group, each failure in our words."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

from provisioners import base
from provisioners.aws import client, errors, rates
from provisioners.offload import Offload
from provisioners.support import ratelimit

_T = TypeVar("_T")

#: Pages of a listing that are read at most: 1000 instances each.
_PAGES = 200
#: Seconds that a group is left alone after it was throttled, first and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0


class Calls:
    """The one way out to the SDK for everything but launches."""

    def __init__(self, context: base.Context, connections: client.Connections) -> None:
        self._context = context
        self._connections = connections
        self._buckets: dict[tuple[str, rates.Group], ratelimit.Bucket] = {}
        self._pauses: dict[tuple[str, rates.Group], float] = {}
        self._door: Offload | None = None

    def open(self) -> None:
        """Make the threads."""
        if self._door is None:
            self._door = self._context.offload(client.WIDTH)

    def close(self) -> None:
        """Let the threads go; calls under way end by themselves."""
        if self._door is not None:
            self._door.close(wait=False)
            self._door = None

    def bucket(self, region: str, group: rates.Group) -> ratelimit.Bucket:
        """What paces a group of calls to a region."""
        place = (region, group)
        found = self._buckets.get(place)
        if found is None:
            burst, rate = group.value
            found = self._buckets[place] = ratelimit.Bucket(
                rate=rate, burst=burst, now=self._context.now, sleep=self._context.sleep
            )
        return found

    async def call(
        self,
        operation: str,
        region: str = "",
        *,
        service: str = "ec2",
        group: rates.Group = rates.Group.READ,
        **parameters: Any,
    ) -> dict[str, Any]:
        """One call, ``operation`` named as the API names it.  Raises :class:`base.ProvisionError`."""
        await self.bucket(region, group).take()
        method = _snake(operation)

        def send() -> dict[str, Any]:
            answer: dict[str, Any] = getattr(self._connections.client(service, region), method)(**parameters)
            return answer

        answer = await self._guarded(send, operation, region, service, group)
        self._pauses.pop((region, group), None)
        return answer

    async def pages(
        self,
        operation: str,
        region: str,
        key: str,
        *,
        service: str = "ec2",
        group: rates.Group = rates.Group.READ,
        size: int = 1000,
        **parameters: Any,
    ) -> list[dict[str, Any]]:
        """Everything that a paged call lists under ``key``.  Raises :class:`base.ProvisionError`, never half a list."""
        found: list[dict[str, Any]] = []
        token = ""
        for _ in range(_PAGES):
            paging = {"MaxResults": size, **({"NextToken": token} if token else {})}
            answer = await self.call(operation, region, service=service, group=group, **parameters, **paging)
            found += answer.get(key, [])
            token = answer.get("NextToken") or ""
            if not token:
                return found
        raise base.ProvisionError(
            base.Kind.TRANSIENT, f"{operation} in {region} does not end after {_PAGES} pages", code="EndlessListing"
        )

    async def apart(self, work: Callable[[], _T], what: str) -> _T:
        """Blocking work on the SDK that is no call of ours, such as getting credentials."""
        return await self._guarded(work, what, "", "", rates.Group.STS)

    async def _guarded(self, work: Callable[[], _T], what: str, region: str, service: str, group: rates.Group) -> _T:
        if self._door is None:
            self.open()
        assert self._door is not None
        try:
            return await self._door(work)
        except errors.SDK_ERRORS as error:
            where = f"{service}:{what} in {region}" if region else what
            told = errors.classify(error, what=where)
            if told.code in errors.BAD_KEYS:
                self._connections.renew()
            if told.kind is base.Kind.THROTTLED:
                place = (region, group)
                pause = self._pauses[place] = min(_LONGEST_PAUSE, 2 * self._pauses.get(place, _FIRST_PAUSE / 2))
                self.bucket(region, group).pause(pause)
                told.retry_after = pause
            raise told from error


def _snake(operation: str) -> str:
    """``describe_instances`` for ``DescribeInstances``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", operation).lower()
