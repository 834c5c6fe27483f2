"""Instances, disks and operations of the simulated project, and how the API shows them."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.clouds.gcp import hardware

ROOT = "https://www.googleapis.com/compute/v1"


def stamp(at: float) -> str:
    """RFC 3339, in Google's time zone."""
    zone = datetime.timezone(datetime.timedelta(hours=-8))
    return datetime.datetime.fromtimestamp(at, zone).isoformat(timespec="milliseconds")


def mark(value: Any) -> str:
    """A fingerprint."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:11] + "="


@dataclass(slots=True, eq=False)
class Disk:
    """A persistent disk."""

    id: str
    project: str
    zone: str
    name: str
    type: str
    size: int
    image: str
    labels: dict[str, str]
    created_at: float
    users: list[str] = field(default_factory=list)

    @property
    def link(self) -> str:
        return f"{ROOT}/projects/{self.project}/zones/{self.zone}/disks/{self.name}"

    def shown(self) -> dict[str, Any]:
        return {
            "kind": "compute#disk",
            "id": self.id,
            "creationTimestamp": stamp(self.created_at),
            "name": self.name,
            "sizeGb": str(self.size),
            "zone": f"{ROOT}/projects/{self.project}/zones/{self.zone}",
            "status": "READY",
            "sourceImage": self.image,
            "selfLink": self.link,
            "type": f"{ROOT}/projects/{self.project}/zones/{self.zone}/diskTypes/{self.type}",
            "labels": self.labels,
            "labelFingerprint": mark(self.labels),
            "physicalBlockSizeBytes": "4096",
            **({"users": self.users} if self.users else {}),
        }


@dataclass(slots=True, eq=False)
class Address:
    """A reserved external address."""

    id: str
    project: str
    region: str
    name: str
    labels: dict[str, str]
    created_at: float
    users: list[str] = field(default_factory=list)

    def shown(self) -> dict[str, Any]:
        place = f"{ROOT}/projects/{self.project}/regions/{self.region}"
        return {
            "kind": "compute#address",
            "id": self.id,
            "creationTimestamp": stamp(self.created_at),
            "name": self.name,
            "address": "203.0.113.7",
            "addressType": "EXTERNAL",
            "status": "IN_USE" if self.users else "RESERVED",
            "region": place,
            "selfLink": f"{place}/addresses/{self.name}",
            "labels": self.labels,
            "labelFingerprint": mark(self.labels),
            **({"users": self.users} if self.users else {}),
        }


@dataclass(slots=True, eq=False)
class Instance:
    """One instance, as everybody but the API sees it."""

    id: str
    project: str
    zone: str
    name: str
    #: The ``requestId`` that it was inserted with.
    key: str
    #: As it was sent.
    body: Mapping[str, Any]
    type: str
    accelerator: str
    accelerators: int
    market: str
    created_at: float
    #: When it starts to run, and when lists show it.
    runs_at: float
    visible_at: float
    status: str = "PROVISIONING"
    started_at: float = 0.0
    stopped_at: float = 0.0
    #: When its run time limit takes effect; 0 for never.
    limit_at: float = 0.0
    #: When it is gone or stopped; None while it is not on its way.
    leaves_at: float | None = None
    #: ``DELETE`` or ``STOP``: what happens then.
    leaves_by: str = ""
    #: What befalls it: (time, operation type).
    dooms: list[tuple[float, str]] = field(default_factory=list)
    #: When it was gone; None while it exists.
    gone_at: float | None = None
    #: Its delete never ends.
    stuck: bool = False
    #: What it printed; empty for a few common lines.
    console: str = ""
    #: Its launch fails, or failed.
    failed: bool = False

    @property
    def ref(self) -> str:
        return f"{self.project}/{self.zone}/{self.name}/{self.id}"

    @property
    def region(self) -> str:
        return self.zone.rpartition("-")[0]

    @property
    def exists(self) -> bool:
        return self.gone_at is None

    @property
    def runs(self) -> bool:
        return self.status == "RUNNING"

    @property
    def metadata(self) -> dict[str, str]:
        return {one["key"]: one.get("value", "") for one in self.body.get("metadata", {}).get("items", [])}

    @property
    def user_data(self) -> str:
        """The user data that its guest reads."""
        found = self.metadata
        return found.get("user-data") or found.get("startup-script") or ""

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.body.get("labels", {}))

    @property
    def tags(self) -> dict[str, str]:
        """The tags that a client keeps in the metadata; the labels where there are none."""
        found = self.metadata.get("runnerd-tags")
        return json.loads(found) if found else self.labels

    @property
    def spot(self) -> bool:
        return self.market == "spot"

    @property
    def link(self) -> str:
        return f"{ROOT}/projects/{self.project}/zones/{self.zone}/instances/{self.name}"

    def shown(self, disk: Disk | None) -> dict[str, Any]:
        """As the API tells it."""
        place = f"{ROOT}/projects/{self.project}/zones/{self.zone}"
        body = dict(self.body)
        found: dict[str, Any] = {
            "kind": "compute#instance",
            "id": self.id,
            "creationTimestamp": stamp(self.created_at),
            "name": self.name,
            "status": self.status,
            "zone": place,
            "machineType": f"{place}/machineTypes/{self.type}",
            "selfLink": self.link,
            "cpuPlatform": "Intel Cascade Lake",
            "labels": self.labels,
            "labelFingerprint": mark(self.labels),
            "fingerprint": mark([self.id, self.status]),
            "metadata": {
                "kind": "compute#metadata",
                "fingerprint": mark(self.metadata),
                "items": body.get("metadata", {}).get("items", []),
            },
            "tags": {**body.get("tags", {}), "fingerprint": mark(body.get("tags", {}))},
            "scheduling": {"preemptible": self.spot, **body.get("scheduling", {})},
            "networkInterfaces": [self._interface(one, index) for index, one in enumerate(body["networkInterfaces"])],
            "canIpForward": False,
            "deletionProtection": False,
            "startRestricted": False,
            "shieldedInstanceConfig": {
                "enableSecureBoot": False,
                "enableVtpm": True,
                "enableIntegrityMonitoring": True,
            },
        }
        if disk is not None:
            found["disks"] = [
                {
                    "kind": "compute#attachedDisk",
                    "type": "PERSISTENT",
                    "mode": "READ_WRITE",
                    "source": disk.link,
                    "deviceName": "persistent-disk-0",
                    "index": 0,
                    "boot": True,
                    "autoDelete": bool(body["disks"][0].get("autoDelete")),
                    "interface": "SCSI",
                    "diskSizeGb": str(disk.size),
                }
            ]
        if self.accelerator:
            found["guestAccelerators"] = [
                {
                    "acceleratorType": f"{place}/acceleratorTypes/{self.accelerator}",
                    "acceleratorCount": self.accelerators,
                }
            ]
        if body.get("serviceAccounts"):
            found["serviceAccounts"] = body["serviceAccounts"]
        if self.started_at:
            found["lastStartTimestamp"] = stamp(self.started_at)
        if self.stopped_at:
            found["lastStopTimestamp"] = stamp(self.stopped_at)
        return found

    def _interface(self, sent: Mapping[str, Any], index: int) -> dict[str, Any]:
        project = f"{ROOT}/projects/{self.project}"
        number = int(self.id) % 250 + 2
        found: dict[str, Any] = {
            "kind": "compute#networkInterface",
            "name": f"nic{index}",
            "network": f"{project}/global/networks/default",
            "subnetwork": f"{project}/regions/{self.region}/subnetworks/default",
            "networkIP": f"10.128.0.{number}",
            "fingerprint": mark(sent),
        }
        if sent.get("subnetwork"):
            found["subnetwork"] = f"{project}/{sent['subnetwork'].partition('/compute/v1/')[2] or sent['subnetwork']}"
        for access in sent.get("accessConfigs", []):
            given = {"kind": "compute#accessConfig", "networkTier": "PREMIUM", **access}
            if self.status not in ("PROVISIONING", "STOPPED", "TERMINATED"):
                given["natIP"] = f"203.0.113.{number}"
            found["accessConfigs"] = [given]
        return found

    def kind(self) -> hardware.Kind:
        return hardware.KINDS[self.type]


@dataclass(slots=True, eq=False)
class Operation:
    """An operation that a client asked for or that the system began."""

    id: str
    project: str
    zone: str
    type: str
    #: Of what it is about.
    target: str
    target_link: str
    user: str
    inserted_at: float
    #: When it ends.
    ends_at: float
    client_id: str = ""
    #: ``error`` and what goes with it, once it has ended.
    error: dict[str, Any] = field(default_factory=dict)
    #: ``regions/NAME`` for what is not in a zone.
    region: str = ""

    @property
    def name(self) -> str:
        prefix = "systemevent" if self.type.startswith("compute.") else "operation"
        return f"{prefix}-{self.id}"

    def shown(self, now: float) -> dict[str, Any]:
        scope = f"regions/{self.region}" if self.region else f"zones/{self.zone}"
        place = f"{ROOT}/projects/{self.project}/{scope}"
        done = now >= self.ends_at
        found: dict[str, Any] = {
            "kind": "compute#operation",
            "id": self.id,
            "name": self.name,
            "region" if self.region else "zone": place,
            "operationType": self.type,
            "targetLink": self.target_link,
            "targetId": self.target,
            "status": "DONE" if done else "RUNNING",
            "user": self.user,
            "progress": 100 if done else 0,
            "insertTime": stamp(self.inserted_at),
            "startTime": stamp(self.inserted_at),
            "selfLink": f"{place}/operations/{self.name}",
        }
        if self.client_id:
            found["clientOperationId"] = self.client_id
        if done:
            found["endTime"] = stamp(self.ends_at)
            found |= self.error
        return found
