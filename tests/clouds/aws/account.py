"""The state of one simulated account: moto's for each region, and beside it what moto does not know."""

from __future__ import annotations

import datetime
import hashlib
import itertools
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from moto.core.request import Request
from moto.ec2.models import ec2_backends
from moto.ec2.models.amis import Ami
from moto.ec2.models.instance_types import INSTANCE_TYPES
from moto.ec2.models.instances import InstanceState, StateReason
from moto.ec2.responses import EC2Response
from moto.moto_api._internal import mock_random

from tests.clouds import wire
from tests.clouds.aws import refusals

#: Each simulation has an account of its own inside moto, whatever it calls itself outside.
_accounts = itertools.count(100_000_000_000)
CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
#: Name -> architecture, root device, GiB.
IMAGES = {
    "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04) 20261101": ("x86_64", "/dev/sda1", 75, "amazon"),
    "Deep Learning ARM64 Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04) 20261101": ("arm64", "/dev/sda1", 75, "amazon"),
    "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-20261110": ("x86_64", "/dev/sda1", 8, "099720109477"),
    "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-arm64-server-20261110": ("arm64", "/dev/sda1", 8, "099720109477"),
    "al2023-ami-2023.9.20261105.0-kernel-6.12-x86_64": ("x86_64", "/dev/xvda", 8, "amazon"),
}
_DLAMI = "/aws/service/deeplearning/ami/{}/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id"
_UBUNTU = "/aws/service/canonical/ubuntu/server/24.04/stable/current/{}/hvm/ebs-gp3/ami-id"
#: SSM's public parameters, in the order of the images.
PARAMETERS = (
    _DLAMI.format("x86_64"),
    _DLAMI.format("arm64"),
    _UBUNTU.format("amd64"),
    _UBUNTU.format("arm64"),
    "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64",
)


@dataclass(slots=True, eq=False)
class Instance:
    """One instance, as everybody but the API sees it."""

    id: str
    region: str
    zone: str
    type: str
    market: str
    #: The ClientToken that it was launched with.
    token: str
    tags: dict[str, str]
    user_data: bytes
    image: str
    subnet: str
    #: The parameters of its launch as they were sent.
    form: dict[str, str]
    created_at: float
    #: When it starts to run, when listings show it.
    runs_at: float
    visible_at: float
    state: str = "pending"
    #: StateReason.
    reason: str = ""
    message: str = ""
    #: When it is gone; None while it is not on its way.
    gone_at: float | None = None
    #: Fails at that time, with that code.
    dooms: list[tuple[float, str]] = field(default_factory=list)
    stuck: bool = False
    console: str = ""
    #: The verdict of the status checks.
    health: str = "ok"
    spot_request: str = ""
    #: moto's own object, and the reservation that it is the one instance of.
    moto: Any = None
    reservation: Any = None
    _told: dict[str, Any] = field(default_factory=dict)

    @property
    def ref(self) -> str:
        return f"{self.region}/{self.id}"

    @property
    def alive(self) -> bool:
        """It counts against quotas and capacity, and it costs."""
        return self.state in ("pending", "running", "stopping", "stopped")

    def turn(self, state: str, reason: str = "", message: str = "") -> None:
        """Enter a state, in moto as well."""
        if state == "terminated":
            self.moto.terminate()
            self._told = {}
        self.state = state
        self.moto._state = InstanceState(state, CODES[state])
        if reason:
            self.reason, self.message = reason, f"{reason}: {message or reason}"
            self.moto.state_reason = StateReason(self.message, self.reason)

    def told(self) -> dict[str, Any]:
        """Return its description as DescribeInstances has it."""
        if not self._told:
            self._told = _facts(self, self.moto)
        reason = {"Code": self.reason, "Message": self.message} if self.reason else None
        return {**self._told, "State": {"Name": self.state, "Code": CODES[self.state]}, "StateReason": reason}

    def reserved(self) -> dict[str, Any]:
        """Its reservation: each launch here is of one instance."""
        return {
            "ReservationId": self.reservation.id,
            "OwnerId": self.reservation.owner_id,
            "Instances": [self.told()],
        }


def _facts(one: Instance, made: Any) -> dict[str, Any]:
    machine = INSTANCE_TYPES.get(one.type, {})
    ended = one.state == "terminated" or made.state == "terminated"
    interfaces = [] if ended else list(made.nics.values())
    groups = [{"GroupId": group.id, "GroupName": group.name} for nic in interfaces for group in nic.group_set]
    return {
        "InstanceId": one.id,
        "ImageId": one.image,
        "InstanceType": one.type,
        "ClientToken": one.token,
        "AmiLaunchIndex": 0,
        "LaunchTime": made.launch_time,
        "Placement": {"AvailabilityZone": one.zone, "Tenancy": "default", "GroupName": ""},
        "Monitoring": {"State": "disabled"},
        "Architecture": made.architecture,
        "Hypervisor": "xen",
        "VirtualizationType": "hvm",
        "RootDeviceType": "ebs",
        "RootDeviceName": made.root_device_name,
        "SubnetId": None if ended else one.subnet,
        "VpcId": None if ended else made.vpc_id,
        "PrivateIpAddress": None if ended else made.private_ip,
        "PublicIpAddress": None if ended else made.public_ip,
        "SecurityGroups": groups,
        "NetworkInterfaces": [
            {"NetworkInterfaceId": nic.id, "SubnetId": one.subnet, "Status": nic.status, "Groups": groups}
            for nic in interfaces
        ],
        "BlockDeviceMappings": [
            {
                "DeviceName": name,
                "Ebs": {"VolumeId": disk.volume_id, "DeleteOnTermination": disk.delete_on_termination},
            }
            for name, disk in made.get_block_device_mapping
        ],
        "MetadataOptions": {
            "HttpTokens": made.metadata_options.http_tokens,
            "HttpPutResponseHopLimit": made.metadata_options.http_put_response_hop_limit,
            "HttpEndpoint": made.metadata_options.http_endpoint,
        },
        "CpuOptions": {
            "CoreCount": machine.get("VCpuInfo", {}).get("DefaultCores"),
            "ThreadsPerCore": machine.get("VCpuInfo", {}).get("DefaultThreadsPerCore"),
        },
        "KeyName": one.form.get("KeyName"),
        "InstanceLifecycle": "spot" if one.market == "spot" else None,
        "SpotInstanceRequestId": one.spot_request or None,
        "Tags": [{"Key": key, "Value": value} for key, value in one.tags.items()],
    }


@dataclass(slots=True, eq=False)
class SpotRequest:
    """A one-time spot request."""

    id: str
    region: str
    state: str
    tags: dict[str, str]
    instance: str
    created_at: float
    type: str
    zone: str


class Image(Ami):
    """An image with a root disk of a size of its own."""

    disk_size = 8

    @property
    def block_device_mappings(self) -> list[dict[str, Any]]:
        return [
            {
                "DeviceName": self.root_device_name,
                "Ebs": {"SnapshotId": self.ebs_snapshot.id, "VolumeSize": self.disk_size, "VolumeType": "gp3"},
            }
        ]


class Account:
    """The resources of one account, region by region."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.moto_id = str(next(_accounts))
        self._backends: dict[str, Any] = {}
        #: Newest last.
        self.instances: dict[str, Instance] = {}
        self.spot_requests: dict[str, SpotRequest] = {}
        #: (region, parameter) -> value.
        self.parameters: dict[tuple[str, str], str] = {}
        #: Names of instance profiles.
        self.profiles: set[str] = set()

    def close(self) -> None:
        """Let moto forget it."""
        ec2_backends.pop(self.moto_id, None)
        self._backends = {}

    @contextmanager
    def seeded(self) -> Iterator[None]:
        """Let what moto leaves to chance in here come from our own generator alone."""
        mock_random.seed(self._rng.getrandbits(64))
        yield

    def backend(self, region: str) -> Any:
        """moto's EC2 of a region; a refusal where there is no such region."""
        found = self._backends.get(region)
        if found is None:
            with self.seeded(), _without_images():
                try:
                    found = ec2_backends[self.moto_id][region]
                except KeyError:
                    raise refusals.Refused("InvalidEndpoint", f"no region {region}") from None
                self._backends[region] = found
                self._add_images(region, found)
        return found

    def _add_images(self, region: str, backend: Any) -> None:
        for (name, (arch, root, size, owner)), parameter in zip(IMAGES.items(), PARAMETERS, strict=True):
            id = "ami-" + hashlib.sha256(f"{region} {name}".encode()).hexdigest()[:17]
            image = Image(
                backend,
                id,
                name=name,
                owner_id="898082745236" if owner == "amazon" else owner,
                owner_alias="amazon" if owner == "amazon" else None,
                public=True,
                virtualization_type="hvm",
                architecture=arch,
                root_device_type="ebs",
                root_device_name=root,
                region_name=f"{region}a",
                creation_date=datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC),
            )
            image.disk_size = size
            backend.amis[id] = image
            self.parameters[region, parameter] = id

    def subnets(self, region: str) -> dict[str, list[str]]:
        """Zone -> ids of its subnets."""
        found: dict[str, list[str]] = {}
        for zone, there in self.backend(region).subnets.items():
            found[zone] = list(there)
        return found

    def subnet(self, zone: str) -> str:
        """The first subnet of a zone."""
        return self.subnets(zone[:-1])[zone][0]

    def add_subnet(self, zone: str) -> str:
        """Another subnet of a zone."""
        backend = self.backend(zone[:-1])
        number = sum(len(there) for there in backend.subnets.values())
        with self.seeded():
            made = backend.create_subnet(backend.get_default_vpc().id, f"172.31.{128 + number}.0/24", zone)
        return str(made.id)

    def zone_of(self, region: str, subnet: str) -> str:
        for zone, there in self.subnets(region).items():
            if subnet in there:
                return zone
        raise refusals.Refused("InvalidSubnetID.NotFound", f"The subnet ID '{subnet}' does not exist")

    def moto(self, region: str, request: wire.Request) -> wire.Answer:
        """Let moto answer."""
        self.backend(region)
        headers = {**request.headers, "x-moto-account-id": self.moto_id, "Host": f"ec2.{region}.amazonaws.com"}
        url = f"https://ec2.{region}.amazonaws.com/"
        with self.seeded():
            normal = Request.from_primitives(request.method, url, headers, request.body)
            status, told, body = EC2Response.dispatch(normal, normal.raw_url, normal.headers)
        return wire.Answer(status, dict(told), body.encode() if isinstance(body, str) else body)


@contextmanager
def _without_images() -> Iterator[None]:
    """moto would otherwise load a thousand images into each region of each account."""
    name = "MOTO_EC2_LOAD_DEFAULT_AMIS"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
