"""What Prometheus is told."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from provisioners import base
from runnerd import model, read_model
from runnerd.forges import base as forges
from runnerd.metrics import counters
from runnerd.model import InstanceId, InstanceState, Job, JobKey, JobState, Reason
from runnerd.reconcile import loop
from tests.support import clocks, fakes, rooms

#: Names that the design reserves and nothing fills yet: agents do not report GPU use, and the contract of a forge does
#: not tell what is left of its rate limit or when its token ends.
LATER = {"gpu_utilization_ratio", "forge_rate_limit_remaining", "credential_expiry_timestamp_seconds"}
#: The names of the design (section 9), with the labels that it gives them.
DESIGN = {
    "jobs_queued": {"pool", "forge"},
    "job_wait_seconds": {"pool", "phase"},
    "jobs_total": {"pool", "forge", "outcome"},
    "instances": {"pool", "provider", "region", "market", "state"},
    "instance_phase_seconds": {"pool", "provider", "phase"},
    "provision_attempts_total": {"provider", "region", "market", "outcome"},
    "offers_blocked": {"provider", "region", "reason"},
    "preemptions_total": {"provider", "region"},
    "retries_total": {"forge", "outcome"},
    "reaped_total": {"reason"},
    "orphans": {"provider", "kind"},
    "registrations": {"forge", "state"},
    "cost_dollars_total": {"pool", "provider", "market"},
    "committed_dollars": {"pool"},
    "budget_remaining_dollars": {"pool"},
    "idle_seconds_total": {"pool"},
    "gpu_utilization_ratio": {"pool"},
    "forge_requests_total": {"forge", "endpoint", "status"},
    "forge_rate_limit_remaining": {"forge"},
    "demand_known": {"forge", "pool"},
    "credential_expiry_timestamp_seconds": {"name"},
    "reconcile_seconds": set(),
    "reconcile_failures_total": set(),
    "config_reload_success": set(),
    "build_info": set(),
}
SKY = ("sky", "east", "on-demand")


@dataclasses.dataclass
class Measured:
    """A daemon with its metrics."""

    place: fakes.Place
    controller: loop.Controller
    reading: read_model.ReadModel
    metrics: counters.Metrics

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"runnerd_{name}", labels)

    async def step(self, to: str, after: float = 0.0, **fields: Any) -> None:
        self.place.clock.time += after
        await self.place.rows.step(InstanceId("vm-1"), InstanceState(to), **fields)


@pytest.fixture
def measured(place: fakes.Place) -> Measured:
    made = loop.Controller(place.runtime, bundle=lambda: "", assign=fakes.assign)
    reading, hooks = rooms.shown(place, made)
    counted = counters.Metrics()
    counted.attach(reading, hooks)
    return Measured(place, made, reading, counted)


def attempt(state: str = "requesting", **fields: Any) -> model.Attempt:
    return model.Attempt(
        key=model.AttemptKey("k1"),
        instance=InstanceId("vm-1"),
        state=model.AttemptState(state),
        provider="sky",
        offer="sky/acct/east/a/small/on-demand",
        sealed="",
        created_at=clocks.START,
        since=clocks.START,
        **fields,
    )


PLACE = {
    "attempt": model.AttemptKey("k1"),
    "provider": "sky",
    "region": "east",
    "market": "on-demand",
    "price": 3.6,
}
QUEUE = fakes.QUEUE


async def live_through(measured: Measured) -> None:
    """From the decision to a job: every phase has a length of its own."""
    measured.place.put(fakes.instance("vm-1", "planned"))
    clock = measured.place.clock
    await measured.step("requesting", 2, attempt_row=attempt(), **PLACE)
    await measured.step("booting", 4, attempt_row=attempt("created"), running_at=clock.time + 4)
    clock.time += 30
    measured.metrics.hello("vm-1")
    await measured.step("ready", 5, ready_at=clock.time + 5)
    await measured.step("registering", 0)
    await measured.step("registered", 1, registered_at=clock.time + 1)


def job(state: str = "running", **fields: Any) -> Job:
    return Job(JobKey("hub|acme/ml|1|train"), QUEUE, "acme/ml", "1", "train", state=JobState(state), **fields)


def test_every_name_of_the_design_is_exported_or_said_to_come_later(measured: Measured) -> None:
    names = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in measured.metrics.registry.collect()
        if family.name.startswith("runnerd_")
    }
    missing = {f"runnerd_{name}" for name in DESIGN} - names
    assert missing == {f"runnerd_{name}" for name in LATER}


def test_every_metric_has_words_and_labels_that_name_no_job_and_no_instance(measured: Measured) -> None:
    for family in measured.metrics.registry.collect():
        assert family.documentation, family.name
        for sample in family.samples:
            assert not {"job", "instance", "id", "repo", "run", "runner"} & set(sample.labels), family.name


async def test_labels_are_those_of_the_design(measured: Measured) -> None:
    await live_through(measured)
    for family in measured.metrics.registry.collect():
        name = family.name.removeprefix("runnerd_") + ("_total" if family.type == "counter" else "")
        for sample in family.samples:
            if DESIGN.get(name):
                assert DESIGN[name] <= set(sample.labels) <= DESIGN[name] | {"le", "window"}, name


async def test_the_phases_of_an_instance_are_timed(measured: Measured) -> None:
    await live_through(measured)

    def seconds(phase: str) -> float | None:
        return measured.value("instance_phase_seconds_sum", pool="gpu", provider="sky", phase=phase)

    assert {phase: seconds(phase) for phase in ("dispatch", "provision", "boot", "gate", "register")} == {
        "dispatch": 2,
        "provision": 4,
        "boot": 30,
        "gate": 5,
        "register": 1,
    }


async def test_a_jobs_wait_is_cut_at_the_moments_of_its_instance(measured: Measured) -> None:
    await live_through(measured)
    measured.place.clock.time += 3
    started = job(instance=InstanceId("vm-1"), queued_at=clocks.START - 1, started_at=measured.place.clock.time)
    for listener in measured.controller.job_updates.on_job:
        listener(None, started)

    def seconds(phase: str) -> float | None:
        return measured.value("job_wait_seconds_sum", pool="gpu", phase=phase)

    parts = {phase: seconds(phase) for phase in counters.WAITS}
    assert parts == {"dispatch": 3, "provision": 4, "boot": 30, "gate": 5, "register": 1, "pickup": 3}
    assert seconds("total") == sum(value or 0.0 for value in parts.values()) == 46


async def test_a_warm_instance_costs_a_job_only_the_pickup(measured: Measured) -> None:
    await live_through(measured)
    queued = measured.place.clock.time + 100
    started = job(instance=InstanceId("vm-1"), queued_at=queued, started_at=queued + 2)
    for listener in measured.controller.job_updates.on_job:
        listener(None, started)
    for phase in counters.WAITS:
        assert measured.value("job_wait_seconds_sum", pool="gpu", phase=phase) == (2 if phase == "pickup" else 0)


@pytest.mark.parametrize(
    ("conclusion", "outcome"), [("success", "success"), ("failure", "failure"), ("stale", "other"), ("", "other")]
)
def test_an_end_is_counted_once_with_an_outcome_of_the_closed_set(
    measured: Measured, conclusion: str, outcome: str
) -> None:
    ended = job("completed", conclusion=conclusion)
    for listener in measured.controller.job_updates.on_job:
        listener(job(), ended)
        listener(ended, ended)
    assert measured.value("jobs_total", pool="gpu", forge="hub", outcome=outcome) == 1


@pytest.mark.parametrize(
    ("failure", "by_way_of", "outcome"),
    [
        ("capacity", "requesting", "capacity"),
        ("transient", "unknown", "lost"),
        ("new-kind", "requesting", "other"),
    ],
)
async def test_an_attempt_counts_by_its_final_outcome(
    measured: Measured, failure: str, by_way_of: str, outcome: str
) -> None:
    measured.place.put(fakes.instance("vm-1", "planned"))
    await measured.step("requesting", 1, attempt_row=attempt(), **PLACE)
    if by_way_of == "unknown":
        await measured.step("unknown", 1, attempt_row=attempt("unknown", failure=failure))
        assert not [sample for family in measured.metrics.attempts.collect() for sample in family.samples], (
            "unclear is no outcome yet"
        )
    await measured.step(
        "planned", 1, reason=Reason.REFUSED, attempt_row=attempt("failed", failure=failure), provider="", region=""
    )
    labels = dict(zip(("provider", "region", "market"), SKY, strict=True))
    assert measured.value("provision_attempts_total", **labels, outcome=outcome) == 1


async def test_a_replayed_attempt_counts_once(measured: Measured) -> None:
    measured.place.put(fakes.instance("vm-1", "planned"))
    await measured.step("requesting", 1, attempt_row=attempt(), **PLACE)
    await measured.step("unknown", 1, attempt_row=attempt("unknown"))
    await measured.step("requesting", 1, attempt_row=attempt())
    await measured.step("booting", 1, attempt_row=attempt("created"))
    labels = dict(zip(("provider", "region", "market"), SKY, strict=True))
    assert measured.value("provision_attempts_total", **labels, outcome="created") == 1


async def test_cost_runs_with_time_never_back_and_ends_with_the_instance(measured: Measured) -> None:
    await live_through(measured)

    def dollars() -> float:
        return measured.value("cost_dollars_total", pool="gpu", provider="sky", market="on-demand") or 0.0

    start = measured.place.row().running_at
    seen = [dollars()]
    for _ in range(3):
        measured.place.clock.time += 1000
        seen.append(dollars())
        assert seen[-1] == dollars()
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx((measured.place.clock.time - start) / 3600 * 3.6)
    await measured.step("draining", 100)
    await measured.step("ending", 0)
    await measured.step("gone", 0, reason=Reason.IDLE)
    end = dollars()
    assert end == pytest.approx((measured.place.clock.time - start) / 3600 * 3.6)
    measured.place.clock.time += 5000
    assert dollars() == end
    assert measured.value("reaped_total", reason="idle") == 1
    assert not measured.metrics._marks


def test_what_was_accrued_before_the_start_is_not_told_again(place: fakes.Place) -> None:
    place.put(fakes.bought("vm-1", "busy", market="spot"))
    made = loop.Controller(place.runtime, bundle=lambda: "", assign=fakes.assign)
    counted = counters.Metrics()
    counted.attach(*rooms.shown(place, made))
    place.clock.time += 3600
    value = counted.registry.get_sample_value(
        "runnerd_cost_dollars_total", {"pool": "gpu", "provider": "sky", "market": "spot"}
    )
    assert value == pytest.approx(1.0)


async def test_idle_time_is_that_of_instances_that_could_work(measured: Measured) -> None:
    await live_through(measured)
    measured.place.clock.time += 60
    assert measured.value("idle_seconds_total", pool="gpu") == 61
    await measured.step("busy", 0)
    measured.place.clock.time += 600
    assert measured.value("idle_seconds_total", pool="gpu") == 61


async def test_a_preemption_counts_when_the_provider_proved_it(measured: Measured) -> None:
    measured.place.put(fakes.bought("vm-1", "busy", region="east"))
    await measured.step("gone", 1, reason=Reason.PREEMPTED)
    assert measured.value("preemptions_total", provider="sky", region="east") == 1


async def test_a_preemption_that_is_proven_late_is_counted_once_and_its_end_is_not_counted_again(
    measured: Measured, place: fakes.Place
) -> None:
    fields = {"region": "east", "market": "spot", "offer": "sky/acct/east/a/type-1/spot", "busy_at": clocks.START - 60}
    place.put(fakes.bought("vm-1", "busy", job=JobKey("hub|acme|1|train"), **fields))
    await measured.step("gone", 1, reason=Reason.VANISHED, end="unknown")
    assert place.state() == "forgotten" and not measured.value("preemptions_total", provider="sky", region="east")
    for _ in range(2):
        await place.rows.prove(InstanceId("vm-1"), base.EndKind.PREEMPTED, "evicted at noon")
    await clocks.settle()
    assert measured.value("preemptions_total", provider="sky", region="east") == 1
    assert measured.value("reaped_total", reason="vanished") == 1
    assert not measured.value("reaped_total", reason="preempted")
    assert [block.reason for block in place.rows.blocks.values()] == ["preempted"]
    assert place.book.written["vm-1"].reason is Reason.PREEMPTED

    # Another process reads the same durable rows, and is told once more.
    place.rows.on_proof.clear()
    again = loop.Controller(place.runtime, bundle=lambda: "", assign=fakes.assign)
    counted = counters.Metrics()
    counted.attach(*rooms.shown(place, again))
    assert await place.rows.prove(InstanceId("vm-1"), base.EndKind.PREEMPTED) is None
    assert counted.registry.get_sample_value("runnerd_preemptions_total", {"provider": "sky", "region": "east"}) is None


async def test_a_late_proof_of_another_end_is_no_preemption(measured: Measured, place: fakes.Place) -> None:
    place.put(fakes.bought("vm-1", "busy", region="east", market="spot"))
    await measured.step("gone", 1, reason=Reason.VANISHED, end="unknown")
    proven = await place.rows.prove(InstanceId("vm-1"), base.EndKind.SELF_ENDED, "a shutdown from inside")
    assert proven is not None and (proven.reason, proven.end) == (Reason.VANISHED, "self-ended")
    assert not measured.value("preemptions_total", provider="sky", region="east")
    assert not place.rows.blocks


def test_what_is_derived_at_the_scrape(measured: Measured, place: fakes.Place) -> None:
    place.put(
        fakes.bought("vm-1", "busy", region="east", market="spot"),
        fakes.bought("vm-2", "booting", region="east", market="spot", adopted=True),
        fakes.registration(),
    )
    place.forge.demands["gpu"] = model.Demand(waiting=7, known=True, as_of=clocks.START)
    place.rows._blocks["sky/*/east/*/*/spot"] = model.Block("sky/*/east/*/*/spot", "capacity", clocks.START + 60, 0.0)
    place.rows._blocks["sky/*/west/*/*/spot"] = model.Block("sky/*/west/*/*/spot", "capacity", clocks.START - 60, 0.0)
    residue = base.Residue("disk", "d-1", base.Scope("sky/acct/east/a"), {}, 0.0)
    place.runtime.providers["sky"].listing = base.Listing((), frozenset(), (residue,))
    place.runtime.alarms.ring("provider", "sky", "listing-failed", "no")
    measured.reading.progress.reload_ok = False
    measured.controller.failures = 3
    assert measured.value("jobs_queued", pool="gpu", forge="hub") == 7
    assert measured.value("demand_known", pool="gpu", forge="hub") == 1
    labels = {"pool": "gpu", "provider": "sky", "region": "east", "market": "spot"}
    assert measured.value("instances", **labels, state="busy") == 1
    assert measured.value("orphans", provider="sky", kind="instance") == 1
    assert measured.value("orphans", provider="sky", kind="disk") == 1
    assert measured.value("registrations", forge="hub", state="registered") == 1
    assert measured.value("offers_blocked", provider="sky", region="east", reason="capacity") == 1
    assert measured.value("offers_blocked", provider="sky", region="west", reason="capacity") is None
    assert measured.value("alarms_open", reason="listing-failed") == 1
    assert measured.value("config_reload_success") == 0
    assert measured.value("reconcile_failures_total") == 3


def test_budgets_tell_what_is_committed_and_left(tmp_path: Path, clock: clocks.ManualClock) -> None:
    place = fakes.place(tmp_path, clock, limits={"instances": 8, "dollars_per_day": 100})
    place.put(fakes.bought("vm-1", "busy", price=2.0, running_at=clocks.START, deadline=clocks.START + 3600))
    made = loop.Controller(place.runtime, bundle=lambda: "", assign=fakes.assign)
    counted = counters.Metrics()
    counted.attach(*rooms.shown(place, made))
    made.admission.count()
    labels = {"pool": "", "window": "day"}
    assert counted.registry.get_sample_value("runnerd_committed_dollars", labels) == pytest.approx(2.0)
    assert counted.registry.get_sample_value("runnerd_budget_remaining_dollars", labels) == pytest.approx(98.0)


def test_requests_to_forges_count_and_a_flood_of_endpoints_does_not_grow(measured: Measured) -> None:
    measured.metrics.on_request("hub", "GET /a", 200)
    measured.metrics.on_request("hub", "GET /a", 200)
    assert measured.value("forge_requests_total", forge="hub", endpoint="GET /a", status="200") == 2
    for number in range(2 * counters.MOST_ENDPOINTS):
        measured.metrics.on_request("hub", f"GET /{number}", 200)
    assert len(measured.metrics._endpoints) <= counters.MOST_ENDPOINTS + 1
    assert (measured.value("forge_requests_total", forge="hub", endpoint="other", status="200") or 0) > 0


async def test_passes_of_the_loop_are_timed(measured: Measured) -> None:
    for listener in measured.controller.on_pass:
        listener(0.02)
    assert measured.value("reconcile_seconds_count") == 1


def test_wishes_to_run_again_count_when_the_forge_has_decided(measured: Measured) -> None:
    for listener in measured.controller.reruns.on_outcome:
        listener("hub", forges.RetryOutcome.LATER)
        listener("hub", forges.RetryOutcome.RETRIED)
    assert measured.value("retries_total", forge="hub", outcome="retried") == 1
    assert measured.value("retries_total", forge="hub", outcome="later") is None
