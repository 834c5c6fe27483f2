"""The policy in the documentation allows what runnerd does, and nothing that it does not do."""

from __future__ import annotations

import json
import re
from typing import Any

from provisioners import base, catalogue
from provisioners.aws import errors, settings
from tests.clouds import aws
from tests.support.tree import ROOT
from tests.unit.provisioners.aws.aws_world import World, request

TEXT = (ROOT / "docs" / "aws.md").read_text()
#: Checked by Amazon on the way of another call.
IMPLIED = {"ec2:CreateTags", "iam:PassRole", "iam:CreateServiceLinkedRole"}
OURS = [{"Key": base.TAG_CONTROLLER, "Value": "acme-ci"}]


def policies() -> list[dict[str, Any]]:
    return [json.loads(block) for block in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)]


def allowed() -> set[str]:
    found: set[str] = set()
    for statement in policies()[0]["Statement"]:
        actions = statement["Action"]
        if statement["Effect"] == "Allow":
            found.update([actions] if isinstance(actions, str) else actions)
    return {one for one in found if not one.startswith("kms:")}


async def test_the_documented_policy_is_enough_and_no_more(world: World) -> None:
    actions = allowed()
    world.cloud.keys[aws.KEYS[0]].allowed = tuple(actions)
    world.cloud.keys["AKIAROOTEXAMPLE00000"] = aws.Identity("arn:aws:iam::111122223333:root")
    group = next(iter(world.cloud.account.backend("us-east-1").groups[world.vpc("us-east-1")]))
    east = {**world.options["regions"]["us-east-1"], "security_groups": [group]}
    provider = await world.provider(regions={"us-east-1": east})
    for number, nth in enumerate((0, -1)):
        await provider.create(await request(provider, f"key-{number}", nth=nth))
    _litter(world)
    world.settle()
    sample = await request(provider, "sample")
    findings = await provider.check([sample])
    assert {one.level for one in findings} == {base.Level.OK}
    await provider.quotas()
    await provider.refresh_prices()
    listing = await provider.list_owned()
    assert listing.failures == {}
    for view in listing.views:
        await provider.console_log(view.ref)
        await provider.delete(view.ref)
    assert len(listing.residues) == 4
    for residue in listing.residues:
        await provider.delete_residue(residue)

    mine = [one for one in world.cloud.calls if one.access_key == aws.KEYS[0]]
    assert not [one for one in mine if "Unauthorized" in one.outcome or "AccessDenied" in one.outcome]
    done = {f"{_service(one.operation)}:{one.operation}" for one in mine}
    assert done == actions - IMPLIED


def _litter(world: World) -> None:
    """Side resources of ours, made by somebody who may."""
    client = aws.sdk(world.cloud.handle, keys=("AKIAROOTEXAMPLE00000", "x"))
    subnet = world.cloud.subnet("us-east-1a")
    specs = {kind: [{"ResourceType": kind, "Tags": OURS}] for kind in ("volume", "network-interface", "elastic-ip")}
    client.create_volume(AvailabilityZone="us-east-1b", Size=8, TagSpecifications=specs["volume"])
    client.create_network_interface(SubnetId=subnet, TagSpecifications=specs["network-interface"])
    client.allocate_address(Domain="vpc", TagSpecifications=specs["elastic-ip"])
    request_ = next(iter(world.cloud.account.spot_requests.values()))
    request_.instance = ""


def _service(operation: str) -> str:
    return {
        "GetParameter": "ssm",
        "GetCallerIdentity": "sts",
        "ListServiceQuotas": "servicequotas",
        "GetProducts": "pricing",
    }.get(operation, "ec2")


def test_what_ends_something_is_allowed_for_what_carries_our_tag_only() -> None:
    for statement in policies()[0]["Statement"]:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        if any(re.match(r"ec2:(Terminate|Delete|Cancel|Release|GetConsole)", one) for one in actions):
            assert statement["Condition"] == {"StringEquals": {"aws:ResourceTag/runnerd-controller": "acme-ci"}}
        if "iam:PassRole" in actions:
            assert "*" not in statement["Resource"]


def test_every_option_is_in_the_documents() -> None:
    asked: set[str] = set()

    class Told(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            asked.add(key)
            return super().get(key, default)

    given = Told()
    settings.read(given, catalogue.load("aws"))
    settings.read_pool(given, catalogue.load("aws"))
    missing = {key for key in asked if f"`{key}`" not in TEXT}
    assert (len(asked) > 20, missing) == (True, set())


def test_every_code_of_the_summary_is_a_row() -> None:
    table = TEXT.split("## What refusals mean")[1].split("\n## ")[0]
    words = set(re.findall(r"`([A-Za-z.]+)`", table)) - {"Throttling..."}
    known = {*errors.ROWS, *errors.LAUNCH_FAILURES, "Server.SpotInstanceTermination", "Server.SpotInstanceShutdown"}
    assert words <= known
