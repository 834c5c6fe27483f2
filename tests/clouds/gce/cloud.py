"""A simulated Compute Engine: one project, in virtual time, answering as the API does.

It is synchronous and deterministic: what happens depends on the clock it is given, its seed and the calls.  Time moves
only by that clock; whatever is due is carried out before the next call is answered, or by :meth:`Gce.tick`.
"""

from __future__ import annotations

import hashlib
import json
import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tests.clouds import faults, wire
from tests.clouds.gce import hardware, iam, launch, lists, refusals, schema, shelf
from tests.clouds.gce.faults import Fault
from tests.clouds.gce.refusals import Refused
from tests.clouds.gce.shelf import Asked
from tests.clouds.gce.state import ROOT, Address, Disk, Instance, Operation

#: Region -> letters of its zones.
REGIONS = {"us-central1": "abcf", "us-east1": "bcd", "us-west1": "abc", "europe-west4": "abc", "europe-west1": "bcd"}
#: Calls a minute by group of methods ("Rate quotas").
RATES = {"write": 1500, "read": 1500, "list": 1500, "operations": 1500}
#: Seconds: a request id is remembered; a launch boots; a stop and a delete take; a preemption takes.
_REMEMBER, _BOOT, _STOP, _DELETE, _PREEMPT = 3600.0, 8.0, 10.0, 5.0, 30.0


class Gce(shelf.Shelf):
    """The API, and what only the cloud itself can do."""

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
        self._requests: dict[tuple[str, str], tuple[Operation, str, float]] = {}
        self._minutes: Counter[tuple[str, int]] = Counter()
        self._last = 4_000_000_000_000_000_000

    @property
    def instances(self) -> dict[str, Instance]:
        """Instances that exist now, by ``project/zone/name/id``."""
        self.tick()
        return self._instances

    # -- the wire --------------------------------------------------------------------------------------------------

    def handle(self, request: wire.Request) -> wire.Answer:
        """Answer one request; raises :class:`wire.Lost` where no answer comes."""
        self.tick()
        if request.path == "/token":
            return self.iam.token(request)
        call = schema.find(request.method, request.path)
        if call is None:
            return refusals.answer(Refused("notFound", f"The requested URL {request.path} was not found.", status=404))
        lost: list[Fault] = []
        try:
            asked = self._asked(call, request)
            for fault in asked.struck:
                if fault.lost == "before":
                    self.log.append((call.id, 0, "lost before"))
                    raise wire.Lost("scripted: it never arrived", sent=fault.sent)
                if fault.reason:
                    raise Refused(
                        fault.reason,
                        fault.message or f"scripted: {fault.reason}",
                        status=fault.status,
                        details=fault.details,
                    )
                if fault.lost == "after":
                    lost.append(fault)
            told = self._answer(asked)
        except Refused as refused:
            self.log.append((call.id, refused.status, refused.reason))
            return refusals.answer(refused)
        if lost:
            self.log.append((call.id, 0, "lost after"))
            raise wire.Lost("scripted: the answer was lost", sent=True)
        if id(told) not in shelf.CHECKED:
            self.breaches += [f"{call.id}: {one}" for one in schema.response_problems(call, told)]
        if self.breaches:
            raise AssertionError(f"the simulation breaks the official schema: {self.breaches}")
        self.log.append((call.id, 200, "/".join(call.names.values())))
        return refusals.told(told)

    def _asked(self, call: schema.Call, request: wire.Request) -> Asked:
        user = self.iam.user(request)
        try:
            body = json.loads(request.body) if request.body else None
        except ValueError:
            raise Refused("parseError", "Invalid JSON payload received.") from None
        query = request.query
        problems = list(schema.request_problems(call, query, body))
        if problems:
            raise Refused(
                "invalid" if "regex" in problems[0] or "Not one of" in problems[0] else "badRequest", problems[0]
            )
        asked = Asked(call, query, body, user, [])
        if not call.id.startswith("compute."):
            asked.struck = faults.struck(self.faults, faults.Call(call.id), self.random)
            return asked
        self._rate(call)
        asked.struck = faults.struck(self.faults, self._subject(call, body), self.random)
        if call.names.get("project") not in (self.project, *(one.project for one in self.images)):
            raise Refused("notFound", f"The resource 'projects/{call.names.get('project')}' was not found")
        if not self.enabled:
            link = (
                f"https://console.developers.google.com/apis/api/compute.googleapis.com/overview?project={self.project}"
            )
            raise Refused(
                "accessNotConfigured",
                f"Compute Engine API has not been used in project {self.project} before or it is disabled. "
                f"Enable it by visiting {link} then retry.",
                details=[refusals.info("SERVICE_DISABLED", service="compute.googleapis.com")],
                domain="usageLimits",
            )
        zone = call.names.get("zone")
        if zone and zone not in self._zones():
            raise Refused("notFound", f"Location {zone} is not found or access is unauthorized.")
        self.iam.allow(call.id, f"projects/{self.project}")
        return asked

    def _subject(self, call: schema.Call, body: Any) -> faults.Call:
        zone = call.names.get("zone", "")
        type_ = market = ""
        if isinstance(body, dict):
            type_ = str(body.get("machineType", "")).rpartition("/")[2]
            for one in body.get("guestAccelerators", []):
                type_ = f"{type_}+{one.get('acceleratorType', '').rpartition('/')[2]}x{one.get('acceleratorCount')}"
            market = "spot" if body.get("scheduling", {}).get("provisioningModel") == "SPOT" else "on-demand"
        region = call.names.get("region") or zone.rpartition("-")[0]
        return faults.Call(call.id.removeprefix("compute."), region, zone, type_, market)

    def _rate(self, call: schema.Call) -> None:
        verb = call.id.rpartition(".")[2]
        if "Operations" in call.id:
            group = "operations"
        elif verb in ("list", "aggregatedList"):
            group = "list"
        else:
            group = "write" if call.method.verb != "GET" else "read"
        minute = (group, int(self.now() // 60))
        self._minutes[minute] += 1
        if self._minutes[minute] > self.rates[group]:
            raise Refused(
                "rateLimitExceeded",
                f"Quota exceeded for quota metric 'Queries' and limit '{group} per minute' of service "
                "'compute.googleapis.com' for consumer 'project_number:1'.",
                details=[refusals.info("RATE_LIMIT_EXCEEDED", service="compute.googleapis.com")],
            )

    def _answer(self, asked: Asked) -> Any:
        verb = asked.call.id.removeprefix("compute.").replace(".", "_")
        known: Callable[[Asked], Any] | None = getattr(self, f"_do_{verb}", None)
        if known is None:
            raise Refused("badRequest", f"{asked.call.id} is not simulated", status=501)
        return known(asked)

    # -- instances -------------------------------------------------------------------------------------------------

    def _do_instances_insert(self, asked: Asked) -> Any:
        project, zone, body = asked.name("project"), asked.name("zone"), asked.body
        done = self._repeated(asked)
        if done is not None:
            return done.shown(self.now())
        plan = launch.judge(body, self._world(project, zone))
        name = body["name"]
        if any(one.zone == zone and one.name == name for one in self._instances.values()):
            raise Refused(
                "alreadyExists", f"The resource 'projects/{project}/zones/{zone}/instances/{name}' already exists"
            )
        if any(one.zone == zone and one.name == name for one in self.disks.values()):
            raise Refused(
                "alreadyExists", f"The resource 'projects/{project}/zones/{zone}/disks/{name}' already exists"
            )
        now = self.now()
        fault = next((one for one in asked.struck if one.fails_with), None)
        code, quota, after, leaves = "", {}, 3.0, False
        if fault is not None:
            code, quota, after, leaves = fault.fails_with, fault.quota, fault.fails_after, fault.leaves
        else:
            code, quota = self._refuses(plan, zone)
        slow = sum(one.slow for one in asked.struck)
        instance = Instance(
            id=self._id(),
            project=project,
            zone=zone,
            name=name,
            key=asked.query.get("requestId", ""),
            body=body,
            type=plan.kind.name,
            accelerator=plan.accelerator,
            accelerators=plan.accelerators,
            market=plan.market,
            created_at=now,
            runs_at=now + self.boot + slow,
            visible_at=now + self.visibility_delay + sum(one.hidden_for for one in asked.struck),
            limit_at=plan.limit_at,
        )
        operation = self._operation("insert", instance, asked, ends_at=instance.runs_at)
        if code:
            message = str(quota.pop("message", "")) if quota else ""
            operation.ends_at = now + after + slow
            operation.error = refusals.operation_error(
                code, zone=zone, machine_type=plan.kind.name, message=message, **quota
            )
            instance.failed = True
            instance.runs_at = float("inf")
            instance.leaves_at, instance.leaves_by = operation.ends_at, "STOP" if leaves else "DELETE"
        for one in asked.struck:
            if one.preempted_after is not None and instance.spot:
                instance.dooms.append((now + one.preempted_after, "compute.instances.preempted"))
            if one.breaks_after is not None:
                instance.dooms.append((instance.runs_at + one.breaks_after, "compute.instances.hostError"))
        self._instances[instance.ref] = instance
        self.created.append(instance)
        disk = Disk(
            id=self._id(),
            project=project,
            zone=zone,
            name=name,
            type=plan.disk_type,
            size=plan.disk_size,
            image=f"{ROOT}/projects/{plan.image.project}/global/images/{plan.image.name}",
            labels=dict(body["disks"][0].get("initializeParams", {}).get("labels", {})),
            created_at=now,
            users=[instance.link],
        )
        self.disks[disk.id] = disk
        return operation.shown(now)

    def _world(self, project: str, zone: str) -> launch.World:
        return launch.World(
            project=project,
            zone=zone,
            now=self.now(),
            images=self._image,
            types=self._types(zone),
            accelerators=frozenset(hardware.ACCELERATORS) - self.lacks.get(zone, set()),
            networks=self.networks,
            subnetworks=frozenset(self.subnetworks),
            service_accounts=frozenset(self.iam.service_accounts - self.iam.not_usable),
            external_addresses=self.external_addresses,
        )

    def _refuses(self, plan: launch.Plan, zone: str) -> tuple[str, dict[str, Any]]:
        """The code, and the quota, by which a launch fails for want of something."""
        region = zone.rpartition("-")[0]
        spot = plan.market == "spot"
        family = hardware.FAMILIES.get(plan.accelerator, "")
        wants: list[tuple[str, str, float]] = []
        if plan.accelerator:
            wants.append(("", "GPUS_ALL_REGIONS", float(plan.accelerators)))
            metric = hardware.METRICS.get(plan.accelerator, "")
            if metric:
                wants.append((region, self._metric(region, metric, spot), float(plan.accelerators)))
            elif family:
                wants.append((region, f"GPUS-PER-GPU-FAMILY {family}", float(plan.accelerators)))
        cpu = hardware.CPU_METRICS.get(plan.kind.series, "CPUS")
        wants.append((region, self._metric(region, cpu, spot), float(plan.kind.cpus)))
        wants.append((region, "INSTANCES", 1.0))
        for where, metric, count in wants:
            limit = self._limit(where, metric)
            if limit is not None and self._used(where, metric) + count > limit:
                words = f"Quota '{metric}' exceeded.  Limit: {limit:.1f} " + (
                    f"in region {where}." if where else "globally."
                )
                name = f"{metric.replace('_', '-')}-per-project{'-region' if where else ''}"
                dimensions = {"region": where} if where else {}
                if metric.startswith("GPUS-PER"):
                    name, dimensions = "GPUS-PER-GPU-FAMILY-per-project-region", {"region": where, "gpu_family": family}
                    words = f"Quota 'GPUS_PER_GPU_FAMILY' exceeded.  Limit: {limit:.1f} in region {where}."
                service = f"compute.googleapis.com/{metric.partition(' ')[0].lower().replace('-', '_')}"
                told = {"metricName": service, "limitName": name, "dimensions": dimensions, "limit": limit}
                return "QUOTA_EXCEEDED", {**told, "message": words}
        for what, count in ((plan.kind.name, 1), (plan.accelerator, plan.accelerators)):
            room = self.capacity.get((zone, what), self.capacity.get(("*", what)))
            if room is not None and self._taken(zone, what) + count > room:
                return "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", {}
        return "", {}

    def _metric(self, region: str, metric: str, spot: bool) -> str:
        """Spot counts against a preemptible quota where the project has one."""
        return f"PREEMPTIBLE_{metric}" if spot and self._limit(region, f"PREEMPTIBLE_{metric}") else metric

    def _limit(self, region: str, metric: str) -> float | None:
        found = self.limits.get((region, metric))
        return found if found is not None else (shelf.QUOTAS.get(metric) if region else None)

    def _used(self, region: str, metric: str) -> float:
        found = 0.0
        for one in self._instances.values():
            if region not in ("", one.region) or (one.failed and one.status != "PROVISIONING"):
                continue
            gpu = (
                hardware.METRICS.get(one.accelerator, "")
                or f"GPUS-PER-GPU-FAMILY {hardware.FAMILIES.get(one.accelerator)}"
            )
            cpu = hardware.CPU_METRICS.get(one.kind().series, "CPUS")
            if metric == "INSTANCES":
                found += 1
            elif one.status in ("STOPPED", "TERMINATED"):
                continue
            elif metric == "GPUS_ALL_REGIONS" or (
                one.accelerator and metric == self._metric(one.region, gpu, one.spot)
            ):
                found += one.accelerators
            elif metric == self._metric(one.region, cpu, one.spot):
                found += one.kind().cpus
        return found

    def _taken(self, zone: str, what: str) -> int:
        alive = [
            one
            for one in self._instances.values()
            if one.zone == zone and not one.failed and one.status not in ("STOPPED", "TERMINATED")
        ]
        return sum(1 for one in alive if one.type == what) + sum(
            one.accelerators for one in alive if one.accelerator == what
        )

    def _do_instances_get(self, asked: Asked) -> Any:
        found = self._instance(asked)
        return found.shown(self._disk_of(found))

    def _instance(self, asked: Asked) -> Instance:
        zone, name = asked.name("zone"), asked.name("instance")
        for one in self._instances.values():
            if one.zone == zone and name in (one.name, one.id) and self.now() >= one.visible_at:
                return one
        link = f"projects/{asked.name('project')}/zones/{zone}/instances/{name}"
        raise Refused("notFound", f"The resource '{link}' was not found")

    def _disk_of(self, instance: Instance) -> Disk | None:
        return next((one for one in self.disks.values() if instance.link in one.users), None)

    def _do_instances_delete(self, asked: Asked) -> Any:
        done = self._repeated(asked)
        if done is not None:
            return done.shown(self.now())
        zone, name = asked.name("zone"), asked.name("instance")
        # A delete finds what lists do not show yet.
        found = next((one for one in self._instances.values() if one.zone == zone and name in (one.name, one.id)), None)
        if found is None:
            raise Refused(
                "notFound", f"The resource 'projects/{self.project}/zones/{zone}/instances/{name}' was not found"
            )
        slow = sum(one.slow for one in asked.struck)
        operation = self._operation("delete", found, asked, ends_at=self.now() + _DELETE + slow)
        if found.stuck or any(one.stuck for one in asked.struck):
            found.stuck = True
            operation.ends_at = float("inf")
            self._turn(found, "STOPPING")
        elif not (found.leaves_by == "DELETE" and found.leaves_at is not None and found.leaves_at <= operation.ends_at):
            self._leave(found, "DELETE", operation.ends_at)
        return operation.shown(self.now())

    def _do_instances_list(self, asked: Asked) -> Any:
        shown = [one.shown(self._disk_of(one)) for one in self._visible() if one.zone == asked.name("zone")]
        items, rest = lists.page(lists.matching(shown, asked.query.get("filter", "")), asked.query)
        return {"kind": "compute#instanceList", "id": "instances", **({"items": items} if items else {}), **rest}

    def _visible(self) -> list[Instance]:
        return [one for one in self._instances.values() if self.now() >= one.visible_at]

    def _do_instances_aggregatedList(self, asked: Asked) -> Any:  # named as the API's method
        shown = [one.shown(self._disk_of(one)) for one in self._visible()]
        return self._aggregated(asked, "instances", shown, by="zone")

    def _aggregated(self, asked: Asked, kind: str, shown: Iterable[Mapping[str, Any]], *, by: str) -> Any:
        """A page with a part for every scope, some of which were not reached."""
        unreached = set(self.unreachable)
        warned: dict[str, str] = {}
        for fault in asked.struck:
            if fault.warning:
                warned |= dict.fromkeys(fault.unreachable, fault.warning)
            else:
                unreached |= set(fault.unreachable)
        names = list(self._zones()) if by == "zone" else list(self.regions)
        scopes = {f"{by}s/{name}": name for name in names}
        reached = [one for one in shown if one[by].rpartition("/")[2] not in unreached | warned.keys()]
        found, rest = lists.page(lists.matching(reached, asked.query.get("filter", "")), asked.query)
        items: dict[str, Any] = {}
        for scope, name in scopes.items():
            if name in unreached:
                continue
            if name in warned:
                items[scope] = {"warning": {"code": warned[name], "message": "The list is not complete."}}
                continue
            inside = [one for one in found if one[by].rpartition("/")[2] == name]
            data = [{"key": "scope", "value": scope}]
            empty = {
                "code": "NO_RESULTS_ON_PAGE",
                "message": f"There are no results for scope '{scope}' on this page.",
                "data": data,
            }
            items[scope] = {kind: inside} if inside else {"warning": empty}
        answer: dict[str, Any] = {
            "kind": f"compute#{kind[:-1]}AggregatedList",
            "id": f"projects/{self.project}/aggregated/{kind}",
            "items": items,
            "selfLink": f"{ROOT}/projects/{self.project}/aggregated/{kind}",
            **rest,
        }
        if unreached:
            answer["unreachables"] = [f"projects/{self.project}/{by}s/{one}" for one in sorted(unreached)]
        return answer

    def _do_instances_getSerialPortOutput(self, asked: Asked) -> Any:
        found = self._instance(asked)
        if found.status == "PROVISIONING":
            raise Refused("resourceNotReady", f"The resource '{found.link}' is not ready")
        text = found.console or f"[    0.000000] Linux version 6.8 (gce)\n{found.name} login: "
        return {
            "kind": "compute#serialPortOutput",
            "selfLink": f"{found.link}/serialPort",
            "contents": text,
            "start": "0",
            "next": str(len(text.encode())),
        }

    # -- operations ------------------------------------------------------------------------------------------------

    def _do_zoneOperations_get(self, asked: Asked) -> Any:
        for one in self.operations:
            if one.zone == asked.name("zone") and asked.name("operation") in (one.name, one.id):
                return one.shown(self.now())
        raise Refused("notFound", f"The resource 'operations/{asked.name('operation')}' was not found")

    def _do_zoneOperations_list(self, asked: Asked) -> Any:
        shown = [one.shown(self.now()) for one in self.operations if one.zone == asked.name("zone")]
        if asked.query.get("orderBy", "name") not in ("name", "creationTimestamp desc"):
            raise Refused("invalid", f"Invalid value for field 'orderBy': '{asked.query['orderBy']}'.")
        if "orderBy" in asked.query:
            shown.reverse()
        items, rest = lists.page(lists.matching(shown, asked.query.get("filter", "")), asked.query)
        found = {"kind": "compute#operationList", "id": "operations", **rest}
        return {**found, "items": items} if items else found

    def _operation(
        self, type_: str, target: Any, asked: Asked | None, *, ends_at: float, region: str = ""
    ) -> Operation:
        found = Operation(
            id=self._id(),
            project=self.project,
            zone="" if region else target.zone,
            region=region,
            type=type_,
            target=target.id,
            target_link=getattr(target, "link", target.name),
            user=asked.user if asked is not None else "system",
            inserted_at=self.now(),
            ends_at=ends_at,
            client_id=asked.query.get("requestId", "") if asked is not None else "",
        )
        self.operations.append(found)
        if asked is not None and found.client_id:
            self._requests[asked.call.id, found.client_id] = (found, self._print(asked), self.now())
        return found

    def _repeated(self, asked: Asked) -> Operation | None:
        """The operation that the same request made already.  Raises :class:`Refused` for another one with its id."""
        key = asked.query.get("requestId", "")
        if not key:
            return None
        try:
            given = uuid.UUID(key)
        except ValueError:
            raise Refused("invalid", f"Invalid value for field 'requestId': '{key}'. Must be a valid UUID.") from None
        if not given.int:
            raise Refused("invalid", "Invalid value for field 'requestId': the zero UUID is not supported.")
        found = self._requests.get((asked.call.id, key))
        if found is None or self.now() - found[2] > _REMEMBER:
            return None
        if found[1] != self._print(asked):
            raise Refused("invalid", f"Invalid value for field 'requestId': '{key}'. It was used for another request.")
        return found[0]

    @staticmethod
    def _print(asked: Asked) -> str:
        sent = json.dumps([dict(asked.call.names), asked.body], sort_keys=True)
        return hashlib.sha256(sent.encode()).hexdigest()

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
        """When something happens next by itself; None where nothing does."""
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
            self._leave(one, action, at + _DELETE)
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
        operation = self._operation(what, one, None, ends_at=at + 1.0)
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
        operation = self._operation("delete", found, None, ends_at=self.now() + _DELETE)
        operation.user = "alice@example.com"
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
