"""Calls to Amazon's APIs: on threads, each within the documented rate of its group."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

from provisioners import base
from provisioners.aws import client, errors, rates
from provisioners.cloud_common import calls

_T = TypeVar("_T")

#: Pages of a listing that are read at most: 1000 instances each.
_PAGES = 200


class Calls:
    """The one way out to the SDK for everything but launches."""

    def __init__(self, context: base.Context, connections: client.Connections) -> None:
        self._connections = connections
        self._limits = calls.RateLimits(context)
        self._threads = calls.Threads(context, client.WIDTH)

    def open(self) -> None:
        """Create the threads."""
        self._threads.open()

    def close(self) -> None:
        """Release the threads; calls under way end by themselves."""
        self._threads.close()

    async def call(
        self,
        operation: str,
        region: str = "",
        *,
        service: str = "ec2",
        group: rates.Group = rates.Group.READ,
        **parameters: Any,
    ) -> dict[str, Any]:
        """Send one call, ``operation`` named as the API names it.  Raises :class:`base.ProvisionError`."""
        burst, rate = group.value
        await self._limits.bucket((region, group), rate=rate, burst=burst).take()
        method = _snake(operation)

        def send() -> dict[str, Any]:
            answer: dict[str, Any] = getattr(self._connections.client(service, region), method)(**parameters)
            return answer

        return await self._run(send, f"{service}:{operation} in {region}" if region else operation, region, group)

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
        """Return everything that a paged call lists under ``key``, never half a list.

        Raises :class:`base.ProvisionError`.
        """
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
        """Do blocking work on the SDK that is no call of ours, such as getting credentials."""
        return await self._run(work, what, "", rates.Group.STS)

    async def _run(self, work: Callable[[], _T], what: str, region: str, group: rates.Group) -> _T:
        def classify(error: Exception) -> base.ProvisionError:
            failed = errors.classify(error, what=what)
            if failed.code in errors.BAD_KEYS:
                self._connections.renew()
            return failed

        return await calls.run(
            self._threads,
            work,
            limits=self._limits,
            group=(region, group),
            classify=classify,
            expected=errors.SDK_ERRORS,
        )


def _snake(operation: str) -> str:
    """Return ``describe_instances`` for ``DescribeInstances``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", operation).lower()
