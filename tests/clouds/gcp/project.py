"""One simulated project: what is in it, and what happens there as time passes.

It is synchronous and deterministic: what happens depends on the clock it is given, its seed and the calls.  Time moves
only by that clock; whatever is due is carried out before the next call is answered, or by :meth:`Project.tick`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from tests.clouds.gcp import hardware, iam
from tests.clouds.gcp.faults import Fault
from tests.clouds.gcp.state import ROOT, Address, Disk, Instance, Operation

#: Region -> letters of its zones.
REGIONS = {"us-central1": "abcf", "us-east1": "bcd", "us-west1": "abc", "europe-west4": "abc", "europe-west1": "bcd"}
#: Calls a minute by group of methods ("Rate quotas").
RATES = {"write": 1500, "read": 1500, "list": 1500, "operations": 1500}
#: Seconds: a launch boots; a stop and a delete take; a preemption takes.
_BOOT, _STOP, DELETE, _PREEMPT = 8.0, 10.0, 5.0, 30.0


class Project:
    """The resources of a project, and what only the cloud, the guests and colleagues do."""

    def __init__(
        self,
        *,
        now: Callable[[], float],
        rng: random.Random | None = None,
        project: str = "acme-ml",
        regions: Mapping[str, str] | None = None,
        rates: Mapping[str, int] | None = None,
    ) -> None:
        self.now = now
        self.random = rng or random.Random(7)
        self.project = project
        self.regions = {
            name: tuple(f"{name}-{letter}" for letter in letters) for name, letters in (regions or REGIONS).items()
        }
        self.iam = iam.Directory(now, self.random)
        self.faults: list[Fault] = []
        self._instances: dict[str, Instance] = {}
        #: Every instance that ever was, each with the request id it was made with.
        self.created: list[Instance] = []
        self.disks: dict[str, Disk] = {}
        self.addresses: dict[str, Address] = {}
        self.operations: list[Operation] = []
        #: Called with an instance that starts to run or ends.
        self.on_change: Callable[[Instance], None] | None = None
        #: Every call: (method, HTTP status, what it was about).
        self.log: list[tuple[str, int, str]] = []
        #: ``*`` or a zone -> type or accelerator -> how many there are, in both markets; absent: enough.
        self.capacity: dict[tuple[str, str], int] = {}
        #: (region, metric) -> limit, over the common ones; the region of a project's quota is empty.
        self.limits: dict[tuple[str, str], float] = {("", "GPUS_ALL_REGIONS"): 1000.0}
        self.rates = {**RATES, **(rates or {})}
        #: Zone -> machine types or accelerators that it does not have.
        self.lacks: dict[str, set[str]] = {}
        #: Zones that no aggregated list reaches.
        self.unreachable: set[str] = set()
        self.images = list(hardware.IMAGES)
        #: Network -> whether its subnetworks are made automatically.
        self.networks = {"default": True}
        self.subnetworks = {f"{region}/default" for region in self.regions}
        self.external_addresses = True
        self.enabled = True
        self.visibility_delay = 0.0
        self.boot = _BOOT
        #: Problems of our own answers, by the official schema: a test that finds one here has found a bug here.
        self.breaches: list[str] = []
        #: (method, request id) -> what it made, the print of the request, when it was.
        self._requests: dict[tuple[str, str], tuple[Operation, str, float]] = {}
        #: (group of methods, minute of the clock) -> calls.
        self._minutes: Counter[tuple[str, int]] = Counter()
        self._last = 4_000_000_000_000_000_000

    @property
    def instances(self) -> dict[str, Instance]:
        """Instances that exist now, by ``project/zone/name/id``."""
        self.tick()
        return self._instances

    def _zones(self) -> tuple[str, ...]:
        return tuple(zone for zones in self.regions.values() for zone in zones)

    def _types(self, zone: str) -> frozenset[str]:
        return frozenset(hardware.KINDS) - self.lacks.get(zone, set())

    def _image(self, project: str, name: str, family: bool) -> hardware.Image | None:
        found = [one for one in self.images if one.project == project and name == (one.family if family else one.name)]
        return max(found, key=lambda one: one.name, default=None)

    def _disk_of(self, instance: Instance) -> Disk | None:
        return next((one for one in self.disks.values() if instance.link in one.users), None)

    def _operation(
        self, type_: str, target: Any, *, ends_at: float, user: str = "system", client_id: str = "", region: str = ""
    ) -> Operation:
        found = Operation(
            id=self._id(),
            project=self.project,
            zone="" if region else target.zone,
            region=region,
            type=type_,
            target=target.id,
            target_link=getattr(target, "link", target.name),
            user=user,
            inserted_at=self.now(),
            ends_at=ends_at,
            client_id=client_id,
        )
        self.operations.append(found)
        return found

    def _id(self) -> str:
        self._last += self.random.randrange(1, 1000)
        return str(self._last)

    # -- time ------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Carry out what is due."""
        now = self.now()
        for one in list(self._instances.values()):
            self._age(one, now)

    def due(self) -> float | None:
        """Return when something happens next by itself; None where nothing does."""
        times: list[float] = []
        for one in self._instances.values():
            times += [at for at, _ in one.dooms]
            if one.leaves_at is not None:
                times.append(one.leaves_at)
            elif one.status in ("PROVISIONING", "STAGING"):
                times.append(one.runs_at)
            if one.limit_at:
                times.append(one.limit_at)
        later = [at for at in times if at > self.now() and at != float("inf")]
        return min(later, default=None)

    def _age(self, one: Instance, now: float) -> None:
        if one.status == "PROVISIONING" and now >= one.created_at + 1.0 and not one.failed:
            one.status = "STAGING"
        if one.status in ("PROVISIONING", "STAGING") and now >= one.runs_at and one.leaves_at is None:
            one.started_at = one.runs_at
            self._turn(one, "RUNNING")
        for at, what in sorted(one.dooms):
            if now >= at and one.leaves_at is None and not one.stuck:
                one.dooms.remove((at, what))
                self._befall(one, what, at)
        limited = one.limit_at and now >= one.limit_at and one.leaves_by != "DELETE" and not one.stuck
        if limited:
            action = one.body["scheduling"].get("instanceTerminationAction", "STOP")
            at, one.limit_at = one.limit_at, 0.0
            self._system(one, f"compute.instances.deferred{action.title()}", at)
            self._leave(one, action, at + DELETE)
        if one.leaves_at is not None and now >= one.leaves_at:
            if one.leaves_by == "DELETE":
                self._remove(one)
            else:
                one.leaves_at, one.leaves_by = None, ""
                one.stopped_at = now
                self._turn(one, "TERMINATED")

    def _befall(self, one: Instance, what: str, at: float) -> None:
        if one.status in ("TERMINATED", "STOPPED"):
            return
        self._system(one, what, at)
        action = one.body.get("scheduling", {}).get("instanceTerminationAction", "STOP")
        if what.endswith("preempted"):
            self._leave(one, action, at + _PREEMPT)
        else:
            self._leave(one, "STOP", at + 1.0)

    def _system(self, one: Instance, what: str, at: float) -> None:
        operation = self._operation(what, one, ends_at=at + 1.0)
        operation.inserted_at = at

    def _leave(self, one: Instance, action: str, at: float) -> None:
        one.leaves_at, one.leaves_by = at, action
        if one.status not in ("TERMINATED", "STOPPED") or action == "DELETE":
            self._turn(one, "STOPPING")

    def _turn(self, one: Instance, status: str) -> None:
        before, one.status = one.status, status
        if before != status and self.on_change is not None and (status == "RUNNING" or before == "RUNNING"):
            self.on_change(one)

    def _remove(self, one: Instance) -> None:
        del self._instances[one.ref]
        one.gone_at = self.now()
        disk = self._disk_of(one)
        if disk is not None:
            if one.body["disks"][0].get("autoDelete"):
                del self.disks[disk.id]
            else:
                disk.users.clear()
        if self.on_change is not None:
            self.on_change(one)

    # -- what only the cloud, the guest or a colleague can do --------------------------------------------------------

    def _named(self, ref: str) -> Instance:
        self.tick()
        for one in self._instances.values():
            if ref in (one.ref, one.name, one.id):
                return one
        raise KeyError(ref)

    def preempt(self, ref: str) -> None:
        """Take a spot instance back."""
        found = self._named(ref)
        if not found.spot:
            raise ValueError(f"{ref} is no spot instance")
        self._befall(found, "compute.instances.preempted", self.now())

    def power_off(self, ref: str) -> None:
        """The guest shuts down: the instance stops, is kept, and its disk is billed."""
        found = self._named(ref)
        self._system(found, "compute.instances.guestTerminate", self.now())
        self._leave(found, "STOP", self.now() + _STOP)

    def break_host(self, ref: str) -> None:
        """The host under an instance fails."""
        self._befall(self._named(ref), "compute.instances.hostError", self.now())

    def remove(self, ref: str) -> None:
        """Somebody deletes it in the console."""
        found = self._named(ref)
        operation = self._operation("delete", found, ends_at=self.now() + DELETE, user="alice@example.com")
        self._leave(found, "DELETE", operation.ends_at)

    def add_disk(self, name: str, zone: str, labels: Mapping[str, str]) -> Disk:
        """A disk that nobody uses."""
        found = Disk(
            self._id(), self.project, zone, name, "pd-balanced", 100, self.images[0].name, dict(labels), self.now()
        )
        found.image = f"{ROOT}/projects/{self.images[0].project}/global/images/{self.images[0].name}"
        self.disks[found.id] = found
        return found

    def add_address(self, name: str, region: str, labels: Mapping[str, str]) -> Address:
        """A reserved address that nobody uses."""
        found = Address(self._id(), self.project, region, name, dict(labels), self.now())
        self.addresses[found.id] = found
        return found
