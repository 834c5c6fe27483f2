"""The three simulated clouds as skies: the real provisioner with the real SDK over each, answered in process.

A crash can fall between any two requests of one method: in the door of blocking SDKs, or in the sleep of Azure's
transport on either side of each request.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from provisioners import aws, azure, base, gcp
from tests.clouds import aws as clouds_aws
from tests.clouds import azure as clouds_azure
from tests.clouds import gcp as clouds_gcp
from tests.clouds import wire
from tests.simulation import life, skies

if TYPE_CHECKING:
    from tests.simulation.lab import Lab

#: The regions of each cloud that worlds are made of, and their zones.
PLACES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "aws": {"us-east-1": ("us-east-1a", "us-east-1b"), "us-west-2": ("us-west-2a",)},
    "gcp": {"us-central1": ("us-central1-a", "us-central1-b"), "europe-west4": ("europe-west4-a",)},
    "azure": {"eastus": ("1", "2"), "westeurope": ("1",)},
}
#: Two machine types with one T4 each; and the cheapest with another GPU.
TYPES: Mapping[str, tuple[str, ...]] = {
    "aws": ("g4dn.xlarge", "g4dn.2xlarge"),
    "gcp": ("n1-standard-4+nvidia-tesla-t4x1", "n1-standard-8+nvidia-tesla-t4x1"),
    "azure": ("Standard_NC4as_T4_v3", "Standard_NC8as_T4_v3"),
}
_SPAN = tuple[float, float]


class _Box:
    """What boxes of the three clouds have in common."""

    def __init__(self, tags: Mapping[str, str], *, ref: str, created_at: float, visible_at: float, market: str) -> None:
        self.ref = ref
        self.visible_at = visible_at
        self.tags = tags
        self.key = tags[base.TAG_ATTEMPT]
        self.name = tags[base.TAG_INSTANCE]
        self.created_at = created_at
        self.market = market


class Ec2Box(_Box):
    def __init__(self, cloud: clouds_aws.Ec2, instance: clouds_aws.Instance) -> None:
        super().__init__(
            instance.tags,
            ref=instance.ref,
            created_at=instance.created_at,
            visible_at=instance.visible_at,
            market=instance.market or "on-demand",
        )
        self._cloud = cloud
        self.instance = instance

    @property
    def user_data(self) -> str:
        return _text(self.instance.user_data)

    def running(self, now: float) -> bool:
        self._cloud.tick()
        return self.instance.state == "running"

    def rising(self, now: float) -> bool:
        self._cloud.tick()
        return self.instance.state in ("pending", "running")

    def live(self, now: float) -> bool:
        self._cloud.tick()
        return self.instance.state != "terminated"

    def failed(self, now: float) -> bool:
        # EC2 terminates it by itself.
        return False

    def ends_at(self) -> float:
        return float("inf") if self.instance.gone_at is None else self.instance.gone_at

    def power_off(self, now: float) -> None:
        if self.running(now):
            self._cloud.power_off(self.ref)

    def preempt(self) -> None:
        self._cloud.preempt(self.ref)


class GceBox(_Box):
    def __init__(self, cloud: clouds_gcp.Gce, instance: clouds_gcp.Instance) -> None:
        super().__init__(
            instance.tags,
            ref=instance.ref,
            created_at=instance.created_at,
            visible_at=instance.visible_at,
            market=instance.market,
        )
        self._cloud = cloud
        self.instance = instance

    @property
    def user_data(self) -> str:
        return self.instance.user_data

    def running(self, now: float) -> bool:
        self._cloud.tick()
        return self.instance.exists and self.instance.runs

    def rising(self, now: float) -> bool:
        self._cloud.tick()
        up = self.instance.status in ("PROVISIONING", "STAGING", "RUNNING")
        return self.instance.exists and up and not self.instance.failed

    def live(self, now: float) -> bool:
        self._cloud.tick()
        return self.instance.exists

    def failed(self, now: float) -> bool:
        self._cloud.tick()
        gone = self.instance.leaves_by == "DELETE" or self.instance.stuck
        return self.instance.exists and self.instance.failed and self.instance.status == "TERMINATED" and not gone

    def ends_at(self) -> float:
        if self.instance.failed:
            # What never ran never cost.
            return self.created_at
        return float("inf") if self.instance.gone_at is None else self.instance.gone_at

    def power_off(self, now: float) -> None:
        if self.running(now):
            self._cloud.power_off(self.ref)

    def preempt(self) -> None:
        self._cloud.preempt(self.ref)


class ArmBox(_Box):
    def __init__(self, cloud: clouds_azure.Arm, instance: clouds_azure.Instance) -> None:
        super().__init__(
            instance.tags,
            ref=f"{cloud.subscription}/{instance.group}/{instance.name}/{instance.vm_id}",
            created_at=instance.created_at,
            visible_at=instance.visible_at,
            market=instance.market,
        )
        self._cloud = cloud
        self.instance = instance
        self.ended_at = float("inf")

    @property
    def user_data(self) -> str:
        return _text(self.instance.user_data)

    def running(self, now: float) -> bool:
        self._cloud.tick()
        return self.instance.state == "running"

    def rising(self, now: float) -> bool:
        self._cloud.tick()
        # What fails to be allocated never was a machine.
        return self.instance.state in ("creating", "running") and not self.instance.fails_at < self.instance.runs_at

    def live(self, now: float) -> bool:
        self._cloud.tick()
        return self.instance.state != "gone"

    def failed(self, now: float) -> bool:
        self._cloud.tick()
        return self.instance.state == "failed"

    def ends_at(self) -> float:
        if self.instance.fails_at < self.instance.runs_at:
            # What never ran never cost.
            return self.created_at
        return self.ended_at

    def power_off(self, now: float) -> None:
        if self.running(now):
            self._cloud.power_off(self.instance.name)

    def preempt(self) -> None:
        self._cloud.preempt(self.instance.name)


def _text(user_data: bytes) -> str:
    return (gzip.decompress(user_data) if user_data.startswith(b"\x1f\x8b") else user_data).decode()


class CloudSky:
    """What the three have in common."""

    once_per_attempt = False

    def __init__(self, lab: Lab, *, latency: _SPAN) -> None:
        self._lab = lab
        self._latency = latency
        self._boxes: dict[Any, Any] = {}
        self.cloud: Any
        #: Every trouble that was made here, by its class.
        self.injected: list[tuple[str, Any]] = []
        #: Looks at each request before the cloud does.
        self.on_request: Callable[[wire.Request], None] = lambda request: None

    def handle(self, request: wire.Request) -> wire.Answer:
        self.on_request(request)
        told: wire.Answer = self.cloud.handle(request)
        # A machine that comes and goes between two looks is seen all the same.
        self.boxes()
        return told

    def provisioner(self, context: base.Context, options: Mapping[str, Any], one: life.Life) -> base.Provisioner:
        door = lambda width: life.Door(one, random.Random(self._lab.rng.random()), self._latency)  # noqa: E731
        return self._make(dataclasses.replace(context, offload=door), options, one)

    def _make(self, context: base.Context, options: Mapping[str, Any], one: life.Life) -> base.Provisioner:
        raise NotImplementedError

    def boxes(self) -> Iterable[skies.Box]:
        for instance in self._made():
            if instance not in self._boxes and instance.tags.get(base.TAG_CONTROLLER) == "sim":
                self._boxes[instance] = self._box(instance)
        return list(self._boxes.values())

    def _made(self) -> Iterable[Any]:
        raise NotImplementedError

    def _box(self, instance: Any) -> Any:
        raise NotImplementedError

    def left(self) -> list[str]:
        return sorted(self._left())

    def _left(self) -> Iterator[str]:
        raise NotImplementedError


class Ec2Sky(CloudSky):
    """Amazon EC2."""

    def __init__(self, lab: Lab, *, latency: _SPAN = (0.02, 0.2), **more: Any) -> None:
        super().__init__(lab, latency=latency)
        self.cloud: clouds_aws.Ec2 = clouds_aws.Ec2(lab.clock.now, random.Random(lab.rng.random()), **more)

    def _make(self, context: base.Context, options: Mapping[str, Any], one: life.Life) -> base.Provisioner:
        return aws.Aws(context, options, clouds_aws.mount(self.handle))

    def _made(self) -> Iterable[Any]:
        return list(self.cloud.account.instances.values())

    def _box(self, instance: Any) -> Ec2Box:
        return Ec2Box(self.cloud, instance)

    def _left(self) -> Iterator[str]:
        self.cloud.tick()
        account = self.cloud.account
        for region in PLACES["aws"]:
            backend = account.backend(region)
            yield from (f"volume {one.id}" for one in backend.volumes.values() if one.status == "available")
            yield from (f"interface {one.id}" for one in backend.enis.values() if one.status == "available")
        for request in account.spot_requests.values():
            owner = account.instances.get(request.instance)
            if request.state in ("open", "active") and (owner is None or not owner.alive):
                yield f"spot request {request.id}"

    def options(self, **more: Any) -> dict[str, Any]:
        regions = {
            region: {"subnets": [self.cloud.subnet(zone) for zone in zones]} for region, zones in PLACES["aws"].items()
        }
        return {"type": "aws", "account": self.cloud.account_id, "regions": regions, **more}


class GceSky(CloudSky):
    """Google Compute Engine."""

    def __init__(self, lab: Lab, *, latency: _SPAN = (0.02, 0.2), **more: Any) -> None:
        super().__init__(lab, latency=latency)
        regions = {name: "".join(zone[-1] for zone in zones) for name, zones in PLACES["gcp"].items()}
        seed = random.Random(lab.rng.random())
        self.cloud: clouds_gcp.Gce = clouds_gcp.Gce(now=lab.clock.now, rng=seed, regions=regions, **more)

    def _make(self, context: base.Context, options: Mapping[str, Any], one: life.Life) -> base.Provisioner:
        return gcp.Gcp(context, options, clouds_gcp.mount(self.handle, options))

    def _made(self) -> Iterable[Any]:
        return list(self.cloud.created)

    def _box(self, instance: Any) -> GceBox:
        return GceBox(self.cloud, instance)

    def _left(self) -> Iterator[str]:
        self.cloud.tick()
        ours = {"runnerd-controller": "sim"}.items()
        yield from (f"disk {one.name}" for one in self.cloud.disks.values() if not one.users)
        for address in self.cloud.addresses.values():
            if not address.users and ours <= address.labels.items():
                yield f"address {address.name}"

    def options(self, **more: Any) -> dict[str, Any]:
        regions = {
            region: {"zones": [zone.rpartition("-")[2] for zone in zones]} for region, zones in PLACES["gcp"].items()
        }
        return {"type": "gcp", "project": self.cloud.project, "regions": regions, **more}


class ArmSky(CloudSky):
    """Azure Resource Manager."""

    def __init__(self, lab: Lab, *, latency: _SPAN = (0.02, 0.2), **more: Any) -> None:
        super().__init__(lab, latency=latency)
        self.cloud: clouds_azure.Arm = clouds_azure.Arm(
            lab.clock.now, random.Random(lab.rng.random()), regions=dict(PLACES["azure"]), **more
        )
        self.cloud.on_change = self._changed
        self._handle = self.cloud.handle
        self.cloud.handle = self.handle  # type: ignore[method-assign]  # ``mount`` takes the cloud itself

    def handle(self, request: wire.Request) -> wire.Answer:
        self.on_request(request)
        told = self._handle(request)
        self.boxes()
        return told

    def _make(self, context: base.Context, options: Mapping[str, Any], one: life.Life) -> base.Provisioner:
        rng = random.Random(self._lab.rng.random())

        async def sleep(seconds: float) -> None:
            await one.cross("before or after a request to Azure")
            await context.sleep(seconds)

        inside = dataclasses.replace(context, sleep=sleep)
        clients = clouds_azure.mount(self.cloud, inside, options, latency=lambda: rng.uniform(*self._latency))
        return azure.Azure(context, options, clients)

    def _changed(self, instance: clouds_azure.Instance) -> None:
        self.boxes()
        box = self._boxes.get(instance)
        if box is not None and instance.state == "gone":
            box.ended_at = self._lab.clock.now()

    def _made(self) -> Iterable[Any]:
        return list(self.cloud.created)

    def _box(self, instance: Any) -> ArmBox:
        return ArmBox(self.cloud, instance)

    def _left(self) -> Iterator[str]:
        self.cloud.tick()
        yield from (f"{one.kind} {one.name}" for one in self.cloud.parts.values() if not one.owner)

    def options(self, **more: Any) -> dict[str, Any]:
        regions = {
            region: {"subnet": self.cloud.subnet(region), "zones": list(zones)}
            for region, zones in PLACES["azure"].items()
        }
        return {
            "type": "azure",
            "subscription": self.cloud.subscription,
            "resource_group": self.cloud.group,
            "regions": regions,
            **more,
        }


#: By type of the provider.
SKIES: Mapping[str, Callable[..., Any]] = {"aws": Ec2Sky, "gcp": GceSky, "azure": ArmSky}


def add(
    lab: Lab, kind: str, *, latency: _SPAN = (0.02, 0.2), cloud: Mapping[str, Any] | None = None, **options: Any
) -> Any:
    """Put a cloud over a world that has not started, and its provider, of the same name, into the configuration.

    ``cloud`` are arguments of the simulated cloud, ``options`` of the provider.
    """
    sky = lab.skies[kind] = SKIES[kind](lab, latency=latency, **(cloud or {}))
    lab.plan.providers += f"  {kind}: {json.dumps(sky.options(**options))}\n"
    return sky
