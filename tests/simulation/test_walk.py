"""The walking skeleton: one job from signal to gone, on virtual time."""

from __future__ import annotations

import pytest

from tests.simulation import lab


@pytest.mark.parametrize(
    ("forge", "forges"),
    [pytest.param("github", lab.GITHUB, id="github"), pytest.param("gitlab", lab.GITLAB, id="gitlab")],
)
def test_a_queued_job_gets_an_instance_runs_once_and_the_instance_is_gone(forge: str, forges: str) -> None:
    async def story(world: lab.Lab) -> None:
        await world.start()
        await world.sleep(10)
        world.queue(forge, duration=30)
        assert await world.until(world.finished, within=300), world.describe()
        assert await world.until(world.settled, within=300), world.describe()
        (job,) = world.jobs()
        assert (job.conclusion, job.starts) == ("success", 1)
        assert len(world.creates) == 1

    lab.run(lab.Plan(forges=forges), story)


def test_a_job_that_a_preemption_interrupted_is_run_again_on_demand() -> None:
    async def story(world: lab.Lab) -> None:
        await world.start()
        await world.sleep(10)
        world.queue("github", duration=120)
        assert await world.until(lambda: len(world.creates) > 1 and world.finished(), within=3600), world.describe()
        assert await world.until(world.settled, within=3600), world.describe()
        assert [job.conclusion for job in world.jobs()][-1] == "success"
        assert [machine.offer.market for machine in world.clouds["sky"].cloud.listed.values()][-1] == "on-demand"

    lab.run(
        lab.Plan(
            forges=lab.GITHUB.replace("}\n", ", retry: {preempted: 1}}\n"),
            providers="  sky: {type: fake, boot: 5s, faults: [{call: create, preempt_after: 60s}]}\n",
            pools="  gpu: {market: spot-then-on-demand}\n",
        ),
        story,
    )


def test_the_next_offer_is_taken_at_once_although_the_limit_is_full_of_its_own_instances() -> None:
    async def story(world: lab.Lab) -> None:
        await world.start()
        await world.sleep(10)
        world.queue("github", count=4, duration=30)
        assert await world.until(lambda: len(world.live()) == 4, within=10, step=1), world.describe()
        assert world.daemon is not None
        events = await world.daemon.store.events(subject="instance", limit=500)
        assert not [event for event in events if event.reason == "no-offer"]
        assert {
            name for name, cloud in world.clouds.items() if any(vm.live(world.clock.now()) for vm in cloud.vms())
        } == {"sea"}

    lab.run(
        lab.Plan(
            providers="  sky: {type: fake, faults: [{call: create, kind: capacity}]}\n  sea: {type: fake}\n",
            limits="{instances: 4}",
        ),
        story,
    )


def test_a_registered_instance_that_falls_silent_is_not_counted_on() -> None:
    async def story(world: lab.Lab) -> None:
        await world.start()
        await world.sleep(10)
        world.machines.mute = 1
        world.queue("github", duration=30)
        assert await world.until(world.finished, within=900), world.describe()
        assert len(world.creates) == 2

    lab.run(lab.Plan(forges=lab.GITHUB), story)


def test_a_corrected_wall_clock_ends_nothing() -> None:
    async def story(world: lab.Lab) -> None:
        await world.start()
        await world.sleep(10)
        world.queue("github", duration=900)
        await world.until(lambda: any(agent.worker for agent in world.machines.running.values()), within=60)
        assert world.daemon is not None
        day = 86400.0
        world.daemon._clock.jump = day  # type: ignore[attr-defined]
        world.forge_jump = day
        await world.sleep(300)
        assert abs(world.daemon._clock.now() - world.clock.now() - day) < 1
        assert await world.until(world.finished, within=1200), world.describe()
        assert [(job.conclusion, job.starts) for job in world.jobs()] == [("success", 1)]
        assert len(world.creates) == 1
        events = await world.daemon.store.events(subject="instance", limit=500)
        assert not [event for event in events if event.reason in ("max-job", "age", "boot-timeout")]

    lab.run(lab.Plan(forges=lab.GITHUB), story)
