"""Google Compute Engine for simulation, end-to-end tests and benchmarks."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

from provisioners import base, gcp
from tests.clouds import adapter, machines, wire
from tests.clouds.gcp import fault_classes
from tests.clouds.gcp.cloud import Gce
from tests.clouds.gcp.faults import Fault
from tests.clouds.gcp.mount import mount
from tests.clouds.gcp.state import Instance

_ACCELERATOR = "nvidia-tesla-t4"
_QUOTA = "NVIDIA_T4_GPUS"
#: Metadata key under which the provisioner keeps its tags.
_TAGS = "runnerd-tags"


class VM(adapter.VM):
    instance: Instance

    @property
    def gpus(self) -> tuple[str, int]:
        return machines.gpus_of(self.instance.type, self.instance.accelerator, self.instance.accelerators)

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
        leaves = self.instance.leaves_by == "DELETE" or self.instance.stuck
        return self.instance.exists and self.instance.failed and self.instance.status == "TERMINATED" and not leaves

    def ends_at(self) -> float:
        if self.instance.failed:
            # What never ran never cost.
            return self.created_at
        return float("inf") if self.instance.gone_at is None else self.instance.gone_at


class Adapter(adapter.CloudAdapter):
    """A project of Google Cloud."""

    name = "gcp"
    regions: ClassVar[Mapping[str, str]] = {"us-central1": "ab", "europe-west4": "a"}
    t4_types = (f"n1-standard-4+{_ACCELERATOR}x1", f"n1-standard-8+{_ACCELERATOR}x1")
    machine_type = "n1-standard-4"
    small_type = "n2-standard-2"
    varied_types = (
        *(f"g2-standard-{size}" for size in (4, 8, 12, 16, 32)),
        *(f"n2-standard-{size}" for size in (2, 4, 8, 16, 32, 48, 64)),
    )
    #: "Rate quotas" of Compute Engine: 1,500 a minute and project.
    documented = adapter.Rate(25.0, 25)
    burst = adapter.Burst(
        "us-central1",
        "us-west1",
        {"us-central1": "abf", "us-west1": "ab"},
        ("n1-standard-4",),
        adapter.Rate(24.0, 25),
    )
    fault = Fault
    fault_classes = fault_classes.CLASSES
    #: An operation fails a while after it was accepted.
    refusal_s = 8.0
    cloud: Gce

    @classmethod
    def simulated(cls, now: Callable[[], float], rng: random.Random, **more: Any) -> Self:
        return cls(Gce(now=now, rng=rng, regions=dict(cls.regions), **more))

    @classmethod
    def quick(cls, now: Callable[[], float], rng: random.Random, *, throttled: bool = True) -> Self:
        rates = None if throttled else dict.fromkeys(("write", "read", "list", "operations"), 10**9)
        cloud = Gce(now=now, rng=rng, rates=rates)
        cloud.iam.strict = True
        cloud.boot = sum(adapter.QUICK_BOOT_S) / 2
        return cls(cloud)

    def options(self, regions: Mapping[str, str] | None = None, **more: Any) -> dict[str, Any]:
        zones = {region: {"zones": list(letters)} for region, letters in (regions or self.regions).items()}
        return {"type": self.name, "project": self.cloud.project, "regions": zones, **more}

    def access(self, secret: adapter.Secret) -> dict[str, Any]:
        """Return the addresses and a new key file of the project's service account."""
        email = f"runnerd@{self.cloud.project}.iam.gserviceaccount.com"
        key = self.cloud.iam.key(email, token_uri=f"{self.url}/token", project=self.cloud.project)
        addresses = dict.fromkeys(("endpoint", "resource_manager", "iam"), self.url)
        return {"credentials": secret("gcp.json", json.dumps(key)), **addresses}

    def provisioner(
        self, context: base.Context, options: Mapping[str, Any], connection: adapter.Connection
    ) -> base.Provisioner:
        return gcp.Gcp(context, options, mount(connection.handle, options))

    def zones(self, region: str) -> list[str]:
        return [f"{region}-{letter}" for letter in self.regions[region]]

    # -- requests --------------------------------------------------------------------------------------------------

    def creates(self, request: wire.Request) -> tuple[str, str] | None:
        if request.method != "POST" or not request.path.endswith("/instances"):
            return None
        body = json.loads(request.body)
        items = {one["key"]: one["value"] for one in body.get("metadata", {}).get("items", [])}
        zone = request.path.split("/zones/")[1].split("/")[0]
        return json.loads(items[_TAGS])[base.TAG_INSTANCE], zone[:-2]

    def refused(self, request: wire.Request, answer: wire.Answer) -> Iterator[tuple[str, str]]:
        yield from super().refused(request, answer)
        if answer.status != 200 or "/operations" not in request.path:
            return
        body = json.loads(answer.body)
        names = {one.id: one.tags.get(base.TAG_INSTANCE, "") for one in self.cloud.created}
        for one in body.get("items", [body]):
            if one.get("status") == "DONE" and one.get("operationType") == "insert" and "error" in one:
                yield one["name"], names[one["targetId"]]

    def count_calls(self) -> int:
        return len(self.cloud.log)

    def squat(self, request: wire.Request) -> str | None:
        if not request.path.endswith("/instances"):
            return None
        body = json.loads(request.body)
        body["labels"] = {"owner": "a-colleague"}
        body["metadata"]["items"] = []
        body["disks"][0]["initializeParams"].pop("labels", None)
        self.cloud.handle(replace(request, url=request.url.partition("?")[0], body=json.dumps(body).encode()))
        return self.cloud.created[-1].ref

    def has(self, id: str) -> bool:
        return id in self.cloud.instances

    # -- machines and what belongs to them -------------------------------------------------------------------------

    def made(self) -> Iterable[Instance]:
        return list(self.cloud.created)

    def vm(self, instance: Instance) -> VM:
        uid = f"gcp-{instance.id}"
        return VM(self.cloud, instance, uid=uid, ref=instance.ref, id=instance.ref, market=instance.market)

    def orphans(self) -> Iterator[str]:
        self.cloud.tick()
        ours = {base.TAG_CONTROLLER: adapter.CONTROLLER}.items()
        yield from (f"disk {one.name}" for one in self.cloud.disks.values() if not one.users)
        for address in self.cloud.addresses.values():
            if not address.users and ours <= address.labels.items():
                yield f"address {address.name}"

    def costing(self) -> list[str]:
        self.cloud.tick()
        found = [f"{one.status} instance {one.zone}/{one.name}" for one in self.cloud.instances.values()]
        found += [f"disk {one.zone}/{one.name}" for one in self.cloud.disks.values()]
        return [*found, *(f"address {one.region}/{one.name}" for one in self.cloud.addresses.values())]

    def keys(self) -> list[str]:
        return [one.key for one in self.cloud.created]

    def retag(self, id: str, key: str, value: str) -> None:
        for item in self.cloud.instances[id].body["metadata"]["items"]:
            if item["key"] == _TAGS:
                item["value"] = json.dumps({**json.loads(item["value"]), key: value})

    def story(self, lines: int) -> str:
        calls = [f"{what} {status} {about}" for what, status, about in self.cloud.log if "ggregated" not in what]
        instances = [f"{one.ref} {one.type} {one.market} {one.status}" for one in self.cloud.created]
        return "\n".join([*calls[-lines:], *instances[-lines:]])

    # -- faults and limits -----------------------------------------------------------------------------------------

    def unstick(self) -> None:
        for vm in self.vms():
            if vm.instance.stuck:
                vm.instance.stuck = False
                if vm.instance.exists:
                    self.cloud.remove(vm.ref)

    def limit_t4s(self, region: str, machines: int) -> None:
        self.cloud.limits[region, _QUOTA] = float(machines)

    def narrow_quotas(self, rng: random.Random, few: int) -> None:
        for region in self.regions:
            self.cloud.limits[region, _QUOTA] = float(few)

    def limit_capacity(self, region: str, zone: str, machines: int) -> None:
        self.cloud.capacity[zone, _ACCELERATOR] = machines

    def dry_up(self, region: str) -> None:
        for zone in self.cloud.regions[region]:
            self.cloud.capacity[zone, _ACCELERATOR] = 0

    def refuse(self, region: str = "*") -> None:
        self.cloud.faults.append(
            Fault(region=region, fails_with="ZONE_RESOURCE_POOL_EXHAUSTED", fails_after=0.2, times=None)
        )

    def bad_day(self, room: int) -> adapter.BadDay:
        """No quota in one region, little room in the other, where an answer is lost."""
        self.cloud.limits |= {("us-central1", f"{kind}{_QUOTA}"): 0.0 for kind in ("", "PREEMPTIBLE_")}
        self.cloud.capacity["europe-west4-a", _ACCELERATOR] = room
        lost = Fault(region="europe-west4", lost="after")
        self.cloud.faults.append(lost)
        line = rf"europe-west4-a/{self.t4_types[0]}/spot gave no clear answer"
        return adapter.BadDay({"answer lost": lost}, (line,), refusals=("quota", _QUOTA))
