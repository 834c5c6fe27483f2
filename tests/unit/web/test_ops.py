"""Metrics, health, readiness and the page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from runnerd import model
from runnerd.forges import base as forges
from runnerd.metrics import counters
from runnerd.web import ops
from tests.support import clocks, fakes
from tests.unit.web import web_daemon


@pytest.fixture
async def told(running: web_daemon.Daemon, clock: clocks.ManualClock) -> AsyncIterator[Any]:
    """A client of the ops listener."""
    made = counters.Metrics()
    made.attach(running.reading, running.hooks)
    running.place.forge.date = (clock.now(), clock.now())
    application = ops.Ops(running.served, made, clock=clock)
    async with web_daemon.served(application.app) as client:
        yield client


async def test_healthy_means_that_the_loop_turns(
    told: Any, running: web_daemon.Daemon, clock: clocks.ManualClock
) -> None:
    assert (await told.get("/healthz")).status == 200
    clock.time += ops.LEAST_S + 1
    stuck = await told.get("/healthz")
    assert stuck.status == 503
    assert "has not finished a pass" in (await stuck.json())["reasons"][0]
    running.controller.last_pass_at = clock.time
    assert (await told.get("/healthz")).status == 200


async def test_a_start_that_does_not_end_is_not_healthy_for_ever(
    told: Any, running: web_daemon.Daemon, clock: clocks.ManualClock
) -> None:
    running.progress.started_at = 0.0
    first = await told.get("/healthz")
    assert (first.status, (await first.json())["state"]) == (200, "starting")
    assert (await told.get("/readyz")).status == 503
    assert "is starting" in await (await told.get("/")).text()
    assert (await told.get("/api/v1/status")).status == 503
    clock.time += ops.START_TIMEOUT_S + 1
    assert (await told.get("/healthz")).status == 503


async def test_ready_when_state_forges_and_providers_work(told: Any) -> None:
    answer = await told.get("/readyz")
    assert (answer.status, await answer.json()) == (200, {"ready": True, "reasons": [], "degraded": []})


async def test_not_ready_while_the_state_takes_no_write(
    told: Any, running: web_daemon.Daemon, clock: clocks.ManualClock
) -> None:
    running.store.broken = fakes.FULL
    answer = await told.get("/readyz")
    assert answer.status == 503
    assert (await answer.json())["reasons"] == ["the state cannot be written: the disk is full"]
    running.store.broken = None
    clock.time += ops.PROBE_FRESH_S + 1
    assert (await told.get("/readyz")).status == 200


async def test_readiness_writes_at_most_every_few_seconds(told: Any, running: web_daemon.Daemon) -> None:
    for _ in range(5):
        await told.get("/readyz")
    assert running.store.probes == 1


async def test_not_ready_until_every_forge_has_answered(told: Any, place: fakes.Place) -> None:
    place.forge.date = None
    place.forge.state = forges.Health(ok=False, problem="connection refused")
    # What the cursor kept from before the start proves nothing.
    place.forge.demands["gpu"] = model.Demand(waiting=1, as_of=clocks.START - 60, known=True)
    answer = await told.get("/readyz")
    assert answer.status == 503
    assert "hub has not been reached since the start: connection refused" in (await answer.json())["reasons"][0]


async def test_a_forge_that_fails_later_degrades_itself_alone(told: Any, place: fakes.Place) -> None:
    place.forge.state = forges.Health(ok=False, problem="503 for a while")
    answer = await told.get("/readyz")
    assert answer.status == 200
    assert (await answer.json())["degraded"] == ["forge hub: 503 for a while"]


async def test_one_provider_in_trouble_degrades_and_all_in_trouble_is_not_ready(told: Any, place: fakes.Place) -> None:
    place.runtime.providers["sky"].problem = "listing failed"
    answer = await told.get("/readyz")
    assert (answer.status, (await answer.json())["degraded"]) == (200, ["provider sky: listing failed"])
    place.runtime.providers["sea"].problem = "no credentials"
    assert (await told.get("/readyz")).status == 503


async def test_a_stopping_daemon_is_healthy_and_not_ready(told: Any, running: web_daemon.Daemon) -> None:
    running.progress.stopping = True
    assert (await told.get("/healthz")).status == 200
    assert (await told.get("/readyz")).status == 503


async def test_metrics_come_in_both_formats(told: Any) -> None:
    plain = await told.get("/metrics")
    assert "runnerd_build_info{" in await plain.text()
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    text = await (await told.get("/metrics", headers=accept)).text()
    assert text.endswith("# EOF\n")


async def test_the_page_shows_what_is_there_and_escapes_it(
    told: Any, running: web_daemon.Daemon, place: fakes.Place, clock: clocks.ManualClock
) -> None:
    place.put(fakes.bought("vm-1", "busy", job=model.JobKey("hub|acme/ml|1|<script>alert(1)</script>")))
    place.runtime.alarms.ring("provider", "sky", "listing-failed", "<b>no</b>")
    running.store.trail_rows = [(1, model.Event(clock.now(), "instance", "vm-1", "busy", "", "<i>x</i>"))]
    answer = await told.get("/")
    text = await answer.text()
    assert answer.status == 200
    for shown in ("acme-ci", "vm-1", "listing-failed", "Ready"):
        assert shown in text
    for raw in ("<script>", "<b>no</b>", "<i>x</i>"):
        assert raw not in text
    assert "script-src" not in answer.headers["Content-Security-Policy"]
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")


async def test_the_page_works_while_the_state_cannot_be_read(told: Any, running: web_daemon.Daemon) -> None:
    running.store.broken = fakes.FULL
    answer = await told.get("/")
    text = await answer.text()
    assert answer.status == 200
    assert "Not ready" in text
    assert "the disk is full" in text


async def test_secrets_do_not_reach_the_page(told: Any, place: fakes.Place) -> None:
    token = "ghp_" + "a1B2" * 9
    place.runtime.alarms.ring("forge", "hub", "odd", f"answered with {token}")
    assert token not in await (await told.get("/")).text()
    assert token not in await (await told.get("/api/v1/status")).text()


async def test_the_ops_listener_has_nothing_of_the_public_one(told: Any) -> None:
    assert (await told.post("/webhooks/hub", data=b"{}")).status == 404
    assert (await told.post("/agent/v1/hello", json={})).status == 404
