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

from azure.core.exceptions import AzureError, HttpResponseError

from provisioners import base, catalogue, machines
from provisioners.azure import (
    checks,
    clients,
    ends,
    errors,
    images,
    limits,
    memory,
    names,
    offers,
    quotas,
    request,
    selfend,
    settings,
    views,
)

log = logging.getLogger(__name__)

_T = TypeVar("_T")

#: Seconds for which a launch is watched, between two looks at its operation, and at the machine itself.
WATCH, LOOK, LOOK_CLOSER = 60.0, 2.0, 5.0
#: Seconds for which a machine's power state is believed, and how many are asked for in one listing.
_POWER_FRESH, _POWER_LOOKS = 60.0, 50
#: Unverified: no delay is documented for a list of machines; others see seconds.
_VISIBLE = 60.0
#: Seconds in which the same name surely means the same attempt.  The name alone lasts for as long as the machine does.
_REPLAY = 3600.0
#: Seconds before the end of a machine that its activity log is read from.
_LOG_REACH = 7 * 86400.0


class Azure(base.Basics):
    """Virtual machines in one subscription and resource group."""

    def __init__(
        self,
        context: base.Context,
        options: Mapping[str, Any],
        clients_: clients.Clients | None = None,
    ) -> None:
        self._context = context
        self._book = catalogue.load("azure")
        self._settings, problems = settings.read(options, self._book)
        if problems:
            raise ValueError("; ".join(problems))
        self._calls = clients_ or clients.Clients(self._settings, context)
        self._memory = memory.Memory(context)
        self._shelf = offers.Shelf(self._calls, self._settings, context)
        #: Machine's ref -> (its instance view, when it was asked for).
        self._power: dict[str, tuple[Mapping[str, Any], float]] = {}

    @classmethod
    def validate(cls, options: Mapping[str, Any]) -> list[str]:
        return settings.read(options, catalogue.load("azure"))[1]

    @classmethod
    def validate_pool(cls, options: Mapping[str, Any]) -> list[str]:
        return settings.read_pool(options)[1]

    @property
    def traits(self) -> base.Traits:
        itself = self._settings.self_end
        return base.Traits(
            replay_window=_REPLAY,
            visibility_grace=_VISIBLE,
            self_end=itself,
            idempotent_create=True,
            create_rate=limits.CREATE_RATE,
            create_burst=limits.CREATE_BURST,
            paced_by_region=True,
            user_data_limit=request.CUSTOM_DATA_LIMIT,
            power_off=selfend.command(self._settings) if itself else base.POWER_OFF,
            residue=(
                "a machine deletes itself by its identity; where that fails it is stopped and billed until the daemon "
                'or "runnerd sweep" deletes it'
                if itself
                else "a machine cannot delete itself: what is stopped is billed until the daemon or "
                '"runnerd sweep" deletes it; give it an identity, or run the sweep on a timer elsewhere'
            ),
        )

    def scopes(self) -> frozenset[str]:
        return frozenset(
            settings.scope(self._context.name, self._settings.subscription, region) for region in self._settings.regions
        )

    async def start(self) -> None:
        self._memory.load()
        trouble = self._book.load_renewed(self._context.directory) if self._context.directory else ""
        if trouble:
            log.warning("%s: %s", self._context.name, trouble)

    async def close(self) -> None:
        await self._calls.close()

    # -- what can be bought ------------------------------------------------------------------------------------------

    async def offers(self, shape: base.Shape, options: Mapping[str, Any] = base.NO_OPTIONS) -> list[base.Offer]:
        fitting = self._book.fitting(shape)
        if not fitting:
            return []
        image = settings.read_pool(options)[0].image or self._settings.image
        sold = {region: await self._shelf.sold(region) for region in self._settings.regions}
        for region in self._settings.regions:
            for boots in {image or images.default(one.gpu_count, one.arch) for one in fitting}:
                await self._resolve(region, boots)
        return offers.offers(
            shape,
            provider=self._context.name,
            chosen=self._settings,
            book=self._book,
            sold=sold,
            known=self._memory,
            image=image,
        )

    def why_none(self, shape: base.Shape, options: Mapping[str, Any] = base.NO_OPTIONS) -> str:
        return self._book.why_none(shape, regions=[*self._settings.regions], overrides=self._settings.prices)

    async def _resolve(self, region: str, image: str) -> str:
        """An image with a concrete version; as it is written where that cannot be found out."""
        urn = images.urn(image)
        if urn is None or not images.floating(image):
            return image
        version, fresh = self._memory.version(region, image)
        if not fresh:
            try:
                found = images.newest(await self._calls.image_versions(self._settings.subscription, region, urn))
            except (AzureError, base.ProvisionError) as error:
                log.warning("%s: the versions of %s in %s are not told: %s", self._context.name, image, region, error)
                found = None
            if found:
                version = found
            # A failure is remembered as well: the last version that was found stays for another day.
            self._memory.remember_version(region, image, version)
        return offers.concrete(image, version)

    async def quotas(self) -> list[base.Quota]:
        found: list[base.Quota] = []
        for region in self._settings.regions:
            usages = await self._told(self._calls.usages(self._settings.subscription, region))
            found += quotas.read(
                usages,
                provider=self._context.name,
                subscription=self._settings.subscription,
                region=region,
                book=self._book,
                now=self._context.now(),
            )
        return found

    async def refresh_prices(self) -> list[base.Finding]:
        return []

    # -- buying --------------------------------------------------------------------------------------------------------

    async def create(self, wanted: base.CreateRequest) -> base.InstanceView:
        machines.refuse_malformed(wanted, dict.fromkeys(settings.POOL_KEYS))
        pool, problems = settings.read_pool(wanted.options)
        request.refuse(problems)
        region = self._settings.regions.get(wanted.offer.region)
        if region is None:
            raise base.ProvisionError(
                base.Kind.CONFIG, f"{wanted.offer.region} is not among the provider's regions", code="NoSuchRegion"
            )
        where = errors.place(wanted.offer, self._book)
        image = await self._image_of(wanted, pool)
        body = request.build(wanted, chosen=self._settings, pool=pool, region=region, image=image)
        subscription, group, vm = self._settings.subscription, self._settings.resource_group, names.machine(wanted)
        self._memory.remember_group(subscription, group)
        try:
            accepted = await self._calls.create(subscription, group, vm, body)
        except Exception as error:
            failed = errors.of(error, where)
            if not isinstance(error, HttpResponseError) or not _may_exist(error):
                raise failed from error
            found = await self._existing(vm, wanted, where, failed)
            accepted = clients.Accepted(found, "")
        return await self._watched(accepted, vm, wanted, where)

    async def _image_of(self, wanted: base.CreateRequest, pool: settings.PoolSettings) -> str:
        if wanted.offer.image:
            return wanted.offer.image
        if pool.image:
            return await self._resolve(wanted.offer.region, pool.image)
        machine = self._book.machines.get(wanted.offer.machine_type)
        gpus, arch = (machine.gpu_count, machine.arch) if machine else (wanted.offer.gpus, "x86_64")
        return self._settings.image or images.default(gpus, arch)

    async def _existing(
        self, vm: str, wanted: base.CreateRequest, where: errors.Place, failed: base.ProvisionError
    ) -> Mapping[str, Any]:
        """The machine that was there already, if it is of this attempt; else raise what that means."""
        try:
            found = await self._calls.machine(self._settings.subscription, self._settings.resource_group, vm)
        except AzureError as error:
            # It may be there and ours: only a look can tell.
            raise base.ProvisionError(
                base.Kind.TRANSIENT,
                f"{vm} may exist already, and cannot be looked at: {error}",
                code=failed.code,
                maybe_created=True,
            ) from error
        if found is None:
            raise failed
        tags = found.get("tags") or {}
        if tags.get(base.TAG_ATTEMPT) != wanted.tags.get(base.TAG_ATTEMPT) or not views.ours(
            found, wanted.tags.get(base.TAG_CONTROLLER, "")
        ):
            raise base.ProvisionError(
                base.Kind.CONFIG, f"a machine {vm} exists already and is not of this attempt", code=failed.code
            )
        return found

    async def _watched(
        self, accepted: clients.Accepted, vm: str, wanted: base.CreateRequest, where: errors.Place
    ) -> base.InstanceView:
        """Follow a launch until it runs, fails, or has been watched long enough.

        The machine exists by now: a stumble while looking changes nothing about that.
        """
        subscription, group = self._settings.subscription, self._settings.resource_group
        until = self._context.now() + WATCH
        view = self._view(accepted.machine, subscription, group)
        operation = accepted.operation
        while True:
            if view.status is base.InstanceStatus.FAILED:
                await self._clear_away(view.failure, vm)
            if view.status is not base.InstanceStatus.PENDING or self._context.now() >= until:
                return view
            await self._context.sleep(LOOK if operation else LOOK_CLOSER)
            try:
                if operation:
                    if await self._calls.operation(subscription, operation) == "InProgress":
                        continue
                    operation = ""
                found = await self._calls.machine(subscription, group, vm)
            except clients.OperationFailed as error:
                await self._clear_away(errors.of(error, where).failure, vm)
            except HttpResponseError as error:
                # Operations are forgotten after a time; the machine itself tells as well.
                operation = "" if error.status_code in (400, 404, 410) else operation
            except AzureError as error:
                log.info("%s: a look at %s failed, it is looked at again: %s", self._context.name, vm, error)
            else:
                if found is None:
                    return view
                view = self._view(found, subscription, group)

    async def _clear_away(self, failure: base.Failure | None, vm: str) -> None:
        """Ask for the end of what a failed launch left, and raise why it failed.

        Azure keeps the machine, in the state Failed, with its parts.
        """
        failure = failure or base.Failure(base.Kind.TRANSIENT, f"{vm} failed")
        left = False
        try:
            await self._calls.delete(self._settings.subscription, self._settings.resource_group, vm)
        except Exception as error:
            # Listings show it as failed, and whoever called deletes it.
            log.warning("%s: %s failed and could not be deleted yet: %s", self._context.name, vm, error)
            left = True
        raise base.ProvisionError(
            failure.kind,
            failure.message,
            scope=failure.scope,
            code=failure.code,
            block_for=failure.block_for,
            maybe_created=left,
        )

    # -- looking -------------------------------------------------------------------------------------------------------

    def _view(
        self, vm: Mapping[str, Any], subscription: str, group: str, statuses: Mapping[str, Any] | None = None
    ) -> base.InstanceView:
        return views.machine(
            vm,
            provider=self._context.name,
            subscription=subscription,
            group=group,
            book=self._book,
            statuses=statuses,
            now=self._context.now(),
        )

    async def describe(self, ref: str) -> base.InstanceView | None:
        parts = names.parse(ref)
        if parts is None:
            return None
        found = await self._told(self._calls.machine(parts.subscription, parts.group, parts.vm))
        if found is None:
            return None
        view = self._view(found, parts.subscription, parts.group)
        now_there = names.parse(view.ref)
        if parts.vm_id and now_there is not None and now_there.vm_id and now_there.vm_id != parts.vm_id:
            return None
        return view

    async def delete(self, ref: str) -> None:
        parts = names.parse(ref)
        if parts is None:
            return
        if parts.vm_id and await self.describe(ref) is None:
            # Gone, or another machine under the same name.
            return
        self._power.pop(ref, None)
        await self._told(self._calls.delete(parts.subscription, parts.group, parts.vm))

    async def delete_residue(self, residue: base.Residue) -> None:
        subscription, group = names.subscription_of(residue.ref), names.group_of(residue.ref)
        if residue.kind == views.DISK:
            await self._told(self._calls.delete_disk(subscription, group, names.tail(residue.ref)))
        else:
            await self._told(self._calls.delete_resource(subscription, residue.ref, clients.NETWORK_API))

    async def list_owned(self, also: frozenset[str] = frozenset()) -> base.Listing:
        found: list[base.InstanceView] = []
        left: list[base.Residue] = []
        failures: dict[str, str] = {}
        wanted = self.scopes() | {scope for scope in also if scope.split("/")[0] == self._context.name}
        places = self._places(wanted)
        broken: set[str] = set()
        for subscription, group in places:
            try:
                views_, residues = await self._list(subscription, group)
            except (AzureError, base.ProvisionError) as error:
                broken.add(subscription)
                failed = errors.of(error, errors.Place(self._context.name, subscription))
                failures |= {scope: f"{group}: {failed}" for scope in wanted if scope.split("/")[1] == subscription}
                log.warning("%s: listing %s failed: %s", self._context.name, group, failed)
                continue
            found += views_
            left += residues
        asked = {subscription for subscription, _ in places} - broken
        complete = {
            settings.scope(self._context.name, subscription, region)
            for _, subscription, region, *_ in (scope.split("/") for scope in wanted)
            if subscription in asked
        }
        return base.Listing(tuple(found), frozenset(complete), tuple(left), failures)

    def _places(self, wanted: frozenset[str]) -> list[tuple[str, str]]:
        """The resource groups to look in: the configured one, and every other that held ours."""
        here = (self._settings.subscription, self._settings.resource_group)
        subscriptions = {scope.split("/")[1] for scope in wanted}
        others = {place for place in self._memory.groups if place[0] in subscriptions and place != here}
        return [here, *sorted(others)]

    async def _list(self, subscription: str, group: str) -> tuple[list[base.InstanceView], list[base.Residue]]:
        listed = await self._calls.machines(subscription, group)
        controller = self._context.controller
        found: list[base.InstanceView] = []
        for vm in listed:
            if (vm.get("tags") or {}).get(base.TAG_CONTROLLER) == controller:
                found.append(self._view(vm, subscription, group))
        seen = await self._power_of(subscription, group, found)
        by_name = {str(vm.get("name", "")): vm for vm in listed}
        result = []
        for view in found:
            parts = names.parse(view.ref)
            statuses = seen.get(view.ref)
            if parts is not None and statuses is not None:
                view = self._view(by_name[parts.vm], subscription, group, statuses)
            result.append(view)
        there = frozenset(name.lower() for name in by_name)
        residues = views.residues(
            provider=self._context.name,
            subscription=subscription,
            controller=controller,
            machines=there,
            interfaces=await self._calls.network(subscription, group, "networkInterfaces"),
            addresses=await self._calls.network(subscription, group, "publicIPAddresses"),
            disks=await self._calls.disks(subscription, group),
        )
        return result, list(residues)

    async def _power_of(
        self, subscription: str, group: str, found: Sequence[base.InstanceView]
    ) -> dict[str, Mapping[str, Any]]:
        """Instance views of machines whose power state, or failure, a listing does not tell; the oldest first."""
        asking = [
            view.ref for view in found if view.status in (base.InstanceStatus.RUNNING, base.InstanceStatus.FAILED)
        ]
        now = self._context.now()
        prefix = f"{subscription}/{group}/"
        for gone in [ref for ref in self._power if ref.startswith(prefix) and ref not in asking]:
            del self._power[gone]
        due = sorted((self._power[ref][1] if ref in self._power else 0.0, ref) for ref in asking)
        for at, ref in due[:_POWER_LOOKS]:
            parts = names.parse(ref)
            if parts is None or now - at < _POWER_FRESH:
                continue
            try:
                statuses = await self._calls.instance_view(subscription, group, parts.vm)
            except AzureError as error:
                log.info("%s: the power state of %s is not told: %s", self._context.name, parts.vm, error)
                break
            if statuses is not None:
                self._power[ref] = (statuses, now)
        return {ref: self._power[ref][0] for ref in asking if ref in self._power}

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
        machine = clients.machine_path(parts.subscription, parts.group, parts.vm)
        try:
            events = await self._calls.activity(
                parts.subscription, parts.group, machine, _iso(now - _LOG_REACH), _iso(now)
            )
            us = ends.claim(await self._calls.token(), "oid")
        except (AzureError, base.ProvisionError) as error:
            return base.EndReason(base.EndKind.UNKNOWN, f"the activity log is not told: {error}")
        identity = "" if self._settings.identity == settings.SYSTEM else self._settings.identity
        return ends.reason(events, machine=machine, identity=identity, us=us)

    async def console_log(self, ref: str) -> str | None:
        parts = names.parse(ref)
        if parts is None:
            return None
        try:
            content = await self._calls.console(parts.subscription, parts.group, parts.vm)
        except HttpResponseError as error:
            failed = errors.of(error, errors.Place(self._context.name, parts.subscription))
            # Not there, or nothing kept of it yet (a conflict).
            if failed.kind is base.Kind.NOT_FOUND or error.status_code == 409:
                return None
            raise failed from error
        except AzureError as error:
            raise errors.of(error, errors.Place(self._context.name, parts.subscription)) from error
        return content.decode(errors="replace") if content else None

    async def check(self, samples: Sequence[base.CreateRequest] = ()) -> list[base.Finding]:
        return await checks.run(self._context, self._settings, self._calls, self._book, self._shelf, samples)

    async def _told(self, call: Awaitable[_T]) -> _T:
        """The answer of a call that buys nothing; its failure in the terms of the contract."""
        try:
            return await call
        except AzureError as error:
            raise errors.of(error, errors.Place(self._context.name, self._settings.subscription)) from error


def _may_exist(error: HttpResponseError) -> bool:
    """True when an answer to a create-only PUT may mean that the machine is there."""
    return error.status_code == 412 or errors.told(error).code in errors.EXISTS


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
