"""A simulated Compute Engine: one project, in virtual time, answering as the API does."""

from __future__ import annotations

from typing import Any

from tests.clouds.gcp import hardware, launch, lists, quotas, refusals
from tests.clouds.gcp.api import Asked
from tests.clouds.gcp.project import DELETE
from tests.clouds.gcp.refusals import Refused
from tests.clouds.gcp.shelf import Shelf
from tests.clouds.gcp.state import ROOT, Disk, Instance


class Gce(Shelf):
    """The API with its instances."""

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
            code, quota = quotas.refusal(self, plan, zone)
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
        operation = self._begun("insert", instance, asked, ends_at=instance.runs_at)
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
        operation = self._begun("delete", found, asked, ends_at=self.now() + DELETE + slow)
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
