"""Bad days, one at a time: what goes wrong is named, and the promises hold through it and after it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from runnerd import errors, model
from runnerd.simulator import faults
from runnerd.simulator import http as simulated
from tests.simulation import lab

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
BOTH = [pytest.param("github", lab.GITHUB, id="github"), pytest.param("gitlab", lab.GITLAB, id="gitlab")]
SMALL = "machine_types: {small: {gpu: t4, gpu_count: 1, cpus: 4, memory: 16GiB, price: 0.5, spot_price: 0.2}}"


def play(story: Callable[[lab.Lab], Awaitable[None]], **plan: Any) -> None:
    lab.run(lab.Plan(**plan), story)


async def control(world: lab.Lab, path: str, **body: Any) -> None:
    """Actions by hand in the simulated forge."""
    answer = await world.app.handle(
        simulated.request("POST", f"http://127.0.0.1:1{path}", headers={}, body=json.dumps(body).encode())
    )
    assert answer.status < 300, answer.body


def break_forge(world: lab.Lab, seconds: float | None = None, **fault: Any) -> None:
    now = world.clock.now()
    world.app.faults.add(faults.Fault(since=now, until=None if seconds is None else now + seconds, **fault))


def states(world: lab.Lab) -> list[str]:
    return sorted(row.state.value for row in world.rows().values() if row.live)


def reasons(world: lab.Lab) -> set[str]:
    assert world.daemon is not None
    return {reason for _, _, reason in world.daemon.runtime.alarms.open}


async def begin(world: lab.Lab, *, forge: str = "github", **job: Any) -> None:
    """A daemon that works, and a job that waits."""
    await world.start()
    await world.sleep(10)
    world.queue(forge, **({"duration": 30} | job))


async def running(world: lab.Lab, count: int = 1) -> None:
    """Until the jobs run."""
    at_work = lambda: sum(agent.worker for agent in world.machines.running.values()) == count  # noqa: E731
    assert await world.until(at_work, within=10 * MINUTE, step=1), world.describe()


async def all_is_well(world: lab.Lab, *, within: float = HOUR) -> None:
    """Every job ran once and succeeded, nothing is left, nothing was paid twice."""
    assert await world.until(world.finished, within=within), world.describe()
    assert await world.until(world.settled, within=within), world.describe()
    assert [(job.conclusion, job.starts) for job in world.jobs()] == [("success", 1)] * len(world.jobs()), (
        world.describe()
    )


# -- the forge -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("forge", "forges"), BOTH)
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"status": 500}, id="500"),
        pytest.param({"hang": True}, id="hangs"),
        pytest.param({"html": True}, id="HTML"),
        pytest.param({"bom": True}, id="BOM"),
        pytest.param({"outage": True}, id="outage"),
        pytest.param({"empty": True}, id="empty bodies"),
    ],
)
@pytest.mark.parametrize("when", ["before the job runs", "while it runs"])
def test_a_forge_that_answers_badly_for_ten_minutes(forge: str, forges: str, fault: dict[str, Any], when: str) -> None:
    async def story(world: lab.Lab) -> None:
        await begin(world, forge=forge, duration=120)
        if when == "while it runs":
            await running(world)
        if forge == "gitlab" and when == "while it runs":
            # The runner itself speaks with GitLab: what it loses is not ours.
            break_forge(world, 10 * MINUTE, forge=forge, path="*/runners*", **fault)
        else:
            break_forge(world, 10 * MINUTE, forge=forge, **fault)
        await world.sleep(10 * MINUTE)
        await all_is_well(world)

    play(story, forges=forges)


def test_a_token_that_is_revoked_in_the_middle_ends_nothing_and_names_itself() -> None:
    async def story(world: lab.Lab) -> None:
        await begin(world, duration=20 * MINUTE)
        await running(world)
        break_forge(world, None, forge="github", status=401, body={"message": "Bad credentials"})
        await world.sleep(10 * MINUTE)
        assert states(world) == ["busy"], world.describe()
        assert world.daemon is not None
        (spec,) = world.daemon.runtime.specs
        assert not world.daemon.runtime.forges["hub"].health(spec.queue).ok
        world.app.faults.clear()
        await all_is_well(world)

    play(story)


@pytest.mark.parametrize(("forge", "forges"), BOTH)
def test_a_rate_that_is_used_up_only_delays(forge: str, forges: str) -> None:
    async def story(world: lab.Lab) -> None:
        await world.start()
        await world.sleep(10)
        break_forge(world, None, forge=forge, exhaust_rate=True, count=1)
        await world.sleep(20)
        world.queue(forge, duration=30)
        await all_is_well(world, within=3 * HOUR)

    play(story, forges=forges)


@pytest.mark.parametrize(
    ("forge", "forges", "path"),
    [
        pytest.param("github", lab.GITHUB, "*generatejitconfig", id="github"),
        pytest.param("gitlab", lab.GITLAB, "*/user/runners", id="gitlab"),
    ],
)
@pytest.mark.parametrize("status", [403, 409, 422, 429, 500])
def test_a_forge_that_refuses_registrations_is_not_answered_with_a_loop_of_instances(
    forge: str, forges: str, path: str, status: int
) -> None:
    async def story(world: lab.Lab) -> None:
        await begin(world, forge=forge, count=2)
        break_forge(world, None, forge=forge, method="POST", path=path, status=status, body={"message": "no"})
        await world.sleep(HOUR)
        assert len(world.creates) <= 6, f"{len(world.creates)} instances were bought\n{world.describe()}"
        asked = sum(fault.hits for fault in world.app.faults.active)
        assert asked <= 240, f"the forge was asked {asked} times in an hour"
        world.app.faults.clear()
        await all_is_well(world, within=3 * HOUR)

    play(story, forges=forges)


def test_a_scale_set_that_is_deleted_under_us_is_made_again() -> None:
    async def story(world: lab.Lab) -> None:
        await begin(world, duration=60)
        await running(world)
        (scale_set,) = world.app.github.tables.sets.values()
        await control(world, f"/_sim/scale_sets/{scale_set.id}/delete")
        await world.sleep(2 * MINUTE)
        world.queue("github", duration=30)
        await all_is_well(world)

    play(story)


def test_a_session_that_somebody_else_holds_for_ten_minutes_delays_and_alarms() -> None:
    async def story(world: lab.Lab) -> None:
        await world.start()
        await world.sleep(10)
        (scale_set,) = world.app.github.tables.sets.values()
        await world.stop()
        await control(world, f"/_sim/scale_sets/{scale_set.id}/hold", seconds=600)
        await world.start()
        world.queue("github", duration=30)
        await world.sleep(8 * MINUTE)
        assert any("session" in reason for reason in reasons(world)), world.describe()
        await all_is_well(world)

    play(story)


@pytest.mark.parametrize(("forge", "forges"), BOTH)
def test_a_machine_that_dies_with_its_job_leaves_nothing_though_the_forge_calls_its_runner_busy(
    forge: str, forges: str
) -> None:
    async def story(world: lab.Lab) -> None:
        await begin(world, forge=forge, duration=20 * MINUTE)
        await running(world)
        break_forge(world, HOUR, forge=forge, method="DELETE", status=422, body={"message": "busy"})
        (machine,) = world.live()
        world.clouds["sky"].cloud.preempt(machine.ref, world.clock.now())
        await world.sleep(30 * MINUTE)
        assert not world.live() and states(world) == [], world.describe()
        assert await world.until(world.settled, within=3 * HOUR), world.describe()
        (job,) = world.jobs()
        assert job.starts == 1 and len(world.creates) <= 2

    play(story, forges=forges)


def test_a_forge_that_says_gone_does_not_end_an_instance_whose_agent_has_a_job() -> None:
    async def story(world: lab.Lab) -> None:
        await begin(world, duration=20 * MINUTE)
        await running(world)
        break_forge(world, HOUR, forge="github", method="DELETE", path="*/agents/*", status=204)
        world.lie()
        await world.sleep(10 * MINUTE)
        assert len(world.live()) == 1, world.describe()
        await all_is_well(world, within=3 * HOUR)

    play(story)


# -- the state -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("forge", "forges"), BOTH)
@pytest.mark.parametrize("when", ["before the job", "at the create", "while it runs"])
def test_a_state_that_cannot_be_written_for_ten_minutes(forge: str, forges: str, when: str) -> None:
    async def story(world: lab.Lab) -> None:
        await world.start()
        await world.sleep(20)
        assert world.daemon is not None
        opened = world.daemon.store
        write, probe = opened.write, opened.probe

        async def full(*changes: Any) -> None:
            raise errors.StoreUnwritable("no space left on device")

        async def tried() -> None:
            await (full() if opened.write is full else probe())

        opened.probe = tried  # type: ignore[method-assign]

        async def full_after_the_request(*changes: Any) -> None:
            await write(*changes)
            if any(isinstance(one, model.Instance) and one.state is model.InstanceState.REQUESTING for one in changes):
                opened.write = full  # type: ignore[method-assign]

        if when == "before the job":
            opened.write = full  # type: ignore[method-assign]
        elif when == "at the create":
            opened.write = full_after_the_request  # type: ignore[method-assign]
        world.queue(forge, duration=30 if when != "while it runs" else 120)
        if when == "while it runs":
            await running(world)
            opened.write = full  # type: ignore[method-assign]
        await world.sleep(10 * MINUTE)
        assert opened.write is full
        assert "state-unwritable" in reasons(world), world.describe()
        assert len(world.creates) == (0 if when == "before the job" else 1)
        del opened.write
        await all_is_well(world)
        assert len(world.creates) == 1

    play(story, forges=forges)


@pytest.mark.parametrize(("forge", "forges"), BOTH)
def test_a_database_that_is_lost_with_jobs_running_costs_no_job_and_no_machine(forge: str, forges: str) -> None:
    async def story(world: lab.Lab) -> None:
        await begin(world, forge=forge, count=3, duration=10 * MINUTE)
        await running(world, 3)
        await world.kill()
        for path in world.directory.glob("runnerd.db*"):
            path.unlink()
        await world.sleep(30)
        await world.start()
        await world.sleep(MINUTE)
        assert len(world.live()) == 3 and states(world) == ["busy"] * 3, world.describe()
        assert all(row.adopted for row in world.rows().values())
        await all_is_well(world)
        assert len(world.creates) == 3

    play(story, forges=forges)


def test_a_database_that_is_lost_while_machines_boot_adopts_them_for_the_waiting_jobs() -> None:
    async def story(world: lab.Lab) -> None:
        await begin(world, count=2)
        assert await world.until(lambda: len(world.live()) == 2, within=60, step=1)
        await world.kill()
        for path in world.directory.glob("runnerd.db*"):
            path.unlink()
        await world.start()
        await all_is_well(world)

    play(story, providers="  sky: {type: fake, boot: 40s}\n")


def test_a_second_daemon_on_one_state_is_refused() -> None:
    async def story(world: lab.Lab) -> None:
        await begin(world)
        first = world.daemon, world.life, world._main
        with pytest.raises(errors.StoreBusy):
            await world.start()
        world.daemon, world.life, world._main = first
        await all_is_well(world)

    play(story)


# -- time ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [DAY, -DAY], ids=["forward", "backward"])
def test_a_clock_that_jumps_by_a_day_ends_nothing(jump: float) -> None:
    async def story(world: lab.Lab) -> None:
        await begin(world, duration=20 * MINUTE)
        await running(world)
        assert world.daemon is not None
        world.daemon._clock.jump = jump  # type: ignore[attr-defined]
        await world.sleep(5 * MINUTE)
        assert states(world) == ["busy"] and "clock" in reasons(world), world.describe()
        world.daemon._clock.jump = 0.0  # type: ignore[attr-defined]
        await world.sleep(10)
        assert "clock" not in reasons(world)
        await all_is_well(world)
        assert len(world.creates) == 1

    play(story)


# -- configuration, money, fairness --------------------------------------------------------------------------------


def test_a_provider_that_leaves_the_configuration_with_instances_retires() -> None:
    async def story(world: lab.Lab) -> None:
        await begin(world, duration=10 * MINUTE)
        await running(world)
        (busy,) = world.live()
        world.plan.providers = "  sea: {type: fake, boot: 5s}\n"
        assert world.daemon is not None
        done = await world.daemon.apply(world.settings())
        assert any("sky removed: its instances end" in line for line in done)
        world.queue("github", duration=30)
        await world.sleep(2 * MINUTE)
        assert busy in world.live() and "busy" in states(world), world.describe()
        await all_is_well(world)
        assert len(world.clouds["sky"].cloud.listed) == 1 and len(world.clouds["sea"].cloud.listed) == 1

    play(story, providers="  sky: {type: fake, boot: 5s}\n  sea: {type: fake, boot: 5s}\n", pools="  gpu: {}\n")


def test_such_a_provider_is_still_known_after_a_restart() -> None:
    async def story(world: lab.Lab) -> None:
        await begin(world, duration=10 * MINUTE)
        await running(world)
        await world.kill()
        world.plan.providers = "  sea: {type: fake, boot: 5s}\n"
        await world.start()
        await all_is_well(world)

    play(story)


def test_a_few_dollars_are_never_passed_and_their_jobs_wait_for_the_next_day() -> None:
    async def story(world: lab.Lab) -> None:
        await begin(world, count=12, duration=10 * MINUTE)
        assert await world.until(world.finished, within=4 * DAY, step=MINUTE), world.describe()
        assert await world.until(world.settled, within=HOUR), world.describe()
        assert [job.starts for job in world.jobs()] == [1] * 12

    play(
        story,
        limits="{instances: 8, dollars_per_day: 3}",
        providers=f"  sky: {{type: fake, boot: 5s, {SMALL}}}\n",
        pools="  gpu: {gpu: t4}\n",
        max_job="1h",
    )


def test_a_warm_pool_is_kept_and_what_a_job_took_is_replaced() -> None:
    async def story(world: lab.Lab) -> None:
        await world.start()
        await world.sleep(2 * MINUTE)
        assert states(world) == ["ready", "ready"], world.describe()
        world.queue("github", duration=10)
        await world.sleep(5 * MINUTE)
        assert world.finished() and states(world) == ["ready", "ready"], world.describe()
        assert len(world.creates) == 3
        await world.sleep(HOUR)
        assert len(world.creates) == 3, "nothing is replaced that was not used"

    play(story, pools="  gpu: {warm: 2}\n")


@pytest.mark.parametrize(
    ("pools", "label"),
    [pytest.param("  gpu: {}\n", "gpu", id="one pool"), pytest.param("  gpu: {}\n  big: {}\n", "big", id="two pools")],
)
def test_a_matrix_of_two_hundred_jobs_does_not_starve_the_jobs_of_another_queue(pools: str, label: str) -> None:
    # Within one queue the forge alone decides who runs.
    async def story(world: lab.Lab) -> None:
        await begin(world, count=200, duration=60)
        await world.sleep(MINUTE)
        world.queue("gitlab", labels=[label], count=2, duration=60)
        small = [job for job in world.jobs() if job.forge == "gitlab"]
        assert await world.until(lambda: all(job.status == "completed" for job in small), within=10 * MINUTE), (
            world.describe()
        )
        assert not world.finished(), "the matrix was still at work"

    play(story, limits="{instances: 4}", forges=lab.GITHUB + lab.GITLAB, pools=pools)
