"""RunInstances: what EC2 refuses before it launches, and tokens that hold in one zone.

Tokens: "Ensuring idempotency in Amazon EC2 API requests" in the EC2 developer guide.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moto.ec2.models.instance_types import INSTANCE_TYPES

from tests.clouds import faults, wire
from tests.clouds.aws import limits, schema
from tests.clouds.aws.account import Instance, SpotRequest
from tests.clouds.aws.faults import Fault
from tests.clouds.aws.refusals import Refused

if TYPE_CHECKING:
    from tests.clouds.aws.cloud import Ec2

#: Bytes of user-data before encoding.
USER_DATA = 16384
#: Seconds that a token is remembered after its instance ended.
TOKEN_LASTS = 86400.0
_TAGGABLE = ("instance", "volume", "network-interface", "spot-instances-request", "elastic-gpu")
_RESERVED = "Tag keys starting with 'aws:' are reserved for internal use"


@dataclass(frozen=True, slots=True)
class Taken:
    """The launch that a token was used for."""

    digest: str
    instance: Instance


def call(cloud: Ec2, region: str, form: dict[str, str]) -> faults.Call:
    """Return the facts of a launch that a fault is matched against."""
    try:
        zone = _zone(cloud, region, form)
    except Refused:
        zone = ""
    return faults.Call("RunInstances", region, zone, form.get("InstanceType", ""), _market(form))


def run(cloud: Ec2, region: str, form: dict[str, str], struck: Sequence[Fault]) -> wire.Answer:
    """Launch one instance, or refuse."""
    token = form.get("ClientToken", "")
    if len(token) > 64 or not token.isascii():
        raise Refused("InvalidClientToken", "The client token is not valid: at most 64 ASCII characters")
    zone = _zone(cloud, region, form)
    digest = _digest(form)
    dry = form.get("DryRun") == "true"
    taken = cloud.tokens.get((region, zone, token)) if token and not dry else None
    if taken is not None and not _forgotten(taken, cloud.now()):
        if taken.digest != digest:
            raise Refused(
                "IdempotentParameterMismatch",
                "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
            )
        if taken.instance.state == "terminated":
            raise Refused("IdempotentInstanceTerminated", "The instance of this token is terminated.")
        return schema.answer("ec2", "RunInstances", taken.instance.reserved())
    _validate(cloud, region, zone, form)
    if dry:
        raise Refused("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
    _afford(cloud, region, zone, form)
    instance = _launch(cloud, region, zone, form, struck)
    if token:
        cloud.tokens[region, zone, token] = Taken(digest, instance)
    return schema.answer("ec2", "RunInstances", instance.reserved())


def _forgotten(taken: Taken, now: float) -> bool:
    instance = taken.instance
    return instance.state == "terminated" and now > (instance.gone_at or now) + TOKEN_LASTS


def _digest(form: dict[str, str]) -> str:
    told = {key: value for key, value in form.items() if key not in ("ClientToken", "DryRun", "Action", "Version")}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _market(form: dict[str, str]) -> str:
    return "spot" if form.get("InstanceMarketOptions.MarketType") == "spot" else "on-demand"


def _subnet(form: dict[str, str]) -> str:
    return form.get("SubnetId") or form.get("NetworkInterface.1.SubnetId", "")


def _zone(cloud: Ec2, region: str, form: dict[str, str]) -> str:
    subnet = _subnet(form)
    if subnet:
        return cloud.account.zone_of(region, subnet)
    return form.get("Placement.AvailabilityZone") or f"{region}a"


# -- what is refused -------------------------------------------------------------------------------------------------


def _validate(cloud: Ec2, region: str, zone: str, form: dict[str, str]) -> None:
    for name in ("MinCount", "MaxCount", "ImageId"):
        if name not in form:
            raise Refused("MissingParameter", f"The request must contain the parameter {name}")
    if (form["MinCount"], form["MaxCount"]) != ("1", "1"):
        raise Refused("InvalidParameterValue", "this simulation launches one instance per call")
    _user_data(form)
    image = cloud.account.backend(region).amis.get(form["ImageId"])
    if image is None:
        kind = "NotFound" if form["ImageId"].startswith("ami-") else "Malformed"
        raise Refused(f"InvalidAMIID.{kind}", f"The image id '[{form['ImageId']}]' does not exist")
    machine = INSTANCE_TYPES.get(form.get("InstanceType", "m1.small"), {})
    archs = machine.get("ProcessorInfo", {}).get("SupportedArchitectures", ["x86_64"])
    if image.architecture not in archs:
        raise Refused(
            "InvalidParameterValue",
            f"The architecture '{','.join(archs)}' of the specified instance type does not match the architecture "
            f"'{image.architecture}' of the specified AMI.",
        )
    if any(faults.matches(one, f"{zone}/{form.get('InstanceType', '')}") for one in cloud.not_sold):
        raise Refused(
            "Unsupported",
            f"Your requested instance type ({form.get('InstanceType')}) is not supported in your requested "
            f"Availability Zone ({zone}).",
        )
    _disks(form, image)
    _groups(cloud, region, form)
    _options(cloud, region, form)
    _tags(form)


def _user_data(form: dict[str, str]) -> None:
    try:
        raw = base64.b64decode(form.get("UserData", ""), validate=True)
    except ValueError:
        raise Refused("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data.") from None
    if len(raw) > USER_DATA:
        raise Refused("InvalidUserData.Malformed", f"User data is limited to {USER_DATA} bytes")


def _disks(form: dict[str, str], image: Any) -> None:
    for disk in schema.entries(form, "BlockDeviceMapping"):
        size, kind = int(disk.get("Ebs.VolumeSize", "0")), disk.get("Ebs.VolumeType", "gp2")
        if disk.get("DeviceName") == image.root_device_name and size and size < image.disk_size:
            raise Refused(
                "InvalidBlockDeviceMapping",
                f"Volume of size {size}GB is smaller than snapshot '{image.ebs_snapshot.id}', expect size>= "
                f"{image.disk_size}GB",
            )
        if size > 65536:
            raise Refused("InvalidParameterValue", f"Volume of {size}GiB is too large for volume type {kind}")
        if "Ebs.Throughput" in disk and kind != "gp3":
            raise Refused(
                "InvalidParameterCombination", f"The parameter Throughput is not supported for {kind} volumes."
            )
        if "Ebs.Iops" in disk and kind not in ("gp3", "io1", "io2"):
            raise Refused("InvalidParameterCombination", f"The parameter iops is not supported for {kind} volumes.")
        if "Ebs.Iops" not in disk and kind in ("io1", "io2"):
            raise Refused("MissingParameter", "The request must contain the parameter iops")


def _groups(cloud: Ec2, region: str, form: dict[str, str]) -> None:
    groups = schema.numbered(form, "SecurityGroupId")
    for one in schema.entries(form, "NetworkInterface"):
        groups += schema.numbered(one, "SecurityGroupId")
    backend = cloud.account.backend(region)
    for group in groups:
        if backend.get_security_group_from_id(group) is None:
            raise Refused("InvalidGroup.NotFound", f"The security group '{group}' does not exist")


def _options(cloud: Ec2, region: str, form: dict[str, str]) -> None:
    hops = form.get("MetadataOptions.HttpPutResponseHopLimit", "1")
    if not 1 <= int(hops) <= 64:
        raise Refused("InvalidParameterValue", f"Invalid value '{hops}' for HttpPutResponseHopLimit: 1 to 64")
    name = form.get("IamInstanceProfile.Name") or form.get("IamInstanceProfile.Arn", "").rpartition("/")[2]
    if name and name not in cloud.account.profiles:
        raise Refused(
            "InvalidParameterValue",
            f"Value ({name}) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name",
        )
    key = form.get("KeyName")
    if key and key not in cloud.account.backend(region).key_pairs:
        raise Refused("InvalidKeyPair.NotFound", f"The key pair '{key}' does not exist")
    price = form.get("InstanceMarketOptions.SpotOptions.MaxPrice")
    if price is not None and float(price) < 0.001:
        raise Refused("SpotMaxPriceTooLow", "Your Spot request price is lower than the minimum required")


def _tags(form: dict[str, str]) -> None:
    seen = Counter(one.get("ResourceType") for one in schema.entries(form, "TagSpecification"))
    for spec in schema.entries(form, "TagSpecification"):
        kind = spec.get("ResourceType", "")
        if seen[kind] > 1:
            raise Refused("InvalidParameterValue", "The same resource type may not be specified more than once.")
        if kind not in _TAGGABLE or (kind == "spot-instances-request" and _market(form) != "spot"):
            raise Refused(
                "InvalidParameterValue", f"'{kind}' is not a valid taggable resource type for this operation."
            )
        tags = schema.tags(spec)
        check_tags(tags)


def check_tags(tags: list[tuple[str, str]]) -> None:
    """Refuse what EC2 refuses of tags."""
    if len(tags) > 50:
        raise Refused("TagLimitExceeded", "The maximum number of Tags for a resource has been reached.")
    if len({key for key, _ in tags}) != len(tags):
        raise Refused(
            "InvalidParameterValue", "Duplicate tag keys found. Please note that Tag keys are case insensitive."
        )
    for key, value in tags:
        if not key:
            raise Refused("InvalidParameterValue", "Tag keys must not be empty")
        if key.lower().startswith("aws:"):
            raise Refused("InvalidParameterValue", f"{_RESERVED}: {key}")
        if len(key) > 128:
            raise Refused("InvalidParameterValue", "Tag key exceeds the maximum length of 128 characters")
        if len(value) > 256:
            raise Refused("InvalidParameterValue", "Tag value exceeds the maximum length of 256 characters")
        if any(ord(one) < 32 for one in key + value):
            raise Refused("InvalidParameterValue", f"Tag {key!r} has characters that are not valid")


def _afford(cloud: Ec2, region: str, zone: str, form: dict[str, str]) -> None:
    """Addresses, quota and capacity, in that order."""
    kind, market, subnet = form.get("InstanceType", "m1.small"), _market(form), _subnet(form)
    if cloud.addresses.get(subnet, 1) <= 0:
        raise Refused(
            "InsufficientFreeAddressesInSubnet",
            f"There are not enough free addresses in subnet '{subnet}' to satisfy the requested number of instances.",
        )
    alive = [one for one in cloud.account.instances.values() if one.alive]
    code = limits.quota_code(kind, market)
    if code:
        limit = cloud.quotas.get((region, code), cloud.default_quota)
        used = sum(
            limits.cpus(one.type)
            for one in alive
            if one.region == region and limits.quota_code(one.type, one.market) == code
        )
        if used + limits.cpus(kind) > limit:
            if market == "spot":
                raise Refused("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded")
            raise Refused(
                "VcpuLimitExceeded",
                f"You have requested more vCPU capacity than your current vCPU limit of {limit} allows for the "
                "instance bucket that the specified instance type belongs to.",
            )
    for pattern, room in cloud.capacity.items():
        if faults.matches(pattern, f"{zone}/{kind}/{market}"):
            taken = sum(faults.matches(pattern, f"{one.zone}/{one.type}/{one.market}") for one in alive)
            if taken >= room:
                raise Refused(
                    "InsufficientInstanceCapacity",
                    f"We currently do not have sufficient {kind} capacity in the Availability Zone you requested "
                    f"({zone}). Our system will be working on provisioning additional capacity.",
                )
            break


# -- the launch ------------------------------------------------------------------------------------------------------


def _launch(cloud: Ec2, region: str, zone: str, form: dict[str, str], struck: Sequence[Fault]) -> Instance:
    backend = cloud.account.backend(region)
    specs = {one["ResourceType"]: dict(schema.tags(one)) for one in schema.entries(form, "TagSpecification")}
    with cloud.account.seeded():
        reservation = _moto_run(backend, region, form, specs)
    made = reservation.instances[0]
    now, market, rng = cloud.now(), _market(form), cloud.rng
    moment = datetime.datetime.fromtimestamp(now, datetime.UTC)
    for interface in made.nics.values():
        interface.add_tags(specs.get("network-interface", {}))
    for _, device in made.get_block_device_mapping:
        backend.volumes[device.volume_id].create_time = moment
        device.attach_time = moment
    made.launch_time = moment
    hidden = sum(fault.hidden_for for fault in struck)
    instance = Instance(
        id=made.id,
        region=region,
        zone=zone,
        type=form.get("InstanceType", "m1.small"),
        market=market,
        token=form.get("ClientToken", ""),
        tags=specs.get("instance", {}),
        user_data=base64.b64decode(form.get("UserData", "")),
        image=form["ImageId"],
        subnet=made.subnet_id or "",
        form=form,
        created_at=now,
        runs_at=now + rng.uniform(*cloud.boot),
        visible_at=now + rng.uniform(*cloud.visibility) + hidden,
        reservation=reservation,
        moto=made,
    )
    instance.turn("pending")
    _doom(instance, struck)
    if market == "spot":
        _spot_request(cloud, instance, specs.get("spot-instances-request", {}))
    if instance.subnet in cloud.addresses:
        cloud.addresses[instance.subnet] -= 1
    cloud.account.instances[instance.id] = instance
    cloud.note_created(instance)
    return instance


def _moto_run(backend: Any, region: str, form: dict[str, str], specs: dict[str, dict[str, str]]) -> Any:
    """moto's part: the instance with its interface and its disks."""

    def flag(entry: dict[str, str], name: str) -> bool | None:
        return entry[name] == "true" if name in entry else None

    interfaces = [
        {
            "DeviceIndex": int(one.get("DeviceIndex", "0")),
            "SubnetId": one.get("SubnetId"),
            "Groups": schema.numbered(one, "SecurityGroupId"),
            "AssociatePublicIpAddress": flag(one, "AssociatePublicIpAddress"),
            "DeleteOnTermination": flag(one, "DeleteOnTermination"),
        }
        for one in schema.entries(form, "NetworkInterface")
    ]
    disks = [
        {
            "DeviceName": one["DeviceName"],
            "Ebs": {
                "VolumeSize": int(one.get("Ebs.VolumeSize", "8")),
                "VolumeType": one.get("Ebs.VolumeType", "gp2"),
                "Encrypted": flag(one, "Ebs.Encrypted") or False,
                "DeleteOnTermination": flag(one, "Ebs.DeleteOnTermination") or False,
                # Without one, moto makes a real key for the account, which takes longer than everything else.
                "KmsKeyId": one.get("Ebs.KmsKeyId", "alias/aws/ebs" if flag(one, "Ebs.Encrypted") else None),
            },
        }
        for one in schema.entries(form, "BlockDeviceMapping")
    ]
    hops = form.get("MetadataOptions.HttpPutResponseHopLimit")
    arguments: dict[str, Any] = {
        "instance_type": form.get("InstanceType", "m1.small"),
        "is_instance_type_default": "InstanceType" not in form,
        "region_name": region,
        "subnet_id": form.get("SubnetId"),
        "key_name": form.get("KeyName"),
        "security_group_ids": schema.numbered(form, "SecurityGroupId"),
        "nics": interfaces,
        "tags": specs,
        "placement": form.get("Placement.AvailabilityZone"),
        "instance_market_options": form.get("InstanceMarketOptions.MarketType"),
        "instance_initiated_shutdown_behavior": form.get("InstanceInitiatedShutdownBehavior"),
        "metadata_options": {
            "HttpTokens": form.get("MetadataOptions.HttpTokens", "optional"),
            "HttpPutResponseHopLimit": int(hops) if hops else None,
            "HttpEndpoint": form.get("MetadataOptions.HttpEndpoint", "enabled"),
        },
        "client_token": form.get("ClientToken"),
    }
    if disks:
        arguments["block_device_mappings"] = disks
    return backend.run_instances(form["ImageId"], 1, form.get("UserData"), [], **arguments)


def _doom(instance: Instance, struck: Sequence[Fault]) -> None:
    for fault in struck:
        if fault.fails_with:
            instance.dooms.append(((instance.created_at + instance.runs_at) / 2, fault.fails_with))
        if fault.vanishes_after is not None:
            instance.dooms.append((instance.runs_at + fault.vanishes_after, "Server.InternalError"))
        if fault.preempted_after is not None and instance.market == "spot":
            instance.dooms.append((instance.created_at + fault.preempted_after, "Server.SpotInstanceTermination"))


def _spot_request(cloud: Ec2, instance: Instance, tags: dict[str, str]) -> None:
    id = f"sir-{cloud.rng.getrandbits(32):08x}"
    instance.spot_request = id
    instance.moto.spot_instance_request_id = id
    cloud.account.spot_requests[id] = SpotRequest(
        id, instance.region, "active", tags, instance.id, instance.created_at, instance.type, instance.zone
    )
