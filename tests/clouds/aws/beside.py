"""STS, SSM parameters and Service Quotas, as far as a provider of instances needs them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.clouds import wire
from tests.clouds.aws import limits, reads, schema
from tests.clouds.aws.refusals import Refused

if TYPE_CHECKING:
    from tests.clouds.aws.cloud import Ec2


def answer(
    cloud: Ec2,
    service: str,
    operation: str,
    region: str,
    form: dict[str, str],
    request: wire.Request,
    arn: str,
) -> wire.Answer:
    """Answer one call."""
    if (service, operation) == ("sts", "GetCallerIdentity"):
        account = arn.split(":")[4]
        return schema.answer(service, operation, {"Account": account, "Arn": arn, "UserId": "AIDAEXAMPLE"})
    if (service, operation) == ("sts", "AssumeRole"):
        return schema.answer(service, operation, _assume(cloud, form))
    body = json.loads(request.body or b"{}")
    if (service, operation) == ("ssm", "GetParameter"):
        return schema.answer(service, operation, _parameter(cloud, region, body))
    if (service, operation) == ("service-quotas", "ListServiceQuotas"):
        return schema.answer(service, operation, _quotas(cloud, region, body))
    raise Refused("UnknownOperationException", f"{service}:{operation} is not simulated")


def _assume(cloud: Ec2, form: dict[str, str]) -> dict[str, Any]:
    from tests.clouds.aws.cloud import Identity

    arn = form.get("RoleArn", "")
    role = cloud.roles.get(arn)
    if role is None or role.external_id != form.get("ExternalId", ""):
        raise Refused("AccessDenied", f"User is not authorized to perform: sts:AssumeRole on resource: {arn}")
    lasts = min(role.lasts, float(form.get("DurationSeconds", "3600")))
    number = cloud.rng.getrandbits(60)
    key, session = f"ASIA{number:016d}"[:20], f"session-{number}"
    name = arn.rpartition("/")[2]
    assumed = f"arn:aws:sts::{arn.split(':')[4]}:assumed-role/{name}/{form.get('RoleSessionName', '')}"
    expires = cloud.now() + lasts
    cloud.keys[key] = Identity(assumed, role.allowed, expires, session)
    return {
        "Credentials": {
            "AccessKeyId": key,
            "SecretAccessKey": "simulated-secret-of-a-role",
            "SessionToken": session,
            "Expiration": reads._moment(expires),
        },
        "AssumedRoleUser": {"AssumedRoleId": f"AROA:{name}", "Arn": assumed},
    }


def _parameter(cloud: Ec2, region: str, body: dict[str, Any]) -> dict[str, Any]:
    cloud.account.backend(region)
    name = body.get("Name", "")
    value = cloud.account.parameters.get((region, name))
    if value is None:
        raise Refused("ParameterNotFound", f"Parameter {name} not found.")
    return {"Parameter": {"Name": name, "Type": "String", "Value": value, "Version": 1}}


def _quotas(cloud: Ec2, region: str, body: dict[str, Any]) -> dict[str, Any]:
    size = int(body.get("MaxResults", 100))
    if body.get("ServiceCode") != "ec2" or not 1 <= size <= 100:
        raise Refused("IllegalArgumentException", "ServiceCode must be ec2 and MaxResults 1 to 100")
    rows = [
        {
            "ServiceCode": "ec2",
            "QuotaCode": code,
            "QuotaName": name,
            "Value": float(cloud.quotas.get((region, code), cloud.default_quota)),
            "Adjustable": True,
            "GlobalQuota": False,
        }
        for code, name in sorted(limits.CODES.values())
    ]
    start = int(body.get("NextToken") or 0)
    following = str(start + size) if start + size < len(rows) else None
    return {"Quotas": rows[start : start + size], "NextToken": following}
