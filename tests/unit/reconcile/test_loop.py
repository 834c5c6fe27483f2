from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from provisioners import base
from runnerd import model
from runnerd.forges.base import Health
from runnerd.model import Demand, InstanceId, Reason
from runnerd.reconcile import loop
from tests.support.clocks import START, ManualClock, settle
from tests.support.fakes import (
    FULL,
    NONCE,
    QUEUE,
    Place,
    assign,
    bought,
    instance,
    refusal,
    registration,
)
from tests.support.fakes import place as make_place

VM = InstanceId("vm-1")
Make = Callable[..., tuple[Place, loop.Controller]]


@pytest.fixture
async def make(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Make]:
    made: list[loop.Controller] = []

    def build(**changes: Any) -> tuple[Place, loop.Controller]:
        place = make_place(tmp_path, clock, **changes)
        controller = loop.Controller(place.runtime, bundle=lambda: "ab" * 32, assign=assign)
        made.append(controller)
        return place, controller

    yield build
    for controller in made:
        await controller.close(grace=0)
        await controller.runtime.background.close()


def wants(place: Place, waiting: int, *, repo: str = "acme/ml", known: bool = True) -> None:
    place.forge.demands["gpu"] = Demand(waiting, 0, place.clock.now(), known, {repo: waiting})


async def passes(controller: loop.Controller, clock: ManualClock, times: int = 1, *, every: float = 1.0) -> None:
    for _ in range(times):
        await controller.reconcile()
        await clock.advance(every)


async def test_a_waiting_job_becomes_a_booting_instance_in_one_pass(make: Make, clock: ManualClock) -> None:
    place, controller = make()
    wants(place, 1)
    await passes(controller, clock)
    (row,) = place.rows.instances.values()
    assert (row.state.value, row.repo, row.provider) == ("booting", "acme/ml", "sky")
    assert row.id.startswith("acme-ci-gpu-") and len(row.id) <= 48


async def test_a_burst_is_planned_in_one_commit(make: Make, clock: ManualClock) -> None:
    place, controller = make(limits={"instances": 50})
    wants(place, 40)
    await controller.reconcile()
    planned = [change for change in place.book.commits[0] if isinstance(change, model.Instance)]
    assert len(planned) == 40 and {row.state.value for row in planned} == {"planned"}
    await clock.advance(10)
    assert place.sky.count("create") == 40
    await passes(controller, clock, 3)
    assert place.sky.count("create") == 40


async def test_one_action_at_a_time_for_one_instance(make: Make, clock: ManualClock) -> None:
    place, controller = make()
    place.put(bought("vm-1", "ready", agent_nonce=NONCE))
    place.runtime.observations.heard(VM, asking=True)
    wants(place, 1)
    place.forge.gate = asyncio.Event()
    await passes(controller, clock, 5)
    assert place.forge.count("register") == 1
    place.forge.gate.set()
    await settle()
    assert place.state() == "registered"


async def test_a_refused_registration_is_not_tried_again_at_once(make: Make, clock: ManualClock) -> None:
    from runnerd import errors

    place, controller = make()
    place.put(bought("vm-1", "ready", agent_nonce=NONCE))
    place.runtime.observations.heard(VM, asking=True)
    wants(place, 1)
    place.forge.refusals = [errors.ForgeForbidden("no")] * 1000
    for _ in range(600):
        await controller.reconcile()
        await clock.advance(1)
    assert place.forge.count("register") <= 12
    assert len(place.rows.instances) == 1
    place.forge.refusals = []
    await passes(controller, clock, 100, every=10)
    assert place.state() == "registered"
    assert controller.registrar.backoff(QUEUE).refusals == 0


async def test_deleting_is_tried_again_ever_more_slowly(make: Make, clock: ManualClock) -> None:
    place, controller = make()
    place.put(bought("vm-1", "ending"))
    place.sky.delete_error = refusal(base.Kind.AUTH)
    await passes(controller, clock, 300)
    assert 8 <= place.sky.count("delete") <= 25
    assert place.state() == "ending"


async def test_an_action_that_raises_is_counted_alarmed_and_tried_again(make: Make, clock: ManualClock) -> None:
    place, controller = make()
    wants(place, 0)
    place.put(bought("vm-1", "ready", age=7000.0))
    place.book.broken = FULL
    await passes(controller, clock)
    assert controller.failures == 1 and "state-unwritable" in place.alarms()
    place.book.broken = None
    await passes(controller, clock, 5)
    assert place.state() in ("draining", "ending", "forgotten")


async def test_a_state_that_cannot_be_written_is_alarmed_until_a_write_passes(make: Make, clock: ManualClock) -> None:
    place, controller = make()
    running = asyncio.ensure_future(controller.run())
    place.book.broken = FULL
    wants(place, 0)
    place.put(bought("vm-1", "ready", age=7000.0))
    await clock.advance(1)
    for _ in range(20):
        place.runtime.wake()
        await clock.advance(1)
        assert "state-unwritable" in place.alarms()
    place.book.broken = None
    for _ in range(5):
        place.runtime.wake()
        await clock.advance(1)
    assert "state-unwritable" not in place.alarms()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_request_whose_answer_could_not_be_written_is_resolved(make: Make, clock: ManualClock) -> None:
    place, controller = make()
    place.put(bought("vm-1", "requesting", ref=""))
    place.sky.machines["i-key-vm-1"] = base.InstanceView(
        "i-key-vm-1",
        "vm-1",
        base.Scope("sky/acct/east/a"),
        base.InstanceStatus.RUNNING,
        {base.TAG_ATTEMPT: "key-vm-1"},
        START,
    )
    wants(place, 1)
    await passes(controller, clock, 5)
    assert (place.state(), place.row().ref, place.sky.count("create")) == ("booting", "i-key-vm-1", 0)


async def test_a_lost_configuration_is_renewed_for_the_agent_that_waits(make: Make, clock: ManualClock) -> None:
    place, controller = make()
    place.put(bought("vm-1", "registered", agent_nonce=NONCE, queue=QUEUE), registration("r1"))
    place.runtime.observations.heard(VM, asking=True)
    wants(place, 1)
    await passes(controller, clock, 5)
    assert place.state() == "registered"
    assert [call for call in place.forge.calls if call[0] != "find"] == [("deregister", "vm-1"), ("register", "vm-1-2")]
    assert controller.agents.grants[VM].runner_name == "vm-1-2"


async def test_a_boot_that_takes_too_long_counts_against_its_offer(make: Make, clock: ManualClock) -> None:
    place, controller = make()
    place.put(bought("vm-1", "booting", age=400.0))
    wants(place, 1)
    await passes(controller, clock, 2)
    assert "sky/acct/east/a/small/on-demand" in place.rows.blocks
    assert place.rows.blocks["sky/acct/east/a/small/on-demand"].reason == "boot"


async def test_a_clock_that_jumped_holds_what_is_ended_for_its_age(make: Make, clock: ManualClock) -> None:
    place, controller = make()
    place.put(bought("vm-1", "busy", busy_at=START - 10**6), bought("vm-2", "ready", age=10**6))
    clock.jump = 86400.0
    await passes(controller, clock, 3)
    assert (place.state("vm-1"), place.state("vm-2")) == ("busy", "ready")
    assert "clock" in place.alarms() and place.runtime.hold
    clock.jump = 0.0
    await passes(controller, clock)
    assert "clock" not in place.alarms()
    assert place.state("vm-1") in ("draining", "gone", "forgotten")


@pytest.mark.parametrize(
    ("rows", "limits", "told"),
    [
        pytest.param([], {"instances": 4}, 4, id="all is free"),
        pytest.param([bought("vm-1", "busy", queue=QUEUE)], {"instances": 4}, 4, id="what it holds and the rest"),
        pytest.param([bought("vm-1", "busy", queue=QUEUE, pool="old")], {"instances": 4}, 4, id="another pool holds"),
        pytest.param([bought("vm-1", "busy", queue=QUEUE)], {"instances": 1}, 1, id="full"),
        pytest.param([bought("vm-1", "booting", pool="old")], {"instances": 1}, 1, id="never zero"),
    ],
)
async def test_the_capacity_told_to_a_queue(
    make: Make, clock: ManualClock, rows: list[model.Instance], limits: dict[str, Any], told: int
) -> None:
    place, controller = make(limits=limits)
    place.put(*rows)
    await passes(controller, clock)
    assert controller.job_updates.capacity(QUEUE) == told


async def test_a_drained_pool_announces_what_it_holds(make: Make, clock: ManualClock) -> None:
    place, controller = make()
    await place.runtime.durable.write_drained("gpu", True)
    place.put(*(bought(f"vm-{n}", "busy", queue=QUEUE, busy_at=START) for n in range(2)))
    wants(place, 5)
    await passes(controller, clock)
    assert controller.job_updates.capacity(QUEUE) == 2 and place.sky.count("create") == 0
    assert controller.notes["gpu"] == ("drained by an operator",)


async def test_an_unhealthy_forge_is_named_and_nothing_is_bought_for_it(make: Make, clock: ManualClock) -> None:
    place, controller = make()
    wants(place, 2)
    place.forge.state = Health(False, "it answers HTML", START)
    await passes(controller, clock, 2)
    assert "it answers HTML" in controller.notes["gpu"][0] and not place.rows.instances


async def test_instances_of_a_pool_that_left_the_configuration_retire(make: Make, clock: ManualClock) -> None:
    place, controller = make()
    place.put(bought("vm-1", "ready", pool="old"), bought("vm-2", "busy", pool="old", busy_at=START))
    await passes(controller, clock, 2)
    assert place.state("vm-1") != "ready" and place.state("vm-2") == "busy"


async def test_a_teams_used_up_budget_holds_back_that_team_alone(make: Make, clock: ManualClock) -> None:
    place, controller = make(teams={"nlp": {"repos": ["acme/nlp"], "limits": {"dollars_per_day": 0.5}}})
    place.forge.demands["gpu"] = Demand(4, 0, START, True, {"acme/nlp": 2, "acme/web": 2})
    await passes(controller, clock, 5)
    rows = [row.repo for row in place.rows.instances.values()]
    assert rows == ["acme/web", "acme/web"]
    assert "team nlp" in " ".join(controller.notes["gpu"])
    assert place.book.events().count("failed") == 0, "nothing is planned in vain"


async def test_money_is_never_promised_twice_in_a_burst(make: Make, clock: ManualClock) -> None:
    place, controller = make(limits={"instances": 8, "dollars_per_day": 7.0})
    place.runtime.providers["sky"].bucket("east").pause(5)
    wants(place, 8)
    await passes(controller, clock, 30)
    # Each may live 2.4 hours at a dollar.
    assert place.sky.count("create") == 2


async def test_a_cloud_that_hangs_over_its_offers_does_not_stop_the_loop(
    make: Make, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, controller = make(pools={"gpu": {}, "big": {"labels": ["big"], "from": ["sea"]}})
    hang = asyncio.Event()

    async def never(shape: base.Shape) -> list[base.Offer]:
        await hang.wait()
        return []

    monkeypatch.setattr(place.clouds["sea"], "offers", never)
    for provider in place.runtime.providers.values():
        provider._offers.clear()
    wants(place, 1)
    work = asyncio.ensure_future(controller.reconcile())
    await clock.advance(120)
    assert work.done(), "the pass waits for a cloud that hangs"
    await passes(controller, clock, 3)
    assert place.sky.count("create") == 1
    hang.set()


async def test_offers_that_cannot_be_told_are_not_asked_for_in_every_pass(
    make: Make, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, controller = make()
    asked: list[float] = []

    async def broken(*_: object) -> list[base.Offer]:
        asked.append(clock.now())
        raise refusal(base.Kind.AUTH)

    monkeypatch.setattr(place.sky, "offers", broken)
    place.runtime.providers["sky"]._offers.clear()
    await passes(controller, clock, 100, every=0.1)
    assert len(asked) <= 10
    assert "offers-failed" in place.alarms()


async def test_a_held_instance_is_left_alone_until_then(make: Make, clock: ManualClock) -> None:
    place, controller = make()
    wants(place, 0)
    place.put(dataclasses.replace(bought("vm-1", "ready", age=7000.0), hold_until=START + 30))
    await passes(controller, clock, 2)
    assert place.state() == "ready"
    await passes(controller, clock, 4, every=10)
    assert place.state() != "ready"


async def test_nothing_is_done_twice_for_what_is_planned_already(make: Make, clock: ManualClock) -> None:
    place, controller = make()
    place.put(instance("vm-1", "planned"))
    await passes(controller, clock, 2)
    assert place.state() == "forgotten", "nobody wants it"
    assert place.sky.count("create") == 0
    assert place.book.events()[-1] == "failed"
    assert Reason.NOT_WANTED.value in str(place.book.commits[-1])
