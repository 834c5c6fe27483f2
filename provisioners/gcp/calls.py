"""How Compute Engine is called: off the loop, at the documented rates, every failure told in the contract's words."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from google.cloud import compute_v1

from provisioners import base, catalogue, offload
from provisioners.gcp import errors, names, rates
from provisioners.gcp.client import TIMEOUT, Clients
from provisioners.gcp.error_scopes import Target
from provisioners.support import ratelimit

_T = TypeVar("_T")

#: Threads: as many calls at once; an insert takes one to two seconds, and 24 or 25 a second may be sent.
WIDTH = 48


class Calls:
    """The way to the API for one provider."""

    def __init__(self, context: base.Context, clients: Clients, *, project: str, book: catalogue.Book) -> None:
        self.context = context
        self.clients = clients
        self.book = book
        self.project = project
        self._door: offload.Offload | None = None
        self._buckets: dict[rates.Group, ratelimit.Bucket] = {
            group: ratelimit.Bucket(rate=rates.RATE, burst=rates.BURST, now=context.now, sleep=context.sleep)
            for group in rates.Group
            if group is not rates.Group.CREATE
        }

    def target(self, offer: base.Offer | None = None, *, project: str = "") -> Target:
        """Where a call goes, for what its failure says."""
        account = project or (offer.account if offer is not None else self.project)
        return Target(self.context.name, account, self.book, offer)

    def target_of(self, view: base.InstanceView) -> Target:
        """Return the target of the offer that an instance is of."""
        if view.offer is None:
            return self.target(project=view.scope.account)
        return self.target(base.Offer.of(view.offer))

    async def __call__(self, group: rates.Group, work: Callable[[], _T], target: Target | None = None) -> _T:
        """Carry out a blocking call.  Raises :class:`base.ProvisionError`, and nothing else of the SDK."""
        bucket = self._buckets.get(group)
        if bucket is not None:
            await bucket.take()
        if self._door is None:
            self._door = self.context.offload(WIDTH)
        try:
            return await self._door(work)
        except Exception as error:
            told = errors.from_exception(
                error, target or self.target(), now=self.context.now(), creating=group is rates.Group.CREATE
            )
            if told.kind is base.Kind.THROTTLED and bucket is not None:
                bucket.pause(told.retry_after)
            raise told from error

    async def found(self, group: rates.Group, work: Callable[[], _T], target: Target | None = None) -> _T | None:
        """Like a call, but None where there is nothing of that name."""

        def tried() -> _T | None:
            try:
                return work()
            except Exception as error:
                if errors.is_missing(error):
                    return None
                raise

        return await self(group, tried, target)

    async def instance(self, ref: names.Ref, target: Target | None = None) -> compute_v1.Instance | None:
        """Return the instance behind a handle; None where there is none, or another one of its name."""
        found = await self.named(ref.project, ref.zone, ref.name, target or self.target(project=ref.project))
        return found if found is not None and str(found.id) == ref.id else None

    async def named(self, project: str, zone: str, name: str, target: Target) -> compute_v1.Instance | None:
        """Return the instance that has a name now; None where there is none."""
        return await self.found(
            rates.Group.READ,
            lambda: self.clients.instances.get(project=project, zone=zone, instance=name, retry=None, timeout=TIMEOUT),
            target,
        )

    def close(self) -> None:
        """Let the threads and the connections go."""
        door, self._door = self._door, None
        if door is not None:
            door.close(wait=False)
        self.clients.close()
