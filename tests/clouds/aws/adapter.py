"""Amazon EC2 for simulation, end-to-end tests and benchmarks."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self
from urllib.parse import parse_qsl, urlencode

from provisioners import aws, base
from tests.clouds import adapter, machines, wire
from tests.clouds.aws import fault_classes
from tests.clouds.aws.account import Instance
from tests.clouds.aws.cloud import KEYS, Ec2
from tests.clouds.aws.faults import Fault
from tests.clouds.aws.mount import mount

#: Service Quotas' codes of the vCPUs of G and VT instances.
_ON_DEMAND, _SPOT = "L-DB2E81BA", "L-3819A6DF"
#: vCPUs of the cheapest T4 type.
_CPUS = 4
_G4DN = ("xlarge", "2xlarge", "4xlarge", "8xlarge", "16xlarge")
_C6I = ("large", "xlarge", "2xlarge", "4xlarge", "8xlarge", "12xlarge", "16xlarge")


class VM(adapter.VM):
    instance: Instance

    @property
    def gpus(self) -> tuple[str, int]:
        return machines.gpus_of(self.instance.type)

    def running(self, now: float) -> bool:
        self._cloud.tick()
        return self.instance.state == "running"

    def rising(self, now: float) -> bool:
        self._cloud.tick()
        return self.instance.state in ("pending", "running")

    def live(self, now: float) -> bool:
        self._cloud.tick()
        return self.instance.state != "terminated"

    def ends_at(self) -> float:
        return float("inf") if self.instance.gone_at is None else self.instance.gone_at


class Adapter(adapter.CloudAdapter):
    """An account of Amazon EC2."""

    name = "aws"
    regions: ClassVar[Mapping[str, str]] = {"us-east-1": "ab", "us-west-2": "a"}
    t4_types = ("g4dn.xlarge", "g4dn.2xlarge")
    machine_type = "g4dn.xlarge"
    small_type = "c6i.large"
    varied_types = (*(f"g4dn.{size}" for size in _G4DN), *(f"c6i.{size}" for size in _C6I))
    #: "Throttle limits" of EC2.
    documented = adapter.Rate(2.0, 5, by_region=True)
    burst = adapter.Burst(
        "us-east-1",
        "us-west-2",
        {"us-east-1": "abc", "us-west-2": "ab"},
        ("g4dn.xlarge", "g4dn.2xlarge"),
        adapter.Rate(2.0, 4, by_region=True),
    )
    fault = Fault
    fault_classes = fault_classes.CLASSES
    keeps_consoles = True
    environment: ClassVar[Mapping[str, str]] = {
        "AWS_ACCESS_KEY_ID": KEYS[0],
        "AWS_SECRET_ACCESS_KEY": KEYS[1],
        # Nothing of this host is a credential.
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }
    cloud: Ec2

    @classmethod
    def simulated(cls, now: Callable[[], float], rng: random.Random, **more: Any) -> Self:
        return cls(Ec2(now, rng, **more))

    @classmethod
    def quick(cls, now: Callable[[], float], rng: random.Random, *, throttled: bool = True) -> Self:
        return cls(
            Ec2(
                now,
                rng,
                boot=adapter.QUICK_BOOT_S,
                ending=adapter.QUICK_END_S,
                visibility=adapter.QUICK_VISIBILITY_S,
                throttled=throttled,
            )
        )

    def options(self, regions: Mapping[str, str] | None = None, **more: Any) -> dict[str, Any]:
        subnets = {
            region: {"subnets": [self.cloud.subnet(f"{region}{letter}") for letter in letters]}
            for region, letters in (regions or self.regions).items()
        }
        return {"type": self.name, "regions": subnets, **more}

    def simulated_options(self, **more: Any) -> dict[str, Any]:
        return self.options(account=self.cloud.account_id, **more)

    def access(self, secret: adapter.Secret) -> dict[str, Any]:
        return {"endpoint": self.url}

    def provisioner(
        self, context: base.Context, options: Mapping[str, Any], connection: adapter.Connection
    ) -> base.Provisioner:
        return aws.Aws(context, options, mount(connection.handle))

    def zones(self, region: str) -> list[str]:
        return [f"{region}{letter}" for letter in self.regions[region]]

    # -- requests --------------------------------------------------------------------------------------------------

    def creates(self, request: wire.Request) -> tuple[str, str] | None:
        if b"Action=RunInstances" not in request.body or b"DryRun=true" in request.body:
            return None
        form = dict(parse_qsl(request.body.decode(), keep_blank_values=True))
        tags = [
            key.removesuffix(".Key")
            for key, value in form.items()
            if key.endswith(".Key") and value == base.TAG_INSTANCE
        ]
        region = request.header("Authorization").partition("Credential=")[2].split("/")[2:3]
        return form[f"{tags[0]}.Value"], "".join(region)

    def count_calls(self) -> int:
        return len(self.cloud.calls)

    def squat(self, request: wire.Request) -> str | None:
        form = dict(parse_qsl(request.body.decode()))
        if form.get("Action") != "RunInstances":
            return None
        # Names are no keys at EC2: only the tags tell the owner.
        other = {**form, "ClientToken": "somebody-else"}
        other |= {key: "another-controller" for key, value in form.items() if value == adapter.CONTROLLER}
        self.cloud.handle(replace(request, body=urlencode(other).encode()))
        return list(self.cloud.instances)[-1]

    def has(self, id: str) -> bool:
        return self.cloud.instances[id].alive

    # -- machines and what belongs to them -------------------------------------------------------------------------

    def made(self) -> Iterable[Instance]:
        return list(self.cloud.account.instances.values())

    def vm(self, instance: Instance) -> VM:
        uid = f"aws-{instance.id}"
        return VM(self.cloud, instance, uid=uid, ref=instance.ref, id=instance.id, market=instance.market)

    def orphans(self) -> Iterator[str]:
        self.cloud.tick()
        account = self.cloud.account
        for region in self.regions:
            backend = account.backend(region)
            yield from (f"volume {one.id}" for one in backend.volumes.values() if one.status == "available")
            yield from (f"interface {one.id}" for one in backend.enis.values() if one.status == "available")
        for request in account.spot_requests.values():
            owner = account.instances.get(request.instance)
            if request.state in ("open", "active") and (owner is None or not owner.alive):
                yield f"spot request {request.id}"

    def costing(self) -> list[str]:
        account = self.cloud.account
        found = [f"{one.state} instance {one.id} {one.tags.get(base.TAG_INSTANCE)}" for one in self.cloud.alive]
        found += [
            f"{one.state} spot request {one.id}" for one in account.spot_requests.values() if one.state == "active"
        ]
        for region, backend in account._backends.items():
            found += [f"volume {one.id} in {region}, {one.status}" for one in backend.volumes.values()]
            found += [f"interface {one.id} in {region}, {one.status}" for one in backend.enis.values()]
        return found

    def keys(self) -> list[str]:
        return [one.token for one in self.cloud.created]

    def retag(self, id: str, key: str, value: str) -> None:
        instance = self.cloud.find(id)
        instance.tags[key] = value
        # Its description is composed once.
        instance._told = {}

    def story(self, lines: int) -> str:
        calls = [
            f"{one.operation} {one.region} {one.outcome}"
            for one in self.cloud.calls
            if not one.operation.startswith("Describe")
        ]
        instances = [
            f"{one.id} {one.zone} {one.type} {one.market} {one.state} {one.reason} {one.tags.get(base.TAG_INSTANCE)}"
            for one in self.cloud.instances.values()
        ]
        return "\n".join([*calls[-lines:], *instances[-lines:]])

    def close(self) -> None:
        self.cloud.close()

    # -- faults and limits -----------------------------------------------------------------------------------------

    def limit_t4s(self, region: str, machines: int) -> None:
        self.cloud.quotas[region, _ON_DEMAND] = _CPUS * machines

    def narrow_quotas(self, rng: random.Random, few: int) -> None:
        for region in self.regions:
            self.cloud.quotas[region, _ON_DEMAND] = 2 * _CPUS * few
            self.cloud.quotas[region, _SPOT] = 2 * _CPUS * rng.choice((0, 1, few))

    def limit_capacity(self, region: str, zone: str, machines: int) -> None:
        self.cloud.capacity[f"{zone}/*/*"] = machines

    def dry_up(self, region: str) -> None:
        # No spot market anywhere: at two requests a second there would be nothing to fail over from.
        self.cloud.capacity |= {f"{region}*": 0, "*/spot": 0}

    def refuse(self, region: str = "*") -> None:
        self.cloud.faults.append(Fault(region=region, code="InsufficientInstanceCapacity", times=None))

    def bad_day(self, room: int) -> adapter.BadDay:
        """Two regions at the end of quota and capacity; a third sells at list price and loses an answer."""
        self.cloud.capacity["us-east-1*"] = 0
        found = {
            "at quota": Fault(region="us-east-2", market="spot", code="MaxSpotInstanceCountExceeded", times=None),
            "at another quota": Fault(region="us-east-2", market="on-demand", code="VcpuLimitExceeded", times=None),
            "spot refused": Fault(region="us-west-2", market="spot", code="InsufficientInstanceCapacity", times=None),
            "answer lost": Fault(region="us-west-2", market="on-demand", lost="after"),
        }
        self.cloud.faults.extend(found.values())
        lines = (
            r"us-east-1a/g4dn.xlarge/spot refused (capacity: InsufficientInstanceCapacity",
            r"us-east-2a/g4dn.xlarge/spot refused (quota: MaxSpotInstanceCountExceeded",
            r"us-west-2a/g4dn.xlarge/spot refused (capacity: InsufficientInstanceCapacity",
            r"us-west-2a/g4dn.xlarge/on-demand gave no clear answer",
        )
        regions = {"us-east-1": "ab", "us-east-2": "a", "us-west-2": "a"}
        return adapter.BadDay(found, lines, outcomes=("capacity", "quota"), blocked=True, regions=regions)
