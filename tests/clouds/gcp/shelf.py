"""Resources of a simulated project besides instances: images, machine types, quotas, networks, disks, addresses."""

from __future__ import annotations

import functools
import hashlib
from typing import Any

from tests.clouds.gcp import hardware, lists, quotas, schema
from tests.clouds.gcp.api import CHECKED, Api, Asked
from tests.clouds.gcp.refusals import Refused
from tests.clouds.gcp.state import ROOT, Address, Disk


class Shelf(Api):
    """The calls that look at it, and those that remove what is left."""

    def _do_images_getFromFamily(self, asked: Asked) -> Any:
        found = self._image(asked.name("project"), asked.name("family"), True)
        if found is None:
            link = f"projects/{asked.name('project')}/global/images/family/{asked.name('family')}"
            raise Refused("notFound", f"The resource '{link}' was not found")
        return self._shown_image(found)

    def _do_images_get(self, asked: Asked) -> Any:
        found = self._image(asked.name("project"), asked.name("image"), False)
        if found is None:
            link = f"projects/{asked.name('project')}/global/images/{asked.name('image')}"
            raise Refused("notFound", f"The resource '{link}' was not found")
        return self._shown_image(found)

    @staticmethod
    def _shown_image(found: hardware.Image) -> Any:
        return {
            "kind": "compute#image",
            "id": str(int(hashlib.sha256(found.name.encode()).hexdigest()[:15], 16)),
            "name": found.name,
            "family": found.family,
            "status": "READY",
            "diskSizeGb": str(found.size),
            "architecture": "ARM64" if found.arm else "X86_64",
            "selfLink": f"{ROOT}/projects/{found.project}/global/images/{found.name}",
        }

    def _do_machineTypes_list(self, asked: Asked) -> Any:
        zone = asked.name("zone")
        if not asked.query.keys() - {"maxResults"} and not self.lacks.get(zone):
            return _all_types(self.project, zone)
        shown = [_shown_kind(self.project, hardware.KINDS[name], zone) for name in sorted(self._types(zone))]
        items, rest = lists.page(lists.matching(shown, asked.query.get("filter", "")), asked.query)
        return {"kind": "compute#machineTypeList", "id": f"zones/{zone}/machineTypes", "items": items, **rest}

    def _do_acceleratorTypes_list(self, asked: Asked) -> Any:
        zone = asked.name("zone")
        place = f"{ROOT}/projects/{self.project}/zones/{zone}"
        shown = [
            {
                "kind": "compute#acceleratorType",
                "name": one,
                "zone": place,
                "selfLink": f"{place}/acceleratorTypes/{one}",
            }
            for one in sorted(set(hardware.ACCELERATORS) - self.lacks.get(zone, set()))
        ]
        items, rest = lists.page(lists.matching(shown, asked.query.get("filter", "")), asked.query)
        return {"kind": "compute#acceleratorTypeList", "id": f"zones/{zone}/acceleratorTypes", "items": items, **rest}

    def _do_regions_get(self, asked: Asked) -> Any:
        name = asked.name("region")
        if name not in self.regions:
            raise Refused("notFound", f"The resource 'projects/{self.project}/regions/{name}' was not found")
        metrics = sorted(set(quotas.QUOTAS) | {metric for region, metric in self.limits if region == name})
        return {
            "kind": "compute#region",
            "id": str(1000 + list(self.regions).index(name)),
            "name": name,
            "status": "UP",
            "zones": [f"{ROOT}/projects/{self.project}/zones/{zone}" for zone in self.regions[name]],
            "quotas": [
                {"metric": one, "limit": quotas.limit(self, name, one) or 0.0, "usage": quotas.used(self, name, one)}
                for one in metrics
                if " " not in one
            ],
            "selfLink": f"{ROOT}/projects/{self.project}/regions/{name}",
        }

    def _do_projects_get(self, asked: Asked) -> Any:
        return {
            "kind": "compute#project",
            "id": "4711",
            "name": asked.name("project"),
            "quotas": [
                {"metric": metric, "limit": limit, "usage": quotas.used(self, "", metric)}
                for (region, metric), limit in sorted(self.limits.items())
                if not region
            ],
            "selfLink": f"{ROOT}/projects/{asked.name('project')}",
        }

    def _do_networks_get(self, asked: Asked) -> Any:
        name = asked.name("network")
        if name not in self.networks:
            raise Refused("notFound", f"The resource 'projects/{self.project}/global/networks/{name}' was not found")
        place = f"{ROOT}/projects/{self.project}"
        return {
            "kind": "compute#network",
            "id": "11",
            "name": name,
            "autoCreateSubnetworks": self.networks[name],
            "subnetworks": [f"{place}/regions/{one.replace('/', '/subnetworks/')}" for one in sorted(self.subnetworks)],
            "selfLink": f"{place}/global/networks/{name}",
        }

    def _do_subnetworks_get(self, asked: Asked) -> Any:
        region, name = asked.name("region"), asked.name("subnetwork")
        link = f"projects/{self.project}/regions/{region}/subnetworks/{name}"
        if f"{region}/{name}" not in self.subnetworks:
            raise Refused("notFound", f"The resource '{link}' was not found")
        return {"kind": "compute#subnetwork", "id": "12", "name": name, "selfLink": f"{ROOT}/{link}"}

    def _do_disks_aggregatedList(self, asked: Asked) -> Any:
        return self._aggregated(asked, "disks", [one.shown() for one in self.disks.values()], by="zone")

    def _do_disks_get(self, asked: Asked) -> Any:
        return self._disk(asked).shown()

    def _disk(self, asked: Asked) -> Disk:
        zone, name = asked.name("zone"), asked.name("disk")
        for one in self.disks.values():
            if one.zone == zone and name in (one.name, one.id):
                return one
        raise Refused("notFound", f"The resource 'projects/{self.project}/zones/{zone}/disks/{name}' was not found")

    def _do_disks_delete(self, asked: Asked) -> Any:
        done = self._repeated(asked)
        if done is not None:
            return done.shown(self.now())
        found = self._disk(asked)
        if found.users:
            raise Refused("resourceInUseByAnotherResource", f"The disk resource '{found.link}' is already being used")
        del self.disks[found.id]
        return self._begun("delete", found, asked, ends_at=self.now()).shown(self.now())

    def _do_addresses_aggregatedList(self, asked: Asked) -> Any:
        found = self._aggregated(asked, "addresses", [one.shown() for one in self.addresses.values()], by="region")
        return {**found, "kind": "compute#addressAggregatedList"}

    def _do_addresses_get(self, asked: Asked) -> Any:
        return self._address(asked).shown()

    def _address(self, asked: Asked) -> Address:
        region, name = asked.name("region"), asked.name("address")
        for one in self.addresses.values():
            if one.region == region and name in (one.name, one.id):
                return one
        raise Refused(
            "notFound", f"The resource 'projects/{self.project}/regions/{region}/addresses/{name}' was not found"
        )

    def _do_addresses_delete(self, asked: Asked) -> Any:
        found = self._address(asked)
        del self.addresses[found.id]
        return self._begun("delete", found, asked, ends_at=self.now(), region=found.region).shown(self.now())

    # -- other APIs ------------------------------------------------------------------------------------------------

    def _do_cloudresourcemanager_projects_testIamPermissions(self, asked: Asked) -> Any:
        return {"permissions": [one for one in asked.body.get("permissions", []) if one not in self.iam.denied]}

    def _do_iam_projects_serviceAccounts_testIamPermissions(self, asked: Asked) -> Any:
        account = asked.name("resource").rpartition("/")[2]
        if account not in self.iam.service_accounts:
            raise Refused("notFound", f"Unknown service account {account}")
        asked_for = asked.body.get("permissions", [])
        return {"permissions": [] if account in self.iam.not_usable else asked_for}


def _shown_kind(project: str, kind: hardware.Kind, zone: str) -> dict[str, Any]:
    place = f"{ROOT}/projects/{project}/zones/{zone}"
    found: dict[str, Any] = {
        "kind": "compute#machineType",
        "id": str(int(hashlib.sha256(kind.name.encode()).hexdigest()[:12], 16)),
        "name": kind.name,
        "guestCpus": kind.cpus,
        "memoryMb": kind.memory,
        "isSharedCpu": False,
        "architecture": "ARM64" if kind.arm else "X86_64",
        "zone": zone,
        "selfLink": f"{place}/machineTypes/{kind.name}",
    }
    if kind.accelerator:
        found["accelerators"] = [{"guestAcceleratorType": kind.accelerator, "guestAcceleratorCount": kind.count}]
    return found


@functools.cache
def _all_types(project: str, zone: str) -> dict[str, Any]:
    """Everything that a zone has: it is large, never changes, and is held against the schema once."""
    items = [_shown_kind(project, hardware.KINDS[name], zone) for name in sorted(hardware.KINDS)]
    found = {"kind": "compute#machineTypeList", "id": f"zones/{zone}/machineTypes", "items": items}
    call = schema.find("GET", f"/compute/v1/projects/{project}/zones/{zone}/machineTypes")
    assert call is not None and not list(schema.response_problems(call, found))
    CHECKED[id(found)] = found
    return found
