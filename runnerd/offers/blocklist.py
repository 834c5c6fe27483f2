"""What a failure says about offers: remembered as blocks, lifted when the reason for them ends.

A refusal speaks for as wide a place as its provider says.  A machine that was bought and did not come up speaks against
its offer; when machines of several kinds fail with one image, against the image.  A preemption gives its place a rest,
so that the next try goes elsewhere first.
"""

from __future__ import annotations

from provisioners import base
from runnerd import model
from runnerd.model import Instance, InstanceState, Reason
from runnerd.offers import ranking
from runnerd.runtime import shared

#: Failures in a row, without one success between, and seconds they may lie apart, until the image is blamed.
IMAGE_FAULTS, IMAGE_WINDOW = 3, 3600.0
#: What an agent reports as its failed stage -> the reason it counts under.
STAGES = {"gate": "gate", "runner": "register"}


class Blame:
    """Keeps the blocklist."""

    def __init__(self, runtime: shared.Runtime) -> None:
        self._runtime = runtime
        #: (provider, image) -> when machines with it failed to come up, since one last did.
        self._faults: dict[tuple[str, str], list[float]] = {}
        runtime.rows.on_step.append(self._stepped)
        runtime.rows.on_proof.append(self._proven)

    async def offer(self, offer: base.Offer, reason: str, failure: base.Failure) -> None:
        """Block what a failure speaks for; durable, so that a restart does not forget."""
        found = ranking.block(
            offer, reason, failure, blocks=self._runtime.rows.blocks.values(), now=self._runtime.clock.now()
        )
        if found is not None:
            await self._runtime.rows.write_block(found)
        if reason == base.Kind.QUOTA and offer.provider in self._runtime.providers:
            # What it told of its quotas was too kind, or is old.
            self._runtime.providers[offer.provider].quotas_at = 0.0

    def instance(self, row: Instance, reason: str, failure: base.Failure) -> None:
        """An instance that was bought turned out to be of no use."""
        offer = offer_of(row)
        if offer is None or row.provider not in self._runtime.providers:
            return
        self._runtime.background.spawn(f"blame {row.id}", self._instance(offer, reason, failure))

    async def _instance(self, offer: base.Offer, reason: str, failure: base.Failure) -> None:
        await self.offer(offer, reason, failure)
        if not offer.image or reason not in (base.Kind.BOOT, "gate", "register"):
            return
        now = self._runtime.clock.now()
        key = (offer.provider, offer.image)
        recent = [at for at in self._faults.get(key, []) if now - at < IMAGE_WINDOW]
        self._faults[key] = [*recent, now]
        if len(self._faults[key]) < IMAGE_FAULTS:
            return
        words = f"{len(self._faults[key])} machines in a row did not come up with {offer.image}: {failure.message}"
        scope = base.OfferPattern.of_image(offer.provider, offer.image)
        await self.offer(offer, base.Kind.BOOT, base.Failure(base.Kind.BOOT, words, scope=scope))
        self._runtime.alarms.ring("provider", offer.provider, "image-suspected", words)

    async def lift(self, pattern: str) -> None:
        """Forget a block, durably."""
        await self._runtime.rows.lift_block(pattern)

    def _stepped(self, old: Instance, new: Instance) -> None:
        came_up = new.state is InstanceState.READY and old.state is InstanceState.BOOTING
        if came_up and self._faults.pop((new.provider, new.image), []):
            self._runtime.alarms.clear("provider", new.provider, "image-suspected")
        if new.state is InstanceState.GONE and new.offer:
            self._runtime.background.spawn(f"after {new.id}", self._after(new))

    async def _after(self, row: Instance) -> None:
        """One of ours has gone: room under a quota, and a place that may want a rest."""
        now = self._runtime.clock.now()
        for block in list(self._runtime.rows.blocks.values()):
            governs = base.OfferPattern(block.pattern).matches(row.offer)
            if governs and block.reason == base.Kind.QUOTA and block.until > now:
                await self.lift(block.pattern)
        if row.reason is Reason.PREEMPTED:
            await self.preempted(row)
        self._runtime.wake()

    def _proven(self, old: Instance, new: Instance) -> None:
        if new.reason is Reason.PREEMPTED:
            self._runtime.background.spawn(f"rest {new.id}", self.preempted(new))

    async def preempted(self, row: Instance) -> None:
        """Its provider took it back: its place gets a rest."""
        offer = offer_of(row)
        if offer is not None and row.provider in self._runtime.providers:
            failure = base.Failure(base.Kind.CAPACITY, f"{row.id} was taken back there")
            await self.offer(offer, "preempted", failure)


def offer_of(row: model.Instance) -> base.Offer | None:
    """The offer that an instance came from; None where that is not known whole."""
    key = base.OfferKey.read(row.offer)
    if key is None or key.market not in set(base.Market):
        return None
    return base.Offer.of(key, price=row.price, gpus=row.gpus, cpus=row.cpus, image=row.image)
