"""Options are judged without a call, each complaint with its key and the nearest thing that exists."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from provisioners import azure
from tests.clouds import azure as clouds_azure
from tests.clouds.azure import lab

IDENTITY = (
    f"/subscriptions/{clouds_azure.SUBSCRIPTION}/resourceGroups/g"
    "/providers/Microsoft.ManagedIdentity/userAssignedIdentities/x"
)


def options(**change: Any) -> dict[str, Any]:
    return {**lab.Lab().options, **change}


def test_good_options_are_accepted() -> None:
    full = options(
        image="nvidia:ngc_azure:gpu-optimized:26.10.1",
        plan={"publisher": "nvidia", "product": "ngc_azure", "name": "gpu-optimized"},
        identity=IDENTITY,
        disk_type="Premium_LRS",
        security_type="confidential",
        tenant=clouds_azure.TENANT,
        client_id=clouds_azure.CLIENT,
        client_secret="env:AZURE_SECRET",
        ssh_key="ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHMGwH0eFroJVywjl2jWg0NXKrvHGa4ju9ncgEIpCPsH me@here",
        prices={"Standard_NC4as_T4_v3": {"spot": 0.1}},
        authority="login.microsoftonline.us",
    )
    assert azure.Azure.validate(full) == []


@pytest.mark.parametrize(
    ("change", "key", "words"),
    [
        pytest.param({"subscription": None}, "subscription", "required", id="nothing-for-a-subscription"),
        pytest.param({"resource_group": None}, "resource_group", "required", id="nothing-for-a-group"),
        pytest.param({"authority": "login.example/tenant"}, "authority", "host", id="an-authority-with-a-path"),
        pytest.param({"tenant": clouds_azure.TENANT}, "tenant", "meaning", id="a-tenant-without-a-secret"),
        pytest.param(
            {"client_secret": "env:X", "certificate": "/x", "tenant": "t", "client_id": "c"},
            "certificate",
            "one of them",
            id="a-secret-and-a-certificate",
        ),
        pytest.param({"subscription": "mine"}, "subscription", "GUID", id="no-subscription"),
        pytest.param({"resource_group": "a/b"}, "resource_group", "a/b", id="no-group"),
        pytest.param({"regions": {}}, "regions", "no region", id="no-region"),
        pytest.param({"regions": {"eastsu": {"subnet": "x"}}}, "regions.eastsu", "eastus", id="an-unknown-region"),
        pytest.param({"regions": {"eastus": {}}}, "regions.eastus.subnet", "required", id="no-subnet"),
        pytest.param({"regions": {"eastus": {"subnet": "ci"}}}, "regions.eastus.subnet", "resource id", id="no-id"),
        pytest.param({"image": "ubuntu"}, "image", "publisher:offer:sku:version", id="no-image"),
        pytest.param({"plan": {"publisher": "x"}}, "plan.product", "required", id="half-a-plan"),
        pytest.param({"admin_user": "root"}, "admin_user", "refuses", id="a-user-that-azure-refuses"),
        pytest.param({"ssh_key": "-----BEGIN PRIVATE KEY-----"}, "ssh_key", "public key", id="a-private-key"),
        pytest.param({"identity": "me"}, "identity", "user-assigned", id="no-identity"),
        pytest.param({"identity": "system"}, "identity_role", "required", id="an-identity-without-rights"),
        pytest.param({"identity_role": IDENTITY}, "identity_role", "system", id="rights-without-an-identity"),
        pytest.param({"disk_type": "Premium_LSR"}, "disk_type", "Premium_LRS", id="a-disk-misspelt"),
        pytest.param({"security_type": "standart"}, "security_type", "standard", id="a-security-type-misspelt"),
        pytest.param({"client_secret": "hunter2"}, "client_secret", "where the secret is", id="a-secret-pasted"),
        pytest.param({"client_secret": "env:X"}, "tenant", "required", id="a-secret-without-a-tenant"),
        pytest.param({"terminate_notice": "1m"}, "terminate_notice", "5m", id="a-notice-that-is-too-short"),
        pytest.param({"poll": "5m"}, "poll", "30s", id="a-pace-that-is-too-slow"),
        pytest.param({"endpoint": "http://arm"}, "endpoint", "https", id="an-endpoint-in-the-clear"),
        pytest.param({"prices": {"Standard_NC4as_T4_v4": 1}}, "prices", "Standard_NC4as_T4_v3", id="a-price-misspelt"),
        pytest.param({"region": 1}, "region:", "regions", id="an-unknown-key"),
    ],
)
def test_a_bad_option_is_named_with_what_would_be_right(change: dict[str, Any], key: str, words: str) -> None:
    problems = azure.Azure.validate(options(**change))
    found = [one for one in problems if one.startswith(key)]
    assert found, problems
    assert any(words in one for one in found), found
    assert not any("hunter2" in one for one in problems)


def test_a_zone_that_no_region_has_is_named() -> None:
    given = options()
    given["regions"] = {"eastus": {**given["regions"]["eastus"], "zones": ["4"]}}
    assert [one for one in azure.Azure.validate(given) if one.startswith("regions.eastus.zones")]


@pytest.mark.parametrize(
    ("given", "key"),
    [
        pytest.param({"imag": "x"}, "imag", id="an-unknown-key"),
        pytest.param({"image": "x"}, "image", id="no-image"),
        pytest.param({"subnets": {"eastus": "x"}}, "subnets.eastus", id="no-subnet"),
        pytest.param({"public_address": "yes"}, "public_address", id="no-flag"),
    ],
)
def test_a_pool_s_options_are_judged_the_same(given: dict[str, Any], key: str) -> None:
    (problem,) = azure.Azure.validate_pool(given)
    assert problem.startswith(f"{key}: ")


def test_the_sovereign_clouds_have_endpoints_of_their_own() -> None:
    from provisioners import catalogue
    from provisioners.azure import settings

    chosen, problems = settings.read(options(authority="https://login.chinacloudapi.cn/"), catalogue.load("azure"))
    assert problems == []
    assert chosen.endpoint == "https://management.chinacloudapi.cn"


def test_what_is_promised_depends_on_the_identity() -> None:
    without, with_one = lab.Lab().provisioner.traits, lab.Lab(identity=IDENTITY).provisioner.traits
    assert (without.self_end, without.power_off) == (False, ("systemctl", "poweroff"))
    assert "billed until" in without.residue
    assert with_one.self_end and with_one.power_off[0] == "sh"
    # Resource Manager's bucket of writes is the subscription's, and takes 200 at once.
    assert not without.paced_by_region and without.create_burst < 200
    assert without.create_rate == pytest.approx(500 / 60)


def test_without_a_service_principal_only_what_a_server_has_is_asked_to_sign_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from provisioners import base, catalogue
    from provisioners.azure import credentials, settings

    monkeypatch.setenv("AZURE_TENANT_ID", clouds_azure.TENANT)
    monkeypatch.setenv("AZURE_CLIENT_ID", clouds_azure.CLIENT)
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "x")
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", "/no/such/file")
    chosen, _ = settings.read(options(), catalogue.load("azure"))
    made = credentials.make(chosen, lab.Lab().context)
    assert {type(one).__name__ for one in made.credentials} == {
        "EnvironmentCredential",
        "WorkloadIdentityCredential",
        "ManagedIdentityCredential",
        "AzureCliCredential",
    }
    assert lab.Lab().provisioner.traits.power_off == base.POWER_OFF


def test_a_provider_is_not_made_of_bad_options() -> None:
    with pytest.raises(ValueError, match="regions"):
        azure.Azure(lab.Lab().context, options(regions={}))


def test_without_azure_s_packages_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['azure.mgmt.compute'] = None\n"
        "try:\n import provisioners.azure\nexcept ImportError as error:\n print(error)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "install runnerd[azure]" in told.stdout
