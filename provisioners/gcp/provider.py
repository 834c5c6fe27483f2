"""Google Cloud as a source of instances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.cloud import compute_v1

from provisioners import base, catalogue
from provisioners.cloud_common import cache, provider
from provisioners.cloud_common import checks as findings
from provisioners.gcp import (
    availability,
    checks,
    end_reasons,
    errors,
    launch,
    listing,
    names,
    offers,
    pending_launches,
    pricing,
    quotas,
    rates,
    request,
    settings,
)
from provisioners.gcp.calls import Calls
from provisioners.gcp.client import TIMEOUT_S, Clients
from provisioners.gcp.operations import Operations


class Gcp(provider.CloudProvider[settings.Settings, settings.PoolOptions]):
    """Compute Engine instances of one project."""

    cloud = "gcp"

    def __init__(self, context: base.Context, options: Mapping[str, Any], clients: Clients | None = None) -> None:
        super().__init__(context, options)
        self._calls = Calls(
            context,
            clients or Clients(self._settings, secret=context.secret),
            project=self._settings.project,
            catalog=self._catalog,
        )
        self._available = availability.Availability(
            self._calls, cache.Cache(context.directory, availability.FILE, now=context.now, older=availability.older)
        )
        self._offers = offers.Offers(context.name, self._settings, self._catalog, self._available)
        self._operations = Operations(self._calls)
        self._unsettled = pending_launches.Launches(context, self._calls, self._operations)
        self._lister = listing.Lister(context, self._catalog, self._calls, self._operations, self._unsettled)
        self._launcher = launch.Launcher(
            context,
            self._settings,
            self._catalog,
            calls=self._calls,
            operations=self._operations,
            unsettled=self._unsettled,
        )

    @classmethod
    def read_settings(
        cls, options: Mapping[str, Any], catalog: catalogue.Catalog
    ) -> tuple[settings.Settings, list[str]]:
        return settings.read(options, catalog)

    def read_pool(self, options: Mapping[str, Any]) -> tuple[settings.PoolOptions, list[str]]:
        return settings.read_pool(options, self._settings.launch, self._catalog)

    @classmethod
    def validate_pool(cls, options: Mapping[str, Any]) -> list[str]:
        return settings.read_pool(options, settings.Launch(service_account="default"), catalogue.load("gcp"))[1]

    @property
    def traits(self) -> base.Traits:
        return base.Traits(
            replay_window=3000.0,
            visibility_grace=60.0,
            self_end=True,
            idempotent_create=True,
            create_rate=rates.CREATE_RATE,
            create_burst=rates.CREATE_BURST,
            user_data_limit=request.USER_DATA_LIMIT,
            preemption_notice=self._settings.preemption_notice,
            residue=(
                "nothing for longer than the deadline: Compute Engine deletes an instance and its disk at its run time "
                "limit; one that switched itself off before is TERMINATED and its disk is billed until then, or until "
                "runnerd deletes it"
            ),
        )

    def scopes(self) -> frozenset[base.Scope]:
        return frozenset(
            base.Scope.of(self._context.name, self._settings.project, region.name, zone)
            for region in self._settings.regions.values()
            for zone in (region.zones or (base.ANY,))
        )

    async def close(self) -> None:
        self._calls.close()

    async def quotas(self) -> list[base.Quota]:
        clients, project, place = self._calls.clients, self._settings.project, self._calls.target()
        found = quotas.of_project(
            (
                await self._calls(
                    rates.Group.READ, lambda: clients.projects.get(project=project, retry=None, timeout=TIMEOUT_S)
                )
            ).quotas,
            place,
            as_of=self._context.now(),
        )
        for name in self._settings.regions:
            region = await self._calls(
                rates.Group.READ,
                lambda name=name: clients.regions.get(  # type: ignore[misc]  # a default binds the loop's name
                    project=project, region=name, retry=None, timeout=TIMEOUT_S
                ),
            )
            found += quotas.of_region(region.quotas, place, name, as_of=self._context.now())
        return found

    async def refresh_prices(self) -> list[base.Finding]:
        async def get(url: str) -> dict[str, Any]:
            return await self._calls(rates.Group.OTHER, lambda: self._calls.clients.fetch(url))

        return await pricing.refresh(
            self._catalog,
            regions=list(self._settings.regions),
            directory=self._context.directory,
            now=self._context.now(),
            place=f"providers.{self._context.name}",
            get=get,
        )

    # -- one instance ----------------------------------------------------------------------------------------------

    async def create(self, request: base.CreateRequest) -> base.InstanceView:
        return await self._launcher.create(request)

    async def describe(self, ref: str) -> base.InstanceView | None:
        parsed = names.parse(ref)
        found = await self._calls.instance(parsed) if parsed is not None else None
        if parsed is None or found is None:
            return None
        return await self._lister.view(found, parsed.project)

    async def delete(self, ref: str) -> None:
        parsed = names.parse(ref)
        if parsed is None:
            return
        if await self._calls.instance(parsed) is not None:
            call = compute_v1.DeleteInstanceRequest(
                project=parsed.project,
                zone=parsed.zone,
                instance=parsed.name,
                no_graceful_shutdown=True,
                request_id=end_reasons.delete_id(parsed, self._context.now()),
            )
            operation = await self._calls.found(
                rates.Group.MUTATE,
                lambda: self._calls.clients.instances.delete_unary(request=call, retry=None, timeout=TIMEOUT_S),
            )
            if operation is not None and operation.error.errors:
                raise errors.from_operation(operation, self._calls.target(project=parsed.project))
        self._unsettled.forget(ref)

    async def end_reason(self, ref: str) -> base.EndReason:
        parsed = names.parse(ref)
        if parsed is None:
            return base.EndReason(base.EndKind.UNKNOWN)
        found = await self._operations.of(parsed)
        return end_reasons.reason(found, parsed, self._calls.target(project=parsed.project))

    async def console_log(self, ref: str) -> str | None:
        parsed = names.parse(ref)
        if parsed is None or await self._calls.instance(parsed) is None:
            return None
        clients = self._calls.clients
        try:
            found = await self._calls.found(
                rates.Group.READ,
                lambda: clients.instances.get_serial_port_output(
                    project=parsed.project, zone=parsed.zone, instance=parsed.name, retry=None, timeout=TIMEOUT_S
                ),
            )
        except base.ProvisionError as error:
            if error.code in ("resourceNotReady", "RESOURCE_NOT_READY"):
                return None
            raise
        return found.contents or None if found is not None else None

    # -- all of them -----------------------------------------------------------------------------------------------

    async def list_owned(self, also: frozenset[base.Scope] = frozenset()) -> base.Listing:
        ours = frozenset(one for one in also if one.provider == self._context.name)
        return await self._lister.owned(self.scopes() | ours, home=self._settings.project)

    async def delete_residue(self, residue: base.Residue) -> None:
        parsed = names.parse(residue.ref)
        if parsed is None:
            return
        clients, ident = self._calls.clients, end_reasons.delete_id(parsed, self._context.now())
        project, where, name = parsed.project, parsed.zone, parsed.name

        def disk() -> compute_v1.Operation | None:
            found = clients.disks.get(project=project, zone=where, disk=name, retry=None, timeout=TIMEOUT_S)
            if str(found.id) != parsed.id or found.users:
                return None
            call = compute_v1.DeleteDiskRequest(project=project, zone=where, disk=name, request_id=ident)
            return clients.disks.delete_unary(request=call, retry=None, timeout=TIMEOUT_S)

        def address() -> compute_v1.Operation | None:
            found = clients.addresses.get(project=project, region=where, address=name, retry=None, timeout=TIMEOUT_S)
            if str(found.id) != parsed.id or found.users:
                return None
            call = compute_v1.DeleteAddressRequest(project=project, region=where, address=name, request_id=ident)
            return clients.addresses.delete_unary(request=call, retry=None, timeout=TIMEOUT_S)

        await self._calls.found(rates.Group.MUTATE, disk if residue.kind == "disk" else address)

    async def check(self, samples: Sequence[base.CreateRequest] = ()) -> list[base.Finding]:
        return await checks.run(
            self._calls,
            self._available,
            self._settings,
            samples,
            quotas=self.quotas,
            findings=findings.Findings(self._context.name),
        )
