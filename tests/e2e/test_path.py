"""Three clouds in one list: whatever they refuse, fail or lose, every job gets one instance, and its path is told."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.clouds import aws as clouds_aws
from tests.clouds import azure as clouds_azure
from tests.clouds import gcp as clouds_gcp
from tests.e2e import plant as plants
from tests.e2e import site as sites
from tests.e2e import work

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

#: One machine type in each cloud, so that the list of offers is short enough to be followed.
TYPES = {"aws": ["g4dn.xlarge"], "gcp": ["n1-standard-4"], "azure": ["Standard_NC4as_T4_v3"]}
JOBS = 9
#: Instances that the spot market of Google and of Azure has room for; the rest must go to Amazon at list price.
ROOM = 2
ACCELERATOR = "nvidia-tesla-t4"


def _troubles(site: sites.Site) -> dict[str, Any]:
    """Script the bad day; name -> the fault, where one can be counted."""
    aws, gcp, azure = site.aws.cloud, site.gcp.cloud, site.azure.cloud
    aws.capacity["us-east-1*"] = 0
    gcp.limits |= {("us-central1", f"{kind}NVIDIA_T4_GPUS"): 0.0 for kind in ("", "PREEMPTIBLE_")}
    gcp.capacity["europe-west4-a", ACCELERATOR] = ROOM
    azure.capacity |= {"eastus/*/*/*": 0, "westeurope/*/*/*": ROOM}
    found = {
        "at quota": clouds_aws.Fault(
            region="us-east-2", market="spot", code="MaxSpotInstanceCountExceeded", times=None
        ),
        "at another quota": clouds_aws.Fault(
            region="us-east-2", market="on-demand", code="VcpuLimitExceeded", times=None
        ),
        "spot refused": clouds_aws.Fault(
            region="us-west-2", market="spot", code="InsufficientInstanceCapacity", times=None
        ),
        "lost by aws": clouds_aws.Fault(region="us-west-2", market="on-demand", lost="after"),
        "lost by gcp": clouds_gcp.Fault(region="europe-west4", lost="after"),
        "lost by azure": clouds_azure.Fault(region="westeurope", lost="after"),
    }
    for name, fault in found.items():
        cloud: Any = gcp if "gcp" in name else azure if "azure" in name else aws
        cloud.faults.append(fault)
    return found


def test_every_job_gets_one_instance_on_a_bad_day_in_three_clouds(site: sites.Site) -> None:
    troubles = site.clouds.do(lambda: _troubles(site))
    providers = site.providers()
    providers["aws"] = site.aws.options({"us-east-1": "ab", "us-east-2": "a", "us-west-2": "a"})
    site.configure(
        providers=providers,
        pools={"gpu-t4": {"gpu": "t4", "types": TYPES, "from": ["aws", "gcp", "azure"]}},
        limits={"instances": 2 * JOBS},
    )
    site.plant.start_daemon()
    site.await_offers("gpu-t4", set(TYPES))
    jobs = work.Work(site.plant)
    jobs.add(JOBS)
    jobs.await_done(90)

    jobs.assert_each_ran_once()
    runners = [job["runner"] for job in jobs.jobs()]
    assert len(set(runners)) == JOBS, "an instance runs one job"
    boots = Counter(site.clouds.boots.values())
    assert [name for name, count in boots.items() if count > 1] == []
    assert set(runners) <= set(boots)
    assert {name: fault.fired for name, fault in troubles.items() if not fault.fired} == {}, "a trouble was not met"

    _assert_the_path_is_told(site, {job["runner"] for job in jobs.jobs()})
    refusals = " ".join(one["refusal"] for one in site.offers("gpu-t4"))
    assert "quota" in refusals and "NVIDIA_T4_GPUS" in refusals, refusals
    _assert_the_metrics_know_three_clouds(site)

    site.await_nothing_left(100)
    for cloud, keys in site.clouds.keys().items():
        assert keys, f"nothing was ever made at {cloud}"
        assert [key for key, count in Counter(keys).items() if count > 1] == [], cloud


def _assert_the_path_is_told(site: sites.Site, runners: set[str]) -> None:
    """Each job's `explain` names what was tried for it, why it failed, and what it got."""
    said = []
    known = plants.until(lambda: _known(site, runners), "the daemon knows what ran where", seconds=15)
    for number, runner in enumerate(sorted(runners)):
        # The command tells what its socket does.
        told = site.explain(known[runner]) if number else site.ask("explain", known[runner])
        texts = [line["text"] for line in told["timeline"] if line["subject"] == "attempt"]
        assert any("created an instance" in text for text in texts), texts
        last = [text for text in texts if " tried" in text][-1]
        assert last.split()[1] in told["why"][0], "what it got is what was tried last"
        said += [line["text"] for line in told["timeline"]]
    story = "\n".join(said)
    for words in (
        r"us-east-1a/g4dn.xlarge/spot refused (capacity: InsufficientInstanceCapacity",
        r"us-east-2a/g4dn.xlarge/spot refused (quota: MaxSpotInstanceCountExceeded",
        r"us-west-2a/g4dn.xlarge/spot refused (capacity: InsufficientInstanceCapacity",
        r"eastus/1/Standard_NC4as_T4_v3/spot refused (capacity: ZonalAllocationFailed",
        r"europe-west4-a/n1-standard-4+nvidia-tesla-t4x1/spot gave no clear answer",
        # Azure's lost answer is found out within the call.
        r"westeurope/1/Standard_NC4as_T4_v3/spot created an instance",
        r"us-west-2a/g4dn.xlarge/on-demand gave no clear answer",
    ):
        assert words in story, f"{words} is told of no job\n{story}"


def _known(site: sites.Site, runners: set[str]) -> dict[str, str] | None:
    """Runner -> its job's key, as the daemon has it; None while it has not heard of all of them."""
    found = {one["runner"]: one["key"] for one in site.jobs()}
    return found if runners <= found.keys() else None


def _assert_the_metrics_know_three_clouds(site: sites.Site) -> None:
    outcomes: dict[str, set[str]] = {}
    for labels, value in site.plant.metric("runnerd_provision_attempts_total").items():
        facts = dict(labels)
        if value:
            outcomes.setdefault(facts["provider"], set()).add(facts["outcome"])
    assert set(outcomes) == set(TYPES)
    assert all("created" in found for found in outcomes.values()), outcomes
    assert "capacity" in outcomes["aws"] and "quota" in outcomes["aws"], outcomes
    blocked = {
        dict(labels)["provider"] for labels, value in site.plant.metric("runnerd_offers_blocked").items() if value
    }
    assert {"aws", "azure"} <= blocked, blocked
    gone = site.plant.metric("runnerd_cost_dollars_total")
    assert {dict(labels)["provider"] for labels in gone} <= set(TYPES)
