"""From a create request to the parameters of RunInstances, and its problems before it is sent.

Everything that Amazon compares on a replay comes from the request, the image's root device, and the provider's options:
the same request gives the same parameters.  If an option was changed in between, Amazon answers
``IdempotentParameterMismatch`` instead of launching a second instance.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

from provisioners import base
from provisioners.aws import tags
from provisioners.aws.settings import Launch

#: Bytes of user-data before they are encoded ("Run commands at launch" in the EC2 user guide).
USER_DATA_LIMIT = 16384
#: What is tagged at launch in every market.
_TAGGED = ("instance", "volume", "network-interface")
_GIB = 2**30


def token(request: base.CreateRequest) -> str:
    """The ClientToken: it holds in one zone, so it names what else makes an attempt; at most 64 characters."""
    offer = request.offer
    place = "/".join((offer.region, offer.zone, offer.machine_type, offer.market.value))
    return f"{request.key}-{hashlib.sha256(place.encode()).hexdigest()[:20]}"


def turned(subnets: Sequence[str], key: str) -> list[str]:
    """The subnets of a zone in the order in which a request tries them: by its key, so that they fill evenly."""
    ordered = list(subnets)
    if not ordered:
        return []
    start = int(hashlib.sha256(key.encode()).hexdigest(), 16) % len(ordered)
    return ordered[start:] + ordered[:start]


def problems(request: base.CreateRequest) -> list[str]:
    """Return what Amazon refuses of a request, in any the account; empty when nothing."""
    found = tags.problems(request.tags)
    size = len(request.user_data.encode())
    if size > USER_DATA_LIMIT:
        found.append(f"the boot script has {size} bytes; Amazon takes {USER_DATA_LIMIT}")
    if not request.key or not request.key.isascii() or len(request.key) > 43:
        found.append(f'the key "{request.key}" gives no token that Amazon takes')
    return found


def parameters(
    request: base.CreateRequest,
    launch: Launch,
    *,
    subnet: str,
    root_device: str,
    root_size: int,
) -> dict[str, Any]:
    """The parameters of RunInstances; ``root_size`` is what the image needs, in GiB."""
    disk: dict[str, Any] = {
        "VolumeSize": max(root_size, math.ceil((request.disk or launch.disk) / _GIB)),
        "VolumeType": launch.disk_type,
        "DeleteOnTermination": True,
        "Encrypted": True,
    }
    if launch.disk_iops:
        disk["Iops"] = launch.disk_iops
    if launch.disk_throughput:
        disk["Throughput"] = launch.disk_throughput
    if launch.kms_key:
        disk["KmsKeyId"] = launch.kms_key
    interface: dict[str, Any] = {"DeviceIndex": 0, "SubnetId": subnet, "DeleteOnTermination": True}
    if launch.security_groups:
        interface["Groups"] = list(launch.security_groups)
    if launch.public_address is not None:
        interface["AssociatePublicIpAddress"] = launch.public_address
    spot = request.offer.market is base.Market.SPOT
    tagged = [{"Key": key, "Value": value} for key, value in sorted(request.tags.items())]
    body: dict[str, Any] = {
        "ClientToken": token(request),
        "MinCount": 1,
        "MaxCount": 1,
        "ImageId": request.offer.image,
        "InstanceType": request.offer.machine_type,
        "UserData": request.user_data,
        "NetworkInterfaces": [interface],
        # Only the root: the disks inside the machine keep the mapping that the image and the type give them.
        "BlockDeviceMappings": [{"DeviceName": root_device, "Ebs": disk}],
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {
            "HttpEndpoint": "enabled",
            "HttpTokens": "required",
            "HttpPutResponseHopLimit": launch.hop_limit,
        },
        "TagSpecifications": [
            {"ResourceType": kind, "Tags": tagged}
            for kind in (*_TAGGED, *(("spot-instances-request",) if spot else ()))
        ],
    }
    if spot:
        # Without a price of ours, the ceiling is the on-demand price: Amazon advises against setting one.
        body["InstanceMarketOptions"] = {
            "MarketType": "spot",
            "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"},
        }
    if launch.instance_profile:
        kind = "Arn" if launch.instance_profile.startswith("arn:") else "Name"
        body["IamInstanceProfile"] = {kind: launch.instance_profile}
    if launch.key_name:
        body["KeyName"] = launch.key_name
    return body
