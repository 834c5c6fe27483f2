"""Calls to Google's APIs: on threads, each within the documented rate of its group."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from google.cloud import compute_v1

from provisioners import base, catalogue
from provisioners.cloud_common import calls
from provisioners.gcp import errors, names, rates
from provisioners.gcp.client import TIMEOUT_S, Clients
from provisioners.gcp.error_scopes import Target

_T = TypeVar("_T")

#: Threads: as many calls at once; an insert takes one to two seconds, and 24 or 25 a second may be sent.
WIDTH = 48


class Calls:
    """The way to the API for one provider."""

    def __init__(self, context: base.Context, clients: Clients, *, project: str, catalog: catalogue.Catalog) -> None:
        self.context = context
        self.clients = clients
        self.catalog = catalog
        self.project = project
        self._threads = calls.Threads(context, WIDTH)
        self._limits = calls.RateLimits(context)

    def target(self, offer: base.Offer | None = None, *, project: str = "") -> Target:
        """Return what a call is about, for its failure."""
        account = project or (offer.account if offer is not None else self.project)
        return Target(self.context.name, account, self.catalog, offer)

    def target_of(self, view: base.InstanceView) -> Target:
        """Return the target of the offer that an instance is of."""
        if view.offer is None:
            return self.target(project=view.scope.account)
        return self.target(base.Offer.of(view.offer))

    async def __call__(self, group: rates.Group, work: Callable[[], _T], target: Target | None = None) -> _T:
        """Carry out a blocking call.  Raises :class:`base.ProvisionError`, and nothing else of the SDK."""
        creating = group is rates.Group.CREATE
        if not creating:
            await self._limits.bucket(group, rate=rates.RATE, burst=rates.BURST).take()

        def classify(error: Exception) -> base.ProvisionError:
            return errors.classify(error, target or self.target(), now=self.context.now(), creating=creating)

        return await calls.run(self._threads, work, limits=self._limits, group=group, classify=classify)

    async def found(self, group: rates.Group, work: Callable[[], _T], target: Target | None = None) -> _T | None:
        """Carry out a call; return None where there is nothing of that name."""

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
            lambda: self.clients.instances.get(
                project=project, zone=zone, instance=name, retry=None, timeout=TIMEOUT_S
            ),
            target,
        )

    def close(self) -> None:
        """Release the threads and close the connections."""
        self._threads.close()
        self.clients.close()
