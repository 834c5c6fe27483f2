"""Azure Resource Manager for simulation, end-to-end tests and benchmarks."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, Self

from provisioners import azure, base
from tests.clouds import adapter, machines, wire
from tests.clouds.azure import fault_classes
from tests.clouds.azure.cloud import CLIENT, SECRET, TENANT, Arm
from tests.clouds.azure.faults import Fault
from tests.clouds.azure.mount import mount
from tests.clouds.azure.mount import options as mount_options
from tests.clouds.azure.state import Instance

_FAMILY, _SPOT = "standardNCASv3_T4Family", "lowPriorityCores"
#: vCPUs of the cheapest T4 type.
_CPUS = 4


class VM(adapter.VM):
    instance: Instance
    #: Set when the cloud says so.
    ended_at = float("inf")

    @property
    def gpus(self) -> tuple[str, int]:
        return machines.gpus_of(self.instance.type)

    @property
    def gone_at(self) -> float | None:
        return self.instance.gone_at if self.instance.state == "gone" else None

    def running(self, now: float) -> bool:
        self._cloud.tick()
        return self.instance.state == "running"

    def rising(self, now: float) -> bool:
        self._cloud.tick()
        # What fails to be allocated never was a machine.
        return self.instance.state in ("creating", "running") and not self._never_ran

    def live(self, now: float) -> bool:
        self._cloud.tick()
        return self.instance.state != "gone"

    def failed(self, now: float) -> bool:
        self._cloud.tick()
        return self.instance.state == "failed"

    def ends_at(self) -> float:
        # What never ran never cost.
        return self.created_at if self._never_ran else self.ended_at

    @property
    def _never_ran(self) -> bool:
        return self.instance.fails_at < self.instance.runs_at


class Adapter(adapter.CloudAdapter):
    """A subscription of Azure."""

    name = "azure"
    regions: ClassVar[Mapping[str, str]] = {"eastus": "12", "westeurope": "1"}
    t4_types = ("Standard_NC4as_T4_v3", "Standard_NC8as_T4_v3")
    machine_type = "Standard_NC4as_T4_v3"
    small_type = "Standard_D2s_v5"
    varied_types = (
        *(f"Standard_NC{size}as_T4_v3" for size in (4, 8, 16)),
        *("Standard_NV36ads_A10_v5", "Standard_NC6s_v3", "Standard_NC24ads_A100_v4", "Standard_NC40ads_H100_v5"),
        *("Standard_D2s_v5", "Standard_D4s_v5", "Standard_D8s_v5", "Standard_F2s_v2", "Standard_F8s_v2"),
    )
    #: "Compute throttling" of Azure: 500 a minute and region.
    documented = adapter.Rate(500 / 60, 200)
    burst = adapter.Burst(
        "eastus",
        "westeurope",
        {"eastus": "123", "westeurope": "12"},
        ("Standard_NC4as_T4_v3",),
        adapter.Rate(500 / 60, 160),
    )
    fault = Fault
    fault_classes = fault_classes.CLASSES
    #: A size that it says it does not have rests for 23 hours; one that it could not allocate, for an hour.
    long_blocks = frozenset({"capacity"})
    late_failures_run = True
    tls = True
    cloud: Arm

    def __init__(self, cloud: Arm) -> None:
        super().__init__(cloud)
        cloud.on_change = self._changed

    @classmethod
    def simulated(cls, now: Callable[[], float], rng: random.Random, **more: Any) -> Self:
        regions = {region: tuple(digits) for region, digits in cls.regions.items()}
        return cls(Arm(now, rng, regions=regions, **more))

    @classmethod
    def quick(cls, now: Callable[[], float], rng: random.Random, *, throttled: bool = True) -> Self:
        return cls(
            Arm(
                now,
                rng,
                allocation=(0.1, 0.3),
                boot=adapter.QUICK_BOOT_S,
                deletion=adapter.QUICK_END_S,
                visible=adapter.QUICK_VISIBILITY_S,
            )
        )

    def options(self, regions: Mapping[str, str] | None = None, **more: Any) -> dict[str, Any]:
        chosen = regions or self.regions
        given = mount_options(self.cloud, *chosen)
        for region, digits in chosen.items():
            given["regions"][region]["zones"] = list(digits)
        return {"type": self.name, **given, **more}

    def access(self, secret: adapter.Secret) -> dict[str, Any]:
        return {
            "tenant": TENANT,
            "client_id": CLIENT,
            "client_secret": secret("azure.secret", SECRET),
            "endpoint": self.url,
            "authority": self.url.removeprefix("https://"),
            "ca": self.ca,
        }

    def provisioner(
        self, context: base.Context, options: Mapping[str, Any], connection: adapter.Connection
    ) -> base.Provisioner:
        latency = connection.latency()

        async def sleep(seconds: float) -> None:
            await connection.cross("before or after a request to Azure")
            await context.sleep(seconds)

        inside = dataclasses.replace(context, sleep=sleep)
        clients = mount(self.cloud, inside, options, latency=latency, handler=connection.handle)
        return azure.Azure(context, options, clients)

    # -- requests --------------------------------------------------------------------------------------------------

    def creates(self, request: wire.Request) -> tuple[str, str] | None:
        if request.method != "PUT" or "/virtualMachines/" not in request.path:
            return None
        body = json.loads(request.body)
        return body["tags"][base.TAG_INSTANCE], body["location"]

    def refused(self, request: wire.Request, answer: wire.Answer) -> Iterator[tuple[str, str]]:
        yield from super().refused(request, answer)
        if "/operations/" in request.path and answer.status == 200 and json.loads(answer.body)["status"] == "Failed":
            name = request.path.rpartition("/")[2]
            instance, creation = self.cloud.operations[name]
            if creation:
                yield name, instance.tags.get(base.TAG_INSTANCE, "")

    def count_calls(self) -> int:
        return len(self.cloud.calls)

    def squat(self, request: wire.Request) -> str | None:
        if "/virtualMachines/" not in request.path or request.path.endswith("/instanceView"):
            return None
        body = json.loads(request.body)
        body["tags"] = {"owner": "a-colleague"}
        self.cloud.handle(dataclasses.replace(request, body=json.dumps(body).encode()))
        return self.cloud.created[-1].name

    def has(self, id: str) -> bool:
        return any(one.name == id for one in self.cloud.instances)

    # -- machines and what belongs to them -------------------------------------------------------------------------

    def made(self) -> Iterable[Instance]:
        return list(self.cloud.created)

    def vm(self, instance: Instance) -> VM:
        ref = f"{self.cloud.subscription}/{instance.group}/{instance.name}/{instance.vm_id}"
        uid = f"azure-{instance.vm_id}"
        return VM(self.cloud, instance, uid=uid, ref=ref, id=instance.name, market=instance.market)

    def _changed(self, instance: Instance) -> None:
        vm = self._vm(instance)
        assert isinstance(vm, VM)
        if instance.state == "gone":
            vm.ended_at = self.cloud.now()

    def orphans(self) -> Iterator[str]:
        self.cloud.tick()
        yield from (f"{one.kind} {one.name}" for one in self.cloud.parts.values() if not one.owner)

    def costing(self) -> list[str]:
        found = [f"{one.state} machine {one.region}/{one.name}" for one in self.cloud.instances]
        return [*found, *(f"{one.kind} {one.region}/{one.name}" for one in self.cloud.parts.values())]

    def keys(self) -> list[str]:
        return [one.key for one in self.cloud.created]

    def retag(self, id: str, key: str, value: str) -> None:
        instance = self.cloud.find(id)
        instance.tags[key] = instance.body["tags"][key] = value

    def story(self, lines: int) -> str:
        calls = [f"{what} {status}" for what, status in self.cloud.calls if what not in ("list", "network", "disks")]
        instances = [
            f"{one.name} {one.region}/{one.zone} {one.type} {one.market} {one.state} {one.fails_with}"
            for one in self.cloud.created
        ]
        return "\n".join([*calls[-lines:], *instances[-lines:]])

    # -- faults and limits -----------------------------------------------------------------------------------------

    def limit_t4s(self, region: str, machines: int) -> None:
        self.cloud.quota[region, _FAMILY] = _CPUS * machines

    def narrow_quotas(self, rng: random.Random, few: int) -> None:
        for region in self.regions:
            self.cloud.quota[region, _FAMILY] = self.cloud.quota[region, _SPOT] = 2 * _CPUS * few

    def limit_capacity(self, region: str, zone: str, machines: int) -> None:
        self.cloud.capacity[f"{region}/{zone}/*/*"] = machines

    def dry_up(self, region: str) -> None:
        self.cloud.capacity[f"{region}/*/*/*"] = 0

    def refuse(self, region: str = "*") -> None:
        self.cloud.faults.append(Fault(region=region, code="SkuNotAvailable", status=409, times=None))

    def bad_day(self, room: int) -> adapter.BadDay:
        """No room in one region, little in the other, where an answer is lost."""
        self.cloud.capacity |= {"eastus/*/*/*": 0, "westeurope/*/*/*": room}
        lost = Fault(region="westeurope", lost="after")
        self.cloud.faults.append(lost)
        lines = (
            r"eastus/1/Standard_NC4as_T4_v3/spot refused (capacity: ZonalAllocationFailed",
            # The lost answer is found out within the call.
            r"westeurope/1/Standard_NC4as_T4_v3/spot created an instance",
        )
        return adapter.BadDay({"answer lost": lost}, lines, blocked=True)
