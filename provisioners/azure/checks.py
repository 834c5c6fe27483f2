"""``runnerd check`` for Azure: everything that can be tested without buying anything."""

from __future__ import annotations

from collections.abc import Sequence

from provisioners import base, catalogue, options
from provisioners.azure import (
    availability,
    error_scopes,
    errors,
    images,
    names,
    permissions,
    quotas,
    request,
    self_end,
    settings,
)
from provisioners.azure import calls as azure_calls
from provisioners.cloud_common import checks

_ROLE_REMEDY = "assign the role of docs/azure.md to the credential, in the resource group"


async def run(
    context: base.Context,
    chosen: settings.Settings,
    calls: azure_calls.Calls,
    catalog: catalogue.Catalog,
    available: availability.Availability,
    samples: Sequence[base.CreateRequest],
) -> list[base.Finding]:
    """Return all findings; without a credential that works there is only one."""
    check = _Check(context, chosen, calls, catalog, available)
    await check.credential()
    if not check.findings.errors:
        public = any(settings.read_pool(sample.options, catalog)[0].public_address for sample in samples)
        await check.group(public=public)
        await check.places(samples)
        await check.quotas(samples)
        await check.samples(samples)
        check.self_end()
    return check.findings.found


class _Check:
    def __init__(
        self,
        context: base.Context,
        chosen: settings.Settings,
        calls: azure_calls.Calls,
        catalog: catalogue.Catalog,
        available: availability.Availability,
    ) -> None:
        self._chosen = chosen
        self._calls = calls
        self._catalog = catalog
        self._available = available
        self._context = context
        self.findings = checks.Findings(context.name)

    def _failed(self, error: Exception, what: str, remedy: str, place: str = "") -> None:
        failed = errors.classify(error, error_scopes.Target(self._context.name, self._chosen.subscription))
        self.findings.error(f"{what}: {failed}", remedy, place=place)

    # -- credential --------------------------------------------------------------------------------------------------

    async def credential(self) -> None:
        """Sign in, and read the subscription."""
        subscription = self._chosen.subscription
        try:
            await self._calls.token()
        except Exception as error:
            self._failed(error, "cannot sign in", _sign_in_remedy(str(error), self._chosen))
            return
        try:
            found = await self._calls.resource(
                subscription, f"/subscriptions/{subscription}", azure_calls.RESOURCES_API
            )
        except errors.HEARD as error:
            if "AuthorizationFailed" in str(error):
                # A role on the group alone does not allow reading the subscription; the group is read next.
                self.findings.ok("signed in")
            else:
                remedy = "check the tenant, and that the credential has a role in this subscription or group"
                self._failed(error, f"subscription {subscription}", remedy)
            return
        state = str((found or {}).get("state", ""))
        if found is None or state not in ("Enabled", "PastDue", "Warned"):
            reason = f"is {state.lower()}" if state else "is not visible to this credential"
            self.findings.error(f"subscription {subscription} {reason}", "enable it, or name another one")
        elif state != "Enabled":
            self.findings.warning(
                f"subscription {subscription} is {state}", "settle the outstanding balance before it is disabled"
            )
        else:
            self.findings.ok(f"signed in to subscription {subscription}")

    async def group(self, *, public: bool) -> None:
        """Read the resource group, and the permissions in it."""
        subscription, group = self._chosen.subscription, self._chosen.resource_group
        try:
            found = await self._calls.resource(
                subscription, names.group_path(subscription, group), azure_calls.RESOURCES_API
            )
            granted = await self._calls.permissions(subscription, group) if found is not None else []
        except errors.HEARD as error:
            self._failed(error, f"resource group {group}", _ROLE_REMEDY)
            return
        if found is None:
            self.findings.error(
                f"there is no resource group {group}",
                f"az group create --name {group} --location {next(iter(self._chosen.regions))}",
            )
            return
        lacking = permissions.missing(granted, permissions.needed(self._chosen, public=public))
        for action in lacking:
            self.findings.error(f"the credential lacks {action} in resource group {group}", _ROLE_REMEDY)
        if not lacking:
            self.findings.ok(f"resource group {group}: everything needed is allowed")

    # -- places ------------------------------------------------------------------------------------------------

    async def places(self, samples: Sequence[base.CreateRequest]) -> None:
        """Read subnets, security groups and the identity."""
        wanted: dict[str, str] = {}
        for region in self._chosen.regions.values():
            wanted[region.subnet] = region.name
            if region.security_group:
                wanted[region.security_group] = region.name
        for sample in samples:
            for region_name, subnet in settings.read_pool(sample.options, self._catalog)[0].subnets.items():
                wanted[subnet] = region_name
        for resource, region_name in wanted.items():
            await self._present(resource, azure_calls.NETWORK_API, region_name)
        if self._chosen.identity and self._chosen.identity != settings.SYSTEM:
            await self._present(self._chosen.identity, azure_calls.IDENTITY_API, "")

    async def _present(self, resource: str, version: str, region: str) -> None:
        place = f"{self.findings.place}.regions.{region}" if region else f"{self.findings.place}.identity"
        subscription = names.subscription_of(resource) or self._chosen.subscription
        try:
            found = await self._calls.resource(subscription, resource, version)
        except errors.HEARD as error:
            failed = errors.classify(error, error_scopes.Target(self._context.name, subscription))
            if failed.kind is base.Kind.AUTH:
                self.findings.warning(
                    f"{names.tail(resource)} cannot be read: {failed}",
                    "allow the credential to read it, and to join it (subnets/join/action) if it is a network",
                    place=place,
                )
                return
            self._failed(error, names.tail(resource), f"check that {resource} exists and can be read", place)
            return
        if found is None:
            self.findings.error(f"there is no {resource}", "correct the id", place=place)
            return
        where = str(found.get("location", "")).replace(" ", "").lower()
        if region and where and where != region:
            self.findings.error(f"{names.tail(resource)} is in {where}", f"name one in {region}", place=place)

    async def quotas(self, samples: Sequence[base.CreateRequest]) -> None:
        """Note quotas that leave no room for a pool's offer."""
        for region in self._chosen.regions:
            try:
                usages = await self._calls.usages(self._chosen.subscription, region)
            except errors.HEARD as error:
                self.findings.warning(
                    f"the quotas of {region} could not be read: {error}",
                    "allow Microsoft.Compute/locations/usages/read in the subscription",
                )
                continue
            found = quotas.read(
                usages,
                provider=self._context.name,
                subscription=self._chosen.subscription,
                region=region,
                catalog=self._catalog,
                now=self._context.now(),
            )
            for quota in found:
                for sample in samples:
                    offer = sample.offer
                    short = quota.limit < _needs(quota, offer)
                    if short and offer.region == region and quota.pattern.matches(offer.key):
                        self.findings.error(
                            f"{quota.name}: the limit is {quota.limit:g}, but {offer.machine_type} needs "
                            f"{_needs(quota, offer):g}",
                            f"raise it at {quota.remedy}",
                            place=checks.pool_of(sample),
                        )

    # -- pools ---------------------------------------------------------------------------------------------

    async def samples(self, samples: Sequence[base.CreateRequest]) -> None:
        """Try size, image, tags and script of each pool's request."""
        for sample in samples:
            place = checks.pool_of(sample)
            pool, problems = settings.read_pool(sample.options, self._catalog)
            region = self._chosen.regions.get(sample.offer.region)
            problems += [
                f"the provider has no region {name}{options.nearest(name, self._chosen.regions)}"
                for name in pool.subnets
                if name not in self._chosen.regions
            ]
            for problem in problems:
                self.findings.error(problem, "correct the pool's options for this provider", place=place)
            if problems or region is None:
                continue
            image = pool.image or sample.offer.image or self._default_image(sample)
            try:
                request.build(sample, chosen=self._chosen, pool=pool, region=region, image=image)
            except base.ProvisionError as error:
                self.findings.error(str(error), "correct the pool or its tags", place=place)
                continue
            before = self.findings.problems
            await self._size(sample, place)
            await self._image(sample, image, pool.plan or self._chosen.plan, place)
            if self.findings.problems == before:
                self.findings.ok(f"{sample.offer.machine_type} in {sample.offer.region} with {image}", place=place)

    def _default_image(self, sample: base.CreateRequest) -> str:
        machine = self._catalog.machines.get(sample.offer.machine_type)
        return self._chosen.image or images.default(sample.offer.gpus, machine.arch if machine else "x86_64")

    async def _size(self, sample: base.CreateRequest, place: str) -> None:
        offer = sample.offer
        sold = await self._available.sizes(offer.region)
        if sold is None:
            self.findings.warning(
                f"the sizes of {offer.region} could not be listed",
                "allow Microsoft.Compute/skus/read in the subscription",
                place=place,
            )
            return
        entry = sold.get(offer.machine_type)
        if entry is None:
            near = options.nearest(offer.machine_type, sold)
            self.findings.error(
                f"{offer.region} has no {offer.machine_type}{near}", "name another size or region", place=place
            )
        elif entry.restricted:
            self.findings.error(
                f"{offer.machine_type} in {offer.region}: {entry.restricted}",
                f"ask for access at {quotas.REMEDY}, or name another size or region",
                place=place,
            )
        elif offer.zone != settings.NO_ZONE and offer.zone not in entry.zones:
            there = ", ".join(sorted(entry.zones)) or "none"
            self.findings.error(
                f"{offer.machine_type} is not sold in zone {offer.zone} of {offer.region}; zones: {there}",
                "correct the region's zones",
                place=place,
            )

    async def _image(self, sample: base.CreateRequest, image: str, plan: settings.Plan | None, place: str) -> None:
        region, subscription = sample.offer.region, self._chosen.subscription
        urn = images.urn(image)
        try:
            if urn is None:
                if image.startswith("/subscriptions/"):
                    owner = names.subscription_of(image)
                    version = azure_calls.GALLERY_API if "/galleries/" in image else azure_calls.COMPUTE_API
                    if await self._calls.resource(owner, image, version) is None:
                        self.findings.error(f"there is no image {image}", "correct the image", place=place)
                return
            if images.floating(image):
                newest = images.newest(await self._calls.image_versions(subscription, region, urn))
                urn = images.Urn(urn.publisher, urn.offer, urn.sku, newest) if newest else None
            found = await self._calls.image(subscription, region, urn) if urn is not None else None
        except errors.HEARD as error:
            failed = errors.classify(error, error_scopes.Target(self._context.name, subscription))
            if failed.kind not in (base.Kind.NOT_FOUND, base.Kind.CONFIG):
                self.findings.warning(
                    f"image {image} cannot be read: {failed}", "allow the credential to read it", place=place
                )
                return
            found = None
        if found is None:
            self.findings.error(f"{region} has no image {image}", "correct the image", place=place)
            return
        await self._terms(found.get("properties", {}).get("plan"), image, plan, place)

    async def _terms(self, sold_with: object, image: str, plan: settings.Plan | None, place: str) -> None:
        if not isinstance(sold_with, dict):
            return
        if plan is None:
            self.findings.error(
                f"image {image} is sold with a plan",
                f"set plan: {{publisher: {sold_with.get('publisher')}, product: {sold_with.get('product')}, "
                f"name: {sold_with.get('name')}}}",
                place=place,
            )
            return
        path = (
            f"/subscriptions/{self._chosen.subscription}/providers/Microsoft.MarketplaceOrdering/offerTypes"
            f"/virtualmachine/publishers/{plan.publisher}/offers/{plan.product}/plans/{plan.name}/agreements/current"
        )
        accept = f"az vm image terms accept --publisher {plan.publisher} --offer {plan.product} --plan {plan.name}"
        try:
            terms = await self._calls.resource(self._chosen.subscription, path, azure_calls.ORDERING_API)
        except errors.HEARD as error:
            self.findings.warning(f"the terms of {image} could not be read: {error}", accept, place=place)
            return
        if not (terms or {}).get("properties", {}).get("accepted"):
            self.findings.error(f"the terms of {image} are not accepted", accept, place=place)

    def self_end(self) -> None:
        """Report what ends a machine when the daemon is gone."""
        if self._chosen.identity == settings.SYSTEM:
            self.findings.ok("a machine deletes itself by an identity of its own, which may delete nothing else")
        elif self._chosen.identity:
            self.findings.ok(f"a machine deletes itself by {names.tail(self._chosen.identity)}")
        else:
            self.findings.warning(
                f"if the daemon never comes back: {self_end.RESIDUE_WITHOUT}",
                'set identity (docs/azure.md), or run "runnerd sweep --once" on a timer on another host',
            )


def _needs(quota: base.Quota, offer: base.Offer) -> float:
    return 1.0 if quota.unit is base.Unit.INSTANCES else float(max(offer.cpus, 1))


def _sign_in_remedy(message: str, chosen: settings.Settings) -> str:
    if "AADSTS7000222" in message:
        return "the client secret has expired: create a new one"
    if "AADSTS7000215" in message:
        return "the client secret is wrong: it is the secret's value, not its id"
    if "AADSTS700016" in message or "AADSTS90002" in message:
        return "the client or the tenant is wrong: correct client_id or tenant"
    if chosen.client_secret or chosen.certificate:
        return "correct tenant, client_id, and the secret or certificate"
    return "set tenant, client_id and client_secret, or run where a managed identity or the Azure CLI signs in"
