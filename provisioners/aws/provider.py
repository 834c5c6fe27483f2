"""Amazon EC2: one RunInstances call for each attempt, in a zone that the caller chose.

The token of the call holds in that zone, so the same request again gives the same instance; everything else that can
be known of it is read back by its tags.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from provisioners import base, catalogue
from provisioners.aws import (
    availability,
    calls,
    checks,
    client,
    end_reasons,
    instances,
    launch,
    listing,
    names,
    offers,
    pricing,
    quotas,
    rates,
    request,
    settings,
    spot_prices,
    termination,
)
from provisioners.cloud_common import cache, provider
from provisioners.cloud_common import checks as findings

log = logging.getLogger(__name__)


class Aws(provider.CloudProvider[settings.Settings, settings.PoolOptions]):
    """One account of Amazon, in the regions that the options name."""

    cloud = "aws"

    def __init__(
        self, context: base.Context, options: Mapping[str, Any], clients_: client.Clients | None = None
    ) -> None:
        super().__init__(context, options)
        self._connections = (clients_ or client.Clients()).connect(self._settings, context)
        self._calls = calls.Calls(context, self._connections)
        self._available = availability.Availability(
            self._calls, cache.Cache(context.directory, availability.FILE, now=context.now, older=availability.older)
        )
        self._offers = offers.Offers(
            context.name,
            self._settings,
            self._catalog,
            self._available,
            spot_prices.SpotPrices(self._calls, now=context.now),
        )
        self._terminator = termination.Terminator(self._calls, sleep=context.sleep)
        self._lister = listing.Lister(
            self._calls,
            provider=context.name,
            account=self._settings.account,
            controller=context.controller,
        )
        self._launcher = launch.Launcher(
            context,
            self._settings,
            self._catalog,
            connections=self._connections,
            calls=self._calls,
            available=self._available,
            offers=self._offers,
        )

    @classmethod
    def read_settings(
        cls, options: Mapping[str, Any], catalog: catalogue.Catalog
    ) -> tuple[settings.Settings, list[str]]:
        return settings.read(options, catalog)

    def read_pool(self, options: Mapping[str, Any]) -> tuple[settings.PoolOptions, list[str]]:
        return settings.read_pool(options, self._catalog)

    @classmethod
    def validate_pool(cls, options: Mapping[str, Any]) -> list[str]:
        return settings.read_pool(options, catalogue.load("aws"))[1]

    @property
    def traits(self) -> base.Traits:
        return base.Traits(
            # A token is good for 24 hours after its instance ended; the clocks of two hosts and a slow call are not.
            replay_window=23 * 3600.0,
            # Listings lag behind by seconds as a rule; minutes have been seen.
            visibility_grace=180.0,
            self_end=True,
            idempotent_create=True,
            create_rate=rates.CREATE_RATE,
            # Documented are 5; what waited in between may arrive as one more.
            create_burst=4,
            paced_by_region=True,
            user_data_limit=request.USER_DATA_LIMIT,
            residue=(
                "nothing where the machine can shut itself down at its deadline: it is terminated then, with its disk "
                "and its network interface; one whose system hangs runs and is billed until it is swept"
            ),
        )

    def scopes(self) -> frozenset[base.Scope]:
        return frozenset(
            base.Scope.of(self._context.name, self._settings.account, one) for one in self._settings.regions
        )

    async def start(self) -> None:
        await super().start()
        self._calls.open()
        self._launcher.open()

    async def close(self) -> None:
        await self._terminator.close()
        self._calls.close()
        self._launcher.close()
        self._connections.close()

    # -- the calls --------------------------------------------------------------------------------------------------

    async def create(self, request: base.CreateRequest) -> base.InstanceView:
        return await self._launcher.create(request)

    async def describe(self, ref: str) -> base.InstanceView | None:
        parsed = names.parse(ref)
        instance = await self._instance(parsed)
        if parsed is None or instance is None:
            return None
        return instances.view(self._context.name, self._settings.account, parsed.region, instance)

    async def _instance(self, ref: names.Ref | None) -> dict[str, Any] | None:
        if ref is None:
            return None
        # As a filter, a handle that does not exist gives an empty list, and the large bucket pays.
        pages = await self._calls.pages(
            "DescribeInstances", ref.region, "Reservations", Filters=[{"Name": "instance-id", "Values": [ref.id]}]
        )
        return next(iter(instances.instances_of({"Reservations": pages})), None)

    async def delete(self, ref: str) -> None:
        parsed = names.parse(ref)
        if parsed is not None:
            await self._terminator.end(parsed.region, parsed.id)

    async def delete_residue(self, residue: base.Residue) -> None:
        await listing.remove(self._calls, residue)

    async def list_owned(self, also: frozenset[base.Scope] = frozenset()) -> base.Listing:
        return await self._lister.owned(self._settings.regions, also)

    async def end_reason(self, ref: str) -> base.EndReason:
        parsed = names.parse(ref)
        instance = await self._instance(parsed)
        if parsed is None or instance is None:
            return base.EndReason(base.EndKind.UNKNOWN)
        offer = instances.offer_of(self._context.name, self._settings.account, parsed.region, instance)
        return end_reasons.reason(offer, instance)

    async def console_log(self, ref: str) -> str | None:
        parsed = names.parse(ref)
        if parsed is None:
            return None
        ask = functools.partial(self._calls.call, "GetConsoleOutput", parsed.region, InstanceId=parsed.id)
        try:
            try:
                answer = await ask(Latest=True)
            except base.ProvisionError as error:
                if error.kind is not base.Kind.CONFIG:
                    raise
                # Types that are not built on Nitro know the last stored output only.
                answer = await ask()
        except base.ProvisionError as error:
            if error.kind is base.Kind.NOT_FOUND:
                return None
            raise
        return str(answer.get("Output") or "") or None

    # -- the account ------------------------------------------------------------------------------------------------

    async def quotas(self) -> list[base.Quota]:
        return await quotas.read(
            self._calls, self._catalog, self._settings, provider=self._context.name, now=self._context.now
        )

    async def check(self, samples: Sequence[base.CreateRequest] = ()) -> list[base.Finding]:
        examination = checks.Examination(
            context=self._context,
            settings=self._settings,
            catalog=self._catalog,
            calls=self._calls,
            available=self._available,
            body=self._launcher.body,
            findings=findings.Findings(self._context.name),
        )
        return await examination.run(samples)

    async def refresh_prices(self) -> list[base.Finding]:
        async def ask(parameters: dict[str, Any]) -> dict[str, Any]:
            return await self._calls.call(
                "GetProducts", pricing.ENDPOINT_REGION, service="pricing", group=rates.Group.PRICES, **parameters
            )

        return await pricing.refresh(
            self._catalog,
            regions=tuple(self._settings.regions),
            directory=self._context.directory,
            now=self._context.now(),
            place=f"providers.{self._context.name}",
            get_products=ask,
        )
