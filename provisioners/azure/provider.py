"""Azure as a source of instances.

A machine's name is the idempotency key: a create-only PUT of the name either makes it or says that it is there.  The
PUT is answered long before the machine runs; the operation behind it is watched for a while, since most launches that
fail do so then, and what fails later, or while no daemon looks, shows on the machine itself.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from provisioners import base, catalogue
from provisioners.azure import (
    availability,
    calls,
    checks,
    end_reasons,
    error_scopes,
    errors,
    images,
    instances,
    launch,
    listing,
    names,
    offers,
    pricing,
    quotas,
    rates,
    request,
    resource_groups,
    self_end,
    settings,
)
from provisioners.azure.client import Clients
from provisioners.catalogue import listed_types
from provisioners.cloud_common import provider, regions

log = logging.getLogger(__name__)

_T = TypeVar("_T")

#: Unverified: no delay is documented for a list of machines; others see seconds.
_VISIBLE_S = 120.0
#: Seconds in which the same name surely means the same attempt.  The name alone lasts for as long as the machine does.
_REPLAY_S = 3600.0
#: Seconds back from now that a machine's activity log is read; Azure keeps 90 days.
_LOG_REACH_S = 7 * 86400.0
#: Bytes of a boot script that are promised: a little less than what Azure takes.
_SCRIPT = request.CUSTOM_DATA_LIMIT - 535


class Azure(provider.CloudProvider[settings.Settings, settings.PoolOptions]):
    """Virtual machines in one subscription and resource group."""

    cloud = "azure"

    def __init__(self, context: base.Context, options: Mapping[str, Any], clients: Clients | None = None) -> None:
        super().__init__(context, options)
        self._calls = calls.Calls(clients or Clients(self._settings, context), self._settings)
        self._resource_groups = resource_groups.ResourceGroups(context)
        self._available = availability.Availability(self._calls, self._settings, context)
        self._offers = offers.Offers(context.name, self._settings, self._catalog, self._available)
        self._lister = listing.Lister(context, self._settings, self._calls, self._catalog, self._resource_groups)

    @classmethod
    def read_settings(
        cls, options: Mapping[str, Any], catalog: catalogue.Catalog
    ) -> tuple[settings.Settings, list[str]]:
        return settings.read(options, catalog)

    def read_pool(self, options: Mapping[str, Any]) -> tuple[settings.PoolOptions, list[str]]:
        return settings.read_pool(options, self._catalog)

    @classmethod
    def validate_pool(cls, options: Mapping[str, Any]) -> list[str]:
        return settings.read_pool(options, catalogue.load("azure"))[1]

    @property
    def traits(self) -> base.Traits:
        itself = self._settings.self_end
        return base.Traits(
            replay_window=_REPLAY_S,
            visibility_grace=_VISIBLE_S,
            # The activity log lags behind by minutes.
            proof_lag=900.0,
            self_end=itself,
            idempotent_create=True,
            create_rate=rates.CREATE_RATE,
            create_burst=rates.CREATE_BURST,
            user_data_limit=_SCRIPT,
            power_off=self_end.command(self._settings) if itself else base.POWER_OFF,
            residue=self_end.RESIDUE if itself else self_end.RESIDUE_WITHOUT,
        )

    def scopes(self) -> frozenset[base.Scope]:
        return frozenset(
            base.Scope.of(self._context.name, self._settings.subscription, region) for region in self._settings.regions
        )

    async def start(self) -> None:
        self._resource_groups.load()
        await super().start()

    async def close(self) -> None:
        await self._calls.close()

    # -- what can be bought ------------------------------------------------------------------------------------------

    async def quotas(self) -> list[base.Quota]:
        answers, failures = await regions.ask_each(self._settings.regions, self._quotas)
        for region, error in failures.items():
            log.warning("%s: the quotas of %s could not be read: %s", self._context.name, region, error)
        if failures and not answers:
            raise next(iter(failures.values()))
        return [quota for quotas in answers.values() for quota in quotas]

    async def _quotas(self, region: str) -> list[base.Quota]:
        usages = await self._classified(self._calls.usages(self._settings.subscription, region))
        found = quotas.read(
            usages,
            provider=self._context.name,
            subscription=self._settings.subscription,
            region=region,
            catalog=self._catalog,
            now=self._context.now(),
        )
        return [*found]

    async def refresh_prices(self) -> list[base.Finding]:
        return await pricing.refresh(
            self._catalog,
            regions=[*self._settings.regions],
            directory=self._context.directory,
            now=self._context.now(),
            place=f"providers.{self._context.name}",
            get=self._calls.public_json,
        )

    # -- buying and ending ---------------------------------------------------------------------------------------------

    async def create(self, wanted: base.CreateRequest) -> base.InstanceView:
        listed_types.refuse_malformed(wanted, dict.fromkeys(settings.POOL_KEYS))
        pool, problems = settings.read_pool(wanted.options, self._catalog)
        request.refuse(problems)
        region = self._settings.regions.get(wanted.offer.region)
        if region is None:
            raise base.ProvisionError(
                base.Kind.CONFIG, f"{wanted.offer.region} is not among the provider's regions", code="NoSuchRegion"
            )
        image = await self._image_of(wanted, pool)
        body = request.build(wanted, chosen=self._settings, pool=pool, region=region, image=image)
        self._resource_groups.remember(self._settings.subscription, self._settings.resource_group)
        return await launch.Launch(self._context, self._settings, self._calls, self._catalog, wanted).run(body)

    async def _image_of(self, wanted: base.CreateRequest, pool: settings.PoolOptions) -> str:
        if wanted.offer.image:
            return wanted.offer.image
        if pool.image:
            return await self._available.image(wanted.offer.region, pool.image)
        machine = self._catalog.machines.get(wanted.offer.machine_type)
        gpus, arch = (machine.gpu_count, machine.arch) if machine else (wanted.offer.gpus, "x86_64")
        return self._settings.image or images.default(gpus, arch)

    async def delete(self, ref: str) -> None:
        parts = names.parse(ref)
        if parts is None:
            return
        if parts.vm_id and await self.describe(ref) is None:
            # Gone, or another machine under the same name.
            return
        await self._classified(self._calls.delete(parts.subscription, parts.group, parts.vm))

    async def delete_residue(self, residue: base.Residue) -> None:
        subscription, group = names.subscription_of(residue.ref), names.group_of(residue.ref)
        if residue.kind == instances.DISK:
            await self._classified(self._calls.delete_disk(subscription, group, names.tail(residue.ref)))
            return
        version = calls.AUTHORIZATION_API if residue.kind == instances.ROLE else calls.NETWORK_API
        await self._classified(self._calls.delete_resource(subscription, residue.ref, version))

    # -- looking -------------------------------------------------------------------------------------------------------

    async def describe(self, ref: str) -> base.InstanceView | None:
        parts = names.parse(ref)
        if parts is None:
            return None
        found = await self._classified(self._calls.machine(parts.subscription, parts.group, parts.vm))
        if found is None:
            return None
        view = instances.machine(
            found,
            provider=self._context.name,
            subscription=parts.subscription,
            group=parts.group,
            catalog=self._catalog,
            now=self._context.now(),
        )
        there = names.parse(view.ref)
        if parts.vm_id and there is not None and there.vm_id and there.vm_id != parts.vm_id:
            return None
        return view

    async def list_owned(self, also: frozenset[base.Scope] = frozenset()) -> base.Listing:
        ours = {scope for scope in also if scope.provider == self._context.name}
        return await self._lister.owned(self.scopes() | ours)

    async def end_reason(self, ref: str) -> base.EndReason:
        parts = names.parse(ref)
        if parts is None:
            return base.EndReason(base.EndKind.UNKNOWN)
        view = await self.describe(ref)
        if view is not None:
            if view.status is base.InstanceStatus.FAILED:
                detail = view.failure.message if view.failure else ""
                return base.EndReason(base.EndKind.FAILED, detail, view.failure)
            return base.EndReason(base.EndKind.UNKNOWN)
        now = self._context.now()
        machine = names.machine_path(parts.subscription, parts.group, parts.vm)
        try:
            events = await self._calls.activity(parts.subscription, machine, _iso(now - _LOG_REACH_S), _iso(now))
            us = end_reasons.claim(await self._calls.token(), "oid")
        except errors.HEARD as error:
            return base.EndReason(base.EndKind.UNKNOWN, f"the activity log could not be read: {error}")
        identity = "" if self._settings.identity == settings.SYSTEM else self._settings.identity
        return end_reasons.reason(events, machine=machine, identity=identity, us=us)

    async def console_log(self, ref: str) -> str | None:
        parts = names.parse(ref)
        if parts is None:
            return None
        try:
            content = await self._calls.console(parts.subscription, parts.group, parts.vm)
        except errors.HEARD as error:
            failed = errors.classify(error, error_scopes.Target(self._context.name, parts.subscription))
            # Not there, or nothing kept of it yet (a conflict).
            if failed.kind is base.Kind.NOT_FOUND or getattr(error, "status_code", 0) == 409:
                return None
            raise failed from error
        return content.decode(errors="replace") if content else None

    async def check(self, samples: Sequence[base.CreateRequest] = ()) -> list[base.Finding]:
        return await checks.run(self._context, self._settings, self._calls, self._catalog, self._available, samples)

    async def _classified(self, call: Awaitable[_T]) -> _T:
        """Return the answer of a call that buys nothing; raise its failure in the terms of the contract."""
        try:
            return await call
        except errors.HEARD as error:
            raise errors.classify(
                error, error_scopes.Target(self._context.name, self._settings.subscription)
            ) from error


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
