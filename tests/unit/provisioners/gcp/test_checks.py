"""What ``runnerd check`` finds in a Google Cloud project before the first job does."""

from __future__ import annotations

import json
from dataclasses import replace

import google.auth
import pytest
import yaml
from google.auth.exceptions import DefaultCredentialsError

from provisioners import base, gcp, offload
from provisioners.base import Level, Market
from provisioners.gcp import permissions
from tests.clouds import gcp as clouds_gcp
from tests.clouds import wire
from tests.support.tree import ROOT
from tests.unit.provisioners.gcp.gcp_world import World

T4 = base.Shape("t4", 1, types=("n1-standard-4",))


def errors(findings: list[base.Finding]) -> list[base.Finding]:
    assert all(one.remedy for one in findings if one.level is not Level.OK)
    return [one for one in findings if one.level is not Level.OK]


async def test_a_project_that_is_fine_has_nothing_but_good_news(stranger: World) -> None:
    findings = await stranger.provisioner.check([await stranger.request()])
    assert errors(findings) == []
    assert any("acme-ml answers" in one.message for one in findings)
    assert any("permissions are granted" in one.message for one in findings)
    assert any("runnerd" not in one.message and "acme" in one.message for one in findings)
    assert stranger.calls("instances.insert") == 0


async def test_the_wrong_project_is_named() -> None:
    world = World()
    world.options["project"] = "acme-mll"
    world.restarted()
    (finding,) = await world.provisioner.check()
    assert (finding.level, finding.place) == (Level.ERROR, "providers.google")
    assert "acme-mll" in finding.message and "`project`" in finding.remedy


async def test_an_api_that_is_off_is_told_with_where_it_is_switched_on(world: World) -> None:
    world.cloud.enabled = False
    (finding,) = await world.provisioner.check()
    assert "apis/library/compute.googleapis.com?project=acme-ml" in finding.remedy


async def test_credentials_that_are_refused_end_the_check(world: World) -> None:
    world.cloud.iam.strict = True
    (finding,) = await world.provisioner.check()
    assert finding.level is Level.ERROR


async def test_every_missing_permission_is_named_and_only_those(world: World) -> None:
    world.cloud.iam.denied = {"compute.instances.delete", "compute.subnetworks.useExternalIp"}
    (finding,) = errors(await world.provisioner.check())
    assert finding.message.endswith("compute.instances.delete, compute.subnetworks.useExternalIp")


async def test_what_only_public_addresses_need_is_not_asked_for_without_them() -> None:
    world = World(public_address=False)
    world.cloud.iam.denied = {"compute.subnetworks.useExternalIp", "compute.instances.setServiceAccount"}
    assert errors(await world.provisioner.check()) == []


async def test_deletes_that_are_granted_by_tag_are_not_missed() -> None:
    world = World(resource_tags={"acme-ml/runnerd": "ci"})
    world.cloud.iam.denied = {"compute.instances.delete", "compute.instances.create"}
    (finding,) = errors(await world.provisioner.check())
    assert finding.message.endswith(": compute.instances.create")


def test_the_role_in_the_documents_is_what_the_check_asks_for() -> None:
    text = (ROOT / "docs" / "gcp.md").read_text()
    role = yaml.safe_load(text.split("file=runnerd-role.yaml\n", 1)[1].split("```", 1)[0])
    wanted = {
        *permissions.PERMISSIONS,
        *permissions.NETWORK,
        permissions.EXTERNAL,
        permissions.TAGS,
        permissions.IDENTITY,
    }
    assert set(role["includedPermissions"]) == wanted


async def test_permissions_that_cannot_be_tested_are_a_warning(world: World) -> None:
    world.cloud.faults.append(
        clouds_gcp.Fault(method="cloudresourcemanager.projects.testIamPermissions", reason="accessNotConfigured")
    )
    (finding,) = errors(await world.provisioner.check())
    assert finding.level is Level.WARNING
    assert "Cloud Resource Manager" in finding.remedy


async def test_a_zone_that_the_region_does_not_have_is_told_with_the_nearest() -> None:
    world = World(regions={"us-central1": {"zones": ["a", "d"]}})
    (finding,) = errors(await world.provisioner.check())
    assert "us-central1 has no zone us-central1-d; did you mean" in finding.message


async def test_a_region_that_the_project_does_not_have_is_told() -> None:
    world = World(regions={"asia-east1": {"zones": ["a"]}})
    assert any("no region asia-east1" in one.message for one in errors(await world.provisioner.check()))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param({"network": "nope"}, "there is no network nope", id="network"),
        pytest.param({"subnetwork": "nope"}, "there is no subnetwork nope in acme-ml in us-central1", id="subnetwork"),
        pytest.param({"network": "custom"}, "network custom has no subnetwork in us-central1", id="custom-mode"),
        pytest.param({"image": "family:acme-ml/nope"}, "no image family nope in project acme-ml", id="family"),
        pytest.param({"image": "projects/acme-ml/global/images/nope"}, "there is no image nope", id="image"),
        pytest.param(
            {"service_account": "ghost@acme-ml.iam.gserviceaccount.com"}, "there is no service account", id="ghost"
        ),
        pytest.param(
            {"service_account": "boss@acme-ml.iam.gserviceaccount.com"}, "iam.serviceAccounts.actAs", id="not-ours"
        ),
    ],
)
async def test_what_the_configuration_names_and_does_not_exist_is_told(options: dict[str, str], words: str) -> None:
    for provider, pool in ((options, {}), ({}, options)):
        world = World(**provider)
        world.cloud.networks["custom"] = False
        world.cloud.subnetworks = {"europe-west4/default"}
        world.cloud.iam.service_accounts = {"boss@acme-ml.iam.gserviceaccount.com"}
        world.cloud.iam.not_usable = {"boss@acme-ml.iam.gserviceaccount.com"}
        sample = await world.request(await World().offer(), options=pool)
        found = [one for one in errors(await world.provisioner.check([sample])) if words in one.message]
        assert [one.place for one in found] == ["pools.gpu" if pool else "providers.google"]


async def test_a_quota_of_zero_is_told_with_where_it_is_raised(world: World) -> None:
    world.cloud.limits["us-central1", "NVIDIA_T4_GPUS"] = 0.0
    (finding,) = errors(await world.provisioner.check([await world.request()]))
    assert (finding.level, finding.place) == (Level.ERROR, "pools.gpu")
    assert "NVIDIA_T4_GPUS in us-central1 is 0" in finding.message
    assert "https://console.cloud.google.com/iam-admin/quotas?project=acme-ml" in finding.remedy


async def test_no_gpus_in_the_whole_project_is_told(world: World) -> None:
    world.cloud.limits["", "GPUS_ALL_REGIONS"] = 0.0
    assert any(
        "GPUS_ALL_REGIONS" in one.message for one in errors(await world.provisioner.check([await world.request()]))
    )


async def test_a_type_or_accelerator_that_the_zone_does_not_have_is_told_with_the_nearest(world: World) -> None:
    sample = await world.request()
    world.seconds += 100_000
    world.cloud.lacks = {"us-central1-a": {"n1-standard-4", "nvidia-tesla-t4"}}
    found = errors(await world.provisioner.check([sample]))
    assert any("no machine type n1-standard-4; did you mean" in one.message for one in found)
    assert any("no accelerator nvidia-tesla-t4; did you mean" in one.message for one in found)
    assert {one.place for one in found} == {"pools.gpu"}


async def test_a_boot_script_that_is_too_long_is_told(world: World) -> None:
    sample = await world.request(user_data="#!/bin/sh\n" + "x" * 262144)
    (finding,) = errors(await world.provisioner.check([sample]))
    assert "262144" in finding.message


async def test_tags_that_become_the_same_label_or_none_are_told(world: World) -> None:
    sample = await world.request()
    many = {f"team-{number}": "x" for number in range(70)}
    found = errors(
        await world.provisioner.check([replace(sample, tags={**sample.tags, **many, "Cost": "a", "cost": "b"})])
    )
    assert [one.level for one in found] == [Level.WARNING, Level.WARNING]
    assert "at most 64 labels" in found[0].message
    assert "Cost" in found[1].message


async def test_how_tags_show_in_bills_is_told(world: World) -> None:
    sample = await world.request()
    findings = await world.provisioner.check([replace(sample, tags={**sample.tags, "team": "ML/Research"})])
    assert errors(findings) == []
    assert any("team=ml-research" in one.message for one in findings)


async def test_quotas_govern_the_offers_that_they_count() -> None:
    world = World()
    await world.created()
    await world.created(Market.SPOT)
    found = {one.name: one for one in await world.provisioner.quotas()}
    root = "google/acme-ml"
    t4 = found["NVIDIA_T4_GPUS in us-central1"]
    assert (t4.pattern, t4.unit, t4.limit, t4.used) == (
        f"{root}/us-central1/*/*+nvidia-tesla-t4x*/on-demand",
        base.Unit.GPUS,
        400.0,
        1.0,
    )
    assert found["PREEMPTIBLE_NVIDIA_T4_GPUS in us-central1"].pattern.endswith("/*+nvidia-tesla-t4x*/spot")
    # There is no preemptible quota for V100, so spot instances count against the other.
    assert found["NVIDIA_V100_GPUS in us-central1"].pattern.endswith("/*+nvidia-tesla-v100x*/*")
    assert "PREEMPTIBLE_NVIDIA_V100_GPUS in us-central1" not in found
    assert (found["INSTANCES in us-central1"].pattern, found["INSTANCES in us-central1"].used) == (
        f"{root}/us-central1/*/*/*",
        2.0,
    )
    assert (found["CPUS in us-central1"].unit, found["CPUS in us-central1"].used) == (base.Unit.VCPUS, 8.0)
    assert (found["GPUS_ALL_REGIONS"].used, found["GPUS_ALL_REGIONS"].pattern.machine_type) == (
        2.0,
        "*+*|a2-*|a3-*|a4-*|g2-*|g4-*",
    )
    assert not any("COMMITTED" in one or "IN_USE" in one for one in found)


async def test_a_launch_over_a_quota_is_refused_by_the_quota_that_is_told(world: World) -> None:
    world.cloud.limits["us-central1", "NVIDIA_T4_GPUS"] = 1.0
    await world.created()
    request = await world.request()
    with pytest.raises(base.ProvisionError) as caught:
        await world.provisioner.create(request)
    (told,) = [one for one in await world.provisioner.quotas() if one.name == "NVIDIA_T4_GPUS in us-central1"]
    assert (caught.value.kind, told.used, told.limit) == (base.Kind.QUOTA, 1.0, 1.0)
    assert caught.value.scope is not None
    assert (caught.value.scope.region, caught.value.scope.zone) == (told.pattern.region, told.pattern.zone)


# -- credentials -------------------------------------------------------------------------------------------------------


async def test_a_key_file_works_through_the_token_endpoint_over_a_socket() -> None:
    world = World()
    async with wire.serve(world.cloud.handle) as url:
        world.cloud.iam.strict = True
        key = world.cloud.iam.key(
            "runnerd@acme-ml.iam.gserviceaccount.com", token_uri=f"{url}/token", project="acme-ml"
        )
        world.secrets["file:/key.json"] = json.dumps(key)
        options = {
            **world.options,
            "credentials": "file:/key.json",
            "endpoint": url,
            "resource_manager": url,
            "iam": url,
        }
        context = replace(world.context, offload=offload.Offload)
        provisioner = gcp.Gcp(context, options)
        await provisioner.start()
        offer = (await provisioner.offers(T4))[0]
        view = await provisioner.create(await world.request(offer))
        assert [one.ref for one in (await provisioner.list_owned()).views] == [view.ref]
        assert errors(await provisioner.check([await world.request(offer)])) == []
        world.cloud.iam.revoke("runnerd@acme-ml.iam.gserviceaccount.com")
        with pytest.raises(base.ProvisionError) as caught:
            await provisioner.create(await world.request(offer))
        assert (caught.value.kind, caught.value.maybe_created) == (base.Kind.AUTH, False)
        assert "PRIVATE" not in str(caught.value)
        await provisioner.close()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param("not json", "it is not JSON", id="not-json"),
        pytest.param("[]", "cannot be used", id="a-list"),
        pytest.param('{"type": "service_account"}', "cannot be used", id="incomplete"),
        pytest.param(
            '{"type": "service_account", "client_email": "a@b.c", "token_uri": "x", "private_key": "S3CRET PRIVATE"}',
            "cannot be used",
            id="no-key",
        ),
    ],
)
async def test_a_key_file_that_is_not_one_is_told_without_its_content(content: str, words: str) -> None:
    world = World()
    world.secrets["file:/key.json"] = content
    world.options["credentials"] = "file:/key.json"
    world.restarted()
    (finding,) = await world.provisioner.check()
    assert words in finding.message and "file:/key.json" in finding.message
    assert "S3CRET" not in finding.message


async def test_without_any_credentials_the_check_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*args: object, **kwargs: object) -> None:
        raise DefaultCredentialsError("Your default credentials were not found.")

    monkeypatch.setattr(google.auth, "default", none)
    world = World()
    provisioner = gcp.Gcp(world.context, world.options)
    (finding,) = await provisioner.check()
    assert "`credentials`" in finding.remedy
    with pytest.raises(base.ProvisionError) as caught:
        await provisioner.list_owned()
    assert (caught.value.kind, caught.value.scope) == (base.Kind.AUTH, "google/acme-ml/*/*/*/*")
