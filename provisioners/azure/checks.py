"""``runnerd check`` for Azure: everything that can be tried without buying anything."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

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

_ROLE_REMEDY = "assign the role of docs/azure.md to the credential, in the resource group"


async def run(
    context: base.Context,
    chosen: settings.Settings,
    calls: azure_calls.Calls,
    book: catalogue.Book,
    available: availability.Availability,
    samples: Sequence[base.CreateRequest],
) -> list[base.Finding]:
    """All findings; without a credential that works there is only one."""
    looker = _Check(context, chosen, calls, book, available)
    found = await looker.credential()
    if any(one.level is base.Level.ERROR for one in found):
        return found
    public = any(settings.read_pool(sample.options)[0].public_address for sample in samples)
    for part in (looker.group(public=public), looker.places(samples), looker.quotas(samples), looker.samples(samples)):
        found += [one async for one in part]
    found.append(looker.self_end())
    return found


class _Check:
    def __init__(
        self,
        context: base.Context,
        chosen: settings.Settings,
        calls: azure_calls.Calls,
        book: catalogue.Book,
        available: availability.Availability,
    ) -> None:
        self._chosen = chosen
        self._calls = calls
        self._book = book
        self._available = available
        self._context = context
        self._place = f"providers.{context.name}"

    def _error(self, message: str, remedy: str, place: str = "") -> base.Finding:
        return base.Finding(base.Level.ERROR, place or self._place, message, remedy)

    def _warning(self, message: str, remedy: str, place: str = "") -> base.Finding:
        return base.Finding(base.Level.WARNING, place or self._place, message, remedy)

    def _ok(self, message: str, place: str = "") -> base.Finding:
        return base.Finding(base.Level.OK, place or self._place, message)

    def _failed(self, error: Exception, what: str, remedy: str, place: str = "") -> base.Finding:
        told = errors.of(error, error_scopes.Target(self._context.name, self._chosen.subscription))
        return self._error(f"{what}: {told}", remedy, place)

    # -- who we are --------------------------------------------------------------------------------------------------

    async def credential(self) -> list[base.Finding]:
        """Signs in, and looks at the subscription."""
        subscription = self._chosen.subscription
        try:
            await self._calls.token()
        except Exception as error:
            return [self._failed(error, "cannot sign in", _sign_in_remedy(str(error), self._chosen))]
        try:
            found = await self._calls.resource(
                subscription, f"/subscriptions/{subscription}", azure_calls.RESOURCES_API
            )
        except errors.HEARD as error:
            remedy = "is it the right tenant, and has the credential a role in this subscription or group?"
            if "AuthorizationFailed" in str(error):
                # A role on the group alone does not allow a look at the subscription; the group is looked at next.
                return [self._ok("signed in")]
            return [self._failed(error, f"subscription {subscription}", remedy)]
        state = str((found or {}).get("state", ""))
        if found is None or state not in ("Enabled", "PastDue", "Warned"):
            words = f"is {state.lower()}" if state else "is not there for this credential"
            return [self._error(f"subscription {subscription} {words}", "enable it, or name another one")]
        if state != "Enabled":
            return [self._warning(f"subscription {subscription} is {state}", "pay what is due before it is disabled")]
        return [self._ok(f"signed in to subscription {subscription}")]

    async def group(self, *, public: bool) -> AsyncIterator[base.Finding]:
        """The resource group, and what may be done in it."""
        subscription, group = self._chosen.subscription, self._chosen.resource_group
        try:
            found = await self._calls.resource(
                subscription, names.group_path(subscription, group), azure_calls.RESOURCES_API
            )
            granted = await self._calls.permissions(subscription, group) if found is not None else []
        except errors.HEARD as error:
            yield self._failed(error, f"resource group {group}", _ROLE_REMEDY)
            return
        if found is None:
            yield self._error(
                f"there is no resource group {group}",
                f"az group create --name {group} --location {next(iter(self._chosen.regions))}",
            )
            return
        lacking = permissions.missing(granted, permissions.needed(self._chosen, public=public))
        for action in lacking:
            yield self._error(f"the credential lacks {action} in resource group {group}", _ROLE_REMEDY)
        if not lacking:
            yield self._ok(f"resource group {group}: everything needed is allowed")

    # -- where we buy ------------------------------------------------------------------------------------------------

    async def places(self, samples: Sequence[base.CreateRequest]) -> AsyncIterator[base.Finding]:
        """Subnets, security groups, and the identity."""
        wanted: dict[str, str] = {}
        for region in self._chosen.regions.values():
            wanted[region.subnet] = region.name
            if region.security_group:
                wanted[region.security_group] = region.name
        for sample in samples:
            for region_name, subnet in settings.read_pool(sample.options)[0].subnets.items():
                wanted[subnet] = region_name
        for resource, region_name in wanted.items():
            async for finding in self._present(resource, azure_calls.NETWORK_API, region_name):
                yield finding
        if self._chosen.identity and self._chosen.identity != settings.SYSTEM:
            async for finding in self._present(self._chosen.identity, azure_calls.IDENTITY_API, ""):
                yield finding

    async def _present(self, resource: str, version: str, region: str) -> AsyncIterator[base.Finding]:
        place = f"{self._place}.regions.{region}" if region else f"{self._place}.identity"
        subscription = names.subscription_of(resource) or self._chosen.subscription
        try:
            found = await self._calls.resource(subscription, resource, version)
        except errors.HEARD as error:
            told = errors.of(error, error_scopes.Target(self._context.name, subscription))
            if told.kind is base.Kind.AUTH:
                yield self._warning(
                    f"{names.tail(resource)} cannot be looked at: {told}",
                    "allow the credential to read it, and to join it (subnets/join/action) where it is a network",
                    place,
                )
                return
            yield self._failed(error, names.tail(resource), "see the message", place)
            return
        if found is None:
            yield self._error(f"there is no {resource}", "correct the id", place)
            return
        where = str(found.get("location", "")).replace(" ", "").lower()
        if region and where and where != region:
            yield self._error(f"{names.tail(resource)} is in {where}", f"name one in {region}", place)

    async def quotas(self, samples: Sequence[base.CreateRequest]) -> AsyncIterator[base.Finding]:
        """Quotas of zero where something would be bought."""
        for region in self._chosen.regions:
            try:
                usages = await self._calls.usages(self._chosen.subscription, region)
            except errors.HEARD as error:
                yield self._warning(
                    f"the quotas of {region} are not told: {error}",
                    "allow Microsoft.Compute/locations/usages/read in the subscription",
                )
                continue
            found = quotas.read(
                usages,
                provider=self._context.name,
                subscription=self._chosen.subscription,
                region=region,
                book=self._book,
                now=self._context.now(),
            )
            for quota in found:
                for sample in samples:
                    offer = sample.offer
                    short = quota.limit < _needs(quota, offer)
                    if short and offer.region == region and quota.pattern.matches(offer.key):
                        yield self._error(
                            f"{quota.name}: the limit is {quota.limit:g}, {offer.machine_type} needs "
                            f"{_needs(quota, offer):g}",
                            f"raise it at {quota.remedy}",
                            _pool(sample),
                        )

    # -- what pools send ---------------------------------------------------------------------------------------------

    async def samples(self, samples: Sequence[base.CreateRequest]) -> AsyncIterator[base.Finding]:
        """Size, image, tags and script of each pool's request."""
        for sample in samples:
            place = _pool(sample)
            pool, problems = settings.read_pool(sample.options)
            region = self._chosen.regions.get(sample.offer.region)
            problems += [
                f"no such region {name} among the provider's{options.nearest(name, self._chosen.regions)}"
                for name in pool.subnets
                if name not in self._chosen.regions
            ]
            for problem in problems:
                yield self._error(problem, "correct the pool's options for this provider", place)
            if problems or region is None:
                continue
            image = pool.image or sample.offer.image or self._default_image(sample)
            try:
                request.build(sample, chosen=self._chosen, pool=pool, region=region, image=image)
            except base.ProvisionError as error:
                yield self._error(str(error), "correct the pool or its tags", place)
                continue
            bad = False
            for finding in [
                *[one async for one in self._size(sample, place)],
                *[one async for one in self._image(sample, image, pool.plan or self._chosen.plan, place)],
            ]:
                bad = True
                yield finding
            if not bad:
                yield self._ok(f"{sample.offer.machine_type} in {sample.offer.region} with {image}", place)

    def _default_image(self, sample: base.CreateRequest) -> str:
        machine = self._book.machines.get(sample.offer.machine_type)
        return self._chosen.image or images.default(sample.offer.gpus, machine.arch if machine else "x86_64")

    async def _size(self, sample: base.CreateRequest, place: str) -> AsyncIterator[base.Finding]:
        offer = sample.offer
        sold = await self._available.sizes(offer.region)
        if sold is None:
            yield self._warning(
                f"the sizes of {offer.region} are not told",
                "allow Microsoft.Compute/skus/read in the subscription",
                place,
            )
            return
        entry = sold.get(offer.machine_type)
        if entry is None:
            near = options.nearest(offer.machine_type, sold)
            yield self._error(f"{offer.region} has no {offer.machine_type}{near}", "name another size or region", place)
        elif entry.restricted:
            yield self._error(
                f"{offer.machine_type} in {offer.region}: {entry.restricted}",
                f"ask for access at {quotas.REMEDY}, or name another size or region",
                place,
            )
        elif offer.zone != settings.NO_ZONE and offer.zone not in entry.zones:
            there = ", ".join(sorted(entry.zones)) or "none"
            yield self._error(
                f"{offer.machine_type} is not sold in zone {offer.zone} of {offer.region}; zones: {there}",
                "correct the region's zones",
                place,
            )

    async def _image(
        self, sample: base.CreateRequest, image: str, plan: settings.Plan | None, place: str
    ) -> AsyncIterator[base.Finding]:
        region, subscription = sample.offer.region, self._chosen.subscription
        urn = images.urn(image)
        try:
            if urn is None:
                if image.startswith("/subscriptions/"):
                    owner = names.subscription_of(image)
                    version = azure_calls.GALLERY_API if "/galleries/" in image else azure_calls.COMPUTE_API
                    if await self._calls.resource(owner, image, version) is None:
                        yield self._error(f"there is no image {image}", "correct the image", place)
                return
            if images.floating(image):
                newest = images.newest(await self._calls.image_versions(subscription, region, urn))
                urn = images.Urn(urn.publisher, urn.offer, urn.sku, newest) if newest else None
            found = await self._calls.image(subscription, region, urn) if urn is not None else None
        except errors.HEARD as error:
            told = errors.of(error, error_scopes.Target(self._context.name, subscription))
            if told.kind not in (base.Kind.NOT_FOUND, base.Kind.CONFIG):
                yield self._warning(f"image {image} cannot be looked at: {told}", "see the message", place)
                return
            found = None
        if found is None:
            yield self._error(f"{region} has no image {image}", "correct the image", place)
            return
        async for finding in self._terms(found.get("properties", {}).get("plan"), image, plan, place):
            yield finding

    async def _terms(
        self, sold_with: object, image: str, plan: settings.Plan | None, place: str
    ) -> AsyncIterator[base.Finding]:
        if not isinstance(sold_with, dict):
            return
        if plan is None:
            yield self._error(
                f"image {image} is sold with a plan",
                f"set plan: {{publisher: {sold_with.get('publisher')}, product: {sold_with.get('product')}, "
                f"name: {sold_with.get('name')}}}",
                place,
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
            yield self._warning(f"whether the terms of {image} are accepted is not told: {error}", accept, place)
            return
        if not (terms or {}).get("properties", {}).get("accepted"):
            yield self._error(f"the terms of {image} are not accepted", accept, place)

    def self_end(self) -> base.Finding:
        """What ends a machine when no daemon does."""
        if self._chosen.identity == settings.SYSTEM:
            return self._ok("a machine deletes itself by an identity of its own, which may delete nothing else")
        if self._chosen.identity:
            return self._ok(f"a machine deletes itself by {names.tail(self._chosen.identity)}")
        return self._warning(
            f"if the daemon never comes back: {self_end.RESIDUE_WITHOUT}",
            'set identity (docs/azure.md), or run "runnerd sweep --once" on a timer on another host',
        )


def _needs(quota: base.Quota, offer: base.Offer) -> float:
    return 1.0 if quota.unit is base.Unit.INSTANCES else float(max(offer.cpus, 1))


def _pool(sample: base.CreateRequest) -> str:
    return f"pools.{sample.tags.get(base.TAG_POOL, 'unknown')}"


def _sign_in_remedy(message: str, chosen: settings.Settings) -> str:
    if "AADSTS7000222" in message:
        return "the client secret has expired: make a new one"
    if "AADSTS7000215" in message:
        return "the client secret is wrong: it is the secret's value, not its id"
    if "AADSTS700016" in message or "AADSTS90002" in message:
        return "the client or the tenant is not the right one"
    if chosen.client_secret or chosen.certificate:
        return "correct tenant, client_id, and the secret or certificate"
    return "set tenant, client_id and client_secret, or run where a managed identity or the Azure CLI signs in"
