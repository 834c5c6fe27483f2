"""What people and programs are shown is what the daemon acts on, in plain words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import pytest

from runnerd import errors, model
from runnerd.forges import base as forges
from runnerd.forges.base import JobEvent
from runnerd.kit import display
from runnerd.views import documents, events, explain, instance_logs, lists, status
from tests.support import small_daemon


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (3605, "1 h"),
        (3725, "1 h 2 min"),
        (90061, "1 d 1 h"),
        (-5, "0 s"),
    ],
)
def test_a_span_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert display.span(seconds) == text


async def explained(small: small_daemon.Small, name: str) -> documents.Explanation:
    """Return the explanation of the one job of a name."""
    return cast(documents.Explanation, await explain.explain(small.daemon.reading, name))


async def test_status_tells_pools_forges_providers_budgets_and_is_json(tmp_path: Path) -> None:
    async with small_daemon.running(tmp_path) as small:
        await small.queue()
        await small.booting()
        found = status.status(small.daemon.reading)
        assert json.loads(json.dumps(found)) == found
        assert found["jobs"] == {"queued": 1, "running": 0, "completed": 0}
        assert found["instances"] == {"booting": 1}
        assert [pool["name"] for pool in found["pools"]] == ["gpu", "big"]
        assert found["pools"][0]["waiting"] == 1
        assert found["providers"][0]["blocked"] == 1
        assert found["forges"][0]["queues"][0]["ok"] is True
        small.daemon.controller.admission.count()
        (budget,) = [one for one in status.status(small.daemon.reading)["budgets"] if one["level"] == "all"]
        assert budget["limit"] == 500 and 0 < budget["committed"] < 500


async def test_offers_are_in_order_each_open_or_with_why_not_and_until_when(tmp_path: Path) -> None:
    async with small_daemon.running(tmp_path) as small:
        await small.queue()
        await small.booting()
        found = lists.offer_list(small.daemon.reading, "gpu")
        east, west = found["offers"]
        assert (east["region"], east["open"], west["region"], west["open"]) == ("east", False, "west", True)
        assert "capacity" in east["refusal"]
        assert 0 < east["until"] - small.clock.now() <= 60
        assert west["price"] > 0 and west["dollars_at_most"] > west["price"]


async def test_an_unknown_pool_is_not_found_and_the_known_ones_are_named(tmp_path: Path) -> None:
    async with small_daemon.running(tmp_path) as small:
        with pytest.raises(errors.Refused, match="pools are gpu, big") as caught:
            lists.offer_list(small.daemon.reading, "gpx")
        assert caught.value.status == 404


async def test_a_waiting_job_is_told_of_the_instance_on_its_way_and_of_what_refused(tmp_path: Path) -> None:
    async with small_daemon.running(tmp_path) as small:
        key = await small.queue("train")
        row = await small.booting()
        for name in (key, "train", "1-train", "1", "acme/ml/train"):
            found = await explained(small, name)
            assert found["job"]["key"] == key
        assert found["summary"].startswith("waiting for an instance of pool gpu for ")
        assert any(row.id in line and "is booting" in line for line in found["next"]), found["next"]
        assert any("refused" in line and "/east/" in line and "capacity" in line for line in found["why"]), found["why"]
        told = [line["text"] for line in found["timeline"]]
        assert any("job queued" in line for line in told)
        assert any("/east/" in line and "refused" in line for line in told)
        assert any("/west/" in line and "created an instance" in line for line in told), told
        assert [line["at"] for line in found["timeline"]] == sorted(line["at"] for line in found["timeline"])


async def test_a_job_without_capacity_anywhere_is_told_why_and_when_it_is_tried_again(tmp_path: Path) -> None:
    nowhere = {"sky": {"type": "fake", "regions": {"east": {"capacity": 0}}}}
    async with small_daemon.running(tmp_path, providers=nowhere) as small:
        await small.queue("train")
        await small.until(lambda: bool(small.daemon.runtime.rows.blocks) and not small.rows)
        await small.until(lambda: bool(small.daemon.controller.notes.get("gpu")))
        found = await explained(small, "train")
        assert any("is closed: blocked" in line and "ago (capacity" in line for line in found["why"]), found["why"]
        (line,) = found["next"]
        assert "/east/" in line and "is retried in" in line


async def test_an_offer_that_provisioning_still_waits_to_spill_to_is_shown_as_closed(tmp_path: Path) -> None:
    two = {"boxes": {"type": "fake", "regions": {"east": {"capacity": 0}}}, "sky": {"type": "fake"}}
    pools = {"gpu": {"gpu": "t4", "spill_after": "1h"}}
    async with small_daemon.running(tmp_path, providers=two, pools=pools) as small:
        await small.queue("train")
        await small.until(lambda: any(one.reason == "capacity" for one in small.daemon.runtime.rows.blocks.values()))
        offers = lists.offer_list(small.daemon.reading, "gpu")["offers"]
        assert {one["refusal"] for one in offers if one["provider"] == "sky"} == {
            "opens after 1 h of waiting for boxes (spill_after)"
        }


async def test_a_drained_pool_is_the_reason_and_no_offer_is_promised(tmp_path: Path) -> None:
    async with small_daemon.running(tmp_path) as small:
        await small.daemon.runtime.durable.write_drained("gpu", True)
        await small.queue("train")
        found = await explained(small, "train")
        assert any("drained by an operator" in line and "undrain gpu" in line for line in found["why"])
        assert not any("offer" in line for line in found["next"])


async def test_a_forge_in_trouble_is_the_reason_in_its_own_words(tmp_path: Path) -> None:
    async with small_daemon.running(tmp_path) as small:
        small.forge.state = forges.Health(False, "the token was revoked", small.clock.now() - 120)
        small.forge.room = 0
        await small.queue("train")
        found = await explained(small, "train")
        assert any("the token was revoked" in line and "2 min" in line for line in found["why"]), found["why"]
        assert any("runner limit" in line for line in found["why"])


async def test_unknown_demand_and_open_alarms_are_told(tmp_path: Path) -> None:
    async with small_daemon.running(tmp_path) as small:
        await small.queue("train")
        # Hours back, so that no second that passes meanwhile shows in the two largest units.
        small.forge.demands["gpu"] = model.Demand(1, 0, small.clock.now() - 5.5 * 3600, False)
        small.daemon.runtime.alarms.ring("queue", "hub:acme:gpu", "session", "another client holds the session")
        small.daemon.runtime.alarms.ring("queue", "hub:acme:big", "session", "not about this one")
        found = await explained(small, "train")
        assert "the demand at forge hub is unknown; last reported 5 h 30 min ago" in found["why"]
        assert any("another client holds the session" in line for line in found["why"])
        assert not any("not about this one" in line for line in found["why"])


async def test_a_used_up_budget_is_told_with_its_dollars(tmp_path: Path) -> None:
    async with small_daemon.running(tmp_path, limits={"instances": 4, "dollars_per_day": 0.01}) as small:
        await small.queue("train")
        await small.until(lambda: bool(small.daemon.controller.notes.get("gpu")))
        found = await explained(small, "train")
        assert any("$0.01" in line for line in found["why"]), found["why"]


async def test_an_offer_that_the_jobs_team_cannot_pay_is_not_the_next_to_try(tmp_path: Path) -> None:
    teams = {"ml": {"repos": ["acme/ml"], "limits": {"dollars_per_day": 0.01}}}
    async with small_daemon.running(tmp_path, teams=teams) as small:
        await small.queue("train")
        await small.until(lambda: bool(small.daemon.controller.notes.get("gpu")))
        found = await explained(small, "train")
        assert isinstance(found, dict) and "next" in found
        assert not any("next offer to try" in line for line in found["next"]), found["next"]
        assert any("closed: team ml" in line for line in found["why"]), found["why"]


async def test_jobs_ahead_are_counted(tmp_path: Path) -> None:
    async with small_daemon.running(tmp_path, limits={"instances": 1}) as small:
        now = small.clock.now()
        await small.queue("first", at=now - 60)
        await small.queue("second", waiting=2, at=now - 30)
        await small.booting()
        found = await explained(small, "second")
        assert found["ahead"] == 1
        assert "ahead of it: 1 job of the pool" in found["why"]


async def test_a_running_job_is_told_where_it_runs_and_what_it_cost(tmp_path: Path) -> None:
    async with small_daemon.running(tmp_path) as small:
        key = await small.queue("train")
        row = await small.busy(key)
        small.clock.added += 1800
        found = await explained(small, "train")
        assert found["job"]["state"] == "running" and found["job"]["instance"] == row.id
        assert any(row.id in line and "/west/" in line for line in found["why"])
        assert any("max_job" in line for line in found["next"])
        assert found["cost"] is not None
        assert found["cost"]["dollars"] == pytest.approx(row.price / 2, rel=0.05)
        assert not found["cost"]["final"]
        told = [line["text"] for line in found["timeline"]]
        assert any("job started" in line for line in told)


async def test_a_job_that_somebody_elses_runner_took_says_so(tmp_path: Path) -> None:
    async with small_daemon.running(tmp_path) as small:
        await small.queue("train")
        await small.tell(JobEvent.STARTED, "train", runner_name="stranger")
        await small.tell(JobEvent.COMPLETED, "train", runner_name="stranger", conclusion="success")
        found = await explained(small, "train")
        assert "success" in found["summary"]
        assert any("stranger" in line and "does not belong to this daemon" in line for line in found["why"])
        assert found["cost"] is None


async def test_a_name_of_several_jobs_lists_them_and_an_unknown_one_is_not_found(tmp_path: Path) -> None:
    async with small_daemon.running(tmp_path) as small:
        await small.queue("train", run="1")
        await small.queue("train", run="2", waiting=2)
        ambiguous = cast(documents.Ambiguous, await explain.explain(small.daemon.reading, "train"))
        assert {one["id"] for one in ambiguous["ambiguous"]} == {"1-train", "2-train"}
        with pytest.raises(errors.Refused) as caught:
            await explain.explain(small.daemon.reading, "nothing")
        assert caught.value.status == 404


async def test_lists_are_filtered_and_a_wrong_state_is_refused(tmp_path: Path) -> None:
    async with small_daemon.running(tmp_path) as small:
        await small.queue("train")
        await small.tell(JobEvent.QUEUED, "old", run="9", at=small.clock.now() - 9000)
        await small.tell(JobEvent.COMPLETED, "old", run="9", at=small.clock.now() - 8000, conclusion="failure")
        row = await small.booting()
        assert [one["name"] for one in (await lists.jobs(small.daemon.reading))["jobs"]] == ["train"]
        assert {one["name"] for one in (await lists.jobs(small.daemon.reading, every=True))["jobs"]} == {"train", "old"}
        assert (await lists.jobs(small.daemon.reading, pool="big"))["jobs"] == []
        assert [one["id"] for one in (await lists.instances(small.daemon.reading))["instances"]] == [row.id]
        assert (await lists.instances(small.daemon.reading, state="busy"))["instances"] == []
        with pytest.raises(errors.Refused, match="states are"):
            await lists.instances(small.daemon.reading, state="bussy")


async def test_events_go_on_where_the_last_answer_ended(tmp_path: Path) -> None:
    async with small_daemon.running(tmp_path) as small:
        await small.queue("train")
        await small.booting()
        first = await events.events(small.daemon.reading, limit=1000)
        assert {"job", "instance", "attempt", "offer"} <= {line["subject"] for line in first["events"]}
        assert first["next"] == first["events"][-1]["row"]
        assert (await events.events(small.daemon.reading, after=first["next"]))["events"] == []
        await small.queue("more", run="2", waiting=2)
        second = await events.events(small.daemon.reading, after=first["next"], hold=5)
        assert any(line["subject"] == "job" and line["what"] == "queued" for line in second["events"])
        # Not a number is no time to wait for.
        assert (await events.events(small.daemon.reading, after=10**9, hold=float("nan")))["events"] == []


async def test_logs_show_what_the_agent_said_last_and_mask_what_looks_like_a_token(tmp_path: Path) -> None:
    async with small_daemon.running(tmp_path) as small:
        key = await small.queue("train")
        with pytest.raises(errors.Refused, match="has not run"):
            await instance_logs.logs(small.daemon.reading, "train")
        row = await small.busy(key)
        for listener in small.daemon.controller.agents.on_diagnostics:
            listener(row.id, "disk full\nAuthorization: Bearer ghp_0123456789abcdef0123456789")
        for name in ("train", row.id):
            found = await instance_logs.logs(small.daemon.reading, name)
            assert found["instance"] == row.id
            diagnostics = found["diagnostics"] or ""
            assert "disk full" in diagnostics and "ghp_" not in diagnostics
            assert [line["what"] for line in found["events"]][-1] == "busy"
            assert "has no console output" in (found["console_problem"] or ""), "the provider was asked now"


async def test_logs_of_what_ended_are_what_was_kept_and_no_provider_is_asked(tmp_path: Path) -> None:
    async with small_daemon.running(tmp_path) as small:
        key = await small.queue("train")
        row = await small.busy(key)
        daemon = small.daemon
        cloud = daemon.runtime.providers["sky"].provisioner
        asked: list[str] = []

        async def console_log(ref: str) -> str | None:
            asked.append(ref)
            return "[ 1.0] booted\n"

        cloud.console_log = console_log  # type: ignore[method-assign]
        daemon.controller.consoles.keep_diagnostics(row.id, "disk full")
        await daemon.runtime.rows.step(row.id, model.InstanceState.DRAINING, reason=model.Reason.OPERATOR)
        daemon.runtime.wake()
        await small.until(lambda: row.id not in small.rows)
        assert len(asked) == 1
        found = await instance_logs.logs(daemon.reading, row.id)
        assert (found["console"], found["console_problem"]) == ("[ 1.0] booted\n", "")
        assert found["console_at"] > 0 and found["diagnostics"] == "disk full"
        assert (found["end"], found["end_text"]) == ("ended-by-us", "deleted by runnerd (deleted by a call)")
        await daemon.store.prune(before=small.clock.now() + 60)
        with pytest.raises(errors.Refused):
            await instance_logs.logs(daemon.reading, row.id)
        assert len(asked) == 1


async def test_nothing_is_asked_for_an_instance_whose_console_is_forgotten(tmp_path: Path) -> None:
    async with small_daemon.running(tmp_path) as small:
        gone = model.Instance(
            model.InstanceId("old"), "gpu", model.InstanceState.GONE, 1.0, 1.0, ref="i-1", gone_at=1.0
        )
        await small.daemon.store.write(gone)
        found = await instance_logs.logs(small.daemon.reading, "old")
        assert found["console"] is None and found["console_problem"] == "no output from it was stored"
