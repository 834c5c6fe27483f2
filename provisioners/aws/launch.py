"""One launch: a RunInstances call in one zone, and what its answer or its refusal means.

Its token holds in that zone, so the same request again gives the same instance.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from provisioners import base, catalogue
from provisioners.aws import (
    availability,
    calls,
    client,
    error_scopes,
    errors,
    instances,
    offers,
    request,
    settings,
)
from provisioners.cloud_common import calls as threads

log = logging.getLogger(__name__)


@dataclass(slots=True)
class ExhaustedSubnets:
    """Subnets that had no address left, for a while.  A hint: lost with the process, it costs one failed launch."""

    #: Subnet -> until when it is left out.
    until: dict[str, float] = field(default_factory=dict)

    def usable(self, subnets: list[str], now: float) -> list[str]:
        """Return the subnets that may have an address; all of them when none is known to have one."""
        return [subnet for subnet in subnets if self.until.get(subnet, 0.0) <= now] or subnets


class Launcher:
    """Sends launches, on threads of their own: a slow listing holds none back."""

    def __init__(
        self,
        context: base.Context,
        chosen: settings.Settings,
        catalog: catalogue.Catalog,
        *,
        connections: client.Connections,
        calls: calls.Calls,
        available: availability.Availability,
        offers: offers.Offers,
    ) -> None:
        self._context = context
        self._settings = chosen
        self._catalog = catalog
        self._connections = connections
        self._calls = calls
        self._available = available
        self._offers = offers
        self._exhausted = ExhaustedSubnets()
        self._threads = threads.Threads(context, client.WIDTH)

    def open(self) -> None:
        """Create the threads."""
        self._threads.open()

    def close(self) -> None:
        """Release the threads; launches under way end by themselves."""
        self._threads.close()

    async def create(self, request_: base.CreateRequest) -> base.InstanceView:
        """Send the launch once.  Raises what :meth:`base.Provisioner.create` raises."""
        offer = request_.offer
        body, subnets = await self._body(request_)
        subnet = body["NetworkInterfaces"][0]["SubnetId"]
        await self._calls.apart(self._connections.authenticate, "credentials")
        try:
            answer = await self._send(offer.region, body)
        except errors.SDK_ERRORS as error:
            failed = errors.classify(error, offer, what=f"RunInstances {offer.machine_type} in {offer.zone}")
            if failed.code in errors.BAD_KEYS:
                self._connections.renew()
            if failed.code == "IdempotentParameterMismatch":
                return await self._existing(request_, failed)
            if failed.code == "InsufficientFreeAddressesInSubnet":
                failed = self._without_address(subnet, subnets, failed)
            raise failed from error
        made = instances.instances_of(answer)[0]
        return instances.view(self._context.name, self._settings.account, offer.region, made)

    async def body(self, sample: base.CreateRequest) -> dict[str, Any]:
        """Return the parameters that a request is sent with.  Raises :class:`base.ProvisionError`."""
        return (await self._body(sample))[0]

    async def _body(self, request_: base.CreateRequest) -> tuple[dict[str, Any], list[str]]:
        """Return the parameters of RunInstances and the subnets that would do; refuse what Amazon would."""
        offer = request_.offer
        pool, problems = settings.read_pool(request_.options, self._catalog)
        problems += request.problems(request_)
        if not offer.image:
            problems.append("no image is known for it")
        if problems:
            raise base.ProvisionError(base.Kind.CONFIG, "; ".join(problems), code="BadRequest")
        subnets = await self._subnets(offer, pool, request_.key)
        subnet = self._exhausted.usable(subnets, self._context.now())[0]
        ami = await self._available.ami(offer.region, offer.image)
        region = self._settings.regions.get(offer.region)
        launch = pool.over(region.launch if region else self._settings.launch, offer.region)
        body = request.parameters(request_, launch, subnet=subnet, root_device=ami.root_device, root_size=ami.size)
        return body, subnets

    async def _subnets(self, offer: base.Offer, pool: settings.PoolOptions, key: str) -> list[str]:
        region = self._settings.regions.get(offer.region)
        zones = await self._offers.zones(region, pool) if region is not None else {}
        there = [subnet for subnet, zone in zones.items() if zone == offer.zone]
        if not there:
            raise base.ProvisionError(
                base.Kind.CONFIG,
                f"no configured subnet is in {offer.zone}",
                scope=error_scopes.Target(offer).pattern(error_scopes.ErrorScope.ZONE),
                code="InvalidSubnetID.NotFound",
            )
        return request.turned(there, key)

    async def _send(self, region: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send the one RunInstances call; raise what the SDK raises."""

        def send() -> dict[str, Any]:
            answer: dict[str, Any] = self._connections.client("ec2", region).run_instances(**body)
            return answer

        return await self._threads(send)

    async def _existing(self, request_: base.CreateRequest, failed: base.ProvisionError) -> base.InstanceView:
        """Return the instance of the same attempt, whose token was used before an option changed; else raise."""
        region = request_.offer.region
        names = (base.TAG_CONTROLLER, base.TAG_INSTANCE, base.TAG_ATTEMPT)
        filters = [{"Name": f"tag:{name}", "Values": [request_.tags[name]]} for name in names if name in request_.tags]
        try:
            pages = await self._calls.pages("DescribeInstances", region, "Reservations", Filters=filters)
        except base.ProvisionError as error:
            log.warning("%s: after %s: %s", self._context.name, failed.code, error)
            raise failed from error
        token = request.token(request_)
        for instance in instances.instances_of({"Reservations": pages}):
            if instance.get("ClientToken") == token:
                return instances.view(self._context.name, self._settings.account, region, instance)
        raise failed

    def _without_address(self, subnet: str, subnets: Sequence[str], failed: base.ProvisionError) -> base.ProvisionError:
        """Remember a subnet without a free address; the zone is unavailable only when all of its subnets have none."""
        now = self._context.now()
        self._exhausted.until[subnet] = now + failed.block_for
        if all(self._exhausted.until.get(one, 0.0) > now for one in subnets):
            return failed
        return base.ProvisionError(
            base.Kind.TRANSIENT, f"{failed}; {subnet} is left out for now", code=failed.code, block_for=1.0
        )
