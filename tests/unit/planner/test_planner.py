from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provisioners.base import Failure, InstanceStatus, Kind
from runnerd import model, planner
from runnerd.model import Demand, InstanceId, InstanceState, Queue, Reason
from tests.support.clocks import START
from tests.support.fakes import (
    QUEUE,
    bought,
    instance,
    registration,
)

NOW = START
OTHER = Queue("lab", "ml", "gpu")


DAY = planner.Budget(left=9.0, limit=12.0, span="today")


def left(dollars: float) -> planner.Budget:
    """Return the day's budget with that much left."""
    return dataclasses.replace(DAY, left=dollars)


def budgets(most: float) -> st.SearchStrategy[planner.Budget]:
    """Return budgets of which up to that many dollars are left."""
    return st.floats(-1, most).map(lambda left: planner.Budget(left, most, "today"))


def demand(waiting: int = 0, running: int = 0, *, known: bool = True, **repos: int) -> Demand:
    return Demand(waiting, running, NOW, known, {name.replace("_", "/"): count for name, count in repos.items()})


def view(waiting: int = 0, queue: Queue = QUEUE, **fields: Any) -> planner.QueueView:
    return planner.QueueView(queue, fields.pop("demand", demand(waiting)), **fields)


def pool(*queues: planner.QueueView, name: str = "gpu", **fields: Any) -> planner.PoolView:
    return planner.PoolView(name, queues, **fields)


def asking(*rows: model.Instance, **fields: Any) -> dict[InstanceId, planner.Observation]:
    values = {"agent_at": NOW, "asking": True} | fields
    return {row.id: planner.Observation(**values) for row in rows}


def plan(
    pools: planner.PoolView | tuple[planner.PoolView, ...], rows: Iterable[model.Instance] = (), **fields: Any
) -> planner.Plan:
    snapshot = planner.Snapshot(
        pools if isinstance(pools, tuple) else (pools,), {row.id: row for row in rows}, **fields
    )
    made = planner.plan(snapshot, NOW)
    assert planner.plan(snapshot, NOW) == made, "the same snapshot gives the same plan"
    return made


def of(made: planner.Plan, kind: type) -> list[Any]:
    return [action for action in made.actions if isinstance(action, kind)]


def launches(made: planner.Plan) -> int:
    return len(of(made, planner.Launch))


# -- supply and demand ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("waiting", "states", "expected"),
    [
        pytest.param(0, [], 0, id="nothing waits"),
        pytest.param(3, [], 3, id="one per waiting job"),
        pytest.param(3, ["planned"], 2, id="a planned one counts"),
        pytest.param(3, ["requesting", "unknown", "booting"], 0, id="what is asked for counts, clear or not"),
        pytest.param(2, ["ready", "ready"], 0, id="ready ones count"),
        pytest.param(2, ["registering", "registered"], 0, id="bound ones count for their queue"),
        pytest.param(2, ["busy", "busy"], 2, id="busy ones do not count"),
        pytest.param(2, ["draining", "ending"], 2, id="those on their way out do not count"),
        pytest.param(2, ["gone", "failed"], 2, id="closed ones do not count"),
        pytest.param(1, ["booting", "booting", "booting"], 0, id="more than enough"),
    ],
)
def test_each_waiting_job_wants_one_rising_instance(waiting: int, states: list[str], expected: int) -> None:
    rows = [instance(f"vm-{n}", state, queue=QUEUE) for n, state in enumerate(states)]
    assert launches(plan(pool(view(waiting)), rows)) == expected


def test_jobs_that_our_agents_saw_starting_do_not_buy_another_instance() -> None:
    assert launches(plan(pool(view(3, pickups=2)))) == 1


def test_an_instance_registered_for_one_queue_is_no_supply_for_another() -> None:
    rows = [instance("vm-1", "registered", queue=OTHER)]
    assert launches(plan(pool(view(1), view(0, OTHER)), rows)) == 1


def test_queues_of_one_pool_share_what_is_not_bound() -> None:
    rows = [instance("vm-1", "booting"), instance("vm-2", "ready")]
    assert launches(plan(pool(view(1), view(2, OTHER)), rows)) == 1


def test_a_warm_pool_is_held_beside_the_demand() -> None:
    assert launches(plan(pool(view(2), warm=3))) == 5


def test_a_warm_pool_without_any_queue_is_filled() -> None:
    assert launches(plan(pool(warm=2), [instance("vm-1", "booting")])) == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        pytest.param({"healthy": False, "problem": "it answers HTML"}, "it answers HTML", id="unhealthy forge"),
        pytest.param({"register_after": NOW + 60}, "accepts no new runners", id="registration refused for a time"),
        pytest.param({"demand": demand(2, known=False)}, "demand unknown: no recent report", id="stale demand"),
        pytest.param({"headroom": 0}, "has no room for more runners", id="no headroom"),
    ],
)
def test_nothing_is_bought_for_a_queue_that_could_not_use_it_and_the_notes_say_why(
    fields: dict[str, Any], words: str
) -> None:
    made = plan(pool(view(2, **fields)))
    assert launches(made) == 0
    assert words in " ".join(made.notes["gpu"])


def test_the_forges_headroom_limits_what_is_bought() -> None:
    made = plan(pool(view(5, headroom=2)), [instance("vm-1", "booting")])
    assert launches(made) == 1
    assert made.notes["gpu"] == (f"{QUEUE}: the forge has room for only 2 more runners",)


def test_a_closed_offer_list_is_named_and_buys_nothing() -> None:
    made = plan(pool(view(2), open_offers=False, closed_because="blocked 5 s ago (capacity)"))
    assert (launches(made), made.notes["gpu"]) == (0, ("blocked 5 s ago (capacity)",))


@pytest.mark.parametrize("state", ["drained", "retired"])
def test_a_drained_or_retired_pool_buys_nothing_registers_nothing_and_drops_what_is_planned(state: str) -> None:
    rows = [instance("vm-1", "planned"), instance("vm-2", "ready")]
    held: dict[str, Any] = {state: True}
    made = plan(pool(view(5), warm=2, **held), rows, observations=asking(rows[1]))
    assert launches(made) == 0
    assert of(made, planner.Drop) == [planner.Drop(InstanceId("vm-1"), Reason.NOT_WANTED)]
    assert of(made, planner.Register) == []


def test_the_members_of_a_pool_that_nobody_describes_are_retired() -> None:
    made = plan((), [instance("vm-1", "ready", pool="old"), instance("vm-2", "planned", pool="old")])
    assert of(made, planner.Drain) == [planner.Drain(InstanceId("vm-1"), Reason.RETIRED)]
    assert len(of(made, planner.Drop)) == 1


# -- planned ones --------------------------------------------------------------------------------------------------


def test_planned_instances_are_requested_and_the_newest_dropped_when_too_many() -> None:
    rows = [instance(f"vm-{n}", "planned", created_at=START - 10 + n) for n in range(3)]
    made = plan(pool(view(2)), rows)
    assert [action.instance for action in of(made, planner.Request)] == ["vm-0", "vm-1"]
    assert [action.instance for action in of(made, planner.Drop)] == ["vm-2"]


@pytest.mark.parametrize(("waiting", "wanted"), [pytest.param(1, True, id="wanted"), pytest.param(0, False, id="not")])
def test_an_unclear_instance_is_resolved_and_sent_again_only_while_wanted(waiting: int, wanted: bool) -> None:
    made = plan(pool(view(waiting)), [instance("vm-1", "unknown")])
    assert of(made, planner.Resolve) == [planner.Resolve(InstanceId("vm-1"), wanted)]


# -- idle ones -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["ready", "registered"])
@pytest.mark.parametrize(
    ("age", "view_fields", "pool_fields", "expected"),
    [
        pytest.param(599, {}, {}, None, id="not idle for long enough"),
        pytest.param(601, {}, {}, Reason.IDLE, id="idle"),
        pytest.param(601, {"demand": demand(0, known=False)}, {}, None, id="unknown demand never shrinks"),
        pytest.param(90_000, {"demand": demand(0, known=False)}, {}, Reason.AGE, id="too old, whatever the demand"),
        pytest.param(0, {}, {"retired": True}, Reason.RETIRED, id="retired pool"),
    ],
)
def test_what_waits_in_vain_is_drained(
    state: str, age: float, view_fields: dict[str, Any], pool_fields: dict[str, Any], expected: Reason | None
) -> None:
    rows = [instance("vm-1", state, age=age, queue=QUEUE if state == "registered" else None)]
    made = plan(pool(view(**view_fields), **pool_fields), rows)
    assert [action.reason for action in of(made, planner.Drain)] == ([expected] if expected else [])


def test_a_registered_one_stays_while_its_queue_has_work() -> None:
    rows = [instance("vm-1", "registered", age=5000, queue=QUEUE)]
    assert of(plan(pool(view(1)), rows), planner.Drain) == []


def test_only_what_is_spare_is_drained_and_the_oldest_first() -> None:
    rows = [instance(f"vm-{n}", "ready", age=1000 + n) for n in range(4)]
    made = plan(pool(view(1), warm=1), rows)
    assert [action.instance for action in of(made, planner.Drain)] == ["vm-3", "vm-2"]


def test_a_warm_instance_is_not_drained_for_being_idle_but_for_its_age() -> None:
    rows = [instance("vm-1", "ready", age=7200)]
    assert of(plan(pool(view(), warm=1), rows), planner.Drain) == []
    old = [instance("vm-1", "ready", age=90_000)]
    assert [action.reason for action in of(plan(pool(view(), warm=1), old), planner.Drain)] == [Reason.AGE]


def test_what_is_dropped_before_it_was_sent_is_not_counted_again_as_spare_among_idle_ones() -> None:
    rows = [instance("vm-1", "ready", age=1000), instance("vm-2", "planned")]
    made = plan(pool(view(1)), rows)
    taken = len(of(made, planner.Drain)) + len(of(made, planner.Drop))
    assert taken == 1, made.actions


def test_an_aged_instance_that_goes_leaves_the_idle_one_beside_it_for_the_job() -> None:
    rows = [instance("vm-1", "ready", age=90_000), instance("vm-2", "ready", age=1000)]
    made = plan(pool(view(1)), rows)
    assert [(action.instance, action.reason) for action in of(made, planner.Drain)] == [("vm-1", Reason.AGE)]


def test_an_instance_without_time_for_a_whole_job_before_its_deadline_gets_none() -> None:
    rows = [instance("vm-1", "ready", deadline=NOW + 100)]
    made = plan(pool(view(1), max_job=3600.0), rows, observations=asking(*rows))
    assert of(made, planner.Register) == []
    assert [action.reason for action in of(made, planner.Drain)] == [Reason.AGE]


def test_ready_instances_of_a_drained_pool_go_when_idle_although_jobs_wait() -> None:
    rows = [instance("vm-1", "ready", age=700)]
    made = plan(pool(view(3), drained=True), rows)
    assert [action.reason for action in of(made, planner.Drain)] == [Reason.IDLE]


# -- registering ---------------------------------------------------------------------------------------------------


def test_a_queue_that_holds_few_gets_its_turn_beside_one_with_a_hundred_jobs() -> None:
    rows = [instance("vm-1", "ready"), *(instance(f"vm-{n}", "busy", queue=QUEUE) for n in range(2, 5))]
    made = plan(pool(view(100), view(2, OTHER)), rows, observations=asking(rows[0]))
    assert [action.queue for action in of(made, planner.Register)] == [OTHER]


def test_ready_instances_go_to_the_queue_with_most_open_jobs_longest_ready_first() -> None:
    rows = [instance("vm-1", "ready", age=5), instance("vm-2", "ready", age=50), instance("vm-3", "ready", age=20)]
    made = plan(pool(view(1), view(3, OTHER)), rows, observations=asking(*rows))
    given_out = [(action.instance, action.queue) for action in of(made, planner.Register)]
    assert given_out == [("vm-2", OTHER), ("vm-3", QUEUE), ("vm-1", OTHER)]


def test_an_instance_that_is_drained_is_not_registered_at_the_same_time() -> None:
    rows = [instance("vm-1", "ready", age=800), instance("vm-2", "ready", age=700)]
    made = plan(pool(view(1)), rows, observations=asking(*rows))
    assert [action.instance for action in of(made, planner.Drain)] == ["vm-1"]
    assert [action.instance for action in of(made, planner.Register)] == ["vm-2"]


def test_while_an_interrupted_job_runs_again_no_spot_instance_is_registered() -> None:
    rows = [instance("vm-1", "ready", market="spot", age=9), instance("vm-2", "ready", market="on-demand")]
    made = plan(pool(view(2), on_demand_only=True), rows, observations=asking(*rows))
    assert [action.instance for action in of(made, planner.Register)] == ["vm-2"]
    assert len(of(plan(pool(view(2)), rows, observations=asking(*rows)), planner.Register)) == 2


def test_an_instance_past_its_idle_age_is_not_registered() -> None:
    rows = [instance("vm-1", "ready", age=100_000)]
    made = plan(pool(view(1)), rows, observations=asking(*rows))
    assert (of(made, planner.Register), len(of(made, planner.Drain))) == ([], 1)


@pytest.mark.parametrize(
    ("fields", "observations", "count"),
    [
        pytest.param({}, {}, 2, id="asks"),
        pytest.param({}, {"asking": False}, 0, id="does not ask"),
        pytest.param({"headroom": 1}, {}, 1, id="headroom for one"),
        pytest.param({"headroom": 0}, {}, 0, id="no headroom"),
        pytest.param({"register_after": NOW + 1}, {}, 0, id="not yet"),
        pytest.param({"register_after": NOW - 1}, {}, 2, id="again"),
        pytest.param({"demand": demand(2, known=False)}, {}, 2, id="stale demand still gets its runners"),
    ],
)
def test_registration_waits_for_the_agent_and_for_the_forge(
    fields: dict[str, Any], observations: dict[str, Any], count: int
) -> None:
    rows = [instance("vm-1", "ready"), instance("vm-2", "ready")]
    made = plan(pool(view(2, **fields)), rows, observations=asking(*rows, **observations))
    assert len(of(made, planner.Register)) == count


def test_a_warm_instance_is_not_registered_before_a_job_waits() -> None:
    rows = [instance("vm-1", "ready")]
    assert of(plan(pool(view(0), warm=1), rows, observations=asking(*rows)), planner.Register) == []


# -- the end -------------------------------------------------------------------------------------------------------

ON_THE_CLOUD = ["booting", "ready", "registering", "registered", "busy", "draining", "ending"]


@pytest.mark.parametrize("state", ON_THE_CLOUD)
@pytest.mark.parametrize(
    "observations",
    [
        pytest.param({"cloud": InstanceStatus.GONE}, id="the cloud says gone"),
        pytest.param({"absences": 2}, id="absent on two listings"),
    ],
)
def test_what_the_provider_no_longer_has_is_closed(state: str, observations: dict[str, Any]) -> None:
    rows = [bought("vm-1", state, queue=QUEUE)]
    made = plan(pool(view()), rows, observations={rows[0].id: planner.Observation(**observations)})
    assert [action.instance for action in of(made, planner.Close)] == ["vm-1"]


@pytest.mark.parametrize("state", ON_THE_CLOUD)
def test_one_absence_closes_nothing(state: str) -> None:
    rows = [bought("vm-1", state, queue=QUEUE)]
    assert of(plan(pool(view()), rows, observations=asking(*rows, absences=1)), planner.Close) == []


@pytest.mark.parametrize("state", ["ready", "registering", "registered", "busy"])
@pytest.mark.parametrize(
    ("observations", "dead"),
    [
        pytest.param({"cloud": InstanceStatus.STOPPED}, True, id="silent and stopped"),
        pytest.param({"healthy": False}, True, id="silent and unhealthy"),
        pytest.param({"cloud": InstanceStatus.RUNNING}, False, id="silent alone"),
        pytest.param({"healthy": False, "agent_at": NOW - 10}, False, id="unhealthy but speaking"),
        pytest.param({"healthy": False, "agent_at": NOW - 100}, True, id="unhealthy and silent since"),
    ],
)
def test_dead_takes_a_silent_agent_and_the_providers_own_verdict(
    state: str, observations: dict[str, Any], dead: bool
) -> None:
    rows = [bought("vm-1", state, queue=QUEUE, busy_at=NOW - 10, age=10)]
    made = plan(pool(view(1)), rows, observations={rows[0].id: planner.Observation(**observations)})
    assert [action.reason for action in of(made, planner.Drain)] == ([Reason.DEAD] if dead else [])


@pytest.mark.parametrize(
    ("ran", "fields", "snapshot", "drained"),
    [
        pytest.param(3600 + 299, {}, {}, False, id="within max_job and slack"),
        pytest.param(3600 + 301, {}, {}, True, id="beyond"),
        pytest.param(3600 + 301, {}, {"hold": True}, False, id="the clock is not trusted"),
        pytest.param(3600 + 301, {"hold_until": NOW + 1}, {}, False, id="a person holds it"),
        pytest.param(0, {"busy_at": 0.0}, {}, False, id="busy since an unknown time"),
    ],
)
def test_a_job_ends_only_for_max_job(
    ran: float, fields: dict[str, Any], snapshot: dict[str, Any], drained: bool
) -> None:
    rows = [bought("vm-1", "busy", **({"busy_at": NOW - ran} | fields))]
    made = plan(pool(view(), max_job=3600.0), rows, **snapshot)
    assert [action.reason for action in of(made, planner.Drain)] == ([Reason.MAX_JOB] if drained else [])


def test_a_busy_instance_of_a_retired_pool_may_run_to_its_deadline() -> None:
    rows = [bought("vm-1", "busy", busy_at=NOW - 90_000, deadline=NOW + 10)]
    assert of(plan(pool(retired=True), rows), planner.Drain) == []


@pytest.mark.parametrize(
    ("age", "fields", "snapshot", "drained"),
    [
        pytest.param(599, {}, {}, False, id="still booting"),
        pytest.param(601, {}, {}, True, id="too long"),
        pytest.param(601, {}, {"hold": True}, False, id="the clock is not trusted"),
        pytest.param(601, {"hold_until": NOW + 9}, {}, False, id="a person holds it"),
    ],
)
def test_a_boot_that_takes_too_long_ends(
    age: float, fields: dict[str, Any], snapshot: dict[str, Any], drained: bool
) -> None:
    made = plan(pool(view(1), boot=600.0), [bought("vm-1", "booting", age=age, **fields)], **snapshot)
    assert [action.reason for action in of(made, planner.Drain)] == ([Reason.BOOT_TIMEOUT] if drained else [])


def test_a_launch_that_failed_late_makes_room_for_the_next_try_at_once() -> None:
    failed = bought("vm-1", "booting", age=5.0)
    observations = {
        failed.id: planner.Observation(cloud=InstanceStatus.FAILED, failure=Failure(Kind.CAPACITY, "no room"))
    }
    made = plan(pool(view(1)), [failed], observations=observations)
    assert of(made, planner.Drain) == [planner.Drain(failed.id, Reason.LAUNCH_FAILED, "no room")]
    draining = dataclasses.replace(failed, state=InstanceState.DRAINING, reason=Reason.LAUNCH_FAILED)
    made = plan(pool(view(1)), [draining], observations=observations)
    assert len(of(made, planner.Launch)) == 1


def test_what_the_provider_calls_failed_is_left_alone_while_its_agent_works() -> None:
    busy = bought("vm-1", "busy")
    observations = {busy.id: planner.Observation(agent_at=NOW, worker=True, cloud=InstanceStatus.FAILED)}
    assert not of(plan(pool(view()), [busy], observations=observations), planner.Drain)


@pytest.mark.parametrize("state", ["ready", "registered"])
def test_nothing_is_drained_for_its_age_while_the_clock_is_not_trusted_or_a_person_holds_it(state: str) -> None:
    rows = [instance("vm-1", state, age=10**6, queue=QUEUE)]
    assert of(plan(pool(view()), rows, hold=True), planner.Drain) == []
    held = [instance("vm-1", state, age=10**6, queue=QUEUE, hold_until=NOW + 5)]
    assert of(plan(pool(view()), held), planner.Drain) == []


@pytest.mark.parametrize(
    ("reason", "observations", "deadline", "hold", "forced"),
    [
        pytest.param(Reason.IDLE, {}, NOW + 1, False, False, id="a gentle end"),
        pytest.param(Reason.MAX_JOB, {}, NOW + 1, False, True, id="max_job"),
        pytest.param(Reason.OPERATOR, {}, NOW + 1, False, True, id="a person said so"),
        pytest.param(Reason.IDLE, {"cloud": InstanceStatus.STOPPED}, NOW + 1, False, True, id="dead"),
        pytest.param(Reason.IDLE, {}, NOW - 1, False, True, id="past its deadline"),
        pytest.param(Reason.IDLE, {}, NOW - 1, True, False, id="past its deadline by a clock that jumped"),
        pytest.param(Reason.IDLE, {}, 0.0, False, False, id="without a deadline"),
    ],
)
def test_a_draining_instance_is_forced_only_by_the_named_overrides(
    reason: Reason, observations: dict[str, Any], deadline: float, hold: bool, forced: bool
) -> None:
    rows = [bought("vm-1", "draining", reason=reason, deadline=deadline)]
    made = plan(pool(view()), rows, observations={rows[0].id: planner.Observation(**observations)}, hold=hold)
    assert of(made, planner.Release) == [planner.Release(InstanceId("vm-1"), forced)]


def test_an_ending_instance_is_deleted_until_it_is_gone() -> None:
    assert of(plan(pool(view()), [bought("vm-1", "ending")]), planner.Delete) == [planner.Delete(InstanceId("vm-1"))]


@pytest.mark.parametrize(
    ("owner", "state", "removed"),
    [
        pytest.param("registered", "registered", False, id="in use"),
        pytest.param("registering", "registering", False, id="under way"),
        pytest.param("ready", "removing", True, id="to be removed"),
        pytest.param("gone", "registered", True, id="its instance is gone"),
        pytest.param(None, "registered", True, id="its instance is forgotten"),
        pytest.param("gone", "gone", False, id="gone itself"),
    ],
)
def test_registrations_outlive_their_instances_only_until_they_are_removed(
    owner: str | None, state: str, removed: bool
) -> None:
    rows = [instance("vm-1", owner)] if owner else []
    made = plan(pool(view(1)), rows, registrations=[registration("r1", "vm-1", state)])
    assert bool(of(made, planner.Deregister)) is removed


# -- limits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pool_fields", "snapshot_fields", "expected", "words"),
    [
        pytest.param({"max_instances": 3}, {}, 2, "pool gpu is at its limit of 3 instances", id="pool instances"),
        pytest.param({"max_gpus": 5, "gpus": 2}, {}, 1, "pool gpu is at its limit of 5 GPUs", id="pool gpus"),
        pytest.param({"max_instances": 0}, {}, 0, "pool gpu is at its limit of 0", id="a pool limited to nothing"),
        pytest.param({}, {"max_instances": 2}, 1, "the daemon is at its limit of 2 instances", id="all instances"),
        pytest.param({"gpus": 2}, {"max_gpus": 7}, 2, "the daemon is at its limit of 7 GPUs", id="all gpus"),
        pytest.param({"commitment": 4.0, "budget": DAY}, {}, 2, "pool gpu: $11.00 of $12.00", id="pool dollars"),
        pytest.param(
            {"commitment": 4.0},
            {"budget": left(5.0)},
            1,
            "the daemon: $11.00 of $12.00",
            id="all dollars",
        ),
        pytest.param(
            {"commitment": 4.0},
            {"budget": left(-5.0)},
            0,
            "the daemon: $17.00 of $12.00",
            id="overdrawn",
        ),
    ],
)
def test_limits_hold_at_every_level_and_say_so(
    pool_fields: dict[str, Any], snapshot_fields: dict[str, Any], expected: int, words: str
) -> None:
    rows = [instance("vm-1", "busy", gpus=2)]
    made = plan(pool(view(9), **pool_fields), rows, **snapshot_fields)
    assert launches(made) == expected
    assert words in " ".join(made.notes["gpu"])


def test_instances_of_pools_that_left_the_configuration_count_against_the_whole() -> None:
    rows = [instance("vm-1", "busy", pool="old"), instance("vm-2", "busy", pool="old")]
    assert launches(plan(pool(view(5)), rows, max_instances=3)) == 1


def test_a_burst_is_bounded() -> None:
    assert launches(plan(pool(view(50)), burst=7)) == 7


# -- whose turn ----------------------------------------------------------------------------------------------------


def test_a_matrix_of_two_hundred_jobs_does_not_starve_a_small_repository() -> None:
    wanted = Demand(203, 0, NOW, True, {"acme/big": 200, "acme/small": 3})
    made = plan(pool(view(demand=wanted)), max_instances=8)
    repos = [action.repo for action in of(made, planner.Launch)]
    assert (repos.count("acme/big"), repos.count("acme/small")) == (5, 3)


def test_who_holds_many_already_waits_for_who_holds_none() -> None:
    rows = [instance(f"vm-{n}", "busy", repo="acme/big") for n in range(6)]
    wanted = Demand(104, 0, NOW, True, {"acme/big": 100, "acme/small": 4})
    made = plan(pool(view(demand=wanted)), rows, max_instances=10)
    assert [action.repo for action in of(made, planner.Launch)] == ["acme/small"] * 4


def test_what_nobody_else_wants_the_big_one_gets() -> None:
    wanted = Demand(101, 0, NOW, True, {"acme/big": 100, "acme/small": 1})
    made = plan(pool(view(demand=wanted)), max_instances=20)
    repos = [action.repo for action in of(made, planner.Launch)]
    assert (repos.count("acme/big"), repos.count("acme/small")) == (19, 1)


def test_turns_are_fair_over_two_pools() -> None:
    first = pool(view(demand=Demand(9, 0, NOW, True, {"acme/a": 9})), name="gpu")
    second = pool(view(queue=Queue("hub", "acme", "big"), demand=Demand(9, 0, NOW, True, {"acme/b": 9})), name="big")
    made = plan((first, second), max_instances=6)
    assert sorted(action.pool for action in of(made, planner.Launch)) == ["big"] * 3 + ["gpu"] * 3


def test_jobs_of_unnamed_repositories_get_turns_too() -> None:
    made = plan(pool(view(demand=Demand(5, 0, NOW, True, {"acme/a": 2}))))
    repos = [action.repo for action in of(made, planner.Launch)]
    assert (repos.count(""), repos.count("acme/a")) == (3, 2)


@pytest.mark.parametrize(
    ("team", "words"),
    [
        pytest.param(planner.TeamView(max_instances=2), "team nlp is at its limit of 2 instances", id="instances"),
        pytest.param(planner.TeamView(max_gpus=2), "team nlp is at its limit of 2 GPUs", id="gpus"),
        pytest.param(planner.TeamView(), "team nlp has no dollars", id="dollars"),
    ],
)
def test_a_team_at_its_ceiling_waits_and_leaves_the_rest_to_others(team: planner.TeamView, words: str) -> None:
    rows = [instance("vm-1", "busy", repo="acme/nlp-1", gpus=1)]
    wanted = Demand(8, 0, NOW, True, {"acme/nlp-1": 2, "acme/nlp-2": 2, "acme/web": 4})
    made = plan(
        pool(view(demand=wanted), gpus=1, team_refusals={"nlp": words} if "dollars" in words else {}),
        rows,
        teams={"nlp": team},
        team_of={"acme/nlp-1": "nlp", "acme/nlp-2": "nlp"},
    )
    repos = [action.repo for action in of(made, planner.Launch)]
    assert repos.count("acme/web") == 4
    assert sum(repo.startswith("acme/nlp") for repo in repos) == (0 if "dollars" in words else 1)
    assert words in made.notes["gpu"]


# -- properties ----------------------------------------------------------------------------------------------------

_REPOS = ("", "acme/a", "acme/b")
_states = st.sampled_from(sorted(InstanceState))
_pools = st.builds(
    lambda name, waiting, known, headroom, pickups, **fields: planner.PoolView(
        name,
        (
            planner.QueueView(
                Queue("hub", "acme", name),
                Demand(waiting, 0, NOW, known, {"acme/a": waiting // 2}),
                headroom=headroom,
                pickups=pickups,
            ),
        ),
        **fields,
    ),
    name=st.just("gpu"),
    waiting=st.integers(0, 12),
    known=st.booleans(),
    headroom=st.none() | st.integers(0, 5),
    pickups=st.integers(0, 3),
    warm=st.integers(0, 3),
    max_instances=st.none() | st.integers(0, 6),
    max_gpus=st.none() | st.integers(0, 6),
    gpus=st.integers(0, 2),
    drained=st.booleans(),
    open_offers=st.booleans(),
    budget=st.none() | budgets(20),
    commitment=st.floats(0.5, 3),
)


@st.composite
def _rows(draw: st.DrawFn) -> list[model.Instance]:
    rows = []
    for n in range(draw(st.integers(0, 8))):
        state = draw(_states)
        pool_name = draw(st.sampled_from(["gpu", "big", "gone"]))
        rows.append(
            bought(
                f"vm-{n}",
                state,
                pool=pool_name,
                queue=Queue("hub", "acme", pool_name) if state in ("registering", "registered", "busy") else None,
                age=draw(st.sampled_from([0.0, 30.0, 700.0, 100_000.0])),
                busy_at=NOW - draw(st.floats(1, 40_000)) if state == "busy" else 0.0,
                repo=draw(st.sampled_from(_REPOS)),
                gpus=draw(st.integers(0, 2)),
                deadline=NOW + draw(st.sampled_from([-5.0, 100.0, 100_000.0])),
            )
        )
    return rows


@st.composite
def _snapshots(draw: st.DrawFn) -> planner.Snapshot:
    rows = draw(_rows())
    first = draw(_pools)
    second = dataclasses.replace(
        draw(_pools), name="big", queues=(view(draw(st.integers(0, 9)), Queue("hub", "acme", "big")),)
    )
    observations = {
        row.id: planner.Observation(agent_at=draw(st.sampled_from([0.0, NOW - 200, NOW])), asking=draw(st.booleans()))
        for row in rows
    }
    return planner.Snapshot(
        (first, second),
        {row.id: row for row in rows},
        observations,
        max_instances=draw(st.none() | st.integers(0, 12)),
        max_gpus=draw(st.none() | st.integers(0, 12)),
        budget=draw(st.none() | budgets(30)),
        hold=draw(st.booleans()),
    )


@settings(max_examples=200, deadline=None)
@given(_snapshots())
def test_whatever_is_known_the_plan_stays_within_limits_and_takes_no_job_away(snapshot: planner.Snapshot) -> None:
    made = planner.plan(snapshot, NOW)
    assert planner.plan(snapshot, NOW) == made
    live = [row for row in snapshot.instances.values() if row.live]
    total = of(made, planner.Launch)
    for one in snapshot.pools:
        mine = [row for row in live if row.pool == one.name]
        new = [action for action in total if action.pool == one.name]
        if not new:
            continue
        assert not one.drained and one.open_offers
        assert one.max_instances is None or len(mine) + len(new) <= one.max_instances
        assert one.max_gpus is None or sum(row.gpus for row in mine) + one.gpus * len(new) <= one.max_gpus
        assert one.budget is None or len(new) * one.commitment <= one.budget.left + 1e-9
        unbound = [row for row in mine if row.state in model.RISING and row.queue is None]
        wanted = sum(max(0, each.demand.waiting - each.pickups) for each in one.queues) + one.warm
        assert len(new) + len(unbound) <= wanted
    if total:
        assert snapshot.max_instances is None or len(live) + len(total) <= snapshot.max_instances
        costs = {one.name: one.commitment for one in snapshot.pools}
        assert snapshot.budget is None or sum(costs[one.pool] for one in total) <= snapshot.budget.left + 1e-9
    limits = {one.name: one.max_job for one in snapshot.pools}
    for action in of(made, planner.Drain):
        row = snapshot.instances[action.instance]
        if row.state is not InstanceState.BUSY:
            continue
        assert not snapshot.hold
        limit = row.busy_at + limits[row.pool] if row.pool in limits else row.deadline
        assert limit < NOW


@settings(max_examples=200, deadline=None)
@given(_snapshots())
def test_no_instance_gets_two_orders_at_once(snapshot: planner.Snapshot) -> None:
    orders = [action.instance for action in planner.plan(snapshot, NOW).actions if hasattr(action, "instance")]
    assert len(orders) == len(set(orders))
