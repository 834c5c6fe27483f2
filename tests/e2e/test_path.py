"""Three clouds in one list: whatever they refuse, fail or lose, every job gets one instance, and its path is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest

from tests.clouds import registry
from tests.clouds.adapter import BadDay
from tests.e2e import processes, work
from tests.e2e import site as sites

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

#: One machine type in each cloud, so that the list of offers is short enough to be followed.
TYPES = {name: [adapter.machine_type] for name, adapter in registry.ADAPTERS.items()}
JOBS = 9
#: Instances that a spot market has room for where it sells any; the rest go to the cloud that sells at list price.
ROOM = 2


def test_every_job_gets_one_instance_on_a_bad_day_in_three_clouds(site: sites.Site) -> None:
    days = site.clouds.do(lambda: {name: made.bad_day(ROOM) for name, made in site.clouds.adapters.items()})
    providers = site.providers({name: day.regions for name, day in days.items() if day.regions is not None})
    site.configure(
        providers=providers,
        pools={"gpu-t4": {"gpu": "t4", "types": TYPES, "from": list(TYPES)}},
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
    missed = [f"{name}: {what}" for name, day in days.items() for what, fault in day.faults.items() if not fault.fired]
    assert missed == [], "a fault was not met"

    _assert_the_path_is_told(site, days, {job["runner"] for job in jobs.jobs()})
    refusals = " ".join(one["refusal"] for one in site.offers("gpu-t4"))
    assert all(words in refusals for day in days.values() for words in day.refusals), refusals
    _assert_the_metrics_know_the_clouds(site, days)

    site.await_nothing_left(100)
    for cloud, keys in site.clouds.keys().items():
        assert keys, f"nothing was ever made at {cloud}"
        assert [key for key, count in Counter(keys).items() if count > 1] == [], cloud


def _assert_the_path_is_told(site: sites.Site, days: Mapping[str, BadDay], runners: set[str]) -> None:
    """Each job's `explain` names what was tried for it, why it failed, and what it got."""
    said = []
    known = processes.until(lambda: _known(site, runners), "the daemon knows what ran where", seconds=15)
    for number, runner in enumerate(sorted(runners)):
        # The command tells what its socket does.
        told = site.explain(known[runner]) if number else site.ask("explain", known[runner])
        texts = [line["text"] for line in told["timeline"] if line["subject"] == "attempt"]
        assert any("created an instance" in text for text in texts), texts
        last = [text for text in texts if " tried" in text][-1]
        assert last.split()[1] in told["why"][0], "what it got is what was tried last"
        said += [line["text"] for line in told["timeline"]]
    story = "\n".join(said)
    for line in [line for day in days.values() for line in day.lines]:
        assert line in story, f"{line} is told of no job\n{story}"


def _known(site: sites.Site, runners: set[str]) -> dict[str, str] | None:
    """Runner -> its job's key, as the daemon has it; None while it has not heard of all of them."""
    found = {one["runner"]: one["key"] for one in site.jobs()}
    return found if runners <= found.keys() else None


def _assert_the_metrics_know_the_clouds(site: sites.Site, days: Mapping[str, BadDay]) -> None:
    outcomes: dict[str, set[str]] = {}
    for labels, value in site.plant.metric("runnerd_provision_attempts_total").items():
        facts = dict(labels)
        if value:
            outcomes.setdefault(facts["provider"], set()).add(facts["outcome"])
    assert set(outcomes) == set(TYPES)
    assert all("created" in found for found in outcomes.values()), outcomes
    assert all(set(day.outcomes) <= outcomes[name] for name, day in days.items()), outcomes
    blocked = {
        dict(labels)["provider"] for labels, value in site.plant.metric("runnerd_offers_blocked").items() if value
    }
    assert {name for name, day in days.items() if day.blocked} <= blocked, blocked
    gone = site.plant.metric("runnerd_cost_dollars_total")
    assert {dict(labels)["provider"] for labels in gone} <= set(TYPES)
