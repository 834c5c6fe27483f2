"""The blocklist: offers that are unavailable for a while because of a failure, and pools that rest after one.

A failure speaks for a place: one zone, one region, one account.  It blocks a wildcard pattern over
``provider/account/region/zone/type/market``, with ``a|b`` for either, for a time that depends on its class or that the
provider documents; everything under the pattern is skipped until then.  A seventh segment is the image: machines that
do not come up count against their image once other types fail with it too.  A preemption rests its place, so that the
next try goes elsewhere first.  Throttling is not here: it pauses an API, and the offer is as good as before.

The first part is pure.  :class:`Blocklist` listens to the ledger: a fault is part of the step that it caused, and what
it blocks is written in the same commit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from provisioners import base
from runnerd.model import Block, Instance, InstanceId, InstanceState, Reason
from runnerd.runtime import shared, step_facts

#: Seconds that a failure blocks its scope, first and at most; doubled while the same pattern fails again.
BLOCK_TIMES_S: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        base.Kind.CAPACITY: (60.0, 900.0),
        base.Kind.QUOTA: (120.0, 1800.0),
        base.Kind.PRICE: (300.0, 1800.0),
        base.Kind.AUTH: (120.0, 900.0),
        base.Kind.CONFIG: (300.0, 3600.0),
        base.Kind.TRANSIENT: (5.0, 120.0),
        base.Kind.NOT_FOUND: (300.0, 3600.0),
        # Failures on our side of the create call count against the offer as well.
        base.Kind.BOOT: (300.0, 3600.0),
        "gate": (900.0, 7200.0),
        "register": (120.0, 1800.0),
        "preempted": (300.0, 1800.0),
    }
)
#: Failures in a row, without one success between, until the image is suspected, and seconds that they may lie apart.
IMAGE_FAULTS, IMAGE_WINDOW_S = 3, 3600.0
#: Seconds for which a pool rests after so many instances in a row found no offer.
COOL_DOWN_S = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
#: Reasons that speak against an image as well as against the offer.
_IMAGE_REASONS = frozenset({base.Kind.BOOT.value, "gate", "register"})


# -- patterns and times --------------------------------------------------------------------------------------------


def blocking(offer: base.Offer, blocks: Iterable[Block]) -> Block | None:
    """Return the block that holds an offer longest, if any does."""
    longest: Block | None = None
    key = offer.key.with_image(offer.image)
    for block in blocks:
        if base.OfferPattern(block.pattern).matches(key) and (longest is None or block.until > longest.until):
            longest = block
    return longest


def block(
    offer: base.Offer, reason: str, failure: base.Failure, *, blocks: Iterable[Block], now: float
) -> Block | None:
    """Return the block that a failure earns; None when its class blocks nothing, or nothing more than is blocked.

    The reason is the failure's kind, or ours: ``gate``, ``register``, ``preempted``.  The time that the provider
    documents wins; otherwise it doubles when the same pattern failed for the same reason not long ago.
    """
    times = BLOCK_TIMES_S.get(reason)
    if times is None:
        return None
    first, most = times
    pattern = failure.scope or offer.key
    old = next((one for one in blocks if one.pattern == pattern), None)
    duration = first
    if old is not None and old.reason == reason and now - old.until < most:
        duration = min(most, max(first, 2 * (old.until - old.since)))
    until = now + (failure.block_for or duration)
    if old is not None and old.reason != reason and old.until > until:
        return None  # what is known already holds it longer
    return Block(pattern=pattern, reason=reason, until=until, since=now, detail=failure.message)


def offer_of(row: Instance) -> base.Offer | None:
    """Return the offer that an instance came from; None where that is not known whole."""
    key = base.OfferKey.read(row.offer)
    if key is None or key.market not in set(base.Market):
        return None
    return base.Offer.of(key, price=row.price, gpus=row.gpus, cpus=row.cpus, image=row.image)


# -- the recorder --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cooling:
    """A pool that found no offer: how often in a row, until when it rests, and why."""

    count: int = 0
    until: float = 0.0
    detail: str = ""


class Blocklist:
    """Turns faults and ends of instances into blocks, and lifts blocks whose cause has ended."""

    def __init__(self, runtime: shared.Runtime) -> None:
        self._runtime = runtime
        #: (provider, image) -> the machines that did not come up with it, and when, since one last did.
        self._image_faults: dict[tuple[str, str], dict[InstanceId, float]] = {}
        self._cooling: dict[str, Cooling] = {}
        runtime.rows.on_fault.append(self._judge)
        runtime.rows.on_step.append(self._stepped)
        runtime.rows.on_proof.append(self._proven)

    def cooling(self, pool: str) -> Cooling:
        """Return how long a pool rests because nothing could be bought for it a moment ago."""
        return self._cooling.get(pool, Cooling())

    async def lift(self, pattern: str) -> None:
        """Forget a block, durably."""
        await self._runtime.rows.lift_block(pattern)

    # -- faults ------------------------------------------------------------------------------------------------

    def _judge(self, row: Instance, fault: step_facts.Fault) -> list[Block]:
        """Return the blocks that a fault of an instance earns, for the commit of the step that it caused."""
        offer = offer_of(row)
        if offer is None:
            return []
        provider = self._runtime.providers.get(row.provider)
        # A reload takes a provider that has changed away for a moment: what is blocked there holds all the same.
        if fault.reason == base.Kind.QUOTA and provider is not None:
            provider.distrust_quotas()
        suspected = self._suspect_image(row, fault)
        return [*self._block(offer, fault.reason, fault.failure), *suspected]

    def _block(self, offer: base.Offer, reason: str, failure: base.Failure) -> list[Block]:
        now = self._runtime.clock.now()
        found = block(offer, reason, failure, blocks=self._runtime.rows.blocks.values(), now=now)
        return [] if found is None else [found]

    def _suspect_image(self, row: Instance, fault: step_facts.Fault) -> list[Block]:
        """Count a machine that did not come up against its image; a block once there are too many in a row."""
        offer = offer_of(row)
        if offer is None or not offer.image or fault.reason not in _IMAGE_REASONS:
            return []
        now = self._runtime.clock.now()
        key = (offer.provider, offer.image)
        recent = {id: at for id, at in self._image_faults.get(key, {}).items() if now - at < IMAGE_WINDOW_S}
        # By instance: a step whose commit fails is taken again.
        recent[row.id] = now
        self._image_faults[key] = recent
        if len(recent) < IMAGE_FAULTS:
            return []
        detail = f"{len(recent)} machines in a row did not come up with {offer.image}: {fault.failure.message}"
        self._runtime.alarms.ring("provider", offer.provider, "image-suspected", detail)
        scope = base.OfferPattern.of_image(offer.provider, offer.image)
        return self._block(offer, base.Kind.BOOT, base.Failure(base.Kind.BOOT, detail, scope=scope))

    # -- ends --------------------------------------------------------------------------------------------------

    def _stepped(self, old: Instance, new: Instance) -> None:
        if new.state is InstanceState.BOOTING:
            self._cooling.pop(new.pool, None)
        elif new.state is InstanceState.FAILED and new.reason is Reason.NO_OFFER:
            self._cool_down(new.pool, new.detail)
        came_up = new.state is InstanceState.READY and old.state is InstanceState.BOOTING
        if came_up and self._image_faults.pop((new.provider, new.image), {}):
            self._runtime.alarms.clear("provider", new.provider, "image-suspected")
        if new.state is InstanceState.GONE and new.offer:
            self._runtime.background.spawn(f"unblock after {new.id}", self._after(new))

    def _cool_down(self, pool: str, detail: str) -> None:
        count = self.cooling(pool).count + 1
        rest = COOL_DOWN_S[min(count, len(COOL_DOWN_S) - 1)]
        self._cooling[pool] = Cooling(count, self._runtime.clock.now() + rest, detail)

    async def _after(self, row: Instance) -> None:
        """Lift quotas that an instance which has gone counted under, and rest its place when it was preempted."""
        now = self._runtime.clock.now()
        for found in list(self._runtime.rows.blocks.values()):
            governs = base.OfferPattern(found.pattern).matches(row.offer)
            if governs and found.reason == base.Kind.QUOTA and found.until > now:
                await self.lift(found.pattern)
        if row.reason is Reason.PREEMPTED:
            await self._rest(row)
        self._runtime.wake()

    def _proven(self, old: Instance, new: Instance) -> None:
        if new.reason is Reason.PREEMPTED:
            self._runtime.background.spawn(f"rest after {new.id}", self._rest(new))

    async def _rest(self, row: Instance) -> None:
        """Block the place of an instance that its provider preempted."""
        offer = offer_of(row)
        if offer is None or row.provider not in self._runtime.providers:
            return
        failure = base.Failure(base.Kind.CAPACITY, f"{row.id} was preempted there")
        for found in self._block(offer, "preempted", failure):
            await self._runtime.rows.write_block(found)
