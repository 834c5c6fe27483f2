"""The simulated EC2, driven by the plain SDK: it refuses what EC2 refuses, and plays the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError

from tests.clouds import aws


class Account:
    """A simulated account with the SDK in front of it."""

    def __init__(self, seed: int = 3, **options: Any) -> None:
        self.now = 1_795_600_000.0
        self.cloud = aws.Ec2(lambda: self.now, random.Random(seed), **options)
        self.sdk = aws.sdk(self.cloud.handle)
        images = self.cloud.account.backend("us-east-1").amis
        self.image = next(id for id, one in images.items() if one.name.startswith("Deep Learning Base"))

    def run(self, token: str = "one", *, zone: str = "us-east-1a", **changes: Any) -> dict[str, Any]:
        given = {
            "MinCount": 1,
            "MaxCount": 1,
            "ImageId": self.image,
            "InstanceType": "g4dn.xlarge",
            "SubnetId": self.cloud.subnet(zone),
            "ClientToken": token,
            **changes,
        }
        answer: dict[str, Any] = self.sdk.run_instances(**given)["Instances"][0]
        return answer

    def refused(self, *arguments: Any, **changes: Any) -> tuple[str, int]:
        with pytest.raises(ClientError) as caught:
            self.run(*arguments, **changes)
        response = caught.value.response
        return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]

    def states(self, **parameters: Any) -> list[str]:
        found = self.sdk.describe_instances(**parameters)["Reservations"]
        return [one["State"]["Name"] for reservation in found for one in reservation["Instances"]]


@pytest.fixture
def account() -> Iterator[Account]:
    made = Account()
    yield made
    made.cloud.close()


SPOT = {"MarketType": "spot", "SpotOptions": {"SpotInstanceType": "one-time"}}


def test_a_token_is_the_same_instance_in_its_zone_and_another_one_elsewhere(account: Account) -> None:
    first, again, elsewhere = account.run(), account.run(), account.run(zone="us-east-1b")
    assert first["InstanceId"] == again["InstanceId"] != elsewhere["InstanceId"]
    assert len(account.cloud.created) == 2


def test_a_token_with_other_parameters_is_refused(account: Account) -> None:
    account.run()
    assert account.refused(UserData="#!/bin/sh\n") == ("IdempotentParameterMismatch", 400)


def test_a_token_of_a_terminated_instance_is_refused_for_a_day(account: Account) -> None:
    made = account.run()
    account.sdk.terminate_instances(InstanceIds=[made["InstanceId"]])
    account.now += 60
    assert account.refused() == ("IdempotentInstanceTerminated", 400)
    account.now += 2 * 86400
    assert account.run()["InstanceId"] != made["InstanceId"]


@pytest.mark.parametrize(
    ("changes", "code", "status"),
    [
        pytest.param({"UserData": "x" * 16385}, "InvalidUserData.Malformed", 400, id="user-data"),
        pytest.param({"ImageId": "ami-0123456789abcdef0"}, "InvalidAMIID.NotFound", 400, id="image"),
        pytest.param({"ImageId": "ubuntu"}, "InvalidAMIID.Malformed", 400, id="image-id"),
        pytest.param({"InstanceType": "g4dn.tiny"}, "InvalidParameterValue", 400, id="type"),
        pytest.param({"InstanceType": "m7g.large"}, "InvalidParameterValue", 400, id="architecture"),
        pytest.param({"SubnetId": "subnet-0123456789abcdef0"}, "InvalidSubnetID.NotFound", 400, id="subnet"),
        pytest.param({"SecurityGroupIds": ["sg-0123456789abcdef0"]}, "InvalidGroup.NotFound", 400, id="group"),
        pytest.param({"IamInstanceProfile": {"Name": "ghost"}}, "InvalidParameterValue", 400, id="profile"),
        pytest.param({"KeyName": "ghost"}, "InvalidKeyPair.NotFound", 400, id="key"),
        pytest.param({"MetadataOptions": {"HttpPutResponseHopLimit": 65}}, "InvalidParameterValue", 400, id="hops"),
        pytest.param({"token": "x" * 65}, "InvalidClientToken", 400, id="token"),
        pytest.param({"DryRun": True}, "DryRunOperation", 412, id="dry-run"),
        pytest.param(
            {"BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 8}}]},
            "InvalidBlockDeviceMapping",
            400,
            id="disk-smaller-than-image",
        ),
        pytest.param(
            {"InstanceMarketOptions": {"MarketType": "spot", "SpotOptions": {"MaxPrice": "0.0001"}}},
            "SpotMaxPriceTooLow",
            400,
            id="price",
        ),
    ],
)
def test_a_launch_that_ec2_refuses_is_refused(
    account: Account, changes: dict[str, Any], code: str, status: int
) -> None:
    changes = dict(changes)
    token = changes.pop("token", "one")
    assert account.refused(token, **changes) == (code, status)
    assert account.cloud.created == []


@pytest.mark.parametrize(
    ("specs", "code"),
    [
        pytest.param([("instance", {f"k{n}": "" for n in range(51)})], "TagLimitExceeded", id="too-many"),
        pytest.param([("instance", {"aws:x": "1"})], "InvalidParameterValue", id="reserved"),
        pytest.param([("instance", {"k" * 129: ""})], "InvalidParameterValue", id="long-name"),
        pytest.param([("instance", {"k": "v" * 257})], "InvalidParameterValue", id="long-value"),
        pytest.param([("instance", {"a": "1"}), ("instance", {"b": "1"})], "InvalidParameterValue", id="kind-twice"),
        pytest.param([("spot-instances-request", {"a": "1"})], "InvalidParameterValue", id="spot-tag-on-demand"),
    ],
)
def test_tags_that_ec2_refuses_are_refused(
    account: Account, specs: list[tuple[str, dict[str, str]]], code: str
) -> None:
    given = [
        {"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}
        for kind, tags in specs
    ]
    assert account.refused(TagSpecifications=given) == (code, 400)


def test_a_misspelt_parameter_is_refused_even_when_the_sdk_does_not_look(account: Account) -> None:
    def meddle(request: Any, **_: Any) -> None:
        request.data = {**request.data, "InstanceTyp": "x"} if isinstance(request.data, dict) else request.data

    account.sdk.meta.events.register("before-sign.ec2.RunInstances", meddle)
    assert account.refused() == ("UnknownParameter", 400)


def test_capacity_is_refused_as_a_server_error(account: Account) -> None:
    account.cloud.capacity["us-east-1a/g4dn.*/*"] = 1
    account.run()
    assert account.refused("two") == ("InsufficientInstanceCapacity", 500)
    account.run("two", zone="us-east-1b")


@pytest.mark.parametrize(
    ("market", "quota", "code"),
    [
        pytest.param(None, "L-DB2E81BA", "VcpuLimitExceeded", id="on-demand"),
        pytest.param(SPOT, "L-3819A6DF", "MaxSpotInstanceCountExceeded", id="spot"),
    ],
)
def test_quotas_count_vcpus_by_family_and_market(account: Account, market: Any, quota: str, code: str) -> None:
    account.cloud.quotas["us-east-1", quota] = 7
    changes = {"InstanceMarketOptions": market} if market else {}
    account.run(**changes)
    assert account.refused("two", **changes) == (code, 400)
    made = account.run("three", InstanceType="m7i.large", **changes)
    account.sdk.terminate_instances(InstanceIds=[made["InstanceId"], account.cloud.created[0].id])
    account.run("two", **changes)


def test_requests_beyond_the_documented_rate_are_refused_and_refilled(account: Account) -> None:
    for number in range(5):
        account.run(f"t{number}")
    assert account.refused("t5") == ("RequestLimitExceeded", 503)
    account.now += 0.5
    account.run("t5")
    assert account.refused("t6") == ("RequestLimitExceeded", 503)
    # Another region has a bucket of its own.
    assert aws.sdk(account.cloud.handle, region="us-west-2").describe_instances()["Reservations"] == []


def test_listings_without_filter_or_page_cost_more(account: Account) -> None:
    for _ in range(50):
        account.sdk.describe_instances()
    with pytest.raises(ClientError, match="RequestLimitExceeded"):
        account.sdk.describe_instances()
    account.sdk.describe_instances(MaxResults=5)


def test_an_instance_is_pending_then_running_then_gone(account: Account) -> None:
    made = account.run()
    assert made["State"]["Name"] == "pending"
    account.now += 3
    assert account.states() == ["pending"]
    account.now += 30
    assert account.states() == ["running"]
    account.sdk.terminate_instances(InstanceIds=[made["InstanceId"]])
    assert account.states() == ["shutting-down"]
    account.now += 10
    assert account.states() == ["terminated"]
    account.now += 3600
    assert account.states() == []


def test_a_new_instance_is_missing_from_listings_for_a_while(account: Account) -> None:
    account.cloud.faults.append(aws.Fault(hidden_for=30))
    id = account.run()["InstanceId"]
    assert account.states() == []
    with pytest.raises(ClientError, match=r"InvalidInstanceID\.NotFound"):
        account.sdk.describe_instances(InstanceIds=[id])
    account.now += 40
    assert account.states(InstanceIds=[id]) == ["running"]


def test_a_batch_with_an_unknown_instance_ends_none(account: Account) -> None:
    made = account.run()
    with pytest.raises(ClientError, match=r"InvalidInstanceID\.NotFound"):
        account.sdk.terminate_instances(InstanceIds=[made["InstanceId"], "i-0123456789abcdef0"])
    with pytest.raises(ClientError, match=r"InvalidInstanceID\.Malformed"):
        account.sdk.terminate_instances(InstanceIds=["no-such-instance"])
    assert len(account.cloud.alive) == 1


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        pytest.param("client-token", "one", 1, id="token"),
        pytest.param("client-token", "two", 0, id="other-token"),
        pytest.param("instance-lifecycle", "spot", 1, id="lifecycle"),
        pytest.param("availability-zone", "us-east-1a", 1, id="zone"),
        pytest.param("availability-zone", "us-east-1b", 0, id="other-zone"),
        pytest.param("instance-state-code", "16", 1, id="state-code"),
        pytest.param("tag:team", "m*", 1, id="tag"),
        pytest.param("tag-key", "team", 1, id="tag-key"),
    ],
)
def test_filters_filter(account: Account, name: str, value: str, found: int) -> None:
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "team", "Value": "ml"}]}]
    account.run(InstanceMarketOptions=SPOT, TagSpecifications=tags)
    account.now += 60
    assert len(account.states(Filters=[{"Name": name, "Values": [value]}])) == found


def test_an_unknown_filter_is_refused(account: Account) -> None:
    with pytest.raises(ClientError, match="InvalidParameterValue"):
        account.sdk.describe_instances(Filters=[{"Name": "colour", "Values": ["red"]}])


def test_lists_come_in_pages(account: Account) -> None:
    for number in range(12):
        account.run(f"t{number}")
        account.now += 1
    account.now += 60
    pages = list(account.sdk.get_paginator("describe_instances").paginate(PaginationConfig={"PageSize": 5}))
    assert [len(page["Reservations"]) for page in pages] == [5, 5, 2]
    with pytest.raises(ClientError, match="InvalidParameterCombination"):
        account.sdk.describe_instances(InstanceIds=[account.cloud.created[0].id], MaxResults=5)


def test_a_spot_instance_that_is_taken_back_says_so(account: Account) -> None:
    made = account.run(InstanceMarketOptions=SPOT)
    account.now += 60
    (asked,) = account.sdk.describe_spot_instance_requests()["SpotInstanceRequests"]
    assert (asked["State"], asked["InstanceId"]) == ("active", made["InstanceId"])
    account.cloud.preempt(made["InstanceId"])
    account.now += 60
    (one,) = account.sdk.describe_instances()["Reservations"][0]["Instances"]
    assert one["StateReason"]["Code"] == "Server.SpotInstanceTermination"
    assert account.sdk.describe_spot_instance_requests()["SpotInstanceRequests"][0]["State"] == "closed"


@pytest.mark.parametrize(
    ("behaviour", "state"),
    [pytest.param("terminate", "terminated", id="terminate"), pytest.param("stop", "stopped", id="stop")],
)
def test_a_guest_that_shuts_down_ends_as_its_launch_said(account: Account, behaviour: str, state: str) -> None:
    made = account.run(InstanceInitiatedShutdownBehavior=behaviour)
    account.now += 60
    account.cloud.power_off(made["InstanceId"])
    account.now += 60
    assert account.states() == [state]
    assert account.cloud.find(made["InstanceId"]).reason == "Client.InstanceInitiatedShutdown"


def test_disks_and_interfaces_go_with_their_instance_only_when_they_should(account: Account) -> None:
    keep = [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 80, "DeleteOnTermination": False}}]
    made = account.run(BlockDeviceMappings=keep)
    account.now += 60
    account.sdk.terminate_instances(InstanceIds=[made["InstanceId"]])
    account.now += 60
    account.states()
    volumes = account.sdk.describe_volumes(Filters=[{"Name": "status", "Values": ["available"]}])["Volumes"]
    assert [one["Size"] for one in volumes] == [80]


def test_answers_are_lost_before_or_after_the_deed(account: Account) -> None:
    for fault, error, created in (
        (aws.Fault(lost="before", sent=False), EndpointConnectionError, 0),
        (aws.Fault(lost="before"), ReadTimeoutError, 0),
        (aws.Fault(lost="after"), ReadTimeoutError, 1),
    ):
        account.cloud.faults[:] = [fault]
        with pytest.raises(error):
            account.run()
        assert len(account.cloud.created) == created


def test_what_credentials_may_not_do_is_refused_and_named(account: Account) -> None:
    account.cloud.denied.add("ec2:RunInstances")
    assert account.refused() == ("UnauthorizedOperation", 403)
    assert account.refused(DryRun=True) == ("UnauthorizedOperation", 403)
    stranger = aws.sdk(account.cloud.handle, keys=("AKIASTRANGER00000000", "x"))
    with pytest.raises(ClientError, match="AuthFailure"):
        stranger.describe_instances()


def test_every_change_of_an_instance_is_told_once(account: Account) -> None:
    seen: list[str] = []
    account.cloud.on_change = lambda instance: seen.append(instance.state)
    account.run(InstanceInitiatedShutdownBehavior="terminate")
    assert account.cloud.next_change() > account.now
    for _ in range(3):
        account.now += 30
        account.cloud.tick()
    account.cloud.power_off(account.cloud.created[0].id)
    account.now = account.cloud.next_change()
    account.cloud.tick()
    assert seen == ["running", "shutting-down", "terminated"]
    assert account.cloud.next_change() == float("inf")


def _played(seed: int) -> list[Any]:
    """A short life of an account, and everything that came of it."""
    account = Account(seed)
    try:
        account.cloud.faults.append(aws.Fault(code="InsufficientInstanceCapacity", probability=0.4, times=None))
        for number in range(8):
            try:
                account.run(f"t{number}", InstanceMarketOptions=SPOT)
            except ClientError:
                pass
            account.now += 1
        account.now += 13
        told = account.sdk.describe_instances()["Reservations"]
        facts = [
            (one["InstanceId"], one["State"]["Name"], one["PrivateIpAddress"]) for r in told for one in r["Instances"]
        ]
        return [account.cloud.created, facts, account.cloud.subnet("us-east-1a")]
    finally:
        account.cloud.close()


def test_the_same_seed_plays_the_same_and_simulations_do_not_touch() -> None:
    beside = Account(5)
    try:
        first = _played(42)
        beside.run()
        assert _played(42) == first
        assert _played(43) != first
        assert len(beside.cloud.created) == 1
    finally:
        beside.cloud.close()
