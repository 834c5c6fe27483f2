"""``check`` finds what would fail before the first job does, and says what to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from provisioners import base
from tests.clouds import azure as clouds_azure
from tests.clouds.azure import lab


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
    one.arm.restrictions.append(clouds_azure.Restriction(lab.T4, "eastus"))


def not_in_the_zone(one: lab.Lab) -> None:
    one.arm.restrictions.append(clouds_azure.Restriction(lab.T4, "eastus", zones=("1",)))


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
    warned = warnings(await one.provisioner.check([one.request()]))
    for problem in ("the sizes of eastus could not be listed", "the quotas of eastus could not be read"):
        assert len([line for line in warned if problem in line]) == 1


async def test_a_role_on_the_group_alone_is_enough() -> None:
    one = lab.Lab("eastus")
    one.arm.daemon = dataclasses.replace(one.arm.daemon, not_actions=("Microsoft.Resources/subscriptions/read",))
    assert errors(await one.provisioner.check([one.request()])) == []


async def test_networks_that_may_not_be_read_are_warned_of_with_what_they_need() -> None:
    one = lab.Lab("eastus")
    one.arm.daemon = dataclasses.replace(one.arm.daemon, not_actions=("Microsoft.Network/read",))
    found = warnings(await one.provisioner.check())
    assert any(line.startswith("providers.az.regions.eastus: ") and "cannot be read" in line for line in found)


async def test_a_security_group_of_another_region_is_named() -> None:
    one = lab.Lab("eastus")
    regions = {"eastus": {**one.options["regions"]["eastus"], "security_group": one.arm.security_group("westus")}}
    found = errors(await one.make(regions=regions).check())
    assert any("is in westus" in line and "name one in eastus" in line for line in found), found


async def test_an_image_of_a_gallery_is_looked_for_where_it_is() -> None:
    one = lab.Lab("eastus")
    image = (
        f"/subscriptions/{one.arm.subscription}/resourceGroups/images/providers/Microsoft.Compute/galleries/ci"
        "/images/gpu"
    )
    one.arm.groups["images"] = "eastus"
    sample = one.request(options={"image": image})
    assert any("there is no image" in line for line in errors(await one.provisioner.check([sample])))
    one.arm.resources[image.lower()] = "eastus"
    assert errors(await one.provisioner.check([sample])) == []


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        pytest.param("images", "cannot be read", id="images"),
        pytest.param("permissions", "resource group runnerd", id="permissions"),
    ],
)
async def test_what_cannot_be_asked_is_said(operation: str, words: str) -> None:
    one = lab.Lab("eastus")
    one.arm.faults.append(clouds_azure.Fault(operation=operation, code="InternalServerError", status=500, times=None))
    found = await one.provisioner.check([one.request()])
    assert any(words in finding.message for finding in found if finding.level is not base.Level.OK)


async def test_a_subscription_in_arrears_is_warned_of() -> None:
    one = lab.Lab("eastus")
    one.arm.subscription_state = "Warned"
    assert any("is Warned" in line for line in warnings(await one.provisioner.check()))


async def test_a_machine_s_own_identity_is_told_as_the_narrowest() -> None:
    one = lab.Lab("eastus")
    role = f"/subscriptions/{one.arm.subscription}/providers/Microsoft.Authorization/roleDefinitions/x"
    findings = await one.make(identity="system", identity_role=role).check()
    assert any("may delete nothing else" in finding.message for finding in findings)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        pytest.param("AADSTS7000222: The provided client secret keys are expired.", "expired", id="expired"),
        pytest.param("AADSTS7000215: Invalid client secret.", "value, not its id", id="wrong"),
        pytest.param("AADSTS700016: Application not found in the directory.", "client or the tenant", id="client"),
        pytest.param("AADSTS90002: Tenant not found.", "client or the tenant", id="tenant"),
        pytest.param("no credential", "managed identity", id="none"),
    ],
)
async def test_a_sign_in_that_fails_says_what_to_correct(message: str, words: str) -> None:
    from azure.core.exceptions import ClientAuthenticationError

    from provisioners import azure, catalogue
    from provisioners.azure import client, settings

    class Refused:
        async def get_token(self, *scopes: str, **kwargs: Any) -> Any:
            raise ClientAuthenticationError(message=message)

        async def close(self) -> None:
            """Nothing is open."""

    one = lab.Lab("eastus")
    chosen, _ = settings.read(one.options, catalogue.load("azure"))
    made = azure.Azure(one.context, one.options, client.Clients(chosen, one.context, credential=Refused))
    (finding,) = await made.check()
    assert finding.level is base.Level.ERROR
    assert message.split(":")[0] in finding.message
    assert words in finding.remedy
