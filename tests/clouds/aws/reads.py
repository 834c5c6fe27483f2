"""Everything of EC2 but RunInstances: listings with their filters and pages, terminations, consoles."""

from __future__ import annotations

import base64
import datetime
import json
import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from moto.ec2.models.instance_types import INSTANCE_TYPES

from tests.clouds import faults, wire
from tests.clouds.aws import limits, schema
from tests.clouds.aws.account import CODES, Instance
from tests.clouds.aws.refusals import Refused

if TYPE_CHECKING:
    from tests.clouds.aws.cloud import Ec2

_ID = re.compile(r"i-[0-9a-f]{8,17}\Z")
#: What moto answers; what is not here is not simulated.
_MOTO = frozenset(
    {
        "DescribeAddresses",
        "DescribeAvailabilityZones",
        "DescribeImages",
        "DescribeKeyPairs",
        "DescribeRegions",
        "DescribeSecurityGroups",
        "DescribeSubnets",
        "AllocateAddress",
        "AttachVolume",
        "CreateKeyPair",
        "CreateNetworkInterface",
        "CreateSecurityGroup",
        "CreateTags",
        "CreateVolume",
        "DeleteNetworkInterface",
        "DeleteVolume",
        "DetachVolume",
        "DescribeInstanceAttribute",
        "ModifyInstanceAttribute",
        "ReleaseAddress",
    }
)
#: What is filtered and paged here, and told by moto's objects.
_OF_MOTO = frozenset({"DescribeVolumes", "DescribeNetworkInterfaces"})
_Values = Mapping[str, Callable[[Any], Iterable[str]]]


def answer(cloud: Ec2, operation: str, region: str, form: dict[str, str], request: wire.Request) -> wire.Answer:
    """Answer one call."""
    found = _OWN.get(operation)
    if found is not None:
        if form.get("DryRun") == "true" and operation != "TerminateInstances":
            raise Refused("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
        return schema.answer("ec2", operation, found(cloud, region, form), moto=operation in _OF_MOTO)
    if operation not in _MOTO:
        raise Refused("InvalidAction", f"The action {operation} is not simulated.")
    if form.get("DryRun") == "true":
        raise Refused("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
    # moto takes a page size for a filter where it does not know it.
    kept = {key: value for key, value in form.items() if key not in ("MaxResults", "NextToken")}
    told = cloud.account.moto(region, wire.Request("POST", request.url, request.headers, urlencode(kept).encode()))
    if told.status == 500:
        raise AssertionError(f"moto cannot answer {operation} {kept}: {told.body.decode()[:500]}")
    return told


# -- instances -------------------------------------------------------------------------------------------------------

_INSTANCE: _Values = {
    "instance-id": lambda one: [one.id],
    "instance-state-name": lambda one: [one.state],
    "instance-state-code": lambda one: [str(CODES[one.state])],
    "instance-type": lambda one: [one.type],
    "instance-lifecycle": lambda one: ["spot"] if one.market == "spot" else [],
    "availability-zone": lambda one: [one.zone],
    "subnet-id": lambda one: [one.subnet],
    "image-id": lambda one: [one.image],
    "client-token": lambda one: [one.token],
    "spot-instance-request-id": lambda one: [one.spot_request] if one.spot_request else [],
    "reason-code": lambda one: [one.reason],
}


def _instances(cloud: Ec2, region: str, form: dict[str, str]) -> dict[str, Any]:
    ids = schema.numbered(form, "InstanceId")
    if ids and "MaxResults" in form:
        raise Refused(
            "InvalidParameterCombination",
            "The parameter instancesSet cannot be used with the parameter maxResults",
        )
    size = int(form.get("MaxResults", "1000"))
    if not 5 <= size <= 1000:
        raise Refused(
            "InvalidParameterValue", f"Value ( {size} ) for parameter maxResults is invalid. Expecting 5 to 1000."
        )
    there = _named(cloud, region, ids) if ids else _visible(cloud, region)
    page, token = _page(_filtered(there, form, _INSTANCE), form, size)
    return {"Reservations": [one.reserved() for one in page], "NextToken": token}


def _visible(cloud: Ec2, region: str) -> list[Instance]:
    now = cloud.now()
    return [one for one in cloud.account.instances.values() if one.region == region and one.visible_at <= now]


def _named(cloud: Ec2, region: str, ids: list[str], *, hidden: bool = False) -> list[Instance]:
    """Instances by id: all of them, or a refusal."""
    bad = [one for one in ids if not _ID.match(one)]
    if bad:
        raise Refused("InvalidInstanceID.Malformed", f'Invalid id: "{bad[0]}"')
    there = {one.id: one for one in cloud.account.instances.values() if one.region == region}
    known = there if hidden else {one.id: one for one in _visible(cloud, region)}
    missing = [one for one in ids if one not in known]
    if missing:
        names, plural = ", ".join(missing), len(missing) > 1
        raise Refused(
            "InvalidInstanceID.NotFound",
            f"The instance ID{'s' if plural else ''} '{names}' do{'' if plural else 'es'} not exist",
        )
    return [known[one] for one in dict.fromkeys(ids)]


def _filtered(there: Iterable[Any], form: dict[str, str], values: _Values) -> list[Any]:
    found = list(there)
    for name, wanted in schema.filters(form):
        if len(wanted) > 200:
            raise Refused("FilterLimitExceeded", f"The filter {name} has more than 200 values")
        if name.startswith("tag:"):
            key = name.removeprefix("tag:")
            found = [one for one in found if key in one.tags and _any(wanted, [one.tags[key]])]
        elif name == "tag-key":
            found = [one for one in found if _any(wanted, one.tags)]
        elif name in values:
            read = values[name]
            found = [one for one in found if _any(wanted, read(one))]
        else:
            raise Refused("InvalidParameterValue", f"The filter '{name}' is invalid")
    return found


def _any(wanted: Iterable[str], given: Iterable[str]) -> bool:
    return any(fnmatchcase(value, pattern) for value in given for pattern in wanted)


def _page(found: list[Any], form: dict[str, str], size: int) -> tuple[list[Any], str | None]:
    start = 0
    if "NextToken" in form:
        try:
            start = int(json.loads(base64.b64decode(form["NextToken"])))
        except ValueError:
            raise Refused("InvalidParameterValue", "Invalid value for nextToken") from None
    page = found[start : start + size]
    if start + size >= len(found):
        return page, None
    return page, base64.b64encode(json.dumps(start + size).encode()).decode()


def _terminate(cloud: Ec2, region: str, form: dict[str, str]) -> dict[str, Any]:
    ids = schema.numbered(form, "InstanceId")
    if not ids:
        raise Refused("MissingParameter", "The request must contain the parameter InstanceId")
    there = _named(cloud, region, ids, hidden=True)
    protected = [one.id for one in there if one.moto.disable_api_termination]
    if protected:
        raise Refused(
            "OperationNotPermitted",
            f"The instance '{protected[0]}' may not be terminated. Modify its 'disableApiTermination' instance "
            "attribute.",
        )
    if form.get("DryRun") == "true":
        raise Refused("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
    told = []
    for one in there:
        before = {"Name": one.state, "Code": CODES[one.state]}
        cloud.terminate(one)
        told.append(
            {
                "InstanceId": one.id,
                "PreviousState": before,
                "CurrentState": {"Name": one.state, "Code": CODES[one.state]},
            }
        )
    return {"TerminatingInstances": told}


def _status(cloud: Ec2, region: str, form: dict[str, str]) -> dict[str, Any]:
    ids = schema.numbered(form, "InstanceId")
    if len(ids) > 100:
        raise Refused("InvalidParameterValue", "At most 100 instances in one call")
    there = _named(cloud, region, ids) if ids else _visible(cloud, region)
    return {
        "InstanceStatuses": [
            {
                "InstanceId": one.id,
                "AvailabilityZone": one.zone,
                "InstanceState": {"Name": one.state, "Code": CODES[one.state]},
                "InstanceStatus": {"Status": one.health},
                "SystemStatus": {"Status": "ok" if one.health == "impaired" else one.health},
            }
            for one in there
            if one.state == "running"
        ]
    }


def _console(cloud: Ec2, region: str, form: dict[str, str]) -> dict[str, Any]:
    one = _named(cloud, region, [form.get("InstanceId", "")])[0]
    if form.get("Latest") == "true" and INSTANCE_TYPES.get(one.type, {}).get("Hypervisor") != "nitro":
        raise Refused("UnsupportedOperation", "This instance type does not support retrieving the latest console logs.")
    return {
        "InstanceId": one.id,
        "Timestamp": _moment(cloud.now()),
        "Output": base64.b64encode(one.console.encode()).decode(),
    }


# -- side resources --------------------------------------------------------------------------------------------------

_VOLUME: _Values = {
    "status": lambda one: [one.status],
    "volume-id": lambda one: [one.id],
    "availability-zone": lambda one: [one.zone],
}
_INTERFACE: _Values = {
    "status": lambda one: [one.status],
    "network-interface-id": lambda one: [one.id],
    "availability-zone": lambda one: [one.subnet.availability_zone],
}
_SPOT: _Values = {
    "state": lambda one: [one.state],
    "spot-instance-request-id": lambda one: [one.id],
    "instance-id": lambda one: [one.instance] if one.instance else [],
}


class _Tagged:
    """A resource of moto with its tags as a map."""

    def __init__(self, resource: Any) -> None:
        self.resource = resource
        self.tags = {tag["key"]: tag["value"] for tag in resource.get_tags()}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.resource, name)

    @property
    def zone(self) -> str:
        return str(self.resource.availability_zone)


def _volumes(cloud: Ec2, region: str, form: dict[str, str]) -> dict[str, Any]:
    there = [_Tagged(one) for one in cloud.account.backend(region).volumes.values()]
    page, token = _page(_filtered(there, form, _VOLUME), form, int(form.get("MaxResults", "1000")))
    return {"Volumes": [one.resource for one in page], "NextToken": token}


def _interfaces(cloud: Ec2, region: str, form: dict[str, str]) -> dict[str, Any]:
    there = [_Tagged(one) for one in cloud.account.backend(region).enis.values()]
    page, token = _page(_filtered(there, form, _INTERFACE), form, int(form.get("MaxResults", "1000")))
    return {"NetworkInterfaces": [one.resource for one in page], "NextToken": token}


def _spot_requests(cloud: Ec2, region: str, form: dict[str, str]) -> dict[str, Any]:
    there = [one for one in cloud.account.spot_requests.values() if one.region == region]
    page, token = _page(_filtered(there, form, _SPOT), form, int(form.get("MaxResults", "1000")))
    return {
        "SpotInstanceRequests": [
            {
                "SpotInstanceRequestId": one.id,
                "State": one.state,
                "Type": "one-time",
                "InstanceId": one.instance or None,
                "LaunchedAvailabilityZone": one.zone,
                "CreateTime": _moment(one.created_at),
                "Tags": [{"Key": key, "Value": value} for key, value in one.tags.items()],
            }
            for one in page
        ],
        "NextToken": token,
    }


def _cancel(cloud: Ec2, region: str, form: dict[str, str]) -> dict[str, Any]:
    ids = schema.numbered(form, "SpotInstanceRequestId")
    for id in ids:
        request = cloud.account.spot_requests.get(id)
        if request is None or request.region != region:
            raise Refused(
                "InvalidSpotInstanceRequestID.NotFound", f"The spot instance request ID '{id}' does not exist"
            )
        request.state = "cancelled"
    return {"CancelledSpotInstanceRequests": [{"SpotInstanceRequestId": id, "State": "cancelled"} for id in ids]}


# -- what is sold ----------------------------------------------------------------------------------------------------


def _zones(cloud: Ec2, region: str) -> list[str]:
    return list(cloud.account.subnets(region))


def _offerings(cloud: Ec2, region: str, form: dict[str, str]) -> dict[str, Any]:
    wanted = [pattern for name, patterns in schema.filters(form) if name == "instance-type" for pattern in patterns]
    plain = set(wanted) if not any(set("*?") & set(pattern) for pattern in wanted) else None
    rows = [
        {"InstanceType": kind, "LocationType": "availability-zone", "Location": zone}
        for kind in schema.types()
        if not wanted or (kind in plain if plain is not None else _any(wanted, [kind]))
        for zone in _zones(cloud, region)
        if not any(faults.matches(pattern, f"{zone}/{kind}") for pattern in cloud.not_sold)
    ]
    page, token = _page(rows, form, int(form.get("MaxResults", "1000")))
    return {"InstanceTypeOfferings": page, "NextToken": token}


def _spot_history(cloud: Ec2, region: str, form: dict[str, str]) -> dict[str, Any]:
    rows = []
    for kind in schema.numbered(form, "InstanceType"):
        for number, zone in enumerate(_zones(cloud, region)):
            if any(faults.matches(pattern, f"{zone}/{kind}") for pattern in cloud.not_sold):
                continue
            usual = round(0.02 * limits.cpus(kind) * (1 + number / 20), 4)
            rows.append(
                {
                    "AvailabilityZone": zone,
                    "InstanceType": kind,
                    "ProductDescription": "Linux/UNIX",
                    "SpotPrice": str(cloud.spot_prices.get(f"{zone}/{kind}", usual)),
                    "Timestamp": _moment(cloud.now() - 1800),
                }
            )
    page, token = _page(rows, form, int(form.get("MaxResults", "1000")))
    return {"SpotPriceHistory": page, "NextToken": token}


def _moment(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


_OWN: Mapping[str, Callable[[Ec2, str, dict[str, str]], dict[str, Any]]] = {
    "DescribeInstances": _instances,
    "TerminateInstances": _terminate,
    "DescribeInstanceStatus": _status,
    "GetConsoleOutput": _console,
    "DescribeVolumes": _volumes,
    "DescribeNetworkInterfaces": _interfaces,
    "DescribeSpotInstanceRequests": _spot_requests,
    "CancelSpotInstanceRequests": _cancel,
    "DescribeInstanceTypeOfferings": _offerings,
    "DescribeSpotPriceHistory": _spot_history,
}
