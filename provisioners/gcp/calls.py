"""How Compute Engine is called: off the loop, at the documented rates, every failure told in the contract's words.

Rate quotas are counted by project and minute, for each group of methods ("Rate quotas"): 1,500 a minute by default.
Creates are paced by the caller, by the provider's traits; here the rest is.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TypeVar

from provisioners import base, catalogue, offload
from provisioners.gcp import errors
from provisioners.gcp.client import Clients
from provisioners.gcp.place import Place
from provisioners.support import ratelimit

_T = TypeVar("_T")

#: Threads: as many calls at once; an insert takes one to two seconds, and 24 or 25 a second may be sent.
WIDTH = 48
#: Calls per second in the long run, and at once: together below 1,500 in any minute.
RATE, BURST = 20.0, 250.0


class Group(enum.Enum):
    """A group of methods with a quota of its own."""

    READ = enum.auto()
    LIST = enum.auto()
    OPERATIONS = enum.auto()
    MUTATE = enum.auto()
    #: Creates: paced by who calls :meth:`Provisioner.create`.
    CREATE = enum.auto()
    #: Other APIs, rarely called.
    OTHER = enum.auto()


class Calls:
    """The way to the API for one provider."""

    def __init__(self, context: base.Context, clients: Clients, *, project: str, book: catalogue.Book) -> None:
        self.context = context
        self.clients = clients
        self.book = book
        self.project = project
        self._door: offload.Offload | None = None
        self._buckets: dict[Group, ratelimit.Bucket] = {
            group: ratelimit.Bucket(rate=RATE, burst=BURST, now=context.now, sleep=context.sleep)
            for group in Group
            if group is not Group.CREATE
        }

    def place(self, offer: base.Offer | None = None, *, project: str = "") -> Place:
        """Where a call goes, for what its failure says."""
        account = project or (offer.account if offer is not None else self.project)
        return Place(self.context.name, account, self.book, offer)

    async def __call__(self, group: Group, work: Callable[[], _T], place: Place | None = None) -> _T:
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
                error, place or self.place(), now=self.context.now(), creating=group is Group.CREATE
            )
            if told.kind is base.Kind.THROTTLED and bucket is not None:
                bucket.pause(told.retry_after)
            raise told from error

    async def found(self, group: Group, work: Callable[[], _T], place: Place | None = None) -> _T | None:
        """Like a call, but None where there is nothing of that name."""

        def tried() -> _T | None:
            try:
                return work()
            except Exception as error:
                if errors.is_missing(error):
                    return None
                raise

        return await self(group, tried, place)

    def close(self) -> None:
        """Let the threads and the connections go."""
        door, self._door = self._door, None
        if door is not None:
            door.close(wait=False)
        self.clients.close()
