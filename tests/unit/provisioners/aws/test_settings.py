"""Options of the provider and of its pools are read without asking anybody, and every mistake is named."""

from __future__ import annotations

from typing import Any

import pytest

from provisioners import aws, base, catalogue
from provisioners.aws import images, settings

EAST = {"us-east-1": {"subnets": ["subnet-0123456789abcdef0"]}}
ROLE = "arn:aws:iam::123456789012:role/runnerd"


@pytest.mark.parametrize(
    ("options", "place", "words"),
    [
        pytest.param({}, "regions", "at least one", id="no-regions"),
        pytest.param({"regions": {"us-eats-1": EAST["us-east-1"]}}, "regions.us-eats-1", '"us-east-1"', id="region"),
        pytest.param({"regions": {"us-east-1": {}}}, "regions.us-east-1.subnets", "at least one", id="no-subnets"),
        pytest.param({"regions": {"us-east-1": {"subnets": ["vpc-1"]}}}, "regions.us-east-1.subnets", "vpc-1", id="id"),
        pytest.param(
            {"regions": {"us-east-1": {"subnets": ["subnet-0123456789abcdef0"], "subnet": 1}}},
            "regions.us-east-1.subnet",
            '"subnets"',
            id="region-key",
        ),
        pytest.param({"regions": EAST, "security_group": []}, "security_group", '"security_groups"', id="key"),
        pytest.param({"regions": EAST, "security_groups": ["web"]}, "security_groups", "sg-", id="group"),
        pytest.param({"regions": EAST, "image": "ubuntu"}, "image", "ssm:/path", id="image"),
        pytest.param({"regions": EAST, "image": "name:ubuntu-*"}, "image", "image_owner", id="image-without-owner"),
        pytest.param({"regions": EAST, "image": "ssm:relative"}, "image", "ssm:/path", id="parameter"),
        pytest.param({"regions": EAST, "hop_limit": 65}, "hop_limit", "1 to 64", id="hops"),
        pytest.param({"regions": EAST, "hop_limit": 0}, "hop_limit", "1 to 64", id="no-hop"),
        pytest.param({"regions": EAST, "instance_profile": "a b"}, "instance_profile", "ARN", id="profile"),
        pytest.param({"regions": EAST, "role_arn": "runnerd"}, "role_arn", "arn:aws:iam", id="role"),
        pytest.param({"regions": EAST, "external_id": "x"}, "external_id", "role_arn", id="external-id"),
        pytest.param({"regions": EAST, "account": "acme"}, "account", "twelve digits", id="account"),
        pytest.param(
            {"regions": EAST, "account": "210987654321", "role_arn": ROLE}, "account", "123456789012", id="two-accounts"
        ),
        pytest.param({"regions": EAST, "access_key": "env:ID"}, "secret_key", "both", id="half-a-key"),
        pytest.param({"regions": EAST, "secret_key": "hunter2"}, "secret_key", "file:/path", id="pasted-secret"),
        pytest.param({"regions": EAST, "session_token": "env:T"}, "session_token", "access_key", id="only-token"),
        pytest.param(
            {"regions": EAST, "profile": "ci", "access_key": "env:A", "secret_key": "env:B"},
            "profile",
            "only one",
            id="profile-and-keys",
        ),
        pytest.param({"regions": EAST, "disk_type": "gp4"}, "disk_type", '"gp3"', id="disk-type"),
        pytest.param({"regions": EAST, "disk_type": "io2"}, "disk_iops", "must be chosen", id="io2"),
        pytest.param({"regions": EAST, "disk_type": "gp2", "disk_iops": 3000}, "disk_iops", "gp2", id="gp2"),
        pytest.param(
            {"regions": EAST, "disk_type": "gp2", "disk_throughput": 250}, "disk_throughput", "gp3", id="throughput"
        ),
        pytest.param({"regions": EAST, "markets": ["spots"]}, "markets", '"spot"', id="market"),
        pytest.param({"regions": EAST, "prices": {"g4dn.xlrge": 1}}, "prices.g4dn.xlrge", '"g4dn.xlarge"', id="price"),
        pytest.param({"regions": EAST, "endpoint": "localhost"}, "endpoint", "URL", id="endpoint"),
        pytest.param({"regions": EAST, "endpoint": {"s3": "https://x"}}, "endpoint.s3", "no such key", id="service"),
    ],
)
def test_a_mistake_in_the_options_is_named_with_its_place(options: dict[str, Any], place: str, words: str) -> None:
    problems = aws.Aws.validate(options)
    assert [one.partition(": ")[0] for one in problems] == [place]
    assert words in problems[0]
    assert "hunter2" not in problems[0]


@pytest.mark.parametrize(
    ("options", "place", "words"),
    [
        pytest.param({"images": "x"}, "images", '"image"', id="key"),
        pytest.param({"image": "x"}, "image", "no image", id="image"),
        pytest.param({"image": {"us-east-1": "x"}}, "image.us-east-1", "no image", id="image-of-a-region"),
        pytest.param(
            {"image": {"us-eats-1": "ami-0123456789abcdef0"}}, "image.us-eats-1", '"us-east-1"', id="image-place"
        ),
        pytest.param({"regions": ["us-eats-1"]}, "regions", '"us-east-1"', id="region"),
        pytest.param({"subnets": ["x"]}, "subnets", "subnet-", id="subnet"),
        pytest.param({"hop_limit": 99}, "hop_limit", "1 to 64", id="hops"),
        pytest.param({"public_address": "no"}, "public_address", "true or false", id="address"),
        pytest.param({"disk_type": "io1"}, "disk_iops", "must be chosen", id="disk"),
    ],
)
def test_a_mistake_in_a_pools_options_is_named_with_its_place(options: dict[str, Any], place: str, words: str) -> None:
    problems = aws.Aws.validate_pool(options)
    assert [one.partition(": ")[0] for one in problems] == [place]
    assert words in problems[0]


def test_everything_that_can_be_said_is_taken() -> None:
    options = {
        "regions": {
            "us-east-1": {"subnets": ["subnet-0123456789abcdef0"], "security_groups": ["sg-0123456789abcdef0"]},
            "eu-west-1": {"subnets": ["subnet-0123456789abcdef1"], "image": "ami-0123456789abcdef0", "hop_limit": 2},
        },
        "image": "name:ci-*",
        "image_owner": "self",
        "instance_profile": "ci",
        "role_arn": ROLE,
        "external_id": "acme",
        "access_key": "env:ID",
        "secret_key": "file:/etc/key",
        "session_token": "credential:token",
        "hop_limit": 1,
        "public_address": False,
        "disk": "150GiB",
        "disk_type": "gp3",
        "disk_iops": 4000,
        "disk_throughput": 250,
        "kms_key": "alias/ci",
        "key_name": "ops",
        "markets": ["spot"],
        "prices": {"g4dn.xlarge": {"on-demand": 0.4, "spot": 0.1}},
        "endpoint": {"ec2": "https://ec2.{region}.vpce.example"},
        "ca": "/etc/ssl/ci.pem",
    }
    read, problems = settings.read(options, catalogue.load("aws"))
    assert problems == []
    assert read.account == "123456789012"
    assert read.endpoint("ec2", "eu-west-1") == "https://ec2.eu-west-1.vpce.example"
    assert read.endpoint("sts", "eu-west-1") is None
    east, west = read.regions["us-east-1"].launch, read.regions["eu-west-1"].launch
    assert (str(east.image), str(west.image)) == ("name:ci-* of self", "ami-0123456789abcdef0")
    assert (east.hop_limit, west.hop_limit, west.public_address) == (1, 2, False)
    assert read.markets == (base.Market.SPOT,)


def test_a_pool_changes_what_it_names_and_nothing_else() -> None:
    read, problems = settings.read_pool(
        {"image": {"*": "ami-0123456789abcdef0"}, "public_address": False}, catalogue.load("aws")
    )
    assert problems == []
    launch = settings.Launch(hop_limit=5, disk_type="gp2", public_address=True)
    changed = read.over(launch, "us-east-1")
    assert (changed.hop_limit, changed.disk_type, changed.public_address) == (5, "gp2", False)
    assert changed.image == images.Image(id="ami-0123456789abcdef0")


def test_options_that_are_wrong_make_no_provider() -> None:
    context = base.Context("aws", "acme-ci", "", lambda: 0.0, lambda seconds: None)
    with pytest.raises(ValueError, match="regions"):
        aws.Aws(context, {})


def test_a_disk_of_another_type_does_not_inherit_what_was_chosen_for_the_old_one() -> None:
    read, _ = settings.read_pool({"disk_type": "gp2"}, catalogue.load("aws"))
    changed = read.over(settings.Launch(disk_type="gp3", disk_iops=4000, disk_throughput=250), "us-east-1")
    assert (changed.disk_type, changed.disk_iops, changed.disk_throughput) == ("gp2", 0, 0)
