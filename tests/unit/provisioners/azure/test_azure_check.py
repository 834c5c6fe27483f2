"""``check`` finds what would fail before the first job does, and says what to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from provisioners import base
from tests.clouds import arm
from tests.clouds.arm import lab


def errors(findings: list[base.Finding]) -> list[str]:
    assert all(one.remedy for one in findings if one.level is not base.Level.OK)
    return [f"{one.place}: {one.message} -> {one.remedy}" for one in findings if one.level is base.Level.ERROR]


def warnings(findings: list[base.Finding]) -> list[str]:
    return [f"{one.place}: {one.message}" for one in findings if one.level is base.Level.WARNING]


async def test_an_account_in_order_has_no_errors_and_is_told_what_ends_a_machine() -> None:
    one = lab.Lab()
    findings = await one.provisioner.check([one.request()])
    assert errors(findings) == []
    (warning,) = warnings(findings)
    assert "cannot delete itself" in warning
    assert any(one_.place == "pools.gpu-t4" and one_.level is base.Level.OK for one_ in findings)
    assert one.arm.created == []


async def test_with_an_identity_nothing_is_warned_of() -> None:
    one = lab.Lab()
    again = one.make(identity=one.arm.add_identity())
    assert warnings(await again.check()) == []


def disabled(one: lab.Lab) -> None:
    one.arm.subscription_state = "Disabled"


def other_subscription(one: lab.Lab) -> None:
    one.arm.subscription = "00000000-aaaa-bbbb-cccc-00000000000f"


def no_group(one: lab.Lab) -> None:
    del one.arm.groups["runnerd"]


def no_subnet(one: lab.Lab) -> None:
    del one.arm.resources[one.arm.subnet("eastus").lower()]


def subnet_elsewhere(one: lab.Lab) -> None:
    one.arm.resources.pop(one.arm.subnet("westus").lower())


def may_not_delete(one: lab.Lab) -> None:
    one.arm.daemon = dataclasses.replace(one.arm.daemon, not_actions=("Microsoft.Compute/*/delete",))


def may_only_read(one: lab.Lab) -> None:
    one.arm.daemon = dataclasses.replace(one.arm.daemon, actions=("*/read",))


def quota_of_zero(one: lab.Lab) -> None:
    one.arm.quota["eastus", "standardNCASv3_T4Family"] = 0


def restricted(one: lab.Lab) -> None:
    one.arm.restrictions.append(arm.Restriction(lab.T4, "eastus"))


def not_in_the_zone(one: lab.Lab) -> None:
    one.arm.restrictions.append(arm.Restriction(lab.T4, "eastus", zones=("1",)))


def size_unknown(one: lab.Lab) -> None:
    del one.arm.sizes[lab.T4]


def image_gone(one: lab.Lab) -> None:
    one.arm.images.clear()


@pytest.mark.parametrize(
    ("trouble", "place", "words"),
    [
        pytest.param(disabled, "providers.az", "disabled", id="a-disabled-subscription"),
        pytest.param(other_subscription, "providers.az", "SubscriptionNotFound", id="a-wrong-subscription"),
        pytest.param(no_group, "providers.az", "az group create --name runnerd", id="no-resource-group"),
        pytest.param(no_subnet, "providers.az.regions.eastus", "there is no", id="no-subnet"),
        pytest.param(subnet_elsewhere, "providers.az.regions.westus", "there is no", id="no-other-subnet"),
        pytest.param(may_not_delete, "providers.az", "Microsoft.Compute/virtualMachines/delete", id="may-not-delete"),
        pytest.param(may_only_read, "providers.az", "Microsoft.Network/networkInterfaces/join", id="may-only-read"),
        pytest.param(quota_of_zero, "pools.gpu-t4", "limit is 0", id="a-quota-of-zero"),
        pytest.param(restricted, "pools.gpu-t4", "NotAvailableForSubscription", id="a-restricted-size"),
        pytest.param(not_in_the_zone, "pools.gpu-t4", "zone 1", id="a-zone-without-the-size"),
        pytest.param(size_unknown, "pools.gpu-t4", "did you mean", id="a-size-that-is-not-sold"),
        pytest.param(image_gone, "pools.gpu-t4", "has no image", id="no-image"),
    ],
)
async def test_trouble_is_named_with_its_place_and_remedy(
    trouble: Callable[[lab.Lab], None], place: str, words: str
) -> None:
    one = lab.Lab("eastus", "westus")
    sample = one.request()
    trouble(one)
    found = errors(await one.provisioner.check([sample]))
    assert any(line.startswith(f"{place}: ") and words in line for line in found), found
    assert one.puts() == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"tags": {"a<b": "c"}}, "a<b", id="tags"),
        pytest.param({"user_data": "#!/bin/sh\n" + "x" * 70000}, "65535", id="script"),
        pytest.param({"options": {"subnets": {"eastsu": "x"}}}, "eastsu", id="pool-options"),
    ],
)
async def test_what_a_pool_would_send_is_judged(change: dict[str, Any], words: str) -> None:
    one = lab.Lab("eastus")
    found = errors(await one.provisioner.check([one.request(**change)]))
    assert any(line.startswith("pools.gpu-t4: ") and words in line for line in found), found


async def test_an_image_that_is_sold_with_a_plan_needs_the_plan_and_its_terms() -> None:
    one = lab.Lab("eastus")
    sample = one.request(options={"image": "nvidia:ngc_azure:gpu-optimized:latest"})
    (line,) = errors(await one.provisioner.check([sample]))
    assert "set plan: {publisher: nvidia, product: ngc_azure, name: gpu-optimized}" in line
    plan = {"publisher": "nvidia", "product": "ngc_azure", "name": "gpu-optimized"}
    sample = dataclasses.replace(sample, options={**sample.options, "plan": plan})
    (line,) = errors(await one.provisioner.check([sample]))
    assert "az vm image terms accept" in line
    one.arm.accepted.add(("nvidia", "ngc_azure", "gpu-optimized"))
    assert errors(await one.provisioner.check([sample])) == []
    await one.provisioner.create(dataclasses.replace(sample, offer=dataclasses.replace(sample.offer, image="")))


async def test_rights_that_only_inform_are_warned_of() -> None:
    one = lab.Lab("eastus")
    readers = ("Microsoft.Compute/skus/read", "Microsoft.Compute/locations/usages/read")
    one.arm.daemon = dataclasses.replace(one.arm.daemon, not_actions=readers)
    findings = await one.provisioner.check([one.request()])
    assert len([line for line in warnings(findings) if "not told" in line]) == 2


async def test_a_role_on_the_group_alone_is_enough() -> None:
    one = lab.Lab("eastus")
    one.arm.daemon = dataclasses.replace(one.arm.daemon, not_actions=("Microsoft.Resources/subscriptions/read",))
    assert errors(await one.provisioner.check([one.request()])) == []
