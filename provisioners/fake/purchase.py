"""The simulated cloud's side of a purchase: limits, refusals, and the future of the machine that is sold."""

from __future__ import annotations

import math
from collections.abc import Callable

from provisioners import base
from provisioners.catalogue import listed_types
from provisioners.fake import cloud as clouds
from provisioners.fake import faults, settings


class Seller:
    """Sells machines of one simulated cloud, as its options say."""

    def __init__(
        self,
        provider: str,
        chosen: settings.Settings,
        cloud: clouds.FakeCloud,
        chance: Callable[[str, str], float],
    ) -> None:
        self._provider = provider
        self._settings = chosen
        self._cloud = cloud
        #: ``chance(event, key)`` returns a number from 0 to 1 that is always the same for an event and a request.
        self._chance = chance

    def sell(self, request: base.CreateRequest, fired: list[faults.Fault], now: float) -> tuple[clouds.Machine, str]:
        """Create the machine, or return the one that the same request created, with ``created`` or ``existing``.

        ``fired`` are the faults that befall this call: they decide the machine's future.  Raises
        :class:`base.ProvisionError` as a cloud refuses.
        """
        chosen, name = self._settings, self._provider
        wait = self._cloud.take_token(now, rate=chosen.create_rate, burst=chosen.create_burst)
        if wait > 0:
            raise base.ProvisionError(
                base.Kind.THROTTLED,
                "too many create calls",
                scope=base.OfferPattern.of(name, chosen.account),
                code="RequestLimitExceeded",
                retry_after=wait,
            )
        listed_types.refuse_malformed(request, {})
        region = self._check_offer(request.offer)
        if chosen.idempotent:
            existing = self._cloud.by_key(request.key, now)
            if existing is not None:
                return existing, "existing"
        offer = request.offer
        gpus = chosen.machine_types[offer.machine_type].gpu_count
        whole_region = base.OfferPattern.of(name, chosen.account, region.name)
        limit, gpu_limit = region.quota.instances, region.quota.gpus
        if (limit is not None and self._cloud.used(region.name) >= limit) or (
            gpu_limit is not None and gpus and self._cloud.gpus_used(region.name) + gpus > gpu_limit
        ):
            raise base.ProvisionError(
                base.Kind.QUOTA,
                f"the account's limit in {region.name} is reached",
                scope=whole_region,
                code="QuotaExceeded",
            )
        of_type = region.capacity_by_type.get(offer.machine_type)
        if of_type is not None and self._cloud.used(region.name, offer.machine_type) >= of_type:
            raise base.ProvisionError(
                base.Kind.CAPACITY,
                f"{region.name} has no {offer.machine_type} free",
                scope=base.OfferPattern.of(name, chosen.account, region.name, machine_type=offer.machine_type),
                code="InsufficientCapacity",
            )
        if region.capacity is not None and self._cloud.used(region.name) >= region.capacity:
            raise base.ProvisionError(
                base.Kind.CAPACITY,
                f"{region.name} has no machine free",
                scope=whole_region,
                code="InsufficientCapacity",
            )
        machine = self._make(request, region, gpus, fired, now)
        self._cloud.add(machine)
        return machine, "created"

    def _check_offer(self, offer: base.Offer) -> settings.Region:
        region = self._settings.regions.get(offer.region)
        machine = self._settings.machine_types.get(offer.machine_type)
        ours = None
        sold = region is not None and offer.zone in region.zones and offer.machine_type in region.machine_types
        if sold and region is not None and machine is not None:
            ours = settings.priced(self._provider, self._settings, region, offer.zone, machine, offer.market)
        if region is None or ours is None or ours.key != offer.key:
            raise base.ProvisionError(base.Kind.CONFIG, f"{offer.key} is not sold here", code="NoSuchOffer")
        return region

    def _make(
        self,
        request: base.CreateRequest,
        region: settings.Region,
        gpus: int,
        fired: list[faults.Fault],
        now: float,
    ) -> clouds.Machine:
        """A machine with its whole future."""
        chosen, key = self._settings, request.key
        boots_at = now + region.boot.at(self._chance("boot", key))
        futures: list[tuple[float, base.EndKind, str]] = []
        stops_at = math.inf
        if chosen.self_end:
            futures.append((max(now, request.deadline), base.EndKind.SELF_ENDED, "its deadline passed"))
        for one in fired:
            if one.async_failure:
                breaks_at = now + (boots_at - now) * self._chance("break", key)
                futures.append((breaks_at, base.EndKind.FAILED, "Server.InternalError: broke while booting"))
            if one.preempt_after is not None and request.offer.market is base.Market.SPOT:
                after = one.preempt_after.at(self._chance("preempt", key))
                futures.append((now + after, base.EndKind.PREEMPTED, "Server.SpotInstanceTermination"))
            if one.stop_after is not None:
                stops_at = now + one.stop_after
        ends_at, kind, detail = min(futures, default=(math.inf, base.EndKind.UNKNOWN, ""))
        if stops_at < ends_at:
            # A machine that is switched off neither ends itself nor is preempted; it is billed until it is deleted.
            ends_at, kind, detail = math.inf, base.EndKind.UNKNOWN, ""
        else:
            stops_at = math.inf
        return clouds.Machine(
            ref=self._cloud.next_ref(),
            key=key,
            name=request.name,
            offer=request.offer.key,
            scope=request.offer.scope,
            region=region.name,
            machine_type=request.offer.machine_type,
            gpus=gpus,
            tags=dict(request.tags),
            created_at=now,
            visible_at=now + chosen.visibility_delay.at(self._chance("visible", key)),
            boots_at=boots_at,
            stops_at=stops_at,
            ending_at=ends_at,
            gone_at=ends_at,
            kind=kind,
            detail=detail,
            user_data=request.user_data,
        )
