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
    calls,
    checks,
    client,
    errors,
    facts,
    instances,
    listing,
    offers,
    places,
    pricing,
    quotas,
    request,
    settings,
    spot,
    terminator,
)
from provisioners.offload import Offload

log = logging.getLogger(__name__)


class Aws(base.Basics):
    """One account of Amazon, in the regions that the options name."""

    def __init__(
        self, context: base.Context, options: Mapping[str, Any], clients_: client.Clients | None = None
    ) -> None:
        self._context = context
        self._book = catalogue.load("aws")
        self._settings, problems = settings.read(options, self._book)
        if problems:
            raise ValueError("; ".join(problems))
        self._connections = (clients_ or client.Clients()).connect(self._settings, context)
        self._calls = calls.Calls(context, self._connections)
        self._facts = facts.Facts(context.directory)
        self._places = places.Places(self._calls, self._facts, now=context.now)
        self._market = offers.Market(
            context.name, self._settings, self._book, self._places, spot.SpotPrices(self._calls, now=context.now)
        )
        self._terminator = terminator.Terminator(self._calls, sleep=context.sleep)
        self._lister = listing.Lister(
            self._calls,
            provider=context.name,
            account=self._settings.account,
            controller=context.controller,
        )
        self._exhausted = facts.Exhausted()
        self._launches: Offload | None = None

    @classmethod
    def validate(cls, options: Mapping[str, Any]) -> list[str]:
        return settings.read(options, catalogue.load("aws"))[1]

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
            create_rate=2.0,
            # Documented are 5; what waited in between may arrive as one more.
            create_burst=4,
            paced_by_region=True,
            user_data_limit=request.USER_DATA_LIMIT,
            residue=(
                "nothing where the machine can shut itself down at its deadline: it is terminated then, with its disk "
                "and its network interface; one whose system hangs runs and costs until somebody sweeps"
            ),
        )

    def scopes(self) -> frozenset[str]:
        return frozenset(f"{self._context.name}/{self._settings.account}/{one}/*" for one in self._settings.regions)

    async def start(self) -> None:
        problem = self._book.load_renewed(self._context.directory)
        if problem:
            log.warning("%s: %s", self._context.name, problem)
        self._calls.open()
        if self._launches is None:
            self._launches = self._context.offload(client.WIDTH)

    async def close(self) -> None:
        await self._terminator.close()
        self._calls.close()
        if self._launches is not None:
            self._launches.close(wait=False)
            self._launches = None
        self._connections.close()

    # -- offers -----------------------------------------------------------------------------------------------------

    async def offers(self, shape: base.Shape, options: Mapping[str, Any] = base.NO_OPTIONS) -> list[base.Offer]:
        return await self._market.offers(shape, options)

    def why_none(self, shape: base.Shape, options: Mapping[str, Any] = base.NO_OPTIONS) -> str:
        return self._market.why_none(shape, options)

    # -- the calls --------------------------------------------------------------------------------------------------

    async def create(self, request_: base.CreateRequest) -> base.InstanceView:
        offer = request_.offer
        body, subnets = await self._body(request_)
        subnet = body["NetworkInterfaces"][0]["SubnetId"]
        await self._calls.apart(self._connections.authenticate, "credentials")
        try:
            answer = await self._launch(offer.region, body)
        except errors.SDK_ERRORS as error:
            failed = errors.classify(error, offer, what=f"RunInstances {offer.machine_type} in {offer.zone}")
            if failed.code in errors.BAD_KEYS:
                self._connections.renew()
            if failed.code == "IdempotentParameterMismatch":
                return await self._again(request_, failed)
            if failed.code == "InsufficientFreeAddressesInSubnet":
                failed = self._full(subnet, subnets, failed)
            raise failed from error
        made = instances.instances_of(answer)[0]
        return instances.view(self._context.name, self._settings.account, offer.region, made)

    async def _body(self, request_: base.CreateRequest) -> tuple[dict[str, Any], list[str]]:
        """The parameters of RunInstances, and the subnets that would do; refuses what Amazon would."""
        offer = request_.offer
        pool, problems = settings.read_pool(request_.options, self._book)
        problems += request.problems(request_)
        if not offer.image:
            problems.append("no image is known for it")
        if problems:
            raise base.ProvisionError(base.Kind.CONFIG, "; ".join(problems), code="BadRequest")
        subnets = await self._subnets(offer, pool, request_.key)
        subnet = self._exhausted.open(subnets, self._context.now())[0]
        ami = await self._places.ami(offer.region, offer.image)
        region = self._settings.regions.get(offer.region)
        launch = pool.over(region.launch if region else self._settings.launch, offer.region)
        body = request.parameters(request_, launch, subnet=subnet, root_device=ami.root_device, root_size=ami.size)
        return body, subnets

    async def _sample_body(self, sample: base.CreateRequest) -> dict[str, Any]:
        return (await self._body(sample))[0]

    async def _subnets(self, offer: base.Offer, pool: settings.PoolOptions, key: str) -> list[str]:
        region = self._settings.regions.get(offer.region)
        zones = await self._market.zones(region, pool) if region is not None else {}
        there = [subnet for subnet, zone in zones.items() if zone == offer.zone]
        if not there:
            raise base.ProvisionError(
                base.Kind.CONFIG,
                f"no configured subnet is in {offer.zone}",
                scope=errors.scope_of(errors.Reach.ZONE, offer),
                code="InvalidSubnetID.NotFound",
            )
        return request.turned(there, key)

    async def _launch(self, region: str, body: dict[str, Any]) -> dict[str, Any]:
        """The one RunInstances call; it raises what the SDK raises."""
        if self._launches is None:
            self._launches = self._context.offload(client.WIDTH)

        def send() -> dict[str, Any]:
            answer: dict[str, Any] = self._connections.client("ec2", region).run_instances(**body)
            return answer

        return await self._launches(send)

    async def _again(self, request_: base.CreateRequest, failed: base.ProvisionError) -> base.InstanceView:
        """The token was used for another request: that of the same attempt, before an option changed."""
        region = request_.offer.region
        names = (base.TAG_CONTROLLER, base.TAG_INSTANCE, base.TAG_ATTEMPT)
        reservations = await self._found(
            region,
            [{"Name": f"tag:{name}", "Values": [request_.tags[name]]} for name in names if name in request_.tags],
            failed,
        )
        taken = request.token(request_)
        for one in reservations:
            if one.get("ClientToken") == taken:
                return instances.view(self._context.name, self._settings.account, region, one)
        raise failed

    async def _found(
        self, region: str, filters: list[dict[str, Any]], failed: base.ProvisionError
    ) -> list[dict[str, Any]]:
        try:
            pages = await self._calls.pages("DescribeInstances", region, "Reservations", Filters=filters)
        except base.ProvisionError as error:
            log.warning("%s: after %s: %s", self._context.name, failed.code, error)
            raise failed from error
        return instances.instances_of({"Reservations": pages})

    def _full(self, subnet: str, subnets: Sequence[str], failed: base.ProvisionError) -> base.ProvisionError:
        """A subnet has no address left; the zone is to blame only when all of its subnets have none."""
        now = self._context.now()
        self._exhausted.until[subnet] = now + failed.block_for
        if all(self._exhausted.until.get(one, 0.0) > now for one in subnets):
            return failed
        return base.ProvisionError(
            base.Kind.TRANSIENT, f"{failed}; {subnet} is left out for now", code=failed.code, block_for=1.0
        )

    async def describe(self, ref: str) -> base.InstanceView | None:
        region, instance = await self._instance(ref)
        if instance is None:
            return None
        return instances.view(self._context.name, self._settings.account, region, instance)

    async def _instance(self, ref: str) -> tuple[str, dict[str, Any] | None]:
        region, id = instances.split(ref)
        if not region:
            return "", None
        # As a filter, a handle that does not exist gives an empty list, and the large bucket pays.
        pages = await self._calls.pages(
            "DescribeInstances", region, "Reservations", Filters=[{"Name": "instance-id", "Values": [id]}]
        )
        return region, next(iter(instances.instances_of({"Reservations": pages})), None)

    async def delete(self, ref: str) -> None:
        region, id = instances.split(ref)
        if region:
            await self._terminator.end(region, id)

    async def delete_residue(self, residue: base.Residue) -> None:
        await listing.remove(self._calls, residue)

    async def list_owned(self, also: frozenset[str] = frozenset()) -> base.Listing:
        return await self._lister.everywhere(self._settings.regions, also)

    async def end_reason(self, ref: str) -> base.EndReason:
        region, instance = await self._instance(ref)
        if instance is None:
            return base.EndReason(base.EndKind.UNKNOWN)
        return instances.end_of(
            instances.offer_of(self._context.name, self._settings.account, region, instance), instance
        )

    async def console_log(self, ref: str) -> str | None:
        region, id = instances.split(ref)
        if not region:
            return None
        ask = functools.partial(self._calls.call, "GetConsoleOutput", region, InstanceId=id)
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
            self._calls, self._book, self._settings, provider=self._context.name, now=self._context.now
        )

    async def check(self, samples: Sequence[base.CreateRequest] = ()) -> list[base.Finding]:
        examination = checks.Examination(
            context=self._context,
            settings=self._settings,
            book=self._book,
            calls=self._calls,
            places=self._places,
            body=self._sample_body,
        )
        return await examination.run(samples)

    async def refresh_prices(self) -> list[base.Finding]:
        async def ask(parameters: dict[str, Any]) -> dict[str, Any]:
            return await self._calls.call(
                "GetProducts", pricing.ENDPOINT_REGION, service="pricing", group=calls.Group.PRICES, **parameters
            )

        return await pricing.refresh(
            self._book,
            regions=tuple(self._settings.regions),
            directory=self._context.directory,
            now=self._context.now(),
            place=f"providers.{self._context.name}",
            get_products=ask,
        )
