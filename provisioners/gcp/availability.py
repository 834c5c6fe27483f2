"""Images, zones and machine types that the project has: asked once a day and cached."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.cloud import compute_v1

from provisioners import base, catalogue
from provisioners.cloud_common import cache
from provisioners.gcp import images, names, rates
from provisioners.gcp.calls import Calls
from provisioners.gcp.client import TIMEOUT_S

FILE = "gcp-facts.json"
#: Pages of a list at most: a zone has fewer machine types than one page holds.
_PAGES = 20


def older(kept: Any) -> cache.Answers:
    """Return the answers of the file as it was until 0.1."""
    return {key: (one["value"], one["at"]) for key, one in kept.items()}


@dataclass(frozen=True, slots=True)
class ZoneTypes:
    """The machine types and accelerators of a zone; None where they are not known."""

    machine_types: frozenset[str] | None
    accelerators: frozenset[str] | None

    def has(self, machine: catalogue.Machine) -> bool:
        """Return True unless the zone is known not to have a machine."""
        if self.machine_types is not None and machine.type_name not in self.machine_types:
            return False
        return not machine.accelerator or self.accelerators is None or machine.accelerator in self.accelerators


class Availability:
    """Images, zones and machine types."""

    def __init__(self, calls: Calls, cache: cache.Cache) -> None:
        self._calls = calls
        self._cache = cache

    async def image(self, reference: images.Reference) -> str:
        """The link of a concrete image.  Raises CONFIG where the family has none.

        While Google does not answer, the family itself is the image: Compute Engine takes it for its newest image.
        """
        if not reference.family:
            return reference.link
        try:
            return str(await self._cache.get("image", reference.link, lambda: self._newest(reference)))
        except base.ProvisionError as error:
            if error.kind in (base.Kind.TRANSIENT, base.Kind.THROTTLED):
                return reference.link
            raise

    async def zones(self, region: str) -> tuple[str, ...]:
        """The zones of a region."""
        return tuple(await self._cache.get("zones", region, lambda: self._zones(region)))

    async def types(self, zone: str) -> ZoneTypes:
        """Return what a zone has; raise only where the credentials or the request are refused."""
        try:
            types = await self._cache.get("types", zone, lambda: self._types(zone))
            accelerators = await self._cache.get("accelerators", zone, lambda: self._accelerators(zone))
        except base.ProvisionError as error:
            if error.kind in (base.Kind.AUTH, base.Kind.CONFIG):
                raise
            return ZoneTypes(None, None)
        return ZoneTypes(frozenset(types), frozenset(accelerators))

    def known_types(self, zone: str) -> frozenset[str] | None:
        """The machine types of a zone as far as they were asked for already."""
        found = self._cache.fresh("types", zone)
        return None if found is None else frozenset(found)

    async def _newest(self, reference: images.Reference) -> str:
        clients = self._calls.clients
        found = await self._calls.found(
            rates.Group.READ,
            lambda: clients.images.get_from_family(
                project=reference.project, family=reference.name, retry=None, timeout=TIMEOUT_S
            ),
        )
        if found is None:
            raise base.ProvisionError(
                base.Kind.CONFIG,
                f"there is no image family {reference.name} in project {reference.project}, or none that may be used",
                code="ImageFamilyNotFound",
            )
        return images.Reference(reference.project, found.name).link

    async def _zones(self, region: str) -> list[str]:
        clients, project = self._calls.clients, self._calls.project
        found = await self._calls(
            rates.Group.READ, lambda: clients.regions.get(project=project, region=region, retry=None, timeout=TIMEOUT_S)
        )
        return sorted(names.last(one) for one in found.zones)

    async def _types(self, zone: str) -> list[str]:
        call = compute_v1.ListMachineTypesRequest(project=self._calls.project, zone=zone, max_results=500)
        return await self._names(lambda: self._calls.clients.machine_types, call)

    async def _accelerators(self, zone: str) -> list[str]:
        call = compute_v1.ListAcceleratorTypesRequest(project=self._calls.project, zone=zone, max_results=500)
        return await self._names(lambda: self._calls.clients.accelerator_types, call)

    async def _names(self, client: Callable[[], Any], call: Any) -> list[str]:
        """The names of everything that a client lists."""

        def ask() -> list[str]:
            pages = client().list(request=call, retry=None, timeout=TIMEOUT_S).pages
            return sorted(one.name for page in itertools.islice(pages, _PAGES) for one in page.items)

        return await self._calls(rates.Group.LIST, ask)
